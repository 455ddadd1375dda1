//! HTTP to registries: one request, its redirects, and what can go wrong on the way.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, Uri,
    body::Incoming,
    header::{AUTHORIZATION, HOST, LOCATION},
};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::{
        legacy::{
            Client,
            connect::{HttpConnector, proxy::Tunnel},
        },
        proxy::matcher::Matcher,
    },
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject as _};
use tower::Service;

const CONNECT: Duration = Duration::from_secs(15);
/// Until an answer begins.
const ANSWER: Duration = Duration::from_secs(60);
/// Without a single byte of a body.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
const REDIRECTS: usize = 5;
/// Longest answer that is not a layer.
const DOCUMENT: usize = 4 << 20;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The other side does not speak TLS.
    NoTls(String),
    /// Its certificate is not trusted.
    Certificate(String),
    /// Nothing there, or the connection broke.
    Away(String),
    /// An answer that makes no sense.
    Nonsense(String),
}

/// Connections to registries, kept while a pull lasts.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: Client<HttpsConnector<Dial>, Full<Bytes>>,
}

impl Http {
    /// Trusts the machine's authorities and, beyond them, those of `authorities` (PEM).
    pub(super) fn new(authorities: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // A machine without any may still have its registry's own.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authorities).filter_map(Result::ok));
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        direct.set_nodelay(true);
        direct.set_connect_timeout(Some(CONNECT));
        let dial = Dial { direct, proxies: Arc::new(Matcher::from_env()) };
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(dial);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client })
    }

    /// Sends a request and follows redirects. The second part is where the answer came from.
    /// Credentials stay with the host they were meant for. `plain` says which hosts a redirect may
    /// lead to without TLS.
    pub(super) async fn send(
        &self,
        method: Method,
        uri: Uri,
        headers: &HeaderMap,
        body: Bytes,
        plain: impl Fn(&str) -> bool,
    ) -> Result<Response<Incoming>, Failure> {
        let first = uri.authority().cloned();
        let mut at = uri;
        for _ in 0..=REDIRECTS {
            let mut request = Request::builder().method(method.clone()).uri(at.clone());
            if let Some(h) = request.headers_mut() {
                h.extend(headers.clone());
                h.insert("user-agent", concat!("warren/", env!("CARGO_PKG_VERSION")).parse().map_err(bad)?);
                if at.authority() != first.as_ref() {
                    h.remove(AUTHORIZATION);
                }
                h.remove(HOST);
            }
            let request = request.body(Full::new(body.clone())).map_err(bad)?;
            let answer = tokio::time::timeout(ANSWER, self.client.request(request));
            let answer = match answer.await {
                Ok(Ok(answer)) => answer,
                Ok(Err(e)) => return Err(failure(&e)),
                Err(_) => return Err(Failure::Away(format!("no answer within {} s", ANSWER.as_secs()))),
            };
            let Some(to) = answer.headers().get(LOCATION).filter(|_| answer.status().is_redirection()) else {
                return Ok(answer);
            };
            let to = join(&at, to.to_str().map_err(bad)?).ok_or_else(|| bad("a redirect to nowhere"))?;
            let authority = to.authority().map_or("", |a| a.as_str());
            if at.scheme_str() == Some("https") && to.scheme_str() != Some("https") && !plain(authority) {
                return Err(bad(format!("it redirects to {authority} without TLS")));
            }
            at = to;
        }
        Err(bad("it redirects without end"))
    }
}

fn bad(e: impl ToString) -> Failure {
    Failure::Nonsense(e.to_string())
}

/// Where a redirect leads.
fn join(from: &Uri, to: &str) -> Option<Uri> {
    let to = to.split('#').next().unwrap_or_default();
    if to.starts_with("http://") || to.starts_with("https://") {
        return to.parse().ok();
    }
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    match to.strip_prefix("//") {
        Some(rest) => format!("{scheme}://{rest}").parse().ok(),
        None if to.starts_with('/') => format!("{scheme}://{authority}{to}").parse().ok(),
        None => {
            let dir = from.path().rsplit_once('/').map_or("", |(dir, _)| dir);
            format!("{scheme}://{authority}{dir}/{to}").parse().ok()
        }
    }
}

/// What broke, in the words of whoever noticed first.
fn failure(e: &hyper_util::client::legacy::Error) -> Failure {
    let mut causes: Vec<&(dyn std::error::Error + 'static)> = Vec::new();
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(cause) = next {
        causes.push(cause);
        // An io::Error shows not itself as a cause of what it wraps, but that one's causes.
        next = match cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    let words = causes.last().map_or_else(|| e.to_string(), ToString::to_string);
    for cause in &causes {
        match cause.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(why)) => return Failure::Certificate(why.to_string()),
            Some(other) if e.is_connect() => return Failure::NoTls(other.to_string()),
            _ => {}
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && e.is_connect()
            && matches!(io.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset)
        {
            return Failure::NoTls(words);
        }
    }
    Failure::Away(words)
}

/// Reads a whole small body.
pub(super) async fn document(answer: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = Limited::new(answer.into_body(), DOCUMENT);
    match tokio::time::timeout(ANSWER, body.collect()).await {
        Ok(Ok(all)) => Ok(all.to_bytes()),
        Ok(Err(e)) if e.downcast_ref::<LengthLimitError>().is_some() => {
            Err(bad(format!("a document of more than {} MiB", DOCUMENT >> 20)))
        }
        Ok(Err(e)) => Err(Failure::Away(format!("the connection broke off ({})", root(&*e)))),
        Err(_) => Err(Failure::Away(format!("no whole answer within {} s", ANSWER.as_secs()))),
    }
}

/// The first cause of an error.
pub(super) fn root(e: &(dyn std::error::Error + 'static)) -> String {
    let mut at = e;
    while let Some(cause) = at.source() {
        at = cause;
    }
    at.to_string()
}

/// Connects straight, or through the proxy that the environment names (`HTTPS_PROXY`,
/// `NO_PROXY`). Only TLS goes through a proxy, and nothing that stays on this machine.
#[derive(Debug, Clone)]
struct Dial {
    direct: HttpConnector,
    proxies: Arc<Matcher>,
}

impl Service<Uri> for Dial {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.direct.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let host = to.host().unwrap_or_default().trim_matches(['[', ']']);
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
        let proxy = self.proxies.intercept(&to).filter(|_| !here && to.scheme_str() == Some("https"));
        let Some(proxy) = proxy else {
            let connecting = self.direct.call(to);
            return Box::pin(async move { Ok(connecting.await?) });
        };
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.direct.clone());
        if let Some(auth) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        let connecting = tunnel.call(to);
        Box::pin(async move { Ok(connecting.await?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_as_browsers_do() {
        let from: Uri = "https://r.example:5000/v2/a/blobs/x?y=1".parse().unwrap();
        for (to, at) in [
            ("https://cdn.example/z?sig=a%2Fb", "https://cdn.example/z?sig=a%2Fb"),
            ("/v2/b", "https://r.example:5000/v2/b"),
            ("//cdn.example/z", "https://cdn.example/z"),
            ("z", "https://r.example:5000/v2/a/blobs/z"),
            ("http://x/#part", "http://x/"),
        ] {
            assert_eq!(join(&from, to).unwrap().to_string(), at);
        }
    }
}
