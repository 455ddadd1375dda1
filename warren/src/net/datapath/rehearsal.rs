//! One packet through a second instance of the programs, to see what they would do with it.
//!
//! The instance is the same object. What the agent writes it reads in the live maps; whatever the
//! programs write themselves (flows, counters, what clients have used up) are maps of its own, into
//! which the rows that the packet can come upon are copied first. So nothing that is live is changed,
//! and not one instruction is added to the programs that carry the traffic.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use warren_ebpf::abi::{DropCounter, Reason, map, program};

use super::{
    super::NetError,
    contents::{Maps as _, Opened, Rows, WRITTEN},
    loader::OBJECT,
    shape::Shape,
    sys::{RawMap, from_bytes, program_info},
};

/// What the programs write themselves and no decision about a packet that is tried is made from: it is no
/// fragment, and of no socket.
const IDLE: [&str; 10] = [
    map::SCHEMA,
    map::FRAG4,
    map::FRAG6,
    map::SOCK4,
    map::SOCK6,
    map::SOCK_UDP4,
    map::SOCK_UDP6,
    map::DROPS,
    map::EVENTS,
    map::SCRATCH,
];

/// The live maps, and where they are.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The directory of their pins.
    pub dir: PathBuf,
    /// Their shapes.
    pub shapes: Vec<Shape>,
    /// The maps.
    pub live: Opened,
}

/// What is sent, and where it comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrance {
    /// The program.
    pub program: &'static str,
    /// The device that it is to see the packet on.
    pub ifindex: u32,
    /// The packet, from its Ethernet header on.
    pub frame: Vec<u8>,
    /// Its IP version.
    pub family: u8,
}

/// What the programs would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearsed {
    /// What the program returned (`TC_ACT_*`).
    pub action: i32,
    /// The packet as the program left it.
    pub frame: Vec<u8>,
    /// What its steps left to each other (`flow::decide::Work` of the packet's family).
    pub work: Vec<u8>,
    /// Why it was dropped, if it was.
    pub dropped: Option<Reason>,
    /// The kernel's fingerprint of the program's instructions.
    pub tag: [u8; 8],
    /// The rows of the programs' own maps before, those that the packet could come upon.
    pub before: BTreeMap<&'static str, Rows>,
    /// The same afterwards, in the instance's own maps.
    pub after: BTreeMap<&'static str, Rows>,
}

impl Stage {
    /// Sends a packet. `concerns` says of a key of a map whether the packet can come upon its row.
    pub fn rehearse(
        &self,
        entrance: &Entrance,
        concerns: impl Fn(&str, &[u8]) -> bool,
    ) -> Result<Rehearsed, NetError> {
        let mut before = BTreeMap::new();
        let written = |name: &&str| !WRITTEN.contains(name) && !IDLE.contains(name);
        for name in self.shapes.iter().map(|s| s.name).filter(written) {
            let mut rows = Rows::new();
            if name.ends_with(if entrance.family == 4 { '6' } else { '4' }) {
                before.insert(name, rows);
                continue;
            }
            let read = self.live[name].for_each(|k, v| {
                if concerns(name, k) {
                    rows.insert(k.to_vec(), v.to_vec());
                }
                true
            });
            read.map_err(|e| NetError::system("read what the programs remember", e))?;
            before.insert(name, rows);
        }
        let (mut ebpf, own) = self.furnished(&before)?;
        let (scratch, drops) = (taken(&mut ebpf, map::SCRATCH)?, taken(&mut ebpf, map::DROPS)?);
        let (action, frame, tag) = run(&mut ebpf, entrance)?;
        let read = |e| NetError::system("read what a program did", e);
        let mut after = BTreeMap::new();
        for name in own.keys() {
            after.insert(*name, own.dump(name).map_err(read)?);
        }
        Ok(Rehearsed {
            action,
            frame,
            work: work(&scratch).map_err(read)?,
            dropped: dropped(&drops).map_err(read)?,
            tag,
            before,
            after,
        })
    }

    /// Whether the guard would drop a packet before its program sees it. `before` is what the programs
    /// remember ([`Rehearsed::before`]).
    pub fn guards(
        &self,
        entrance: &Entrance,
        before: &BTreeMap<&'static str, Rows>,
    ) -> Result<bool, NetError> {
        const DROP: u32 = 1;
        let name = program::GUARD;
        let (mut ebpf, _own) = self.furnished(before)?;
        let program: &mut Xdp = ebpf
            .program_mut(name)
            .and_then(|p| p.try_into().ok())
            .ok_or_else(|| NetError::ForeignObject { map: name.to_owned() })?;
        program.load().map_err(|e| NetError::program(name, e))?;
        // `struct xdp_md`: where the packet ends, and the device.
        let mut context = [0u8; 24];
        let length = u32::try_from(entrance.frame.len()).unwrap_or(u32::MAX);
        context[4..8].copy_from_slice(&length.to_ne_bytes());
        context[12..16].copy_from_slice(&entrance.ifindex.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(&entrance.frame),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).map_err(|e| NetError::program(name, e))?;
        Ok(result.return_value == DROP)
    }

    /// An instance with maps of its own, that hold these rows; those are returned with it.
    fn furnished(&self, before: &BTreeMap<&'static str, Rows>) -> Result<(Ebpf, Opened), NetError> {
        let mut ebpf = self.instance(Some(before))?;
        let mut own = Opened::new();
        for (name, rows) in before {
            let to = taken(&mut ebpf, name)?;
            for (k, v) in rows {
                to.set(k, v).map_err(|e| NetError::system("copy what the programs remember", e))?;
            }
            own.insert(name, to.into());
        }
        Ok((ebpf, own))
    }

