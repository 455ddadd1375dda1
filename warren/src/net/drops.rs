//! What the programs have dropped: how often for each reason, and the last packet they told of.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use warren_ebpf::abi::{DropCounter, EARLY, Event, Reason, map};

use super::{
    NetError,
    datapath::sys::{RawMap, from_bytes},
    engine::Engine,
    flows::monotonic_ns,
};

/// Packets dropped for one reason since the programs' maps were made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Short name of the reason.
    pub reason: &'static str,
    /// What it means, and what to do about it.
    pub meaning: &'static str,
    /// How many.
    pub packets: u64,
    /// How many of them the guard has dropped, in a device's driver.
    pub early: u64,
    /// The last one that was told of: at most one a second and processor is.
    pub last: Option<Told>,
}

/// A dropped packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Milliseconds ago, as coarse as the programs' clock.
    pub ago_ms: u64,
    /// Where it came from; without the port when that is unknown. `None` when it is no IP packet.
    pub source: Option<SocketAddr>,
    /// Where it was to go.
    pub destination: Option<SocketAddr>,
    /// IP protocol; 0 when unknown.
    pub protocol: u8,
    /// Its length in bytes.
    pub length: u32,
    /// The device it came in by; its number when it is gone.
    pub device: String,
}

/// The last event of each reason. Filled by who reads the ring.
#[derive(Debug, Clone, Default)]
pub(super) struct LastDrops(Arc<Mutex<BTreeMap<u32, Event>>>);

impl LastDrops {
    pub(super) fn note(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(event.reason, event);
    }

    fn of(&self, reason: u32) -> Option<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&reason).copied()
    }
}

/// Source and destination of an event.
pub(super) fn ends(e: &Event) -> Option<(SocketAddr, SocketAddr)> {
    let address = |a: [u8; 16]| match e.family {
        4 => Some(IpAddr::from(Ipv4Addr::new(a[0], a[1], a[2], a[3]))),
        6 => Some(IpAddr::from(Ipv6Addr::from(a))),
        _ => None,
    };
    Some((
        SocketAddr::new(address(e.source)?, e.source_port),
        SocketAddr::new(address(e.destination)?, e.destination_port),
    ))
}

pub(super) fn dropped(engine: &Engine, last: &LastDrops) -> Result<Vec<Dropped>, NetError> {
    let (counters, devices) = {
        let state = engine.state();
        (Arc::clone(state.loaded.map(map::DROPS)), state.host.devices.clone())
    };
    let device = |index: u32| {
        devices.iter().find(|d| d.index == index).map_or_else(|| index.to_string(), |d| d.name.clone())
    };
    let now = monotonic_ns();
    let mut found = Vec::new();
    for reason in Reason::ALL {
        let count =
            |row: u32| packets(&counters, row).map_err(|e| NetError::system("read the drop counters", e));
        let (late, early) = (count(reason as u32)?, count(EARLY + reason as u32)?);
        let last = last.of(reason as u32).map(|e| {
            let ends = ends(&e);
            Told {
                ago_ms: now.saturating_sub(e.time) / 1_000_000,
                source: ends.map(|(s, _)| s),
                destination: ends.map(|(_, d)| d),
                protocol: e.protocol,
                length: e.length,
                device: device(e.ifindex),
            }
        });
        found.push(Dropped {
            reason: reason.name(),
            meaning: meaning(reason),
            packets: late + early,
            early,
            last,
        });
    }
    Ok(found)
}

/// The sum over the processors.
fn packets(counters: &RawMap, row: u32) -> io::Result<u64> {
    let row = counters.get(&row.to_ne_bytes())?.unwrap_or_default();
    let size = size_of::<DropCounter>().next_multiple_of(8);
    let each =
        row.chunks_exact(size).filter_map(|c| from_bytes::<DropCounter>(&c[..size_of::<DropCounter>()]));
    Ok(each.map(|c| c.packets).sum())
}

pub(super) fn meaning(reason: Reason) -> &'static str {
    match reason {
        Reason::Spoofed => "a container sent from an address that is not its own",
        Reason::Protocol => "a container sent something that is neither IP nor neighbour discovery",
        Reason::Malformed => "a container sent a header that is cut off or contradicts itself",
        Reason::Fragment => "a container sent a fragment of a packet whose first fragment was not seen",
        Reason::NoRoute => "a container sent to an address that nothing leads to",
        Reason::PortsExhausted => "no port was free to send under the node's address",
        Reason::NoFlow => {
            "a container went on with a TCP connection, or reported an error, that nothing is known of"
        }
        Reason::NotMasqueraded => {
            "a container sent a kind of packet that cannot leave under the node's address"
        }
        Reason::Rewrite => "the kernel refused to rewrite the packet",
        Reason::Multicast => "a container sent multicast or broadcast",
        Reason::Unpublished => {
            "somebody outside sent to a container's own address; only published ports lead in"
        }
        Reason::Refused => "a client that the port was not published for (`from=`, `--publish-default`)",
        Reason::Denied => "a client that is on this node's deny list (`warren net deny ls`)",
        Reason::FlowRate => "a client began more connections than `--limit-conn-rate` allows",
        Reason::PacketRate => "a client sent more packets than `--limit-pps` allows",
        Reason::Newcomers => "more clients came to ports with limits at once than the node keeps count of",
        Reason::Connections => "a client had as many connections as `--limit-conns` allows",
        Reason::TooBig => {
            "a container sent more than fits the device it would leave by, and was told how much does"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_meaning_of_its_own() {
        let all: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| meaning(*r)).collect();
        assert_eq!(all.len(), Reason::ALL.len());
    }

    #[test]
    fn the_last_event_of_a_reason_is_kept() {
        let last = LastDrops::default();
        let e = Event { reason: Reason::NoRoute as u32, family: 4, ..Event::default() };
        last.note(e);
        last.note(Event { length: 60, ..e });
        assert_eq!(last.of(Reason::NoRoute as u32).unwrap().length, 60);
        assert!(last.of(Reason::Spoofed as u32).is_none());
    }

    #[test]
    fn ends_are_those_of_the_family() {
        let mut e = Event { family: 6, source_port: 7, ..Event::default() };
        e.source[15] = 1;
        assert_eq!(ends(&e).unwrap().0, "[::1]:7".parse().unwrap());
        assert!(ends(&Event { family: 0, ..e }).is_none());
    }
}
