//! Limits of clients and deny lists: what is written, and in which order.

use warren_ebpf::abi::{
    CONFIG_ANYWHERE, CONFIG_DENY, CONFIG_ENABLED, Config, Limit, SERVICE_LIMITED, SERVICE_PACED,
    SERVICE_SEATED, map,
};

use super::{
    super::{
        desired::{Serving, prefix_key},
        diff::Change,
    },
    Node,
};
use crate::model::{ClientLimits, Rate};

#[test]
fn limits_come_before_the_ports_that_name_them_and_go_after_them() {
    let mut node = Node::new();
    node.assign(1);
    node.attach(1, Serving::Open);
    node.pass();
    let flags = |node: &Node| node.service(8080, [0; 4]).map(|s| s.flags);
    let limit = |node: &Node| node.current.get::<u32, Limit>(map::LIMIT, &9);
    let limits = |node: &mut Node, conn: Option<u32>, packets: Option<u32>| {
        let rate = |n: Option<u32>| n.map(|n| Rate { per_second: n, burst: 2 * n });
        let limits = ClientLimits { conn_rate: rate(conn), packet_rate: rate(packets), conns: None };
        node.assignment.as_mut().unwrap().services[0].limits = limits;
    };
    let touched = |changes: &[Change]| -> Vec<&'static str> {
        changes
            .iter()
            .map(|c| match c {
                Change::Set { map, .. } | Change::Delete { map, .. } => *map,
            })
            .collect()
    };
    assert_eq!((flags(&node), limit(&node)), (Some(0), None));

    limits(&mut node, Some(100), None);
    let changes = node.pass();
    assert_eq!(touched(&changes).first(), Some(&map::LIMIT), "the row, then what names it");
    let row = Limit {
        flow_spacing: 10_000_000,
        flow_burst: 200,
        packet_spacing: 0,
        packet_burst: 0,
        connections: 0,
    };
    assert_eq!((flags(&node), limit(&node)), (Some(SERVICE_LIMITED), Some(row)));
    assert_eq!(node.service(9090, [127, 0, 0, 1]).map(|s| s.flags), Some(SERVICE_LIMITED), "each port");

    limits(&mut node, Some(100), Some(1000));
    node.pass();
    let row = Limit { packet_spacing: 1_000_000, packet_burst: 2000, ..row };
    assert_eq!((flags(&node), limit(&node)), (Some(SERVICE_LIMITED | SERVICE_PACED), Some(row)));

    // Another number alone: nothing but its row.
    limits(&mut node, Some(50), Some(1000));
    assert_eq!(touched(&node.pass()), [map::LIMIT]);

    // A number at a time beside them, and alone.
    node.assignment.as_mut().unwrap().services[0].limits.conns = Some(7);
    node.pass();
    let all = SERVICE_LIMITED | SERVICE_PACED | SERVICE_SEATED;
    assert_eq!(flags(&node), Some(all));
    assert_eq!(limit(&node).map(|l| (l.connections, l.flow_burst)), Some((7, 100)));
    node.assignment.as_mut().unwrap().services[0].limits =
        ClientLimits { conns: Some(8), ..ClientLimits::default() };
    node.pass();
    assert_eq!(flags(&node), Some(SERVICE_LIMITED | SERVICE_SEATED));
    assert_eq!(limit(&node), Some(Limit { connections: 8, ..Limit::default() }));

    // Until something is heard, all stays as it is.
    let assignment = node.assignment.take();
    assert!(touched(&node.pass()).iter().all(|m| ![map::LIMIT, map::SVC4].contains(m)));
    node.assignment = assignment;

    limits(&mut node, None, None);
    let changes = node.pass();
    assert_eq!(touched(&changes).last(), Some(&map::LIMIT), "what names it, then the row");
    assert_eq!((flags(&node), limit(&node)), (Some(0), None));
}

#[test]
fn the_deny_list_is_looked_at_only_while_there_is_something_on_it() {
    let mut node = Node::new();
    node.pass();
    let flags = |node: &Node| node.current.get::<u32, Config>(map::CONFIG, &0).unwrap().flags;
    assert_eq!(flags(&node), CONFIG_ENABLED | CONFIG_ANYWHERE);
    node.denied = ["192.0.2.0/24", "2001:db8::/48", "0.0.0.0/0"].map(|n| n.parse().unwrap()).into();
    let changes = node.pass();
    assert!(matches!(changes.last(), Some(Change::Set { map: map::CONFIG, .. })), "{changes:?}");
    assert_eq!(flags(&node), CONFIG_ENABLED | CONFIG_ANYWHERE | CONFIG_DENY);
    assert_eq!((node.current.rows(map::DENY4).len(), node.current.rows(map::DENY6).len()), (2, 1));
    let key: [u8; 8] = prefix_key(24, &[192, 0, 2, 0]);
    assert_eq!(node.current.get::<[u8; 8], u32>(map::DENY4, &key), Some(1));
    node.denied.clear();
    let changes = node.pass();
    assert!(matches!(changes.first(), Some(Change::Set { map: map::CONFIG, .. })), "{changes:?}");
    assert_eq!(flags(&node), CONFIG_ENABLED | CONFIG_ANYWHERE);
    assert!(node.current.rows(map::DENY4).is_empty() && node.current.rows(map::DENY6).is_empty());
}
