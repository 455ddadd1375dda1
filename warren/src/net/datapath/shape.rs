//! What each map must look like, and the name its pin has.
//!
//! A pin is called `<map>-<layout>-<capacity>`, where the layout is the hash of the structs inside
//! (`warren_ebpf::abi`). So two builds share exactly the maps they agree on: an agent whose build
//! changes one struct makes that map anew and goes on using all others, flows among them, without
//! a moment in which old and new programs see different ones.

mod older;

use std::path::{Path, PathBuf};

use warren_ebpf::abi::{
    Backend, BackendRef, Client, ClientKey, Config, DropCounter, Egress, EgressKey, Event, Flow, FlowKey,
    Forward, ForwardKey, Gate, Layout, Limit, Local, Mac, Piece, PieceKey, Return, ReturnKey, Route, SEED,
    Schema, Scratch, Seat, SeatKey, Service, ServiceKey, SocketFlow, SocketKey, SocketPeer, SourceKey, Via,
    capacity, map, mix,
};

use super::sys::MapInfo;

/// A map as this build has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Name, as in the object.
    pub name: &'static str,
    /// Hash of the structs in it.
    pub layout: u64,
    /// Kind and sizes, as the kernel says them.
    pub info: MapInfo,
}

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LRU_HASH: u32 = 9;
const LPM_TRIE: u32 = 11;
const RINGBUF: u32 = 27;

/// Layout of keys that are a plain number or address.
const PLAIN: u64 = SEED;

/// Layout of a map of this kind.
const fn layout(key: u64, value: u64, kind: u32) -> u64 {
    mix(mix(mix(SEED, key), value), kind as u64)
}

impl Shape {
    /// The name of its pin.
    #[must_use]
    pub fn pin(&self) -> String {
        format!("{}-{:016x}-{:x}", self.name, self.layout, self.info.max_entries)
    }

    /// Where it is pinned.
    #[must_use]
    pub fn path(&self, maps: &Path) -> PathBuf {
        maps.join(self.pin())
    }
}

/// A pin's name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinName {
    /// The map.
    pub map: String,
    /// Its layout.
    pub layout: u64,
}

/// What a pin's name says; `None` when it is no pin of ours.
#[must_use]
pub fn parse_pin(name: &str) -> Option<PinName> {
    let mut parts = name.rsplitn(3, '-');
    u32::from_str_radix(parts.next()?, 16).ok()?;
    let layout = u64::from_str_radix(parts.next()?, 16).ok()?;
    Some(PinName { map: parts.next()?.to_owned(), layout })
}

