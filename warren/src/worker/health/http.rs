//! An HTTP request as a probe: one request on a connection of its own, HTTP/1.1, no redirect
//! followed. With `https` the certificate is taken as it is: it is for another name than the
//! container's address, and who answers is known from the address.

use std::{error::Error, sync::Arc};

use bytes::Bytes;
use futures::future::{Either, select};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{MAX_OUTPUT, inside::Place, tcp::cannot_connect, text};
use crate::model::HttpProbe;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) good: bool,
    pub(super) status: u16,
    /// The status line's end and the beginning of the body.
    pub(super) text: String,
}

/// Tries once, without a limit of time.
pub(super) async fn probe(place: &Place, probe: &HttpProbe, tls: &TlsConnector) -> Result<Answer, String> {
    let request = request(place, probe)?;
    let stream = place.connect(probe.port).await.map_err(|e| cannot_connect(place, probe.port, &e))?;
    if !probe.https {
        return ask(stream, request, probe).await;
    }
    let name = server_name(place, probe);
    let stream = tls
        .connect(name, stream)
        .await
        .map_err(|e| format!("no TLS with {}: {e}", place.address(probe.port)))?;
    ask(stream, request, probe).await
}

fn request(place: &Place, probe: &HttpProbe) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::builder().method(probe.method.as_str()).uri(probe.path.as_str());
    let has = |name: &str| probe.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !has(HOST.as_str()) {
        let standard = if probe.https { 443 } else { 80 };
        let address = place.address(probe.port);
        let host = if probe.port == standard { address.ip().to_string() } else { address.to_string() };
        request = request.header(HOST, host);
    }
    if !has(USER_AGENT.as_str()) {
        request = request.header(USER_AGENT, concat!("warren/", env!("CARGO_PKG_VERSION"), " health check"));
    }
    if !has(CONNECTION.as_str()) {
        request = request.header(CONNECTION, "close");
    }
    for (name, value) in &probe.headers {
        request = request.header(name, value);
    }
    request.body(Empty::new()).map_err(|e| format!("the health check is no HTTP request: {e}"))
}

/// Sends the request and reads what is kept of the answer.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
    probe: &HttpProbe,
) -> Result<Answer, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| no_answer(&e))?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|e| no_answer(&e))?;
        Ok(answer(response, probe).await)
    };
    // The connection moves only while it is polled, and may end before all that came is read.
    match select(Box::pin(talk), Box::pin(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, talk)) => talk.await,
    }
}

async fn answer(response: Response<Incoming>, probe: &HttpProbe) -> Answer {
    let status = response.status();
    let mut body = Vec::new();
    let mut incoming = response.into_body();
    while body.len() < MAX_OUTPUT
        // A body that breaks off changes nothing of the status.
        && let Some(Ok(frame)) = incoming.frame().await
    {
        if let Ok(data) = frame.into_data() {
            body.extend_from_slice(&data[..data.len().min(MAX_OUTPUT - body.len())]);
        }
    }
    let shown = format!("{status}\n{}", String::from_utf8_lossy(&body));
    Answer { good: expected(status, probe), status: status.as_u16(), text: text(shown.trim().as_bytes()) }
}

fn expected(status: StatusCode, probe: &HttpProbe) -> bool {
    let ranges: &[(u16, u16)] = if probe.statuses.is_empty() { &[(200, 399)] } else { &probe.statuses };
    ranges.iter().any(|(first, last)| (*first..=*last).contains(&status.as_u16()))
}

fn no_answer(e: &hyper::Error) -> String {
    let cause = e.source().map_or_else(String::new, |cause| format!(" ({cause})"));
    format!("no HTTP answer: {e}{cause}")
}

/// What the server is asked for: the name of the Host header, if it is one.
fn server_name(place: &Place, probe: &HttpProbe) -> ServerName<'static> {
    let host = probe.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(HOST.as_str()));
    let name = host.and_then(|(_, v)| ServerName::try_from(v.split(':').next()?.to_owned()).ok());
    name.unwrap_or_else(|| ServerName::IpAddress(place.address(probe.port).ip().into()))
}

/// TLS without a look at who answers.
pub(super) fn connector() -> TlsConnector {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for every protocol version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
