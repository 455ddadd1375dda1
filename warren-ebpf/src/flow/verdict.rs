//! What is done with a packet.

use super::{Delivery, decide::V4};
use crate::{
    abi::{Address, Reason},
    packet::Tuple,
};

/// What to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// Not ours: leave it as it is.
    Pass,
    /// Drop and count it.
    Drop,
    /// Translate it and hand it to the container whose veth has `ifindex` on the node's side.
    Container,
    /// Translate it and send it out of device `ifindex`, to the next hop of the kernel's routes.
    Device,
}

/// What to do with a packet, and how. Flat, every field always set: see [`resolve`](super::resolve).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Verdict<A = V4> {
    /// What.
    pub action: Action,
    /// Why it is dropped; meaningless otherwise.
    pub reason: Reason,
    /// Where it is sent, else 0.
    pub ifindex: u32,
    /// What it must show.
    pub to: Tuple<A>,
}

impl<A: Address> Default for Verdict<A> {
    #[inline(always)]
    fn default() -> Self {
        Self::PASS
    }
}

impl<A: Address> Verdict<A> {
    /// Leave it as it is.
    pub const PASS: Self = Self {
        action: Action::Pass,
        reason: Reason::Spoofed,
        ifindex: 0,
        to: Tuple { source: A::ZERO, destination: A::ZERO, source_port: 0, destination_port: 0 },
    };

    /// Drop it.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: Reason) -> Self {
        Self { action: Action::Drop, reason, ..Self::PASS }
    }

    #[inline(always)]
    pub(super) fn send(action: Action, ifindex: u32, to: Tuple<A>) -> Self {
        Self { action, reason: Reason::Spoofed, ifindex, to }
    }

    /// Into a container, if there is a way; else the node's own stack has it.
    #[inline(always)]
    pub(super) fn deliver(delivery: &Delivery<A>) -> Self {
        if delivery.exists() {
            Self::send(Action::Container, delivery.ifindex, delivery.tuple)
        } else {
            Self::PASS
        }
    }
}
