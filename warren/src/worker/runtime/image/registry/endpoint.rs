//! From a reference to the addresses to ask.

use std::net::IpAddr;

use hyper::Uri;

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::Registries;
use crate::model::ImageReference;

/// Where Docker Hub's API is.
const HUB: &str = "registry-1.docker.io";

/// One place to ask for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `https://host[:port][/prefix]`, without a slash at its end.
    pub(super) base: String,
    /// Whether plain HTTP may be used when it speaks no TLS.
    pub(super) may_be_plain: bool,
    /// What people call it.
    pub(super) name: String,
    /// Whether credentials for the reference's registry are meant for it.
    pub(super) origin: bool,
}

/// Something said of registries that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistriesError {
    /// A mirror.
    #[error("bad mirror \"{0}\": write REGISTRY=URL[,URL], for example docker.io=https://mirror.example")]
    Mirror(String),
    /// A registry without TLS.
    #[error("bad registry \"{0}\": write HOST[:PORT], for example registry.lan:5000")]
    Plain(String),
    /// Certificates.
    #[error("there is no certificate in it: it must hold one or more in PEM form")]
    Authorities,
}

impl Registries {
    /// Takes in `REGISTRY=URL[,URL]`.
    ///
    /// # Errors
    /// When it does not read so.
    pub fn add_mirror(&mut self, text: &str) -> Result<(), RegistriesError> {
        let bad = || RegistriesError::Mirror(text.to_owned());
        let (registry, urls) = text.split_once('=').ok_or_else(bad)?;
        // A reference's own grammar says what a registry may be called.
        let reference: ImageReference = format!("{registry}/x").parse().map_err(|_| bad())?;
        if reference.registry() != registry.strip_prefix("index.").unwrap_or(registry) {
            return Err(bad());
        }
        let list = self.mirrors.entry(reference.registry().to_owned()).or_default();
        for url in urls.split(',') {
            let uri: Uri = url.parse().map_err(|_| bad())?;
            let known = matches!(uri.scheme_str(), Some("http" | "https"));
            let authority = uri.authority().ok_or_else(bad)?;
            if !known || authority.as_str().contains('@') || uri.query().is_some() {
                return Err(bad());
            }
            list.push(url.trim_end_matches('/').to_owned());
        }
        Ok(())
    }

    /// Allows plain HTTP to `HOST[:PORT]`.
    ///
    /// # Errors
    /// When it does not read so.
    pub fn add_plain(&mut self, host: &str) -> Result<(), RegistriesError> {
        let reference = format!("{host}/x").parse::<ImageReference>();
        if reference.is_err() || host.contains('/') {
            return Err(RegistriesError::Plain(host.to_owned()));
        }
        self.plain.insert(host.to_owned());
        Ok(())
    }

    /// Trusts the authorities of these certificates (PEM), too.
    ///
    /// # Errors
    /// When there is none in it.
    pub fn add_authorities(&mut self, pem: &[u8]) -> Result<(), RegistriesError> {
        let mut roots = rustls::RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(RegistriesError::Authorities);
        }
        self.authorities.extend_from_slice(pem);
        self.authorities.push(b'\n');
        Ok(())
    }

    /// Whether `host[:port]` may be talked to without TLS.
    pub(super) fn may_be_plain(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let here = host == "localhost"
            || host.ends_with(".localhost")
            || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
        here || self.plain.contains(authority) || self.plain.contains(host)
    }

    /// The places to ask for a reference, in order.
    pub(super) fn endpoints(&self, reference: &ImageReference) -> Vec<Endpoint> {
        let registry = reference.registry();
        let mut list = Vec::new();
        for url in self.mirrors.get(registry).into_iter().flatten() {
            let uri: Option<Uri> = url.parse().ok();
            let authority = uri.as_ref().and_then(|u| u.authority()).map_or(url.as_str(), |a| a.as_str());
            list.push(Endpoint {
                base: url.clone(),
                // Whoever writes http:// has said so.
                may_be_plain: url.starts_with("http://"),
                name: authority.to_owned(),
                origin: false,
            });
        }
        let host = if registry == "docker.io" { HUB } else { registry };
        list.push(Endpoint {
            base: format!("https://{host}"),
            may_be_plain: self.may_be_plain(registry),
            name: registry.to_owned(),
            origin: true,
        });
        list
    }
}

fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(registries: &Registries, image: &str) -> Vec<(String, bool)> {
        let list = registries.endpoints(&image.parse().unwrap());
        list.into_iter().map(|e| (e.base, e.may_be_plain)).collect()
    }

    #[test]
    fn mirrors_come_first_and_only_own_or_named_hosts_may_be_plain() {
        let mut r = Registries::default();
        r.add_mirror("docker.io=https://one.example/hub/,http://10.0.0.1:5000").unwrap();
        r.plain.insert("lab.example".to_owned());
        r.plain.insert("ten.example:10".to_owned());
        let yes = |s: &str| (s.to_owned(), true);
        let no = |s: &str| (s.to_owned(), false);
        assert_eq!(
            bases(&r, "nginx"),
            [no("https://one.example/hub"), yes("http://10.0.0.1:5000"), no("https://registry-1.docker.io")]
        );
        assert_eq!(bases(&r, "ghcr.io/a/b"), [no("https://ghcr.io")]);
        for (image, plain) in [
            ("localhost/a", true),
            ("localhost:5000/a", true),
            ("127.0.0.1:5000/a", true),
            ("127.9.8.7:1/a", true),
            ("lab.example:5000/a", true),
            ("lab.example/a", true),
            ("ten.example:10/a", true),
            ("ten.example/a", false),
            ("10.0.0.1:5000/a", false),
            ("localhost.example/a", false),
        ] {
            assert_eq!(bases(&r, image)[0].1, plain, "{image}");
        }
    }

    #[test]
    fn a_mirror_is_a_url() {
        for bad in ["x", "docker.io=", "docker.io=mirror", "a b=https://x", "docker.io=https://u:p@x"] {
            let e = Registries::default().add_mirror(bad).unwrap_err();
            assert!(e.to_string().contains("REGISTRY=URL"), "{e}");
        }
    }
}
