//! What is written on a container's link, so that the link alone tells whose it is: after a
//! restart the agent knows every attachment from it, and leftovers of other nodes are told apart.

use std::{fmt, str::FromStr};

use crate::model::{Attachment, NodeId, TaskId};

/// The alias of the host end of a container's link:
/// `warren:<node>:<task>:<backend>:<generation>:<address>:<address6>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// The node whose container it is.
    pub node: NodeId,
    /// The container.
    pub task: TaskId,
    /// Its place in the network.
    pub attachment: Attachment,
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let a = &self.attachment;
        write!(f, "warren:{}:{}:{}:{}:", self.node, self.task, a.backend, a.generation)?;
        write!(f, "{}:{}", a.address, a.address6)
    }
}

/// The text is not an alias of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOurs;

impl FromStr for Alias {
    type Err = NotOurs;

    fn from_str(s: &str) -> Result<Self, NotOurs> {
        let mut parts = s.splitn(7, ':');
        let mut next = || parts.next().ok_or(NotOurs);
        if next()? != "warren" {
            return Err(NotOurs);
        }
        Ok(Self {
            node: next()?.parse().map_err(|_| NotOurs)?,
            task: next()?.parse().map_err(|_| NotOurs)?,
            attachment: Attachment {
                backend: next()?.parse().map_err(|_| NotOurs)?,
                generation: next()?.parse().map_err(|_| NotOurs)?,
                address: next()?.parse().map_err(|_| NotOurs)?,
                address6: next()?.parse().map_err(|_| NotOurs)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_round_trip_and_others_are_refused() {
        let alias = Alias {
            node: NodeId::from_random(1),
            task: TaskId::from_random(2),
            attachment: Attachment {
                address: "10.86.0.2".parse().unwrap(),
                address6: "fd00:86::2".parse().unwrap(),
                backend: 65535,
                generation: u32::MAX,
            },
        };
        let text = alias.to_string();
        assert!(text.len() < 256, "the kernel takes 255 characters");
        assert_eq!(text.parse(), Ok(alias));
        for other in ["", "warren", "warren:x", "uplink to rack 3", &text[1..], &text[..text.len() - 12]] {
            assert!(other.parse::<Alias>() != Ok(alias), "{other} was taken for ours");
        }
    }
}