/// Every map, sized for a machine with this much memory (bytes). Large flow tables are what costs:
/// all maps together are one percent of 4 GB, and from there on they grow no more: their memory is locked
/// whether used or not. A board with 512 MB gets room for 16384 flows, and its maps take 19 MiB. Those of
/// IPv6, whose rows are half as large again, have an eighth of the rows.
#[must_use]
pub fn shapes(memory: u64, cpus: usize) -> Vec<Shape> {
    type V4 = [u8; 4];
    type V6 = [u8; 16];
    const LARGEST: u64 = capacity::ESTABLISHED as u64;
    let n = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX);
    let flows = u32::try_from((memory >> 16).clamp(16_384, LARGEST)).unwrap_or(16_384);
    // A power of two: buckets and rows of a kernel hash come in these anyway.
    let flows = if flows.is_power_of_two() { flows } else { flows.next_power_of_two() / 2 };
    // The kernel hands an LRU's free rows out in batches, and each CPU has some of them at hand.
    let least = (512 * u32::try_from(cpus).unwrap_or(u32::MAX).clamp(2, 128)).next_power_of_two();
    // What containers ask others for is less than what others ask them for, and DNS is most of it; what
    // is half open is so for a round trip; and the node's own sockets are few.
    let (half_open, masquerade) =
        ((flows / 2).max(least).min(n(capacity::HALF_OPEN)), (flows / 2).max(least));
    let sockets = (flows / 4).max(least).min(n(capacity::SOCKETS));
    let (flows6, half_open6) = ((flows / 8).max(least), (flows / 16).max(least));
    let (masquerade6, sockets6) = ((flows / 32).max(least), (flows / 64).max(least));
    let shape = |name, kind, key: (u64, usize), value: (u64, usize), entries: u32| Shape {
        name,
        layout: layout(key.0, value.0, kind),
        info: MapInfo {
            kind,
            key_size: u32::try_from(key.1).unwrap_or(u32::MAX),
            value_size: u32::try_from(value.1).unwrap_or(u32::MAX),
            max_entries: entries,
        },
    };
    fn of<T: Layout>() -> (u64, usize) {
        (T::HASH, size_of::<T>())
    }
    let index = (PLAIN, 4);
    let (address, address6) = ((PLAIN, 4), (PLAIN, 16));
    let fragmented = n(capacity::FRAGMENTED);
    let mut shapes = vec![
        shape(map::CONFIG, ARRAY, index, of::<Config>(), 1),
        shape(map::SCHEMA, ARRAY, index, of::<Schema>(), 1),
        shape(map::SVC4, HASH, of::<ServiceKey<V4>>(), of::<Service>(), n(capacity::SERVICES)),
        shape(map::SRC4, LPM_TRIE, (SourceKey::<V4>::HASH, 12), (PLAIN, 4), n(capacity::SOURCES)),
        shape(map::BACKEND, ARRAY, index, of::<Backend>(), n(capacity::BACKENDS)),
        shape(map::MAGLEV, ARRAY, index, of::<BackendRef>(), n(capacity::MAGLEV_ROWS)),
        shape(map::EP4, HASH, address, of::<BackendRef>(), n(capacity::CONTAINERS)),
        shape(map::LINK, HASH, index, of::<BackendRef>(), n(capacity::CONTAINERS)),
        shape(map::LOCAL4, HASH, address, of::<Local>(), n(capacity::LOCALS)),
        shape(map::ROUTE4, LPM_TRIE, (PLAIN, 8), of::<Route<[u8; 4]>>(), n(capacity::ROUTES)),
        shape(map::FLOW_NEW4, LRU_HASH, of::<FlowKey<V4>>(), of::<Flow<V4>>(), half_open),
        shape(map::FLOW_EST4, LRU_HASH, of::<FlowKey<V4>>(), of::<Flow<V4>>(), flows),
        shape(map::FWD_NEW4, LRU_HASH, of::<ForwardKey<V4>>(), of::<Forward>(), half_open),
        shape(map::FWD_EST4, LRU_HASH, of::<ForwardKey<V4>>(), of::<Forward>(), flows),
        shape(map::MASQ_RET4, LRU_HASH, of::<ReturnKey<V4>>(), of::<Return<V4>>(), masquerade),
        shape(map::MASQ_OUT4, LRU_HASH, of::<EgressKey<V4>>(), of::<Egress<V4>>(), masquerade),
        shape(map::FRAG4, LRU_HASH, of::<PieceKey<V4>>(), of::<Piece<V4>>(), fragmented.max(least)),
        shape(map::SOCK4, LRU_HASH, (PLAIN, 8), of::<SocketPeer<[u8; 4]>>(), sockets),
        shape(map::SOCK_UDP4, LRU_HASH, of::<SocketKey<V4>>(), of::<SocketFlow<V4>>(), sockets),
        shape(map::SVC6, HASH, of::<ServiceKey<V6>>(), of::<Service>(), n(capacity::SERVICES)),
        shape(map::SRC6, LPM_TRIE, (SourceKey::<V6>::HASH, 24), (PLAIN, 4), n(capacity::SOURCES)),
        shape(map::EP6, HASH, address6, of::<BackendRef>(), n(capacity::CONTAINERS)),
        shape(map::LOCAL6, HASH, address6, of::<Local>(), n(capacity::LOCALS)),
        shape(map::ROUTE6, LPM_TRIE, (PLAIN, 20), of::<Route<V6>>(), n(capacity::ROUTES)),
        shape(map::FLOW_NEW6, LRU_HASH, of::<FlowKey<V6>>(), of::<Flow<V6>>(), half_open6),
        shape(map::FLOW_EST6, LRU_HASH, of::<FlowKey<V6>>(), of::<Flow<V6>>(), flows6),
        shape(map::FWD_NEW6, LRU_HASH, of::<ForwardKey<V6>>(), of::<Forward>(), half_open6),
        shape(map::FWD_EST6, LRU_HASH, of::<ForwardKey<V6>>(), of::<Forward>(), flows6),
        shape(map::MASQ_RET6, LRU_HASH, of::<ReturnKey<V6>>(), of::<Return<V6>>(), masquerade6),
        shape(map::MASQ_OUT6, LRU_HASH, of::<EgressKey<V6>>(), of::<Egress<V6>>(), masquerade6),
        shape(map::FRAG6, LRU_HASH, of::<PieceKey<V6>>(), of::<Piece<V6>>(), least),
        shape(map::SOCK6, LRU_HASH, (PLAIN, 8), of::<SocketPeer<V6>>(), sockets6),
        shape(map::SOCK_UDP6, LRU_HASH, of::<SocketKey<V6>>(), of::<SocketFlow<V6>>(), sockets6),
        shape(map::DROPS, PERCPU_ARRAY, index, of::<DropCounter>(), n(capacity::REASONS)),
        shape(map::EVENTS, RINGBUF, (PLAIN, 0), (Event::HASH, 0), n(capacity::EVENT_BYTES)),
        shape(map::SCRATCH, PERCPU_ARRAY, index, of::<Scratch>(), 1),
        shape(map::LIMIT, HASH, index, of::<Limit>(), n(capacity::LIMITS)),
        shape(map::DENY4, LPM_TRIE, (PLAIN, 8), (PLAIN, 4), n(capacity::DENIED)),
        shape(map::DENY6, LPM_TRIE, (PLAIN, 20), (PLAIN, 4), n(capacity::DENIED)),
        shape(map::CLIENT4, LRU_HASH, of::<ClientKey>(), of::<Client>(), n(capacity::CLIENTS)),
        shape(map::CLIENT6, LRU_HASH, of::<ClientKey>(), of::<Client>(), n(capacity::CLIENTS6).max(least)),
        shape(map::GATE, ARRAY, index, of::<Gate>(), 2),
        shape(map::SEAT4, LRU_HASH, of::<SeatKey>(), of::<Seat<V4>>(), n(capacity::SEATS).max(least)),
        shape(map::SEAT6, LRU_HASH, of::<SeatKey>(), of::<Seat<V6>>(), n(capacity::SEATS6).max(least)),
        shape(map::MAC, HASH, index, of::<Mac>(), n(capacity::DEVICES)),
        shape(map::VIA6, HASH, index, of::<Via>(), n(capacity::DEVICES)),
    ];
    for s in shapes.iter_mut().filter(|s| FLOWS.contains(&s.name)) {
        s.layout ^= OTHER;
    }
    shapes
}

