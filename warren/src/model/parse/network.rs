//! Networks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::bad;
use crate::model::validate::Invalid;

/// A network that clients are in; a single address is one, too.
///
/// # Errors
/// Says how it is written.
pub fn network(text: &str) -> Result<IpNet, Invalid> {
    let net = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(net), _) => net,
        (_, Ok(address)) => address.into(),
        _ => {
            return bad(
                "network",
                text,
                "write one such as 192.0.2.0/24 or 2001:db8::/48, or a single address",
            );
        }
    };
    if net != net.trunc() {
        let how = format!("write {} (or {} for this one address)", net.trunc(), net.addr());
        return bad("network", text, &how);
    }
    match net.addr() {
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => {
            bad("network", text, "it is of IPv4 in disguise; write it as one")
        }
        a if a.is_multicast() => bad("network", text, "nobody sends from multicast addresses"),
        _ => Ok(net),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (text, meant) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:db8::/48", "2001:db8::/48"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), meant);
        }
        for (text, needle) in [
            ("", "such as"),
            ("x", "such as"),
            ("192.0.2.0/33", "such as"),
            ("192.0.2.7/24", "192.0.2.0/24 (or 192.0.2.7 "),
            ("::ffff:1.2.3.4", "disguise"),
            ("224.0.0.0/8", "multicast"),
            ("ff02::1", "multicast"),
        ] {
            let said = network(text).unwrap_err().to_string();
            assert!(said.contains(needle) && said.contains(text) && !said.contains('\n'), "{said}");
        }
    }
}
