//! Numbers of a range: backend rows, datapath ids.

use std::ops::RangeInclusive;

/// The numbers of rows and services in the datapath; 0 means "none" there.
pub const DATAPATH: RangeInclusive<u32> = 1..=65_535;

/// The first number of `range` after `last` that is not `used`, wrapping; from the start when
/// `last` is `None` or outside. `None` when all are used.
pub fn next(range: RangeInclusive<u32>, last: Option<u32>, used: impl Fn(u32) -> bool) -> Option<u32> {
    let (first, end) = range.into_inner();
    let from = match last {
        Some(l) if (first..end).contains(&l) => l + 1,
        _ => first,
    };
    (from..=end).chain(first..from).find(|n| !used(*n))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_search_goes_on_after_the_last_and_wraps() {
        let none = |_| false;
        assert_eq!(next(1..=3, None, none), Some(1));
        assert_eq!(next(1..=3, Some(1), none), Some(2));
        assert_eq!(next(1..=3, Some(3), none), Some(1));
        assert_eq!(next(1..=3, Some(9), none), Some(1));
        assert_eq!(next(1..=3, Some(1), |n| n == 2), Some(3));
        assert_eq!(next(1..=3, Some(1), |_| true), None);
        assert_eq!(next(DATAPATH, Some(65_534), none), Some(65_535));
    }

    proptest! {
        /// Never one in use; none only when all are; and with nothing else in use a freed one
        /// comes back only after every other.
        #[test]
        fn free_and_late(used: BTreeSet<u8>, last: Option<u8>) {
            let found = next(0..=255, last.map(u32::from), |n| used.iter().any(|u| u32::from(*u) == n));
            match found {
                Some(n) => prop_assert!(!used.contains(&u8::try_from(n).unwrap())),
                None => prop_assert_eq!(used.len(), 256),
            }
            let mut seen = BTreeSet::new();
            let mut at = last.map(u32::from);
            for _ in 0..256 {
                at = next(0..=255, at, |_| false);
                prop_assert!(seen.insert(at), "{:?} came back early", at);
            }
        }
    }
}
