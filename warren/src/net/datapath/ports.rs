//! The short way from one state of the maps to the next where nothing has changed but what services
//! publish: a node with thousands of ports publishes one more without looking at all the others.
//! Pure. It decides nothing that [`plan`](super::desired::plan) would decide in another way; what it
//! is not sure of it leaves to that.

use std::collections::BTreeSet;

use warren_ebpf::abi::{Service, map};

use super::{
    contents::Contents,
    desired::{Serving, View, key4, key6, put_service},
    diff::Change,
    sources,
    sys::bytes_of,
};
use crate::model::{Assignment, PortSpec, ServiceEndpoint};

/// How many ports of a service may differ; of more, all are looked at.
const FEW: usize = 64;

/// The writes that lead from what the maps hold, which was made from `before`, to what the view's
/// assignment wants, if all else of the view is as it was then. `None`: more than ports has changed.
#[must_use]
pub fn changes(view: &View<'_>, before: &Assignment) -> Option<Vec<Change>> {
    let now = view.assignment?;
    // Whether such a container is open depends on its task.
    let unsure = view.attached.values().any(|a| a.serving == Serving::Unknown);
    if unsure || now.subnet != before.subnet || now.services.len() != before.services.len() {
        return None;
    }
    let mut desired = Contents::default();
    let mut gone: [BTreeSet<Vec<u8>>; 2] = Default::default();
    for (new, old) in now.services.iter().zip(&before.services) {
        let (added, removed) = differing(new, old)?;
        if added.is_empty() && removed.is_empty() {
            continue;
        }
        // Whether there is such a port at all stands among the settings.
        if added.iter().chain(&removed).any(|port| port.host_ip.is_some_and(|a| !a.is_loopback())) {
            return None;
        }
        // What all rows of the service have in common is as it was.
        let like = old.ports.iter().find_map(|port| row(view, port))?;
        for port in removed {
            if row(view, port)?.sources != 0 {
                return None;
            }
            let [v4, v6] = keys(port);
            gone[0].extend(v4);
            gone[1].extend(v6);
        }
        for port in added {
            if sources::answered(port, view.settings, view.host).is_some() {
                return None;
            }
            let new = Service { generation: 0, target: port.target, sources: 0, ..like };
            if let Some(key) = key4(port) {
                put_service(view, &mut desired, map::SVC4, &key, new);
            }
            if let Some(key) = key6(port) {
                put_service(view, &mut desired, map::SVC6, &key, new);
            }
        }
    }
    let mut changes = Vec::new();
    for map in [map::SVC4, map::SVC6] {
        let current = view.current.rows(map);
        for (key, value) in desired.rows(map).iter().filter(|(k, v)| current.get(*k) != Some(*v)) {
            changes.push(Change::Set { map, key: key.clone(), value: value.clone() });
        }
    }
    for (map, keys) in [(map::SVC6, &gone[1]), (map::SVC4, &gone[0])] {
        let kept = desired.rows(map);
        for key in keys.iter().filter(|k| !kept.contains_key(*k)) {
            changes.push(Change::Delete { map, key: key.clone() });
        }
    }
    Some(changes)
}

/// The ports that one of the two has and the other has not. `None`: they differ in more.
fn differing<'a>(
    new: &'a ServiceEndpoint,
    old: &'a ServiceEndpoint,
) -> Option<(Vec<&'a PortSpec>, Vec<&'a PortSpec>)> {
    let same = (new.datapath_id, &new.limits, &new.backends) == (old.datapath_id, &old.limits, &old.backends);
    if !same {
        return None;
    }
    let start = new.ports.iter().zip(&old.ports).take_while(|(n, o)| n == o).count();
    let (n, o) = (&new.ports[start..], &old.ports[start..]);
    let end = n.iter().rev().zip(o.iter().rev()).take_while(|(n, o)| n == o).count();
    let (n, o) = (&n[..n.len() - end], &o[..o.len() - end]);
    // The first and the last port of a service bring and take rows of other maps.
    let borders = !(n.is_empty() && o.is_empty()) && (new.ports.is_empty() || old.ports.is_empty());
    if borders || n.len().max(o.len()) > FEW {
        return None;
    }
    let without = |these: &'a [PortSpec], others: &[PortSpec]| -> Vec<&'a PortSpec> {
        these.iter().filter(|port| !others.contains(port)).collect()
    };
    Some((without(n, o), without(o, n)))
}

/// The row of a port, of whichever family it has one.
fn row(view: &View<'_>, port: &PortSpec) -> Option<Service> {
    let v4 = || view.current.get(map::SVC4, &key4(port)?);
    let v6 = || view.current.get(map::SVC6, &key6(port)?);
    v4().or_else(v6)
}

/// Its keys in `SVC4` and `SVC6`.
fn keys(port: &PortSpec) -> [Option<Vec<u8>>; 2] {
    [key4(port).map(|k| bytes_of(&k).to_vec()), key6(port).map(|k| bytes_of(&k).to_vec())]
}
