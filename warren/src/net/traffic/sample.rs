//! The counters of all flows at one moment.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use warren_ebpf::abi::{FlowKey, ReturnKey, Traffic};

use super::super::{
    NetError,
    engine::Engine,
    flows::{BackendRefKey, Row, key, monotonic_ns, tables},
};

/// The counters of all flows at one moment.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// The moment, by the programs' clock.
    pub(super) now: u64,
    pub(super) flows: HashMap<Key, Record>,
}

/// The longest key of a flow table.
const LONGEST: usize = {
    let (flow, back) = (size_of::<FlowKey<[u8; 16]>>(), size_of::<ReturnKey<[u8; 16]>>());
    if flow > back { flow } else { back }
};

/// What tells a flow from others, whichever of its tables it is in: one that is established moves from
/// `FLOW_NEW*` to `FLOW_EST*` under the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    out: bool,
    length: u8,
    bytes: [u8; LONGEST],
}

impl Key {
    /// A row's key; `None` when it is longer than any.
    pub(super) fn new(out: bool, key: &[u8]) -> Option<Self> {
        let mut bytes = [0; LONGEST];
        bytes.get_mut(..key.len())?.copy_from_slice(key);
        Some(Self { out, length: u8::try_from(key.len()).ok()?, bytes })
    }
}

/// What is known of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) of: Of,
    /// When it began; `None` when that is not known.
    pub(super) began: Option<u64>,
    pub(super) traffic: Traffic,
    /// Whether it has not run out. One that has may go on, and counts from where it was.
    pub(super) lives: bool,
}

/// Whose a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// A client's, to a published port.
    Port(Port, IpAddr),
    /// A container's.
    Out(BackendRefKey),
}

/// A published port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Port {
    pub(super) published: SocketAddr,
    pub(super) protocol: &'static str,
    /// The service's number.
    pub(super) service: u32,
}

impl Record {
    fn new(row: &Row, now: u64) -> Self {
        let (flow, service) = (&row.flow, row.service);
        let of = match flow.published {
            Some(published) => {
                Of::Port(Port { published, protocol: flow.protocol, service }, flow.client.ip())
            }
            None => Of::Out(key(&row.backend)),
        };
        Self { of, began: row.began, traffic: flow.traffic, lives: row.lives(now) }
    }
}

impl Sample {
    /// Reads the flow tables.
    pub(super) fn read(engine: &Engine) -> Result<Self, NetError> {
        let now = monotonic_ns();
        let mut flows = HashMap::new();
        // Half-open flows before established ones: one that moves meanwhile is found at least once, and
        // of two records the established one is the newer.
        for (map, read) in tables(engine).into_iter().rev() {
            map.for_each(|k, v| {
                if let Some(row) = read(k, v)
                    && let Some(key) = Key::new(row.flow.published.is_none(), k)
                {
                    flows.insert(key, Record::new(&row, now));
                }
                true
            })
            .map_err(|e| NetError::system("read the flows", e))?;
        }
        Ok(Self { now, flows })
    }
}