/// What the layouts of flow tables differ by from the usual build's: by nothing, but in the build that tests
/// upgrade to, whose every flow table is another one.
const OTHER: u64 = cfg!(feature = "other-abi") as u64;

/// Maps whose contents only the programs know: carried over when their layout changes. All others
/// are written by the agent.
pub const FLOWS: [&str; 18] = [
    map::FLOW_NEW4,
    map::FLOW_EST4,
    map::FWD_NEW4,
    map::FWD_EST4,
    map::MASQ_RET4,
    map::MASQ_OUT4,
    map::SOCK4,
    map::SOCK_UDP4,
    map::FLOW_NEW6,
    map::FLOW_EST6,
    map::FWD_NEW6,
    map::FWD_EST6,
    map::MASQ_RET6,
    map::MASQ_OUT6,
    map::SOCK6,
    map::SOCK_UDP6,
    map::SEAT4,
    map::SEAT6,
];

/// Makes a flow table's record of an older layout into one of this build.
pub type Transform = fn(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)>;

/// How records of a flow table are carried over from an older layout: `None` when they cannot be.
/// The same layout with another capacity is copied as it is.
///
/// Who changes a struct of a flow table keeps the old one in `warren_ebpf::abi::older` and adds a line to
/// `TRANSFORMS`: (map, old layout, function). Without one the old flows are given up on upgrade.
#[must_use]
pub fn transform(shape: &Shape, old: &PinName) -> Option<Transform> {
    if [shape.layout, shape.layout ^ OTHER].contains(&old.layout) {
        return Some(|k, v| Some((k.to_vec(), v.to_vec())));
    }
    older::TRANSFORMS.iter().find(|(m, l, _)| *m == shape.name && *l == old.layout).map(|(_, _, f)| *f)
}

