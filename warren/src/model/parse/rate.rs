//! Rates, and numbers at a time.

use super::bad;
use crate::model::{ClientLimits, Rate, validate::Invalid};

/// So many a second, and how many at once: `RATE[/BURST]`; a second's worth at once when that is not
/// said. `none`, 0 and nothing are no rate.
///
/// # Errors
/// Says how it is written.
pub fn rate(text: &str) -> Result<Option<Rate>, Invalid> {
    let refused = || {
        let how = format!(
            "write how many a second and, if you like, how many at once, such as 100 or 100/200, each from 1 to {}; or none",
            Rate::MOST
        );
        bad("rate", text, &how)
    };
    if matches!(text, "" | "0" | "none") {
        return Ok(None);
    }
    let number = |text: &str| -> Option<u32> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|n| digits && (1..=Rate::MOST).contains(n))
    };
    let (rate, burst) = text.split_once('/').unwrap_or((text, text));
    match (number(rate), number(burst)) {
        (Some(per_second), Some(burst)) => Ok(Some(Rate { per_second, burst })),
        _ => refused(),
    }
}

/// How many at a time, such as `20`, or `none`.
///
/// # Errors
/// Says how it is written.
pub fn conns(text: &str) -> Result<Option<u32>, Invalid> {
    const MOST: u32 = ClientLimits::MOST_CONNS;
    if matches!(text, "" | "0" | "none") {
        return Ok(None);
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(n @ 1..=MOST) if digits => Ok(Some(n)),
        _ => bad("number", text, &format!("write how many at a time, from 1 to {MOST}; or none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_at_a_time() {
        assert_eq!((conns("1"), conns("4096")), (Ok(Some(1)), Ok(Some(4096))));
        for none in ["", "0", "none"] {
            assert_eq!(conns(none), Ok(None));
        }
        for wrong in ["x", "-1", "+1", "1.5", "4097", "99999999999", "1/2", " 1"] {
            let said = conns(wrong).unwrap_err().to_string();
            assert!(
                said.contains(wrong) && said.contains("from 1 to 4096") && !said.contains('\n'),
                "{said}"
            );
        }
    }

    #[test]
    fn rates() {
        let r = |per_second, burst| Ok(Some(Rate { per_second, burst }));
        assert_eq!(rate("100"), r(100, 100));
        assert_eq!(rate("100/5"), r(100, 5));
        assert_eq!(rate("1000000/1"), r(1_000_000, 1));
        for none in ["", "0", "none"] {
            assert_eq!(rate(none), Ok(None));
        }
        for wrong in ["x", "-1", "+1", "1.5", "1000001", "1/", "/1", "1/0", "0/1", "1/2/3", "10/s", " 1"] {
            let said = rate(wrong).unwrap_err().to_string();
            assert!(said.contains(wrong) && said.contains("100/200") && !said.contains('\n'), "{said}");
        }
    }
}
