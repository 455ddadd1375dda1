//! Where a packet comes in.

use std::net::IpAddr;

use warren_ebpf::abi::map;

use super::{
    super::{
        NetError,
        attach::{HOST_MAC, host_name},
        engine::{Engine, State},
        netlink::host::{Device, Layer},
    },
    Question,
    tables::{named, prefix},
};
use crate::model::TaskId;

/// Where a packet comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// By a device of the node.
    Device {
        /// Its number.
        index: u32,
        /// Its name.
        name: String,
        /// Its link-layer address; zeros when it has none.
        mac: [u8; 6],
        /// Whether its packets have no link header.
        bare: bool,
    },
    /// From a container.
    Container {
        /// Number of the node's end of its link.
        index: u32,
        /// Name of that.
        name: String,
    },
    /// From a process of the node.
    Node,
}

/// What `--from node` is called.
const NODE: &str = "node";

fn device(d: &Device) -> Place {
    // Whatever the device has for an address, the kernel compares this much of it.
    let mut mac = [0; 6];
    mac.iter_mut().zip(&d.mac).for_each(|(to, from)| *to = *from);
    Place::Device { index: d.index, name: d.name.clone(), mac, bare: d.layer == Layer::Ip }
}

fn container(task: TaskId, index: u32) -> Place {
    Place::Container { index, name: host_name(task) }
}

impl Place {
    /// The link-layer address that a packet must have so that the device takes it.
    pub(super) fn mac(&self) -> [u8; 6] {
        match self {
            Self::Device { mac, .. } => *mac,
            Self::Container { .. } | Self::Node => HOST_MAC,
        }
    }
}

/// The place that was asked for, or the one where such a packet comes in.
pub(super) fn find(engine: &Engine, question: &Question) -> Result<Place, NetError> {
    let state = engine.state();
    let uplinks: Vec<&Device> = state.host.uplinks(&engine.settings.interfaces).collect();
    let places = || {
        let names = uplinks.iter().map(|d| d.name.clone());
        names.chain(["the id of a task on this node".into(), NODE.into()]).collect::<Vec<_>>().join(", ")
    };
    if let Some(from) = &question.from {
        if from == NODE {
            return Ok(Place::Node);
        }
        if let Some(d) = uplinks.iter().find(|d| d.name == *from) {
            return Ok(device(d));
        }
        let mut tasks = state
            .attached
            .iter()
            .filter(|(t, _)| host_name(**t) == *from || t.as_str().starts_with(from.as_str()));
        return match (tasks.next(), tasks.next()) {
            (Some((task, a)), None) => Ok(container(*task, a.ifindex)),
            _ => Err(NetError::NoSuchPlace { from: from.clone(), places: places() }),
        };
    }
    let source = question.source.ip();
    if let Some(place) = of_container(&state, source) {
        return Ok(place);
    }
    if source.is_loopback() || state.host.locals().any(|(a, _)| a == source) {
        return Ok(Place::Node);
    }
    // Where an answer would go, the packet comes from.
    let bytes = match source {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let route = state.loaded.map(named(map::ROUTE4, source.is_ipv4())).get(&prefix(&bytes));
    let route = route.map_err(|e| NetError::system("look for a route", e))?;
    // The route's first word is the device.
    let index = route.and_then(|r| r.first_chunk().copied()).map(u32::from_ne_bytes);
    match (uplinks.iter().find(|d| Some(d.index) == index), uplinks.as_slice()) {
        (Some(d), _) => Ok(device(d)),
        (None, [only]) => Ok(device(only)),
        _ => Err(NetError::WhichPlace { address: source, places: places() }),
    }
}

fn of_container(state: &State, source: IpAddr) -> Option<Place> {
    let is_its = |a: &crate::model::Attachment| match source {
        IpAddr::V4(v4) => a.address == v4,
        IpAddr::V6(v6) => a.address6 == v6,
    };
    state.attached.iter().find(|(_, a)| is_its(&a.attachment)).map(|(t, a)| container(*t, a.ifindex))
}
