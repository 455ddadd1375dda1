//! The live tables, as one family asks them.

use std::{collections::BTreeMap, net::IpAddr};

use warren_ebpf::{
    abi::{Backend, BackendRef, Words, map},
    packet::Family,
};

use super::super::{
    datapath::{contents::Opened, sys::from_bytes},
    flows::{BackendRefKey, key},
};

/// The family's name of a map that is called `v4` in IPv4.
pub(super) fn named(v4: &'static str, is_v4: bool) -> &'static str {
    let is_other = |name: &&&str| name.strip_suffix('6') == v4.strip_suffix('4') && name.ends_with('6');
    if is_v4 { v4 } else { map::ALL.iter().find(is_other).copied().unwrap_or(v4) }
}

/// A whole address as the key of a trie.
pub(super) fn prefix(address: &[u8]) -> Vec<u8> {
    let bits = u32::try_from(8 * address.len()).unwrap_or(0);
    [&bits.to_ne_bytes()[..], address].concat()
}

/// An address that the tables of a family are asked for.
pub(super) trait Side: Family {
    const V4: bool;
    fn read(address: IpAddr) -> Self;
}

impl Side for [u8; 4] {
    const V4: bool = true;

    fn read(address: IpAddr) -> Self {
        if let IpAddr::V4(a) = address { a.octets() } else { [0; 4] }
    }
}

impl Side for Words {
    const V4: bool = false;

    fn read(address: IpAddr) -> Self {
        Self::new(if let IpAddr::V6(a) = address { a.octets() } else { [0; 16] })
    }
}

/// What the decisions are made from.
pub(super) struct Tables<'a> {
    pub live: &'a Opened,
    pub tasks: &'a BTreeMap<BackendRefKey, String>,
    pub v4: bool,
}

impl Tables<'_> {
    /// A row of a map.
    pub fn row<V: aya::Pod>(&self, v4: &'static str, key: &[u8]) -> Option<V> {
        self.live[named(v4, self.v4)].get(key).ok().flatten().and_then(|v| from_bytes(&v))
    }

    /// Whether a map has such a row.
    pub fn has(&self, v4: &'static str, key: &[u8]) -> bool {
        self.live[named(v4, self.v4)].get(key).is_ok_and(|v| v.is_some())
    }

    /// What a backend is called, and whether its row is still its own.
    pub fn backend(&self, b: BackendRef) -> (String, bool) {
        let row: Option<Backend> = self.row(map::BACKEND, &b.id.to_ne_bytes());
        let lives = row.is_some_and(|r| r.generation == b.generation && r.state != 0);
        let name = self.tasks.get(&key(&b)).cloned();
        (name.unwrap_or_else(|| format!("backend {} (generation {})", b.id, b.generation)), lives)
    }
}
