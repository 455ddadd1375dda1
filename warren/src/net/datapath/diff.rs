//! What has to be written so that the maps hold what they should, in an order in which every packet
//! between two writes still finds something true. Pure.

use warren_ebpf::abi::{BACKEND_EMPTY, Backend, Config, map};

use super::{
    contents::{ARRAYS, Contents, WRITTEN},
    sys::{bytes_of, from_bytes},
};

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Set a row.
    Set {
        /// The map.
        map: &'static str,
        /// Key.
        key: Vec<u8>,
        /// Value.
        value: Vec<u8>,
    },
    /// Delete a row.
    Delete {
        /// The map.
        map: &'static str,
        /// Key.
        key: Vec<u8>,
    },
}

/// The writes that lead from `current` to `desired`: first what is new or different, referred-to
/// before referring; then what goes, the other way round.
#[must_use]
pub fn diff(current: &Contents, desired: &Contents) -> Vec<Change> {
    let mut changes = Vec::new();
    for map in WRITTEN {
        let old = current.rows(map);
        for (key, value) in desired.rows(map).iter().filter(|(k, v)| old.get(*k) != Some(*v)) {
            let set = |value: Vec<u8>| Change::Set { map, key: key.clone(), value };
            if map == map::BACKEND {
                let old = old.get(key).and_then(|v| from_bytes(v));
                changes.extend(hand_over(old, from_bytes(value)).into_iter().map(set));
            } else if map == map::CONFIG {
                let old = old.get(key).and_then(|v| from_bytes(v));
                changes.extend(move_on(old, from_bytes(value)).into_iter().map(set));
            } else {
                changes.push(set(value.clone()));
            }
        }
    }
    for map in WRITTEN.into_iter().rev() {
        let new = desired.rows(map);
        for (key, value) in current.rows(map).iter().filter(|(k, _)| !new.contains_key(*k)) {
            if map == map::BACKEND {
                let rows = hand_over(from_bytes(value), None);
                changes.extend(rows.into_iter().map(|value| Change::Set { map, key: key.clone(), value }));
            } else if ARRAYS.contains(&map) {
                changes.push(Change::Set { map, key: key.clone(), value: vec![0; value.len()] });
            } else {
                changes.push(Change::Delete { map, key: key.clone() });
            }
        }
    }
    changes
}

/// As in [`hand_over`], a reader may see half of a change: while another network becomes that of the containers,
/// any address may be one's.
fn move_on(old: Option<Config>, new: Option<Config>) -> Vec<Vec<u8>> {
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    let network = |c: &Config| (c.containers, c.containers_mask, c.containers6, c.containers6_mask);
    let anywhere = |c| Config { containers_mask: [0; 4], containers6_mask: [0; 8], ..c };
    let mut steps = Vec::new();
    if network(&old) != network(&new) {
        steps.extend([anywhere(old), anywhere(new)]);
    }
    steps.push(new);
    steps.iter().map(|c| bytes_of(c).to_vec()).collect()
}

/// The kernel copies a row without locking, so that a reader may see half of a change: as long as
/// anything but the state changes, the row says that it is nobody's.
fn hand_over(old: Option<Backend>, new: Option<Backend>) -> Vec<Vec<u8>> {
    let old = old.unwrap_or_default();
    let new = new.unwrap_or_default();
    let mut steps = Vec::new();
    if (Backend { state: new.state, ..old }) != new {
        if old.state != BACKEND_EMPTY {
            steps.push(Backend { state: BACKEND_EMPTY, ..old });
        }
        if new.state != BACKEND_EMPTY {
            steps.push(Backend { state: BACKEND_EMPTY, ..new });
        }
    }
    steps.push(new);
    steps.iter().map(|b| bytes_of(b).to_vec()).collect()
}
