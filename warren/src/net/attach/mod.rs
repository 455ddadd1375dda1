//! A container's place in the network: its namespace and its link.
//!
//! Routed, no bridge: the container has an address of its own (/32, /128), a link-local gateway
//! that nobody has, and permanent neighbours on both sides, so that nothing is ever asked on the
//! link. What it sends crosses our program at the node's end.

pub mod alias;
pub mod link;
pub mod namespace;

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::model::TaskId;

/// Every host end is called this and 13 characters of the task's id.
pub const PREFIX: &str = "wr";
/// The MAC address of every host end (locally administered, then "Warrn"). One for all: no two of
/// them share a link. Set in the request that makes the device, so udev and networkd leave it.
pub const HOST_MAC: [u8; 6] = [0x02, b'W', b'a', b'r', b'r', b'n'];
/// The container's router.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// What the link is called inside the container.
pub const INSIDE: &str = "eth0";

/// The name of a task's host end: 15 characters, the longest there is.
#[must_use]
pub fn host_name(task: TaskId) -> String {
    format!("{PREFIX}{}", &task.as_str()[..13])
}

/// The MAC address of a task's container end: the same at every call.
#[must_use]
pub fn container_mac(task: TaskId) -> [u8; 6] {
    let h = warren_ebpf::abi::mix_bytes(warren_ebpf::abi::SEED, task.as_str().as_bytes()).to_be_bytes();
    [0x02, h[0], h[1], h[2], h[3], h[4]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_macs_are_unicast_and_local() {
        let task = TaskId::from_random(77);
        assert_eq!(host_name(task).len(), 15);
        let mac = container_mac(task);
        assert_eq!(mac[0] & 3, 2);
        assert_eq!(mac, container_mac(task));
        assert_ne!(mac, container_mac(TaskId::from_random(78)));
    }
}
