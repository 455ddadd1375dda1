//! Free ports for what is published without a number.

use std::{collections::HashMap, net::IpAddr};

use crate::model::{PortSpec, Protocol};

/// Gives each port that was left open a number of [`PortSpec::FREE`]: one that leads to the same
/// place already (`before`, what the service had), so that an update keeps what clients know; else
/// the first free one from `start` on, any number. What is `taken` is left alone. False when there
/// are not enough.
#[must_use]
pub fn number(
    ports: &mut [PortSpec],
    before: &[PortSpec],
    start: u16,
    taken: impl Fn(&PortSpec) -> bool,
) -> bool {
    let (first, last) = PortSpec::FREE.into_inner();
    let count = last - first + 1;
    // How far the search is, for each protocol and address: what it has passed stays taken.
    let mut passed: HashMap<(Protocol, Option<IpAddr>), u16> = HashMap::new();
    for i in 0..ports.len() {
        if ports[i].published != 0 {
            continue;
        }
        let as_number = |published| PortSpec { published, ..ports[i].clone() };
        let free = |p: &PortSpec| !ports.iter().any(|q| p.conflicts(q)) && !taken(p);
        let kept = before
            .iter()
            .filter(|b| PortSpec::FREE.contains(&b.published) && b.same_target(&ports[i]))
            .map(|b| as_number(b.published))
            .find(&free);
        let found = match kept {
            Some(kept) => kept,
            None => {
                let passed = passed.entry((ports[i].protocol, ports[i].host_ip)).or_default();
                let candidate = |n: u16| as_number(first + (start % count + n) % count);
                let Some(n) = (*passed..count).find(|n| free(&candidate(*n))) else { return false };
                *passed = n + 1;
                candidate(n)
            }
        };
        ports[i] = found;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ports(all: &[&str]) -> Vec<PortSpec> {
        all.iter().map(|p| p.parse().unwrap()).collect()
    }

    fn numbered(open: &[&str], before: &[&str], start: u16, taken: &[&str]) -> Option<Vec<String>> {
        let (mut open, taken) = (ports(open), ports(taken));
        let enough = number(&mut open, &ports(before), start, |p| taken.iter().any(|t| t.conflicts(p)));
        enough.then(|| open.iter().map(ToString::to_string).collect())
    }

    fn some(all: &[&str]) -> Option<Vec<String>> {
        Some(all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_is_open_gets_the_next_free_number_and_what_is_not_stays() {
        assert_eq!(
            numbered(&["80", "8080:80", "81"], &[], 0, &["30001:1"]),
            some(&["30000:80/tcp", "8080:80/tcp", "30002:81/tcp"])
        );
        assert_eq!(numbered(&["80", "80"], &[], 2767, &[]), some(&["32767:80/tcp", "30000:80/tcp"]));
        // Another protocol and another address are another port.
        let taken = ["30000:1/udp", "10.0.0.1:30000:1"];
        assert_eq!(numbered(&["10.0.0.2::80"], &[], 0, &taken), some(&["10.0.0.2:30000:80/tcp"]));
        assert_eq!(numbered(&["80"], &[], 0, &taken), some(&["30001:80/tcp"]));
        assert_eq!(numbered(&["30000:1", "80"], &[], 0, &[]), some(&["30000:1/tcp", "30001:80/tcp"]));
    }

    #[test]
    fn an_update_keeps_what_clients_know() {
        let before = ["30500:80", "30600:81", "8080:82", "30700:80"];
        assert_eq!(
            numbered(&["80", "82", "80", "80", "81/udp"], &before, 0, &["30600:1/udp"]),
            some(&["30500:80/tcp", "30000:82/tcp", "30700:80/tcp", "30001:80/tcp", "30000:81/udp"])
        );
        assert_eq!(numbered(&["80"], &["30500:80"], 0, &["30500:1"]), some(&["30000:80/tcp"]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Never one that is taken or given twice, all of the range, and none only at its end.
        #[test]
        fn distinct_free_and_complete(start: u16, taken in proptest::collection::btree_set(0u16..2768, 0..2768), more in 0usize..3) {
            let used = |p: &PortSpec| taken.contains(&(p.published - 30_000));
            let mut open = vec!["80".parse::<PortSpec>().unwrap(); 2768 - taken.len()];
            prop_assert!(number(&mut open, &[], start, used));
            let mut all: Vec<u16> = open.iter().map(|p| p.published - 30_000).chain(taken.iter().copied()).collect();
            all.sort_unstable();
            prop_assert!(all.into_iter().eq(0..2768));
            open.extend(vec!["80".parse().unwrap(); more]);
            prop_assert_eq!(number(&mut open, &[], start, used), more == 0);
        }
    }
}
