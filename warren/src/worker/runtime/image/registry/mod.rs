//! Registries of images: which addresses a reference means, how they are talked to, and what they
//! say.
//!
//! Nothing here knows of containerd. Whatever comes from here is verified by its digest, except
//! what a tag means, which only the registry can say.

mod auth;
mod challenge;
mod client;
mod endpoint;
mod http;
mod words;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use self::client::{Document, Registry, TRIES, pause};
pub use self::endpoint::RegistriesError;

use super::super::failure::one_line;

/// What a node is told of registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    /// By registry: addresses that are asked before it, in order, as URLs.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries (`HOST[:PORT]`; without a port all ports of the host) that may be talked to
    /// without TLS. Those on this machine always may.
    pub plain: BTreeSet<String>,
    /// Certificates (PEM) of authorities that are trusted beyond the machine's own.
    pub authorities: Vec<u8>,
}

/// Why a registry did not give what was asked for. Each is a sentence for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It answered, with a refusal.
    #[error("registry {registry} says: {}", one_line(words))]
    Says {
        /// Its address.
        registry: String,
        /// HTTP status.
        status: u16,
        /// Its own words.
        words: String,
    },
    /// It wants to know who asks, and nobody told.
    #[error(
        "registry {registry} says: {}; log in with `docker login {registry}` as the user who runs warren, and try again",
        one_line(words)
    )]
    LogIn {
        /// Its address.
        registry: String,
        /// Its own words.
        words: String,
    },
    /// No answer.
    #[error("registry {registry} cannot be reached: {}", one_line(why))]
    Unreachable {
        /// Its address.
        registry: String,
        /// What failed.
        why: String,
    },
    /// Its certificate is not trusted.
    #[error(
        "registry {registry} shows a certificate that is not trusted ({}); name its authority with `warren node start --registry-ca FILE`",
        one_line(why)
    )]
    Certificate {
        /// Its address.
        registry: String,
        /// What is wrong with it.
        why: String,
    },
    /// An answer that makes no sense.
    #[error("registry {registry} answers what no registry would: {}", one_line(why))]
    Nonsense {
        /// Its address.
        registry: String,
        /// What is wrong with it.
        why: String,
    },
    /// What came is not what was asked for.
    #[error("registry {registry} sent something else than {digest}")]
    Digest {
        /// Its address.
        registry: String,
        /// What was asked for.
        digest: String,
    },
    /// Credentials would go over the wire for all to read.
    #[error(
        "registry {registry} wants its credentials at {at} without TLS, and they are not sent; allow it with `warren node start --insecure-registry HOST` if the network is your own"
    )]
    PlainCredentials {
        /// Its address.
        registry: String,
        /// Where.
        at: String,
    },
}

impl RegistryError {
    /// Whether the same request may have another answer later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Says { status, .. } => matches!(status, 408 | 425 | 429 | 500..),
            _ => false,
        }
    }
}
