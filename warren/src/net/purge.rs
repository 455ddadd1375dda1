//! The removal of what the programs remember of containers that are no more.

use std::{collections::BTreeSet, io};

use warren_ebpf::abi::{
    Address, BackendRef, EgressKey, Flow, FlowKey, Forward, ForwardKey, Return, SocketFlow, SocketPeer, map,
};

use super::datapath::{contents::Opened, desired::reference, shape::FLOWS, sys::from_bytes};
use crate::model::Attachment;

type V4 = [u8; 4];
type V6 = [u8; 16];

/// Removes everything that the programs remember of these containers, in one walk through the tables.
pub(super) fn purge(maps: &Opened, those: &[Attachment]) -> io::Result<()> {
    let gone = Gone::new(those);
    for (name, m) in maps.iter().filter(|(name, _)| FLOWS.contains(*name)) {
        let mut keys = Vec::new();
        m.for_each(|k, v| {
            if gone.had(name, k, v).unwrap_or(false) {
                keys.push(k.to_vec());
            }
            true
        })?;
        for k in keys {
            m.delete(&k)?;
        }
    }
    Ok(())
}

/// Containers that are no more.
struct Gone {
    /// Number and generation of their rows in `BACKEND`.
    backends: BTreeSet<(u32, u32)>,
    v4: BTreeSet<V4>,
    v6: BTreeSet<V6>,
    /// What sockets of IPv6 show of IPv4.
    mapped: BTreeSet<V6>,
}

impl Gone {
    fn new(those: &[Attachment]) -> Self {
        Self {
            backends: those.iter().map(|a| pair(reference(a))).collect(),
            v4: those.iter().map(|a| a.address.octets()).collect(),
            v6: those.iter().map(|a| a.address6.octets()).collect(),
            mapped: those.iter().map(|a| a.address.to_ipv6_mapped().octets()).collect(),
        }
    }

    /// Whether a row is one of theirs. `None`: it cannot be read.
    fn had(&self, map: &str, k: &[u8], v: &[u8]) -> Option<bool> {
        Some(match map {
            map::FLOW_NEW4 | map::FLOW_EST4 => self.flow(k, v, &self.v4)?,
            map::FLOW_NEW6 | map::FLOW_EST6 => self.flow(k, v, &self.v6)?,
            map::FWD_NEW4 | map::FWD_EST4 => self.forward(k, v, &self.v4)?,
            map::FWD_NEW6 | map::FWD_EST6 => self.forward(k, v, &self.v6)?,
            map::MASQ_RET4 => self.is(from_bytes::<Return<V4>>(v)?.backend),
            map::MASQ_RET6 => self.is(from_bytes::<Return<V6>>(v)?.backend),
            map::MASQ_OUT4 => self.v4.contains(&from_bytes::<EgressKey<V4>>(k)?.container),
            map::MASQ_OUT6 => self.v6.contains(&from_bytes::<EgressKey<V6>>(k)?.container),
            map::SOCK4 => self.v4.contains(&from_bytes::<SocketPeer<V4>>(v)?.backend_address),
            map::SOCK6 => {
                let address = from_bytes::<SocketPeer<V6>>(v)?.backend_address;
                self.v6.contains(&address) || self.mapped.contains(&address)
            }
            map::SOCK_UDP4 => self.is(from_bytes::<SocketFlow<V4>>(v)?.backend),
            map::SOCK_UDP6 => self.is(from_bytes::<SocketFlow<V6>>(v)?.backend),
            _ => false,
        })
    }

    fn is(&self, backend: BackendRef) -> bool {
        self.backends.contains(&pair(backend))
    }

    fn flow<A: Address + Ord>(&self, k: &[u8], v: &[u8], clients: &BTreeSet<A>) -> Option<bool> {
        Some(
            self.is(from_bytes::<Flow<A>>(v)?.backend)
                || clients.contains(&from_bytes::<FlowKey<A>>(k)?.client),
        )
    }

    fn forward<A: Address + Ord>(&self, k: &[u8], v: &[u8], clients: &BTreeSet<A>) -> Option<bool> {
        Some(
            self.is(from_bytes::<Forward>(v)?.backend)
                || clients.contains(&from_bytes::<ForwardKey<A>>(k)?.client),
        )
    }
}

fn pair(backend: BackendRef) -> (u32, u32) {
    (backend.id, backend.generation)
}
