//! What the datapath would do with a packet: it is sent through a second instance of the programs
//! ([`rehearsal`](super::datapath::rehearsal)), and each thing that was decided on the way is told.
//!
//! [`trace`] collects the facts, [`story`] puts them into words. What became of the packet is what the
//! program did; the words before it come from the tables that it decided from.

mod evidence;
mod facts;
mod outcome;
mod packet;
mod place;
mod record;
mod seats;
mod story;
mod tables;

use std::{net::SocketAddr, sync::Arc};

use super::{NetError, engine::Engine};

pub use packet::LARGEST;
#[cfg(test)]
pub(super) use packet::ends as shown;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// An echo request of the family's ICMP.
    Icmp,
}

impl Protocol {
    /// How it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// A packet, and where it is sent from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What it carries.
    pub protocol: Protocol,
    /// Who sends it; of an echo request, the port is its identifier.
    pub source: SocketAddr,
    /// Where to: an address of the same family.
    pub destination: SocketAddr,
    /// TCP flags.
    pub flags: u8,
    /// Its length from the IP header on; its headers' when that is more, [`LARGEST`] when less.
    pub size: u32,
    /// Where it comes in: the name of a device of the node, (the start of) the id of a task, or "node" for
    /// its own processes. By its source when `None`.
    pub from: Option<String>,
}

/// Something that was asked on a packet's way, and the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it is about, in a word or two.
    pub what: &'static str,
    /// What was found.
    pub said: String,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The node's own stack has it.
    Passed,
    /// The same, and there it is refused.
    Refused,
    /// It is dropped.
    Dropped,
    /// It goes into a container.
    Container,
    /// It leaves by a device.
    Device,
    /// Its sender is told that it is too big.
    TooBig,
}

impl End {
    /// A word for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Container => "container",
            Self::Device => "device",
            Self::TooBig => "too-big",
        }
    }
}

/// What would become of a packet, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The program that decides.
    pub program: &'static str,
    /// The device that it comes in by; "cgroup" for a socket.
    pub device: String,
    /// The kernel's fingerprint of the program that was asked; empty when none can be.
    pub tag: String,
    /// That of the program on the device; empty when that is not known.
    pub running_tag: String,
    /// One question after the other; the last is the verdict.
    pub steps: Vec<Step>,
    /// What becomes of it.
    pub end: End,
    /// Short name of the reason when it is dropped.
    pub reason: Option<&'static str>,
    /// The device it is sent to.
    pub to_device: Option<String>,
    /// What it shows afterwards: source and destination. `None` when it goes nowhere.
    pub shown: Option<(SocketAddr, SocketAddr)>,
}

/// Sends a packet through the programs, without any effect.
pub(super) async fn trace(engine: &Arc<Engine>, question: Question) -> Result<Trace, NetError> {
    let engine = Arc::clone(engine);
    let traced = tokio::task::spawn_blocking(move || {
        let place = place::find(&engine, &question)?;
        let facts = evidence::collect(&engine, question, place)?;
        Ok(story::tell(&facts))
    });
    traced.await.map_err(|_| NetError::Stopped)?
}
