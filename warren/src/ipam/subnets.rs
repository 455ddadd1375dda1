//! Node subnets, cut from the cluster's pools.

use ipnet::{Ipv4Net, Ipv6Net};

use crate::model::{ClusterNetwork, NodeSubnet};

/// Length of a node's IPv4 prefix, unless the pool is smaller.
pub const NODE_PREFIX: u8 = 24;
/// The same for IPv6.
pub const NODE_PREFIX6: u8 = 64;

/// The first slice of both pools that overlaps none in use; `None` when a pool is used up. A
/// pool smaller than a slice is one slice.
#[must_use]
pub fn next(network: &ClusterNetwork, used: &[NodeSubnet]) -> Option<NodeSubnet> {
    let v4 = next_v4(network.pool, used)?;
    let v6 = next_v6(network.pool6, used)?;
    Some(NodeSubnet { v4, v6 })
}

fn next_v4(pool: Ipv4Net, used: &[NodeSubnet]) -> Option<Ipv4Net> {
    let free = |s: &Ipv4Net| !used.iter().any(|u| overlap(u.v4.contains(s), s.contains(&u.v4)));
    let pool = pool.trunc();
    pool.subnets(NODE_PREFIX.max(pool.prefix_len())).ok()?.find(free)
}

fn next_v6(pool: Ipv6Net, used: &[NodeSubnet]) -> Option<Ipv6Net> {
    let free = |s: &Ipv6Net| !used.iter().any(|u| overlap(u.v6.contains(s), s.contains(&u.v6)));
    let pool = pool.trunc();
    pool.subnets(NODE_PREFIX6.max(pool.prefix_len())).ok()?.find(free)
}

/// Two prefixes overlap when one holds the other.
fn overlap(holds: bool, is_held: bool) -> bool {
    holds || is_held
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pools(v4: &str, v6: &str) -> ClusterNetwork {
        ClusterNetwork { pool: v4.parse().unwrap(), pool6: v6.parse().unwrap() }
    }

    #[test]
    fn slices_come_in_order_and_run_out() {
        let pools = pools("10.64.0.0/22", "fd00:77::/48");
        let mut used = Vec::new();
        while let Some(s) = next(&pools, &used) {
            used.push(s);
        }
        let all: Vec<_> = used.iter().map(|s| format!("{} {}", s.v4, s.v6)).collect();
        assert_eq!(
            all,
            [
                "10.64.0.0/24 fd00:77::/64",
                "10.64.1.0/24 fd00:77:0:1::/64",
                "10.64.2.0/24 fd00:77:0:2::/64",
                "10.64.3.0/24 fd00:77:0:3::/64",
            ]
        );
        used.remove(1);
        assert_eq!(next(&pools, &used).unwrap().v4, "10.64.1.0/24".parse().unwrap());
    }

    #[test]
    fn a_small_pool_is_one_slice() {
        let pools = pools("10.0.0.0/26", "fd00::/120");
        let one = next(&pools, &[]).unwrap();
        assert_eq!((one.v4.prefix_len(), one.v6.prefix_len()), (26, 120));
        assert_eq!(next(&pools, &[one]), None);
    }

    proptest! {
        #[test]
        fn slices_never_overlap(a: u32, p in 18u8..=30, b: u128, q in 56u8..=126, drop in 0usize..9) {
            let network = ClusterNetwork {
                pool: Ipv4Net::new(a.into(), p).unwrap(),
                pool6: Ipv6Net::new(b.into(), q).unwrap(),
            };
            let mut used: Vec<NodeSubnet> = Vec::new();
            prop_assert!(next(&network, &used).is_some());
            for _ in 0..12 {
                let Some(s) = next(&network, &used) else { break };
                for u in &used {
                    prop_assert!(!u.v4.contains(&s.v4) && !s.v4.contains(&u.v4));
                    prop_assert!(!u.v6.contains(&s.v6) && !s.v6.contains(&u.v6));
                }
                prop_assert!(network.pool.contains(&s.v4) && network.pool6.contains(&s.v6));
                used.push(s);
                if used.len() == drop { used.remove(drop / 2); }
            }
        }
    }
}
