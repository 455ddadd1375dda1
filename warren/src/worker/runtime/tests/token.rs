//! A token server as registries use them: names and passwords in, signed tokens out.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};

/// Lives as long as the process.
pub(super) struct TokenServer {
    port: u16,
    /// Of its signatures, PEM.
    pub(super) certificate: String,
    asked: Arc<Mutex<Vec<String>>>,
}

struct Signer {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
    name: String,
    password: String,
    refresh: String,
}

impl TokenServer {
    /// Gives tokens for `public/…` to everybody and for the rest to one who has the password or
    /// the refresh token.
    pub(super) fn start(name: &str, password: &str, refresh: &str) -> Self {
        let pair = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["tokens".to_owned()]).unwrap().self_signed(&pair).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &pair.serialize_der(),
            &SystemRandom::new(),
        )
        .unwrap();
        let signer = Signer {
            key,
            certificate: certificate.der().to_vec(),
            name: name.to_owned(),
            password: password.to_owned(),
            refresh: refresh.to_owned(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Self {
            port: listener.local_addr().unwrap().port(),
            certificate: certificate.pem(),
            asked: Arc::default(),
        };
        let asked = own.asked.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                signer.answer(client, &asked);
            }
        });
        own
    }

    pub(super) fn realm(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.port)
    }

    /// Queries and forms so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Signer {
    fn answer(&self, mut client: TcpStream, asked: &Mutex<Vec<String>>) {
        let mut request = String::new();
        let mut buffer = [0; 4096];
        // The head, and a form as long as it says.
        let whole = loop {
            let Ok(n @ 1..) = client.read(&mut buffer) else { return };
            request.push_str(&String::from_utf8_lossy(&buffer[..n]));
            let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
            let length = head.to_lowercase();
            let length = length.split("content-length: ").nth(1).and_then(|l| l.lines().next()?.parse().ok());
            if body.len() >= length.unwrap_or(0usize) {
                break (head.to_owned(), body.to_owned());
            }
        };
        let (head, form) = whole;
        let query = head.split(' ').nth(1).unwrap_or_default().split('?').nth(1).unwrap_or_default();
        let fields = if form.is_empty() { query } else { form.as_str() };
        asked.lock().unwrap().push(fields.to_owned());
        let field = |name: &str| {
            fields
                .split('&')
                .find_map(|f| f.strip_prefix(name)?.strip_prefix('='))
                .unwrap_or_default()
                .to_owned()
        };
        let scope = field("scope").replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        let given = head.lines().find_map(|l| {
            let (name, value) = l.split_once(": Basic ")?;
            name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
        });
        let right = STANDARD.encode(format!("{}:{}", self.name, self.password));
        let known = given.as_deref() == Some(right.as_str()) || field("refresh_token") == self.refresh;
        let (status, body) = if given.is_some() && !known {
            ("401 Unauthorized", r#"{"details":"incorrect username or password"}"#.to_owned())
        } else {
            let may = known || scope.starts_with("repository:public/");
            let token = self.token(if may { &scope } else { "" });
            let name = if form.is_empty() { "token" } else { "access_token" };
            ("200 OK", format!(r#"{{"{name}":"{token}","expires_in":60}}"#))
        };
        let _ = write!(
            client,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
    }

    fn token(&self, scope: &str) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let access: Vec<_> = scope
            .split_once(':')
            .and_then(|(kind, rest)| {
                let (name, _) = rest.rsplit_once(':')?;
                Some(serde_json::json!({ "type": kind, "name": name, "actions": ["pull"] }))
            })
            .into_iter()
            .collect();
        let header = serde_json::json!({
            "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)],
        });
        let claims = serde_json::json!({
            "iss": "test", "aud": "test", "sub": self.name, "jti": now.to_string(),
            "iat": now, "nbf": now - 10, "exp": now + 60, "access": access,
        });
        let encode = |v: &serde_json::Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let text = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
