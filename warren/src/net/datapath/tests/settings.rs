//! What `CONFIG` says of the other maps.

use warren_ebpf::abi::{CONFIG_ANYWHERE, Config, map};

use super::{
    super::{desired::Serving, diff::Change, sys::from_bytes},
    *,
};

#[test]
fn the_settings_say_where_containers_are_and_whether_a_port_has_an_address_of_its_own() {
    let mut node = Node::new();
    let config = |node: &Node| node.current.get::<u32, Config>(map::CONFIG, &0).unwrap();
    let publish = |node: &mut Node, ports: &[&str]| {
        let ports = ports.iter().map(|p| p.parse().unwrap()).collect();
        node.assignment.as_mut().unwrap().services[0].ports = ports;
        node.pass();
        config(node).flags & CONFIG_ANYWHERE != 0
    };
    node.pass();
    // Nothing is known: anybody may be a container.
    assert_eq!((config(&node).containers_mask, config(&node).containers6_mask), ([0; 4], [0; 8]));
    node.assign(2);
    node.attach(1, Serving::Open);
    assert!(
        publish(&mut node, &["8080:80", "127.0.0.1:9090:90", "[::1]:9091:90"]),
        "loopback is for sockets"
    );
    assert!(!publish(&mut node, &["8080:80", "192.0.2.1:9090:90"]));
    assert!(!publish(&mut node, &["[2001:db8::1]:9090:90"]));
    assert!(publish(&mut node, &[]));
    // The node's slice, and what lies beside it for whatever reason.
    assert_eq!(
        (config(&node).containers, config(&node).containers_mask),
        ([10, 86, 0, 0], [255, 255, 255, 0])
    );
    assert_eq!(config(&node).containers6_mask[..4], [0xff, 0xff, 0xff, 0], "fd00::/64 and fd00:86::1");
    let stray = Attachment { address: Ipv4Addr::new(10, 86, 3, 1), ..attachment(3, 1) };
    let stray = Attached { attachment: stray, ifindex: 103, ipv6: false, serving: Serving::Open };
    node.attached.insert(task(3), stray);
    // A reader may see half of a row: while the network changes, any address may be a container's.
    let masks = node.pass().into_iter().filter_map(|change| match change {
        Change::Set { map: map::CONFIG, value, .. } => from_bytes::<Config>(&value),
        _ => None,
    });
    let masks: Vec<_> = masks.map(|c| (c.containers, c.containers_mask, c.containers6_mask[0])).collect();
    assert_eq!(
        masks,
        [([10, 86, 0, 0], [0; 4], 0), ([10, 86, 0, 0], [0; 4], 0), ([10, 86, 0, 0], [255, 255, 252, 0], 255)]
    );
    assert_eq!(
        (config(&node).containers, config(&node).containers_mask),
        ([10, 86, 0, 0], [255, 255, 252, 0])
    );
    assert_eq!(node.pass(), [], "and it stays so");
}
