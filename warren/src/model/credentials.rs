//! Credentials of image registries.

use std::fmt;

/// What a registry wants to know of its user. Held sealed in the store; never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RegistryAuth {
    /// The registry's host, with its port if it has one, as in image references.
    pub server: String,
    /// Empty when `identity_token` is used.
    pub username: String,
    /// Empty when `identity_token` is used.
    pub password: String,
    /// An OAuth2 refresh token, as some credential helpers give it; otherwise empty.
    pub identity_token: String,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth").field("server", &self.server).finish_non_exhaustive()
    }
}
