//! Secrets at rest: sealed with a key of the cluster, so that the store, its log and its backups
//! hold nothing that others could use.
//!
//! A sealed text is `version (1 byte, 1) | nonce (12) | ciphertext and tag` of ChaCha20-Poly1305.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use serde::{Deserialize, Serialize};

use crate::model::{RegistryAuth, Sealed};

const KEY: usize = 32;
const VERSION: u8 = 1;
/// What is sealed, so that one kind of secret is never taken for another.
const REGISTRY_AUTH: &[u8] = b"warren registry auth";

/// Why a secret cannot be kept or read. One sentence each.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key's file.
    #[error("cannot use the cluster's key {path}: {1}", path = .0.display())]
    File(PathBuf, io::Error),
    /// The key's file is not as we wrote it.
    #[error(
        "the cluster's key {path} is damaged: restore it from a backup, or remove it and give the credentials of private registries anew",
        path = .0.display()
    )]
    Damaged(PathBuf),
    /// It was sealed with another key, or changed since.
    #[error(
        "the registry's credentials were sealed with another key: give them anew (`docker login`, then `warren service update`)"
    )]
    OtherKey,
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// Seals secrets and opens them again. Cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    key: Arc<LessSafeKey>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(…)")
    }
}

/// The form in which credentials are sealed.
#[derive(Serialize, Deserialize)]
struct Credentials {
    server: String,
    username: String,
    password: String,
    identity_token: String,
}

impl Sealer {
    /// With this key.
    ///
    /// # Panics
    /// Never: the key has the length it must have.
    #[must_use]
    pub fn new(key: [u8; KEY]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &key).expect("32 bytes are a key");
        Self { key: Arc::new(LessSafeKey::new(key)) }
    }

    /// With the key in this file, which is made, for its owner's eyes only, when there is none.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is not a key.
    pub fn of_file(path: &Path) -> Result<Self, SealError> {
        let error = |e| SealError::File(path.to_owned(), e);
        match fs::read(path) {
            Ok(bytes) => {
                let damaged = || SealError::Damaged(path.to_owned());
                let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
                let key = hex::decode(text.trim_end()).map_err(|_| damaged())?;
                Ok(Self::new(key.try_into().map_err(|_| damaged())?))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let key: [u8; KEY] = random()?;
                make(path, &format!("{}\n", hex::encode(key))).map_err(error)?;
                Ok(Self::new(key))
            }
            Err(e) => Err(error(e)),
        }
    }

    /// Seals credentials.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn seal(&self, auth: &RegistryAuth) -> Result<Sealed, SealError> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let form = Credentials {
            server: auth.server.clone(),
            username: auth.username.clone(),
            password: auth.password.clone(),
            identity_token: auth.identity_token.clone(),
        };
        let mut text = serde_json::to_vec(&form).map_err(|_| SealError::OtherKey)?;
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(REGISTRY_AUTH),
                &mut text,
            )
            .map_err(|_| SealError::NoRandom)?;
        Ok(Sealed([&[VERSION], &nonce[..], &text].concat()))
    }

    /// Opens what was sealed with the same key.
    ///
    /// # Errors
    /// When it was not.
    pub fn open(&self, sealed: &Sealed) -> Result<RegistryAuth, SealError> {
        let bad = || SealError::OtherKey;
        let (version, rest) = sealed.0.split_first().ok_or_else(bad)?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or_else(bad)?;
        if *version != VERSION {
            return Err(bad());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| bad())?;
        let mut text = text.to_vec();
        let text = self.key.open_in_place(nonce, Aad::from(REGISTRY_AUTH), &mut text).map_err(|_| bad())?;
        let form: Credentials = serde_json::from_slice(text).map_err(|_| bad())?;
        let Credentials { server, username, password, identity_token } = form;
        Ok(RegistryAuth { server, username, password, identity_token })
    }

    /// What a service is to hold: `new`, sealed; the very bytes of `old` when they say the same,
    /// so that nothing has changed; and `old` when nothing new is given, as long as it is for
    /// `registry`.
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub fn renew(
        &self,
        old: Option<&Sealed>,
        new: Option<&RegistryAuth>,
        registry: &str,
    ) -> Result<Option<Sealed>, SealError> {
        let known = old.and_then(|sealed| Some((sealed, self.open(sealed).ok()?)));
        match (known, new) {
            (Some((sealed, was)), Some(new)) if was == *new => Ok(Some(sealed.clone())),
            (_, Some(new)) => self.seal(new).map(Some),
            (Some((sealed, was)), None) if was.server == registry => Ok(Some(sealed.clone())),
            (_, None) => Ok(None),
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SealError::NoRandom)?;
    Ok(bytes)
}

/// Aside, then in place: a cut of power leaves the whole file or none.
fn make(path: &Path, text: &str) -> io::Result<()> {
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn auth(password: &str) -> RegistryAuth {
        RegistryAuth {
            server: "r.example:5000".into(),
            username: "me".into(),
            password: password.into(),
            identity_token: String::new(),
        }
    }

    #[test]
    fn only_the_same_key_opens_and_nothing_shows() {
        let sealer = Sealer::new([7; KEY]);
        let sealed = sealer.seal(&auth("hunter2")).unwrap();
        assert_eq!(sealer.open(&sealed).unwrap(), auth("hunter2"));
        assert_ne!(sealer.seal(&auth("hunter2")).unwrap(), sealed, "never twice the same");
        let e = Sealer::new([8; KEY]).open(&sealed).unwrap_err();
        assert!(matches!(e, SealError::OtherKey), "{e}");
        for n in 0..sealed.0.len() {
            let mut changed = sealed.clone();
            changed.0[n] ^= 1;
            assert!(sealer.open(&changed).is_err(), "byte {n}");
            assert!(sealer.open(&Sealed(sealed.0[..n].to_vec())).is_err(), "cut at {n}");
        }
        let shown = format!("{sealer:?} {sealed:?} {:?}", auth("hunter2"));
        assert!(!shown.contains("hunter2") && !shown.contains("me\""), "{shown}");
        assert!(!sealed.0.windows(7).any(|w| w == b"hunter2"));
    }

    #[test]
    fn what_says_the_same_stays_the_same() {
        let sealer = Sealer::new([7; KEY]);
        let old = sealer.seal(&auth("a")).unwrap();
        let renew = |new: Option<&RegistryAuth>, registry| sealer.renew(Some(&old), new, registry).unwrap();
        assert_eq!(renew(Some(&auth("a")), "r.example:5000"), Some(old.clone()));
        assert_eq!(renew(None, "r.example:5000"), Some(old.clone()));
        assert_eq!(renew(None, "other"), None, "the image is of another registry by now");
        let new = renew(Some(&auth("b")), "r.example:5000").unwrap();
        assert_eq!(sealer.open(&new).unwrap(), auth("b"));
        assert_eq!(sealer.renew(None, None, "x").unwrap(), None);
        let stranger = Sealer::new([9; KEY]).seal(&auth("a")).unwrap();
        assert_eq!(sealer.renew(Some(&stranger), None, "r.example:5000").unwrap(), None);
    }

    #[test]
    fn the_key_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cluster.key");
        let sealed = Sealer::of_file(&file).unwrap().seal(&auth("a")).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Sealer::of_file(&file).unwrap().open(&sealed).unwrap(), auth("a"));
        fs::write(&file, "rubbish").unwrap();
        assert!(matches!(Sealer::of_file(&file), Err(SealError::Damaged(_))));
    }
}
