//! One record, read.

use super::writer::record::{HEAD, Stream, TIME};

/// A record of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was read from the container, in nanoseconds since 1970.
    pub at_ns: i64,
    /// Where the container wrote it.
    pub stream: Stream,
    /// Whether it ends a line.
    pub whole: bool,
    /// What was written, without the newline.
    pub output: &'a [u8],
}

/// Reads a record, given without its newline. `None` for what is none: the half of one that was
/// being written when the power went.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let (head, output) = line.split_at_checked(HEAD)?;
    let stream = match &head[TIME..HEAD - 2] {
        b" stdout " => Stream::Stdout,
        b" stderr " => Stream::Stderr,
        _ => return None,
    };
    let whole = match &head[HEAD - 2..] {
        b"F " => true,
        b"P " => false,
        _ => return None,
    };
    Some(Record { at_ns: time(&head[..TIME])?, stream, whole, output })
}

/// A timestamp as the writer writes it.
fn time(text: &[u8]) -> Option<i64> {
    const SHAPE: &[u8; TIME] = b"0000-00-00T00:00:00.000000000Z";
    let fits = |(&t, &s): (&u8, &u8)| if s == b'0' { t.is_ascii_digit() } else { t == s };
    if !text.iter().zip(SHAPE).all(fits) {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].iter().fold(0, |n, d| n * 10 + i64::from(d - b'0'));
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    if !(1..=12).contains(&month) {
        return None;
    }
    // Howard Hinnant's civil-to-days; years begin in March.
    let year = year - i64::from(month <= 2);
    let era = year / 400;
    let year_of_era = year % 400;
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let seconds = days * 86_400 + number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19);
    seconds.checked_mul(1_000_000_000)?.checked_add(number(20, 29))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_record_is_none() {
        let good = b"2016-10-06T00:17:09.669794202Z stdout F text";
        let record = parse(good).unwrap();
        assert_eq!((record.at_ns, record.stream), (1_475_713_029_669_794_202, Stream::Stdout));
        assert_eq!((record.whole, record.output), (true, &b"text"[..]));
        for cut in 0..HEAD {
            assert_eq!(parse(&good[..cut]), None, "{cut} bytes");
        }
        assert_eq!(parse(&good[..HEAD]).unwrap().output, b"", "an empty line");
        for bad in [
            "2016-10-06T00:17:09.669794202Z stdin  F text",
            "2016-10-06T00:17:09.669794202Z stdout X text",
            "2016-13-06T00:17:09.669794202Z stdout F text",
            "2016-10-06 00:17:09.669794202Z stdout F text",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse(&[0; 100]), None);
    }

    proptest! {
        #[test]
        fn times_come_back(at in 0..i64::MAX) {
            prop_assert_eq!(time(&super::super::writer::record::time(at)), Some(at));
        }

        #[test]
        fn no_bytes_are_too_strange(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&line);
        }
    }
}
