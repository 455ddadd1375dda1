//! The rules of what users write. One place, used by the API and by the CLI.

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
    fn replicas_have_a_limit() {
        let mut s = spec();
        s.replicas = MAX_REPLICAS + 1;
        assert!(service(&s).is_err());
    }
}