/// What this build writes into `SCHEMA`.
pub const SCHEMA: Schema = Schema::CURRENT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_a_shape_and_a_pin_name_that_reads_back() {
        let shapes = shapes(1 << 30, 2);
        let names: Vec<&str> = shapes.iter().map(|s| s.name).collect();
        assert_eq!(names, map::ALL);
        for s in &shapes {
            assert_eq!(parse_pin(&s.pin()), Some(PinName { map: s.name.into(), layout: s.layout }));
        }
        assert_eq!(parse_pin("SVC4"), None);
        assert_eq!(parse_pin("x-y-z"), None);
        assert!(FLOWS.iter().all(|f| names.contains(f)));
    }

    #[test]
    fn flow_tables_follow_the_memory() {
        let entries =
            |memory| shapes(memory, 2).iter().find(|s| s.name == map::FLOW_EST4).map(|s| s.info.max_entries);
        assert_eq!(entries(512 << 20), Some(16_384));
        assert_eq!(entries(3 << 30), Some(32_768));
        assert_eq!(entries(4 << 30), Some(65_536));
        assert_eq!(entries(1 << 40), Some(65_536));
        let others = |memory, cpus| {
            let shapes = shapes(memory, cpus);
            [map::FLOW_NEW4, map::FWD_NEW4, map::MASQ_RET4, map::MASQ_OUT4, map::SOCK4, map::SOCK_UDP4]
                .map(|name| shapes.iter().find(|s| s.name == name).map_or(0, |s| s.info.max_entries))
        };
        assert_eq!(others(512 << 20, 4), [8192, 8192, 8192, 8192, 4096, 4096]);
        assert_eq!(others(8 << 30, 2), [16_384, 16_384, 32_768, 32_768, 16_384, 16_384]);
        assert_eq!(others(8 << 30, 128), [16_384, 16_384, 65_536, 65_536, 16_384, 16_384]);
        let of_ipv6 = |memory, cpus| {
            let shapes = shapes(memory, cpus);
            ["FLOW_NEW6", "FLOW_EST6", "MASQ_RET6", "SOCK6"]
                .map(|name| shapes.iter().find(|s| s.name == name).map_or(0, |s| s.info.max_entries))
        };
        assert_eq!(of_ipv6(512 << 20, 2), [1024, 2048, 1024, 1024]);
        assert_eq!(of_ipv6(8 << 30, 2), [4096, 8192, 2048, 1024]);
        assert_eq!(of_ipv6(8 << 30, 64), [32_768, 32_768, 32_768, 32_768]);
    }

    #[test]
    fn records_of_the_same_layout_are_copied_and_of_an_unknown_one_are_not() {
        let shape = shapes(1 << 30, 2).into_iter().find(|s| s.name == map::FLOW_EST4).unwrap();
        let same = PinName { map: shape.name.into(), layout: shape.layout };
        let copied = transform(&shape, &same).map(|f| f(&[1], &[2]));
        assert_eq!(copied, Some(Some((vec![1], vec![2]))));
        assert!(transform(&shape, &PinName { layout: 1, ..same }).is_none());
    }
}
