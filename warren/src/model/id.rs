//! Typed identifiers.

use std::{fmt, marker::PhantomData, str::FromStr};

/// Length of an identifier in characters: 16 × log2(36) ≈ 82 bits.
pub const LEN: usize = 16;

const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// An identifier of one kind of object: 16 lower-case letters and digits.
///
/// Made from 128 random bits by [`Id::from_random`]; the caller brings the randomness, so that
/// deciders stay reproducible.
pub struct Id<K> {
    text: [u8; LEN],
    kind: PhantomData<fn() -> K>,
}

/// Kinds, used only as type parameters of [`Id`].
pub mod kind {
    /// A service.
    pub enum Service {}
    /// A task.
    pub enum Task {}
    /// A node.
    pub enum Node {}
    /// A cluster.
    pub enum Cluster {}
}

/// Identifies a service.
pub type ServiceId = Id<kind::Service>;
/// Identifies a task; also the name of its container in containerd.
pub type TaskId = Id<kind::Task>;
/// Identifies a node for its whole life, whatever its addresses.
pub type NodeId = Id<kind::Node>;
/// Identifies a cluster.
pub type ClusterId = Id<kind::Cluster>;

/// The text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an identifier: expected {LEN} lower-case letters and digits")]
pub struct IdError(pub String);

impl<K> Id<K> {
    /// Encodes 128 random bits in base 36 (the low 82 or so are kept).
    #[must_use]
    pub fn from_random(mut bits: u128) -> Self {
        let mut text = [0u8; LEN];
        for c in &mut text {
            *c = ALPHABET[(bits % 36) as usize];
            bits /= 36;
        }
        Self { text, kind: PhantomData }
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII is ever stored: both constructors see to that.
        std::str::from_utf8(&self.text).unwrap_or_default()
    }
}

impl<K> FromStr for Id<K> {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        let bytes = s.as_bytes();
        if bytes.len() != LEN || !bytes.iter().all(|b| ALPHABET.contains(b)) {
            return Err(IdError(s.to_owned()));
        }
        let mut text = [0u8; LEN];
        text.copy_from_slice(bytes);
        Ok(Self { text, kind: PhantomData })
    }
}

// Derives would ask the same of `K`, which is never a value.
impl<K> Copy for Id<K> {}
impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}
impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_rubbish_is_refused() {
        let id = TaskId::from_random(0x1234_5678_9abc_def0_1122_3344_5566_7788);
        assert_eq!(id.as_str().parse(), Ok(id));
        for bad in ["", "short", "UPPERCASE0000000", "0123456789abcde/", "0123456789abcdefg"] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad} was accepted");
        }
    }
}
