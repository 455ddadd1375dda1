//! The rules of what users write. One place, used by the API and by the CLI.

use ipnet::{Ipv4Net, Ipv6Net};

use super::ServiceSpec;

/// Most replicas one service may ask for.
pub const MAX_REPLICAS: u32 = 10_000;

/// What is wrong with a spec, in one sentence that says how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// A service name is a DNS label: 1 to 63 lower-case letters, digits and `-`, beginning with a
/// letter or digit and ending with one.
///
/// # Errors
/// Says what a name may be.
pub fn service_name(name: &str) -> Result<(), Invalid> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let valid = !bytes.is_empty()
        && bytes.len() <= 63
        && ok(bytes[0])
        && ok(bytes[bytes.len() - 1])
        && bytes.iter().all(|&b| ok(b) || b == b'-');
    if valid {
        return Ok(());
    }
    Err(Invalid(format!(
        "bad service name \"{name}\": use 1 to 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit"
    )))
}

/// An environment entry `NAME=VALUE`.
///
/// # Errors
/// Says what an entry looks like.
pub fn env_entry(text: &str) -> Result<(String, String), Invalid> {
    match text.split_once('=') {
        Some((k, v)) if !k.is_empty() && !text.contains('\0') => Ok((k.to_owned(), v.to_owned())),
        _ => Err(Invalid(format!("bad environment entry \"{text}\": write it as NAME=VALUE"))),
    }
}

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

/// Every rule a spec must meet by itself, whatever else is in the cluster.
///
/// # Errors
/// The first rule broken.
pub fn service(spec: &ServiceSpec) -> Result<(), Invalid> {
    service_name(&spec.name)?;
    if spec.replicas > MAX_REPLICAS {
        return Err(Invalid(format!(
            "{} replicas are too many: a service may have up to {MAX_REPLICAS}",
            spec.replicas
        )));
    }
    for (k, v) in &spec.task.env {
        if k.is_empty() || k.contains(['=', '\0']) || v.contains('\0') {
            return Err(Invalid(format!("bad environment variable \"{k}\": write it as NAME=VALUE")));
        }
    }
    for word in spec.task.args.iter().chain(spec.task.entrypoint.iter().flatten()) {
        if word.contains('\0') {
            return Err(Invalid("an argument contains a NUL character: remove it".into()));
        }
    }
    for (i, p) in spec.publish.iter().enumerate() {
        if p.published == 0 || p.target == 0 {
            return Err(Invalid(format!("bad port {p}: ports are 1 to 65535")));
        }
        if let Some(q) = spec.publish[..i].iter().find(|q| p.conflicts(q)) {
            return Err(Invalid(format!(
                "port {p} is already published as {q} by this service: leave one away"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TaskSpec;

    fn spec() -> ServiceSpec {
        ServiceSpec {
            name: "web".into(),
            labels: Default::default(),
            replicas: 1,
            task: TaskSpec::new("web".parse().unwrap()),
            publish: vec![],
        }
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web", "web-1", "1st", &"a".repeat(63)] {
            assert!(service_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a b", &"a".repeat(64), "ü"] {
            assert!(service_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_is_published_once() {
        let mut s = spec();
        s.publish = vec!["80:80".parse().unwrap(), "127.0.0.1:80:81".parse().unwrap()];
        assert!(service(&s).unwrap_err().to_string().contains("already published"));
    }

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

    #[test]
    fn replicas_have_a_limit() {
        let mut s = spec();
        s.replicas = MAX_REPLICAS + 1;
        assert!(service(&s).is_err());
    }
}
