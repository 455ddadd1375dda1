//! The pools that addresses come from.

use ipnet::{Ipv4Net, Ipv6Net};

use super::Invalid;

/// The pool that containers get IPv4 addresses from.
///
/// # Errors
/// Says what a pool may be.
pub fn pool(pool: Ipv4Net) -> Result<(), Invalid> {
    let bad = |why: &str| {
        Err(Invalid(format!(
            "bad pool {pool}: {why}; write a private network such as 10.90.0.0/16 after --pool"
        )))
    };
    if pool != pool.trunc() {
        return bad(&format!("the network of that length is {}", pool.trunc()));
    }
    if pool.prefix_len() < 8 || pool.prefix_len() > 26 {
        return bad("its length is not between /8 and /26");
    }
    // 0/8, loopback, link-local, multicast and what lies above: RFC 6890.
    for special in ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"] {
        let special: Ipv4Net = special.parse().expect("a constant");
        if special.contains(&pool) || pool.contains(&special) {
            return bad(&format!("{special} has a meaning of its own"));
        }
    }
    Ok(())
}

/// The pool that containers get IPv6 addresses from.
///
/// # Errors
/// Says what a pool may be.
pub fn pool6(pool: Ipv6Net) -> Result<(), Invalid> {
    let bad = |why: &str| {
        Err(Invalid(format!(
            "bad pool {pool}: {why}; write a unique local network such as fd00:90::/48 after --pool6"
        )))
    };
    if pool != pool.trunc() {
        return bad(&format!("the network of that length is {}", pool.trunc()));
    }
    if pool.prefix_len() < 16 || pool.prefix_len() > 64 {
        return bad("its length is not between /16 and /64");
    }
    // Unassigned and loopback, link-local, multicast.
    for special in ["::/16", "fe80::/10", "ff00::/8"] {
        let special: Ipv6Net = special.parse().expect("a constant");
        if special.contains(&pool) || pool.contains(&special) {
            return bad(&format!("{special} has a meaning of its own"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_can_be_worked_with() {
        for good in ["10.0.0.0/8", "10.90.0.0/16", "192.168.4.0/24", "100.64.0.0/10", "198.18.0.0/15"] {
            assert!(pool(good.parse().unwrap()).is_ok(), "{good}");
        }
        for bad in [
            "0.0.0.0/0",
            "10.0.0.0/31",
            "10.90.0.1/16",
            "224.0.0.0/16",
            "240.0.0.0/8",
            "169.254.0.0/16",
            "127.0.0.0/8",
        ] {
            assert!(pool(bad.parse().unwrap()).is_err(), "{bad}");
        }
        assert!(pool6("fd77:6172:7265::/48".parse().unwrap()).is_ok());
        for bad in ["::/0", "2001:db8::/127", "fe80::/64", "ff00::/16", "fd00::1/64", "::1/128"] {
            assert!(pool6(bad.parse().unwrap()).is_err(), "{bad}");
        }
    }
}
