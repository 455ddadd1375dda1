//! One image at its registry: documents whole and verified, layers as streams that begin anywhere.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap, Method, Response, StatusCode, Uri,
    body::Incoming,
    header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE, WWW_AUTHENTICATE},
};

use super::{
    Registries, RegistryError,
    auth::Asker,
    challenge,
    endpoint::Endpoint,
    http::{self, Failure, Http, SILENCE},
    words,
};
use crate::{
    model::{ImageReference, RegistryAuth},
    worker::runtime::image::read,
};

const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Tries of a request that may have a better answer later.
pub(in crate::worker::runtime::image) const TRIES: u32 = 5;

/// A verified document.
#[derive(Debug, Clone)]
pub(in crate::worker::runtime::image) struct Document {
    pub(in crate::worker::runtime::image) bytes: Vec<u8>,
    pub(in crate::worker::runtime::image) digest: String,
    pub(in crate::worker::runtime::image) media_type: String,
}

/// A layer on its way.
pub(in crate::worker::runtime::image) struct Blob {
    registry: String,
    body: Incoming,
    /// Where in the layer it begins: where it was asked to, or 0 when the registry cannot.
    pub(in crate::worker::runtime::image) offset: u64,
}

impl Blob {
    /// The next bytes; `None` at the end.
    pub(in crate::worker::runtime::image) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let away = |why| RegistryError::Unreachable { registry: self.registry.clone(), why };
        loop {
            match tokio::time::timeout(SILENCE, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Ok(Some(Err(e))) => {
                    return Err(away(format!("the connection broke off ({})", http::root(&e))));
                }
                Err(_) => return Err(away(format!("it was silent for {} s", SILENCE.as_secs()))),
            }
        }
    }
}

/// The registry of one reference, and its mirrors.
pub(in crate::worker::runtime::image) struct Registry {
    http: Http,
    registries: Registries,
    reference: ImageReference,
    credentials: Option<RegistryAuth>,
    endpoints: Vec<Endpoint>,
    state: Mutex<State>,
    tell: Box<dyn Fn(String) + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// `Authorization` by endpoint.
    grants: HashMap<usize, HeaderValue>,
    /// The first endpoint that is worth asking: those before it did not have the image.
    first: usize,
    /// Endpoints found out to speak no TLS.
    plain: Vec<usize>,
}

