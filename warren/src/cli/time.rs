//! Moments, as long ago or as a date.

use std::time::{Duration, SystemTime};

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// So long before the command was given.
    Ago(Duration),
    /// By the calendar.
    At(SystemTime),
}

impl Moment {
    /// Nanoseconds since 1970; never 0, which says "no bound".
    pub(super) fn unix_ns(self, now: SystemTime) -> i64 {
        let at = match self {
            Self::Ago(duration) => now.checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH),
            Self::At(at) => at,
        };
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX).max(1)
    }
}

/// `10m`, `1h30m`; `2026-01-31T12:00:00Z`, also with an offset (`+01:00`) or without a time; seconds
/// since 1970, as Docker takes them.
pub(super) fn parse(text: &str) -> Result<Moment, String> {
    let wrong = || {
        format!(
            "\"{text}\" is neither a time ago, like 10m or 1h30m, nor a moment, like 2026-01-31T12:00:00Z"
        )
    };
    if let Ok(seconds) = text.parse::<f64>() {
        let since = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
        return Ok(Moment::At(SystemTime::UNIX_EPOCH.checked_add(since).ok_or_else(wrong)?));
    }
    if let Ok(duration) = humantime::parse_duration(text) {
        return Ok(Moment::Ago(duration));
    }
    let (local, east) = match text.rfind(['+', '-']).filter(|at| *at > "2026-01-31T".len()) {
        Some(at) => (&text[..at], offset(&text[at..]).ok_or_else(wrong)?),
        None => (text, 0),
    };
    let local =
        if local.len() == "2026-01-31".len() { format!("{local}T00:00:00") } else { local.to_owned() };
    let at = humantime::parse_rfc3339_weak(&local).map_err(|_| wrong())?;
    let by = Duration::from_secs(east.unsigned_abs() * 60);
    let at = if east >= 0 { at.checked_sub(by) } else { at.checked_add(by) };
    at.map(Moment::At).ok_or_else(wrong)
}

/// Minutes east of Greenwich: `+01:00`.
fn offset(text: &str) -> Option<i64> {
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let digits = |s: &str| (s.len() == 2).then(|| s.parse::<u8>().ok()).flatten().map(i64::from);
    let minutes = digits(hours)? * 60 + digits(minutes)?;
    Some(if text.starts_with('-') { -minutes } else { minutes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_many_ways() {
        let at = |s: u64| Ok(Moment::At(SystemTime::UNIX_EPOCH + Duration::from_secs(s)));
        assert_eq!(parse("10m"), Ok(Moment::Ago(Duration::from_secs(600))));
        assert_eq!(parse("1h30m"), Ok(Moment::Ago(Duration::from_secs(5400))));
        assert_eq!(parse("2016-10-06T00:17:09Z"), at(1_475_713_029));
        assert_eq!(parse("2016-10-06T02:17:09+02:00"), at(1_475_713_029));
        assert_eq!(parse("2016-10-05T20:47:09-03:30"), at(1_475_713_029));
        assert_eq!(parse("2016-10-06T00:17:09"), at(1_475_713_029));
        assert_eq!(parse("2016-10-06"), at(1_475_712_000));
        assert_eq!(parse("1475713029"), at(1_475_713_029));
        for bad in ["", "yesterday", "10", "2016-13-01T00:00:00Z", "2016-10-06T00:17:09+2", "-5", "1e300"] {
            let parsed = parse(bad);
            assert!(parsed.is_err() || bad == "10", "{bad}: {parsed:?}");
        }
    }

    #[test]
    fn a_time_ago_counts_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        assert_eq!(Moment::Ago(Duration::from_secs(40)).unix_ns(now), 60_000_000_000);
        assert_eq!(Moment::Ago(Duration::from_secs(400)).unix_ns(now), 1, "all there is");
    }
}