    /// An instance on the live maps alone, with which packets have their effect: for comparison.
    #[cfg(test)]
    pub fn in_earnest(&self) -> Result<InEarnest, NetError> {
        self.instance(None).map(InEarnest)
    }

    /// The programs, not yet loaded. With rows, whatever they write is in maps of their own, with room for
    /// those.
    fn instance(&self, rows: Option<&BTreeMap<&'static str, Rows>>) -> Result<Ebpf, NetError> {
        const LRU_HASH: u32 = 9;
        let cpus = aya::util::nr_cpus().map_err(|(_, e)| NetError::system("count the processors", e))?;
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for s in &self.shapes {
            match rows {
                Some(rows) if !WRITTEN.contains(&s.name) => {
                    if s.info.kind == LRU_HASH {
                        // Each processor takes free rows in batches of 128: none is to be evicted for that.
                        let rows = 2 * rows.get(s.name).map_or(0, Rows::len) + 256 * (cpus + 1);
                        loader.map_max_entries(s.name, u32::try_from(rows).unwrap_or(u32::MAX));
                    }
                }
                _ => {
                    loader.map_pin_path(s.name, s.path(&self.dir));
                    loader.map_max_entries(s.name, s.info.max_entries);
                }
            }
        }
        loader.load(OBJECT).map_err(|e| NetError::Load { source: Box::new(e) })
    }
}

/// See [`Stage::in_earnest`].
#[cfg(test)]
#[derive(Debug)]
pub struct InEarnest(Ebpf);

#[cfg(test)]
impl InEarnest {
    /// What the program returns, and the packet as it leaves it.
    pub fn perform(&mut self, entrance: &Entrance) -> Result<(i32, Vec<u8>), NetError> {
        run(&mut self.0, entrance).map(|(action, frame, _)| (action, frame))
    }
}

fn run(ebpf: &mut Ebpf, entrance: &Entrance) -> Result<(i32, Vec<u8>, [u8; 8]), NetError> {
    let name = entrance.program;
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .and_then(|p| p.try_into().ok())
        .ok_or_else(|| NetError::ForeignObject { map: name.to_owned() })?;
    if program.fd().is_err() {
        program.load().map_err(|e| NetError::program(name, e))?;
    }
    // `struct __sk_buff`: the device is all that is said of the packet besides its bytes.
    let mut context = [0u8; 192];
    context[40..44].copy_from_slice(&entrance.ifindex.to_ne_bytes());
    // An error that the program answers with is longer than what it is about, at most.
    let mut frame = vec![0u8; entrance.frame.len() + 256];
    let options = TestRunOptions {
        data_in: Some(&entrance.frame),
        data_out: Some(&mut frame),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).map_err(|e| NetError::program(name, e))?;
    frame.truncate(result.data_size_out as usize);
    let fd = program.fd().map_err(|e| NetError::program(name, e))?;
    let info = program_info(fd.as_fd()).map_err(|e| NetError::system("ask for a program", e))?;
    Ok((result.return_value.cast_signed(), frame, info.tag))
}

/// A map of the instance, as bytes.
fn taken(ebpf: &mut Ebpf, name: &str) -> Result<RawMap, NetError> {
    let foreign = || NetError::ForeignObject { map: name.to_owned() };
    let map = ebpf.map(name).ok_or_else(foreign)?;
    let (Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::PerCpuArray(data)) = map else {
        return Err(foreign());
    };
    let fd: BorrowedFd<'_> = data.fd().as_fd();
    let own = fd.try_clone_to_owned().and_then(RawMap::new);
    own.map_err(|e| NetError::system("take a map", e))
}

/// The row of the processor that the program ran on: all others are as new.
fn work(scratch: &RawMap) -> std::io::Result<Vec<u8>> {
    use std::mem::offset_of;
    use warren_ebpf::abi::Scratch;
    let rows = scratch.get(&0u32.to_ne_bytes())?.unwrap_or_default();
    let mut each = rows.chunks_exact(size_of::<Scratch>().next_multiple_of(8));
    let used = each.find(|row| row.iter().any(|b| *b != 0)).unwrap_or(&[0; size_of::<Scratch>()]);
    Ok(used[offset_of!(Scratch, work)..offset_of!(Scratch, quoted)].to_vec())
}

/// The one reason that was counted.
fn dropped(counters: &RawMap) -> std::io::Result<Option<Reason>> {
    for reason in Reason::ALL {
        let rows = counters.get(&(reason as u32).to_ne_bytes())?.unwrap_or_default();
        let each = rows.chunks_exact(size_of::<DropCounter>().next_multiple_of(8));
        if each.filter_map(from_bytes::<DropCounter>).any(|c| c.packets > 0) {
            return Ok(Some(reason));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::datapath::shape::shapes;

    #[test]
    fn what_the_agent_writes_is_read_live_and_of_the_rest_the_tables_are_copied() {
        assert!(IDLE.iter().all(|m| !WRITTEN.contains(m)));
        let copied: Vec<_> = shapes(1 << 30, 2)
            .iter()
            .map(|s| s.name)
            .filter(|m| !IDLE.contains(m) && !WRITTEN.contains(m))
            .collect();
        for table in ["FLOW_NEW", "FLOW_EST", "FWD_NEW", "FWD_EST", "MASQ_RET", "MASQ_OUT", "CLIENT", "SEAT"]
        {
            for family in [4, 6] {
                assert!(copied.contains(&format!("{table}{family}").as_str()), "{table}{family}");
            }
        }
        assert!(copied.contains(&map::GATE) && !copied.contains(&map::SVC4));
    }
}