impl Registry {
    /// `tell` gets what the user should know of the way: mirrors that failed, tries that did.
    pub(in crate::worker::runtime::image) fn new(
        reference: &ImageReference,
        registries: &Registries,
        credentials: Option<&RegistryAuth>,
        tell: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Self, RegistryError> {
        let http = Http::new(&registries.authorities)
            .map_err(|why| RegistryError::Unreachable { registry: reference.registry().to_owned(), why })?;
        Ok(Self {
            http,
            endpoints: registries.endpoints(reference),
            registries: registries.clone(),
            reference: reference.clone(),
            // Given for another registry, they are none of this one's business.
            credentials: credentials.filter(|c| c.server == reference.registry()).cloned(),
            state: Mutex::default(),
            tell: Box::new(tell),
        })
    }

    /// What people call the place that is asked.
    pub(in crate::worker::runtime::image) fn name(&self) -> String {
        self.endpoints[self.lock().first].name.clone()
    }

    /// The digest that the reference stands for right now; `None` when the registry does not say
    /// it without giving the document.
    pub(in crate::worker::runtime::image) async fn digest(&self) -> Result<Option<String>, RegistryError> {
        let named = self.named();
        let document = self.document(Method::HEAD, &format!("manifests/{named}"), &named).await?;
        Ok(Some(document.digest).filter(|d| d.starts_with("sha256:")))
    }

    /// What the reference stands for: an index or a manifest.
    pub(in crate::worker::runtime::image) async fn top(&self) -> Result<Document, RegistryError> {
        self.manifest(&self.named()).await
    }

    /// A manifest by its digest.
    pub(in crate::worker::runtime::image) async fn manifest(
        &self,
        named: &str,
    ) -> Result<Document, RegistryError> {
        self.document(Method::GET, &format!("manifests/{named}"), named).await
    }

    /// A small blob by its digest.
    pub(in crate::worker::runtime::image) async fn small_blob(
        &self,
        digest: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        Ok(self.document(Method::GET, &format!("blobs/{digest}"), digest).await?.bytes)
    }

    fn named(&self) -> String {
        self.reference.digest().or(self.reference.tag()).unwrap_or("latest").to_owned()
    }

    /// Takes an answer in: its body verified against `named`, if that is a digest. An answer
    /// without a body has the digest that the registry says.
    async fn take(
        &self,
        method: &Method,
        answer: Response<Incoming>,
        named: &str,
    ) -> Result<Document, RegistryError> {
        let header = |name| answer.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let media_type = header(CONTENT_TYPE.as_str()).split(';').next().unwrap_or_default().to_owned();
        if method == Method::HEAD {
            let digest = header("docker-content-digest").to_owned();
            return Ok(Document { bytes: Vec::new(), digest, media_type });
        }
        let registry = self.name();
        let bytes = http::document(answer).await.map_err(|f| self.failed(&registry, f))?.to_vec();
        let digest = read::digest(&bytes);
        if named.starts_with("sha256:") && digest != named {
            return Err(RegistryError::Digest { registry, digest: named.to_owned() });
        }
        Ok(Document { bytes, digest, media_type })
    }

    /// Begins to read a layer at `offset`. One try; the endpoint is the one that had the image, or
    /// with `later`, one after it.
    pub(in crate::worker::runtime::image) async fn blob(
        &self,
        digest: &str,
        offset: u64,
        later: usize,
    ) -> Result<Blob, RegistryError> {
        let number = (self.lock().first + later).min(self.endpoints.len() - 1);
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        let answer = self.ask(number, Method::GET, &format!("blobs/{digest}"), &headers).await?;
        let registry = self.endpoints[number].name.clone();
        let offset = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.headers().get(CONTENT_RANGE).and_then(|r| r.to_str().ok());
                let begins = range.and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                if begins != Some(offset) {
                    let why = format!("it was asked for bytes from {offset} on and sends {range:?}");
                    return Err(RegistryError::Nonsense { registry, why });
                }
                offset
            }
            // It knows no ranges, or gives none of this: all of it, from the start.
            _ => 0,
        };
        Ok(Blob { registry, body: answer.into_body(), offset })
    }

    /// How many places there are to ask beyond the first.
    pub(in crate::worker::runtime::image) fn others(&self) -> usize {
        self.endpoints.len() - 1 - self.lock().first
    }

    /// Asks one place after the other, each patiently, and takes the first document that is as it
    /// should be. Who gave it is asked first from then on.
    async fn document(&self, method: Method, path: &str, named: &str) -> Result<Document, RegistryError> {
        let mut headers = HeaderMap::new();
        if path.starts_with("manifests/") {
            headers.insert(ACCEPT, HeaderValue::from_static(ACCEPTED));
        }
        loop {
            let number = self.lock().first;
            let last = number + 1 == self.endpoints.len();
            let mut tries = 1;
            let error = loop {
                let answer = match self.ask(number, method.clone(), path, &headers).await {
                    Ok(answer) => self.take(&method, answer, named).await,
                    Err(e) => Err(e),
                };
                match answer {
                    Ok(document) => return Ok(document),
                    Err(e) if e.may_pass() && tries < TRIES && last => {
                        let pause = pause(tries);
                        self.tell(format!("{e}; trying again in {pause:?}"));
                        tokio::time::sleep(pause).await;
                        tries += 1;
                    }
                    Err(e) => break e,
                }
            };
            if last {
                return Err(error);
            }
            let next = &self.endpoints[number + 1].name;
            self.tell(format!("mirror: {error}; asking {next}"));
            let mut state = self.lock();
            state.first = state.first.max(number + 1);
        }
    }

    /// Says something to whoever waits.
    pub(in crate::worker::runtime::image) fn tell(&self, message: String) {
        (self.tell)(message);
    }

    /// One request to one endpoint, with whatever it wants to know of us.
    async fn ask(
        &self,
        number: usize,
        method: Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response<Incoming>, RegistryError> {
        let endpoint = &self.endpoints[number];
        let plain = |authority: &str| {
            self.registries.may_be_plain(authority)
                || (endpoint.may_be_plain && endpoint.base.ends_with(&format!("//{authority}")))
        };
        let mut met = false;
        loop {
            let uri = self.address(number, path)?;
            let mut headers = headers.clone();
            let grant = self.lock().grants.get(&number).cloned();
            if let Some(grant) = &grant {
                headers.insert(AUTHORIZATION, grant.clone());
            }
            let sent = self.http.send(method.clone(), uri.clone(), &headers, Bytes::new(), plain).await;
            let answer = match sent {
                Err(Failure::NoTls(_)) if endpoint.may_be_plain && uri.scheme_str() == Some("https") => {
                    self.lock().plain.push(number);
                    continue;
                }
                Err(f) => return Err(self.failed(&endpoint.name, f)),
                Ok(answer) => answer,
            };
            let status = answer.status();
            if status.is_success() {
                return Ok(answer);
            }
            let wants = answer.headers().get_all(WWW_AUTHENTICATE);
            let challenge = challenge::parse(wants.iter().filter_map(|h| h.to_str().ok()));
            let body = http::document(answer).await.unwrap_or_default();
            let words = words::of(status, &body);
            let registry = endpoint.name.clone();
            let credentials = self.credentials.as_ref().filter(|_| endpoint.origin);
            if status == StatusCode::UNAUTHORIZED
                && let Some(challenge) = challenge
                // Once for each request: tokens grow old, but not that fast.
                && !met
            {
                let scope = format!("repository:{}:pull", self.reference.path());
                let asker = Asker {
                    http: &self.http,
                    registry: &endpoint.name,
                    credentials,
                    scope: &scope,
                    plain: &plain,
                };
                let grant = asker.meet(&challenge, &uri, &words).await?;
                self.lock().grants.insert(number, grant);
                met = true;
                continue;
            }
            if matches!(status.as_u16(), 401 | 403) && credentials.is_none() && endpoint.origin {
                return Err(RegistryError::LogIn { registry, words });
            }
            return Err(RegistryError::Says { registry, status: status.as_u16(), words });
        }
    }

    fn address(&self, number: usize, path: &str) -> Result<Uri, RegistryError> {
        let endpoint = &self.endpoints[number];
        let mut base = endpoint.base.clone();
        if self.lock().plain.contains(&number) {
            base = base.replacen("https://", "http://", 1);
        }
        // A registry that stands for several is told for which.
        let of = if endpoint.origin { String::new() } else { format!("?ns={}", self.reference.registry()) };
        format!("{base}/v2/{}/{path}{of}", self.reference.path()).parse().map_err(|_| {
            RegistryError::Nonsense { registry: endpoint.name.clone(), why: format!("{base} is no address") }
        })
    }

    fn failed(&self, registry: &str, failure: Failure) -> RegistryError {
        let registry = registry.to_owned();
        match failure {
            Failure::Certificate(why) => RegistryError::Certificate { registry, why },
            Failure::Away(why) => RegistryError::Unreachable { registry, why },
            Failure::NoTls(why) => RegistryError::Unreachable {
                registry,
                why: format!(
                    "no TLS there ({why}); if it is meant to be plain HTTP, allow it with `warren node start --insecure-registry`"
                ),
            },
            Failure::Nonsense(why) => RegistryError::Nonsense { registry, why },
        }
    }

    // Held only for operations that do not panic.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Before the next try, after `tries` that failed.
pub(in crate::worker::runtime::image) fn pause(tries: u32) -> Duration {
    Duration::from_millis(500 << tries.saturating_sub(1).min(5))
}
