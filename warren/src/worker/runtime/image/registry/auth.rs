//! Answers to what a registry asks before it gives anything.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;

use super::{
    RegistryError,
    challenge::Challenge,
    http::{self, Http},
    words,
};
use crate::model::RegistryAuth;

/// What a token server answers; either name is in use.
#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// Who asks, and whom.
pub(super) struct Asker<'a> {
    pub(super) http: &'a Http,
    /// What people call the registry.
    pub(super) registry: &'a str,
    /// For `registry`; `None` when nobody gave any.
    pub(super) credentials: Option<&'a RegistryAuth>,
    /// `repository:NAME:pull`, when the registry does not say.
    pub(super) scope: &'a str,
    /// Whether credentials may go to this host without TLS.
    pub(super) plain: &'a (dyn Fn(&str) -> bool + Sync),
}

impl Asker<'_> {
    /// The `Authorization` that meets the challenge; `refusal` are the registry's words so far.
    /// `asked` is where it was made.
    pub(super) async fn meet(
        &self,
        challenge: &Challenge,
        asked: &Uri,
        refusal: &str,
    ) -> Result<HeaderValue, RegistryError> {
        match challenge {
            Challenge::Basic => {
                let credentials = self.credentials.filter(|c| !c.username.is_empty());
                let credentials = credentials.ok_or_else(|| RegistryError::LogIn {
                    registry: self.registry.to_owned(),
                    words: refusal.to_owned(),
                })?;
                self.private(asked)?;
                Ok(basic(credentials))
            }
            Challenge::Bearer { realm, service, scope } => {
                let scope = scope.as_deref().unwrap_or(self.scope);
                let token = self.token(realm, service.as_deref(), scope).await?;
                secret(&format!("Bearer {token}"))
                    .ok_or_else(|| self.nonsense("its token has characters that no token has"))
            }
        }
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<String, RegistryError> {
        let service = service.map(|s| format!("service={}&", encode(s))).unwrap_or_default();
        let query = format!("{service}scope={}", encode(scope));
        let mut headers = HeaderMap::new();
        let identity = self.credentials.filter(|c| !c.identity_token.is_empty());
        let (method, address, body) = if let Some(credentials) = identity {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            let form = format!(
                "grant_type=refresh_token&client_id=warren&{query}&refresh_token={}",
                encode(&credentials.identity_token)
            );
            (Method::POST, realm.to_owned(), Bytes::from(form))
        } else {
            let mark = if realm.contains('?') { '&' } else { '?' };
            if let Some(credentials) = self.credentials.filter(|c| !c.username.is_empty()) {
                headers.insert(AUTHORIZATION, basic(credentials));
            }
            (Method::GET, format!("{realm}{mark}{query}"), Bytes::new())
        };
        let uri: Uri = address.parse().map_err(|_| self.nonsense("it names no place to get a token"))?;
        if self.credentials.is_some() {
            self.private(&uri)?;
        }
        let at = uri.authority().map_or_else(String::new, |a| a.to_string());
        let unreachable = |f| match f {
            http::Failure::Certificate(why) => RegistryError::Certificate { registry: at.clone(), why },
            http::Failure::Nonsense(why) => self.nonsense(&format!("its token server {at}: {why}")),
            http::Failure::Away(why) | http::Failure::NoTls(why) => RegistryError::Unreachable {
                registry: self.registry.to_owned(),
                why: format!("its token server {at}: {why}"),
            },
        };
        let answer = self.http.send(method, uri, &headers, body, |host| (self.plain)(host)).await;
        let answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let body = http::document(answer).await.map_err(unreachable)?;
        if !status.is_success() {
            let words = words::of(status, &body);
            let registry = self.registry.to_owned();
            return Err(match self.credentials {
                None if matches!(status.as_u16(), 401 | 403) => RegistryError::LogIn { registry, words },
                _ => RegistryError::Says { registry, status: status.as_u16(), words },
            });
        }
        let token: Token = serde_json::from_slice(&body)
            .map_err(|_| self.nonsense(&format!("its token server {at} gives no token")))?;
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        if token.is_empty() {
            return Err(self.nonsense(&format!("its token server {at} gives an empty token")));
        }
        Ok(token)
    }

    /// Whether credentials may go there.
    fn private(&self, to: &Uri) -> Result<(), RegistryError> {
        let authority = to.authority().map_or("", |a| a.as_str());
        if to.scheme_str() == Some("https") || (self.plain)(authority) {
            return Ok(());
        }
        Err(RegistryError::PlainCredentials { registry: self.registry.to_owned(), at: authority.to_owned() })
    }

    fn nonsense(&self, why: &str) -> RegistryError {
        RegistryError::Nonsense { registry: self.registry.to_owned(), why: why.to_owned() }
    }
}

fn basic(credentials: &RegistryAuth) -> HeaderValue {
    let pair = STANDARD.encode(format!("{}:{}", credentials.username, credentials.password));
    secret(&format!("Basic {pair}")).unwrap_or_else(|| HeaderValue::from_static("Basic"))
}

/// A header that no log shows.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Percent-encodes all but unreserved characters (RFC 3986).
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown() {
        let auth = RegistryAuth { username: "me".into(), password: "secret".into(), ..Default::default() };
        let header = basic(&auth);
        assert_eq!(header.to_str().unwrap(), "Basic bWU6c2VjcmV0");
        assert_eq!(format!("{header:?}"), "Sensitive");
        assert_eq!(encode("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
