//! Image references: `[registry/]path[:tag][@digest]`, as Docker writes them.

use std::{fmt, str::FromStr};

/// An image reference in full form: `docker.io/library/nginx:latest`.
///
/// Grammar and normalisation are those of distribution/reference: a first component without dot,
/// colon or `localhost` is not a registry; a single-component path on docker.io gets `library/`;
/// no tag and no digest means `latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// The text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad image reference \"{text}\": {why}; write it as [REGISTRY/]NAME[:TAG], for example nginx:1.27")]
pub struct ImageReferenceError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl ImageReference {
    /// The registry, `docker.io` by default.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path below the registry.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `None` when there is only a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// `sha256:…`, when it is fixed by one.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// What people call it: without `docker.io/library/` and, given `latest`, with it.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }
}

fn is_component(c: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = c.as_bytes();
    if bytes.is_empty() || !ok(bytes[0]) || !ok(bytes[bytes.len() - 1]) {
        return false;
    }
    let mut run = String::new();
    for &b in bytes {
        if ok(b) {
            if !(run.is_empty() || run == "." || run == "_" || run == "__" || run.bytes().all(|r| r == b'-'))
            {
                return false;
            }
            run.clear();
        } else if matches!(b, b'.' | b'_' | b'-') {
            run.push(b as char);
        } else {
            return false;
        }
    }
    true
}

fn is_tag(t: &str) -> bool {
    let bytes = t.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= 128
        && (bytes[0].is_ascii_alphanumeric() || bytes[0] == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_registry(r: &str) -> bool {
    let (host, port) = match r.rsplit_once(':') {
        Some((h, p)) => (h, Some(p)),
        None => (r, None),
    };
    !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
        && !host.starts_with(['-', '.'])
        && !host.ends_with(['-', '.'])
        && port.is_none_or(|p| p.parse::<u16>().is_ok_and(|n| n != 0))
}

impl FromStr for ImageReference {
    type Err = ImageReferenceError;

    fn from_str(text: &str) -> Result<Self, ImageReferenceError> {
        let err = |why| ImageReferenceError { text: text.to_owned(), why };
        let (rest, digest) = match text.split_once('@') {
            Some((r, d)) => {
                let hex = d.strip_prefix("sha256:").ok_or(err("the digest is not sha256:…"))?;
                if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
                    return Err(err("the digest is not 64 hexadecimal digits"));
                }
                (r, Some(d.to_owned()))
            }
            None => (text, None),
        };
        // A colon after the last slash starts a tag; before it, a registry's port.
        let last = rest.rfind('/').map_or(0, |i| i + 1);
        let (name, tag) = match rest[last..].split_once(':') {
            Some((n, t)) => {
                if !is_tag(t) {
                    return Err(err("the tag has a character that is not allowed"));
                }
                (&rest[..last + n.len()], Some(t.to_owned()))
            }
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(err("the name is empty"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first.to_owned(), rest.to_owned())
            }
            Some(_) => ("docker.io".to_owned(), name.to_owned()),
            None => ("docker.io".to_owned(), format!("library/{name}")),
        };
        let registry = if registry == "index.docker.io" { "docker.io".to_owned() } else { registry };
        if !is_registry(&registry) {
            return Err(err("the registry is not a host name with an optional port"));
        }
        if path.len() > 255 {
            return Err(err("the name is longer than 255 characters"));
        }
        if !path.split('/').all(is_component) {
            return Err(err("names are lower-case letters and digits, with . _ - between them"));
        }
        let tag = match (&tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            _ => tag,
        };
        Ok(Self { registry, path, tag, digest })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        if let Some(t) = &self.tag {
            write!(f, ":{t}")?;
        }
        if let Some(d) = &self.digest {
            write!(f, "@{d}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_completed_as_docker_does() {
        for (given, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("me/app", "docker.io/me/app:latest"),
            ("localhost/app:x", "localhost/app:x"),
            ("localhost:5000/a/b:x", "localhost:5000/a/b:x"),
            ("ghcr.io/a/b_c/d--e", "ghcr.io/a/b_c/d--e:latest"),
            ("index.docker.io/library/x:1", "docker.io/library/x:1"),
        ] {
            assert_eq!(given.parse::<ImageReference>().unwrap().to_string(), full);
        }
        assert_eq!("nginx".parse::<ImageReference>().unwrap().familiar(), "nginx:latest");
    }

    #[test]
    fn rubbish_is_refused() {
        for bad in [
            "",
            "UPPER",
            "a b",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:b:c",
            "a@sha256:12",
            "a@md5:00",
            "-a",
            "a-",
            "a..b",
            "a:-x",
            "reg.io:0/x",
            "reg.io:99999/x",
            "http://x/y",
            "a___b",
        ] {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad} was accepted");
        }
    }
}
