//! The credentials that the user of the command line has for a registry, where `docker login`
//! keeps them.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use base64::{Engine as _, alphabet, engine};
use serde::Deserialize;

use crate::model::{ImageReference, RegistryAuth};

const HUB: &str = "docker.io";
/// What Docker calls Docker Hub in its files and asks helpers for.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Docker's config.json, as far as it is of interest.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(…)")
    }
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// What the user has for the image's registry: from `$DOCKER_CONFIG/config.json` or
/// `~/.docker/config.json` and the helpers that it names. What does not work there is said on
/// standard error and no hindrance: most images are for everybody.
pub(super) fn registry_auth(image: &ImageReference) -> Option<RegistryAuth> {
    let dir = env::var_os("DOCKER_CONFIG").filter(|d| !d.is_empty()).map(PathBuf::from);
    let file = dir.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".docker")))?.join("config.json");
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
        Err(e) => {
            eprintln!("warren: without registry credentials: cannot read {}: {e}", file.display());
            return None;
        }
    };
    let config: Config = match serde_json::from_slice(&text) {
        Ok(config) => config,
        Err(_) => {
            eprintln!("warren: without registry credentials: {} is not Docker's JSON", file.display());
            return None;
        }
    };
    match find(&config, image.registry(), ask_helper) {
        Ok(found) => found,
        Err(why) => {
            eprintln!("warren: without credentials for {}: {why}", image.registry());
            None
        }
    }
}

/// The host that a key of the file is for: older ones are URLs.
fn host(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match key.split('/').next().unwrap_or(key) {
        "index.docker.io" | "registry-1.docker.io" => HUB,
        host => host,
    }
}

fn find(
    config: &Config,
    registry: &str,
    ask: impl Fn(&str, &str) -> Result<Option<(String, String)>, String>,
) -> Result<Option<RegistryAuth>, String> {
    let auth = |username: String, password: String| {
        // So Docker marks what is no password.
        let (username, password, identity_token) = if username == "<token>" {
            (String::new(), String::new(), password)
        } else {
            (username, password, String::new())
        };
        RegistryAuth { server: registry.to_owned(), username, password, identity_token }
    };
    let helper = config.cred_helpers.iter().find(|(key, _)| host(key) == registry).map(|(_, h)| h.as_str());
    if let Some(helper) = helper.or(Some(config.creds_store.as_str())).filter(|h| !h.is_empty()) {
        let key = if registry == HUB { HUB_KEY } else { registry };
        return Ok(ask(helper, key)?.map(|(name, secret)| auth(name, secret)));
    }
    let exact = config.auths.get(registry);
    let Some(entry) =
        exact.or_else(|| config.auths.iter().find(|(k, _)| host(k) == registry).map(|(_, e)| e))
    else {
        return Ok(None);
    };
    if !entry.identitytoken.is_empty() {
        return Ok(Some(auth("<token>".to_owned(), entry.identitytoken.clone())));
    }
    if !entry.auth.is_empty() {
        let indifferent = engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(engine::DecodePaddingMode::Indifferent);
        let base64 = engine::GeneralPurpose::new(&alphabet::STANDARD, indifferent);
        let pair = base64.decode(entry.auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
        let pair = pair.as_deref().and_then(|p| p.split_once(':'));
        // Docker once padded passwords with zero bytes.
        let (name, password) = pair.ok_or("its entry in Docker's config.json does not read: log in again")?;
        return Ok(Some(auth(name.to_owned(), password.trim_end_matches('\0').to_owned())));
    }
    let named = !entry.username.is_empty();
    Ok(named.then(|| auth(entry.username.clone(), entry.password.clone())))
}

/// Asks `docker-credential-<helper>`; `None` when it knows none.
fn ask_helper(helper: &str, server: &str) -> Result<Option<(String, String)>, String> {
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("{program}, which Docker's config.json names, does not run: {e}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that reads nothing will say so in its answer.
        let _ = stdin.write_all(server.as_bytes());
    }
    let done = child.wait_with_output().map_err(|e| format!("{program}: {e}"))?;
    if !done.status.success() {
        // Helpers explain themselves on standard output.
        let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        let none = said.contains("credentials not found") || said.contains("no credentials server URL");
        return if none { Ok(None) } else { Err(format!("{program} says: {said}")) };
    }
    let answer: Answer = serde_json::from_slice(&done.stdout)
        .map_err(|_| format!("{program} gives an answer that does not read"))?;
    Ok(Some((answer.username, answer.secret)).filter(|(name, _)| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    fn no_helper(helper: &str, server: &str) -> Result<Option<(String, String)>, String> {
        panic!("{helper} was asked for {server}")
    }

    #[test]
    fn entries_are_found_in_all_their_forms() {
        let c = config(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"bWU6YTpi"},
                "r.example:5000":{"username":"u","password":"p"},
                "http://old.example/v1/":{"auth":"bWU6eAAA"},
                "token.example":{"auth":"MDow","identitytoken":"tok"},
                "empty.example":{}, "bad.example":{"auth":"%%"}
            },"HttpHeaders":{"User-Agent":"Docker-Client"}}"#,
        );
        let of = |registry| find(&c, registry, no_helper);
        let auth = |server: &str, username: &str, password: &str| {
            let (server, username, password) = (server.into(), username.into(), password.into());
            Ok(Some(RegistryAuth { server, username, password, identity_token: String::new() }))
        };
        assert_eq!(of("docker.io"), auth("docker.io", "me", "a:b"));
        assert_eq!(of("r.example:5000"), auth("r.example:5000", "u", "p"));
        assert_eq!(of("old.example"), auth("old.example", "me", "x"));
        let token = of("token.example").unwrap().unwrap();
        assert_eq!((token.username.as_str(), token.identity_token.as_str()), ("", "tok"));
        assert_eq!(of("empty.example"), Ok(None));
        assert_eq!(of("r.example"), Ok(None), "another port is another registry");
        assert!(of("bad.example").unwrap_err().contains("log in again"));
    }

    #[test]
    fn helpers_come_before_what_is_written() {
        let c = config(
            r#"{"auths":{"a.example":{}, "b.example":{}},"credsStore":"all",
                "credHelpers":{"a.example":"own"}}"#,
        );
        let ask = |helper: &str, server: &str| Ok(Some((helper.to_owned(), server.to_owned())));
        let got = |registry| find(&c, registry, ask).unwrap().unwrap();
        assert_eq!(
            (got("a.example").username, got("a.example").password),
            ("own".into(), "a.example".into())
        );
        assert_eq!(got("docker.io").password, HUB_KEY);
        assert_eq!(got("b.example").username, "all");
        let token = |_: &str, _: &str| Ok(Some(("<token>".to_owned(), "tok".to_owned())));
        assert_eq!(find(&c, "b.example", token).unwrap().unwrap().identity_token, "tok");
        assert_eq!(find(&c, "b.example", |_, _| Ok(None)), Ok(None));
    }

    #[test]
    fn a_helper_is_a_program() {
        let e = ask_helper("warren-there-is-none", "x").unwrap_err();
        assert!(e.contains("docker-credential-warren-there-is-none"), "{e}");
    }
}
