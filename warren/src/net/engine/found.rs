//! What is read off the host: which containers are attached, and whose links are not as they should be.
//! Pure.

use std::{collections::BTreeMap, net::IpAddr};

use warren_ebpf::abi::{BACKEND_CLOSED, BACKEND_DRAINING, BACKEND_HELD, BACKEND_UP, Backend, map};

use super::{
    super::{
        attach::{alias::Alias, link},
        datapath::{
            contents::Contents,
            desired::{Attached, Serving, Settings},
        },
        netlink::host::Host,
    },
    State,
};
use crate::model::TaskId;

/// Links whose state, MTU or route is not what it should be and that nobody is making just now.
pub(in crate::net) fn unfinished(state: &State, mtu: u32) -> Vec<TaskId> {
    let whole = |a: &Attached| {
        let device = state.host.devices.iter().find(|d| d.index == a.ifindex);
        let led_to = |to: IpAddr| {
            state.host.routes.iter().any(|r| r.device == Some(a.ifindex) && r.destination.addr() == to)
        };
        device.is_some_and(|d| d.up && d.mtu == mtu)
            && led_to(a.attachment.address.into())
            && (!a.ipv6 || led_to(a.attachment.address6.into()))
    };
    let made = |task: &TaskId| !state.making.contains(task);
    state.attached.iter().filter(|(t, a)| made(t) && !whole(a)).map(|(t, _)| *t).collect()
}

/// The containers that are there already, as their links say; whether each is open, as its row
/// says.
pub(super) fn find_attached(
    settings: &Settings,
    host: &Host,
    current: &Contents,
) -> BTreeMap<TaskId, Attached> {
    let mut attached = BTreeMap::new();
    for d in host.devices.iter().filter(|d| d.is_ours()) {
        let Some(Ok(alias)) = d.alias.as_deref().map(str::parse::<Alias>) else { continue };
        if alias.node != settings.node {
            continue;
        }
        let attachment = alias.attachment;
        let row: Option<Backend> = current.get(map::BACKEND, &attachment.backend);
        let serving = match row.filter(|r| r.generation == attachment.generation).map(|r| r.state) {
            Some(BACKEND_UP) => Serving::Open,
            Some(BACKEND_DRAINING) => Serving::Draining,
            Some(BACKEND_CLOSED) => Serving::Closed,
            Some(BACKEND_HELD) => Serving::Held,
            _ => Serving::Unknown,
        };
        let ipv6 = link::has_ipv6(alias.task, d.mtu);
        attached.insert(alias.task, Attached { attachment, ifindex: d.index, ipv6, serving });
    }
    attached
}
