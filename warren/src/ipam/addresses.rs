//! Addresses of a node's subnet.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::numbers;

/// The next address of `subnet` after `last` that is not `used`. The first two and the last
/// address are never given out: the network's own, the gateway's (by custom) and the broadcast.
/// `None` when all are used.
pub fn next(subnet: Ipv4Net, last: Option<Ipv4Addr>, used: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    let base = u32::from(subnet.network());
    let end = u32::from(subnet.broadcast());
    if end - base < 3 {
        return None;
    }
    numbers::next(base + 2..=end - 1, last.map(u32::from), |n| used(n.into())).map(Into::into)
}

/// How many addresses `subnet` has to give.
#[must_use]
pub fn capacity(subnet: Ipv4Net) -> u32 {
    (u32::from(subnet.broadcast()) - u32::from(subnet.network())).saturating_sub(2)
}

/// The IPv6 twin of `address`: the same host number in `subnet6` as it has in `subnet`. Unique as
/// long as the IPv4 address is. `None` when the IPv6 subnet is too small for that number.
#[must_use]
pub fn twin(subnet: Ipv4Net, subnet6: Ipv6Net, address: Ipv4Addr) -> Option<Ipv6Addr> {
    let host = u128::from(u32::from(address) - u32::from(subnet.network()).min(u32::from(address)));
    let twin = Ipv6Addr::from(u128::from(subnet6.network()).checked_add(host)?);
    subnet6.contains(&twin).then_some(twin)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reserved_ones_are_skipped() {
        let net: Ipv4Net = "10.0.5.0/24".parse().unwrap();
        assert_eq!(next(net, None, |_| false), Some(Ipv4Addr::new(10, 0, 5, 2)));
        assert_eq!(
            next(net, Some(Ipv4Addr::new(10, 0, 5, 254)), |_| false),
            Some(Ipv4Addr::new(10, 0, 5, 2))
        );
        assert_eq!(next("10.0.0.4/30".parse().unwrap(), None, |_| false), Some(Ipv4Addr::new(10, 0, 0, 6)));
        for tiny in ["10.0.0.0/31", "10.0.0.0/32"] {
            assert_eq!(next(tiny.parse().unwrap(), None, |_| false), None);
        }
        assert_eq!(next("255.255.255.0/24".parse().unwrap(), None, |_| false).unwrap().octets()[3], 2);
        let net6 = "fd00:0:0:5::/64".parse().unwrap();
        assert_eq!(twin(net, net6, Ipv4Addr::new(10, 0, 5, 9)), Some("fd00:0:0:5::9".parse().unwrap()));
        assert_eq!(twin(net, "fd00::/126".parse().unwrap(), Ipv4Addr::new(10, 0, 5, 9)), None);
    }

    proptest! {
        #[test]
        fn a_subnet_is_used_up_exactly_once(base: u32, prefix in 24u8..=32, seed: u32) {
            let net = Ipv4Net::new(base.into(), prefix).unwrap().trunc();
            let mut used = BTreeSet::new();
            let mut last = Some(Ipv4Addr::from(seed));
            while let Some(a) = next(net, last, |a| used.contains(&a)) {
                prop_assert!(net.contains(&a) && a != net.network() && a != net.broadcast());
                prop_assert!(used.insert(a));
                last = Some(a);
            }
            prop_assert_eq!(used.len(), capacity(net) as usize);
        }
    }
}
