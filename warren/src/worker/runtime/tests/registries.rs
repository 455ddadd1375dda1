//! What registries want before they give anything, and what they say when they do not.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{Arc, Mutex},
};

use super::{
    fixture::{TestNode, test_image},
    token::TokenServer,
};
use crate::{
    model::{PullPolicy, RegistryAuth, TaskSpec},
    seal::Sealer,
    worker::{
        executor::{Runtime, RuntimeError},
        runtime::{
            image::Registries,
            testing::{
                registry::{Options, TestRegistry, free_port},
                task,
            },
        },
    },
};

fn auth(server: &str, username: &str, password: &str) -> RegistryAuth {
    RegistryAuth {
        server: server.to_owned(),
        username: username.to_owned(),
        password: password.to_owned(),
        identity_token: String::new(),
    }
}

impl TestNode {
    fn told(&mut self, registries: Registries) {
        self.containerd = self.containerd.clone().with_registries(registries);
    }

    async fn refusal(&self, image: &str, credentials: Option<&RegistryAuth>) -> String {
        let e = self.pulling(image, credentials).done().await.unwrap_err();
        assert_eq!(self.containerd.images().list().await.unwrap(), [], "{e}");
        assert!(matches!(RuntimeError::from(e.clone()), RuntimeError::Fatal(_)), "{e}");
        e.to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_registry_has_the_last_word() {
    let node = TestNode::start().await;
    let registry = TestRegistry::start();
    registry.put("app", "1", &test_image());
    let (port, app) = (registry.port, |name: &str| registry.name(name));
    assert_eq!(
        node.refusal(&app("app:2"), None).await,
        format!("cannot pull 127.0.0.1:{port}/app:2: registry 127.0.0.1:{port} says: manifest unknown")
    );
    let e = node.refusal(&app("nothing/here:1"), None).await;
    assert!(e.ends_with("says: manifest unknown"), "{e}");
    let none = format!("app@sha256:{}", "0".repeat(64));
    assert!(node.refusal(&app(&none), None).await.ends_with("says: manifest unknown"));

    let nobody = format!("127.0.0.1:{}/app:1", free_port());
    let e = node.pull(&nobody).await.unwrap_err();
    assert!(matches!(RuntimeError::from(e.clone()), RuntimeError::Temporary(_)), "{e}");
    assert!(e.to_string().contains("cannot be reached: Connection refused"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_password_is_asked_for_and_only_the_right_one_opens() {
    let mut node = TestNode::start().await;
    let password = Some(("me".to_owned(), "pass:word".to_owned()));
    let registry = TestRegistry::with(&Options { password, ..Default::default() });
    registry.put("private", "1", &test_image());
    let (name, server) = (registry.name("private:1"), format!("127.0.0.1:{}", registry.port));
    let e = node.refusal(&name, None).await;
    assert!(e.contains("authentication required; log in with `docker login 127.0.0.1:"), "{e}");
    let e = node.refusal(&name, Some(&auth(&server, "me", "wrong"))).await;
    assert!(e.ends_with("says: authentication required") && !e.contains("wrong"), "{e}");
    // What is for one registry is not shown to another.
    let e = node.refusal(&name, Some(&auth("docker.io", "me", "pass:word"))).await;
    assert!(e.contains("log in with"), "{e}");

    // As a task has them: sealed.
    let sealer = Sealer::new([3; 32]);
    node.containerd = node.containerd.clone().with_sealer(sealer.clone());
    let mut task = task(1, TaskSpec::new(name.parse().unwrap()));
    task.spec.pull = PullPolicy::Always;
    task.spec.registry_auth = Some(Sealer::new([4; 32]).seal(&auth(&server, "me", "pass:word")).unwrap());
    let e = node.fetch(&task).await.unwrap_err().to_string();
    assert!(e.contains("were sealed with another key"), "{e}");
    task.spec.registry_auth = Some(sealer.seal(&auth(&server, "me", "pass:word")).unwrap());
    node.fetch(&task).await.unwrap();
    node.containerd.prepare(&task, &node.network).await.unwrap();
    node.containerd.remove(task.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn a_token_is_fetched_from_where_the_registry_says() {
    let node = TestNode::start().await;
    let tokens = TokenServer::start("me", "secret", "refresh");
    let registry = TestRegistry::with(&Options {
        token: Some((tokens.realm(), tokens.certificate.clone())),
        ..Default::default()
    });
    registry.put("team/app", "1", &test_image());
    registry.put("public/app", "1", &test_image());
    let (name, server) = (registry.name("team/app:1"), format!("127.0.0.1:{}", registry.port));

    let e = node.refusal(&name, None).await;
    assert!(e.contains("log in with `docker login"), "{e}");
    let e = node.refusal(&name, Some(&auth(&server, "me", "wrong"))).await;
    assert!(e.ends_with("says: incorrect username or password"), "{e}");
    // A token for nobody is enough for what is for everybody.
    node.pull(&registry.name("public/app:1")).await.unwrap();
    node.pulling(&name, Some(&auth(&server, "me", "secret"))).done().await.unwrap();
    assert!(tokens.asked().iter().any(|q| q.contains("scope=repository%3Ateam%2Fapp%3Apull")));
    // What a credential helper may give instead of a password.
    node.containerd.images().prune(BTreeSet::new, false).await.unwrap();
    let identity = RegistryAuth { identity_token: "refresh".to_owned(), ..auth(&server, "", "") };
    node.pulling(&name, Some(&identity)).done().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn tls_needs_an_authority_that_is_known() {
    let mut node = TestNode::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let registry = TestRegistry::with(&Options {
        tls: Some((leaf.pem(), leaf_key.serialize_pem())),
        password: Some(("me".to_owned(), "secret".to_owned())),
        ..Default::default()
    });
    registry.put("app", "1", &test_image());
    let (name, server) = (registry.name("app:1"), format!("127.0.0.1:{}", registry.port));
    let me = auth(&server, "me", "secret");
    let e = node.refusal(&name, Some(&me)).await;
    assert!(e.contains("a certificate that is not trusted") && e.contains("--registry-ca"), "{e}");
    let mut registries = Registries::default();
    registries.add_authorities(authority.pem().as_bytes()).unwrap();
    node.told(registries);
    node.pulling(&name, Some(&me)).done().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn mirrors_are_asked_in_order_and_get_no_credentials() {
    let mut node = TestNode::start().await;
    let password = Some(("me".to_owned(), "secret".to_owned()));
    let origin = TestRegistry::with(&Options { password, ..Default::default() });
    let mirror = TestRegistry::start();
    mirror.put("cached", "1", &test_image());
    origin.put("rare", "1", &test_image());
    let (curious, heard) = curious();
    let server = format!("127.0.0.1:{}", origin.port);
    let mut registries = Registries::default();
    let list = [free_port(), curious, mirror.port].map(|p| format!("http://127.0.0.1:{p}")).join(",");
    registries.add_mirror(&format!("{server}={list}")).unwrap();
    node.told(registries);
    let me = auth(&server, "me", "secret");

    let pull = node.pulling(&origin.name("cached:1"), Some(&me));
    let info = pull.done().await.unwrap();
    assert_eq!(info.reference.registry(), server, "its name is the registry's, not the mirror's");
    assert_eq!(origin.requests(&["/v2/"]), 0);
    let messages = pull.progress.borrow().messages.join("\n");
    assert!(messages.contains("cannot be reached") && messages.contains("says: go away"), "{messages}");

    let pull = node.pulling(&origin.name("rare:1"), Some(&me));
    pull.done().await.unwrap();
    let messages = pull.progress.borrow().messages.join("\n");
    assert!(messages.contains("manifest unknown; asking 127.0.0.1:"), "{messages}");
    let heard = heard.lock().unwrap().to_lowercase();
    assert!(heard.contains("get /v2/cached/manifests/1?ns=127.0.0.1:"), "{heard}");
    assert!(!heard.contains("authorization"), "{heard}");

    // Nobody has it: the origin's word counts.
    let e = node.pulling(&origin.name("none:1"), Some(&me)).done().await.unwrap_err().to_string();
    assert!(e.ends_with(&format!("registry {server} says: manifest unknown")), "{e}");
}

/// A mirror that asks for a password, refuses everything and notes what it hears.
fn curious() -> (u16, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard: Arc<Mutex<String>> = Arc::default();
    let notes = heard.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut buffer = [0; 4096];
            let n = client.read(&mut buffer).unwrap_or(0);
            notes.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            let _ = client.write_all(
                b"HTTP/1.1 403 Forbidden\r\nwww-authenticate: Basic realm=\"x\"\r\ncontent-length: 7\r\nconnection: close\r\n\r\ngo away",
            );
        }
    });
    (port, heard)
}
