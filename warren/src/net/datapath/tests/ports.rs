//! The short way comes to the same as the long one.

use std::collections::BTreeSet;

use proptest::{
    collection::{btree_set, vec},
    prelude::*,
};

use super::{super::ports, *};
use crate::model::PortSpec;

/// Ports that a service may publish; each of them is also tried on one address only, of either family.
const PORTS: Range<u16> = 8000..8012;

fn port(published: u16, shape: u8) -> PortSpec {
    let text = match shape {
        0 => format!("{published}:80"),
        1 => format!("{published}:81"),
        2 => format!("{published}:80/udp"),
        3 => format!("192.0.2.1:{published}:80"),
        4 => format!("[2001:db8::1]:{published}:80"),
        _ => format!("published={published},target=80,from=198.51.100.0/24"),
    };
    text.parse().unwrap()
}

/// Which ports two services publish: by number, so that none is published twice.
fn published() -> impl Strategy<Value = Vec<Vec<PortSpec>>> {
    vec((btree_set(PORTS, 0..6), vec(0..6u8, 6)), 2).prop_map(|services| {
        let mut taken = BTreeSet::new();
        services
            .into_iter()
            .map(|(numbers, shapes)| {
                let new: Vec<u16> = numbers.into_iter().filter(|n| taken.insert(*n)).collect();
                // What is on an address only is most often found among others that are not.
                new.into_iter().zip(shapes).map(|(n, s)| port(n, if s == 5 { 0 } else { s })).collect()
            })
            .collect()
    })
}

fn two_services(node: &mut Node) {
    node.attach(1, Serving::Open);
    node.attach(2, Serving::Open);
    node.assign(2);
    let services = &mut node.assignment.as_mut().unwrap().services;
    let first = services[0].clone();
    services.push(ServiceEndpoint {
        id: ServiceId::from_random(6),
        datapath_id: 10,
        ports: Vec::new(),
        ..first
    });
}

fn short(node: &Node, before: &Assignment) -> Option<Vec<Change>> {
    let view = View {
        settings: &node.settings,
        host: &node.host,
        attached: &node.attached,
        denied: &node.denied,
        assignment: node.assignment.as_ref(),
        current: &node.current,
        retired: &[],
    };
    ports::changes(&view, before)
}

/// Publishes that and compares both ways; whether the short one knew.
fn publish(node: &mut Node, services: &[Vec<PortSpec>]) -> bool {
    let before = node.assignment.clone().unwrap();
    for (service, ports) in node.assignment.as_mut().unwrap().services.iter_mut().zip(services) {
        service.ports = ports.clone();
    }
    let key = |c: &Change| match c {
        Change::Set { map, key, .. } => (0, *map, key.clone()),
        Change::Delete { map, key } => (1, *map, key.clone()),
    };
    let mut long = diff(&node.current, &node.plan().desired);
    let found = short(node, &before);
    let knew = found.is_some();
    if let Some(mut found) = found {
        long.sort_by_key(key);
        found.sort_by_key(key);
        assert_eq!(found, long);
    }
    node.pass();
    knew
}

#[test]
fn one_more_and_one_less_take_the_short_way() {
    let mut node = Node::new();
    two_services(&mut node);
    node.pass();
    let many: Vec<PortSpec> = PORTS.map(|p| port(p, 0)).collect();
    publish(&mut node, &[many.clone(), vec![port(9000, 0)]]);
    let mut more = many.clone();
    more.insert(5, port(9001, 2));
    assert!(publish(&mut node, &[more.clone(), vec![port(9000, 0)]]));
    more[7] = port(more[7].published, 1);
    assert!(publish(&mut node, &[more, vec![port(9000, 0)]]), "another target");
    assert!(publish(&mut node, &[many.clone(), vec![port(9000, 0)]]));
    // From one service to the other, in one go.
    assert!(publish(&mut node, &[many[1..].to_vec(), vec![port(9000, 0), many[0].clone()]]));
    assert_eq!(node.service(8000, [0; 4]).unwrap().id, 10);
}

#[test]
fn what_changes_more_than_ports_takes_the_long_way() {
    let mut node = Node::new();
    two_services(&mut node);
    node.pass();
    let some = [vec![port(8000, 0)], vec![port(9000, 0)]];
    assert!(!publish(&mut node, &some), "the first port of a service");
    assert!(!publish(&mut node, &[vec![port(8000, 0), port(8001, 5)], some[1].clone()]), "sources");
    assert!(!publish(&mut node, &some), "sources that go");
    assert!(!publish(&mut node, &[Vec::new(), some[1].clone()]), "the last port of a service");
    publish(&mut node, &some);
    let before = node.assignment.clone().unwrap();
    assert_eq!(short(&node, &before), Some(Vec::new()), "nothing changed");
    node.assignment.as_mut().unwrap().services[0].backends.pop();
    assert_eq!(short(&node, &before), None, "backends");
    node.assignment = Some(before.clone());
    node.attached.get_mut(&task(1)).unwrap().serving = Serving::Unknown;
    assert_eq!(short(&node, &before), None, "a task decides");
    node.attached.get_mut(&task(1)).unwrap().serving = Serving::Open;
    let hundred: Vec<PortSpec> = (8000..8100).map(|p| port(p, 0)).collect();
    assert!(!publish(&mut node, &[hundred, some[1].clone()]), "so many that all are looked at");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_short_way_writes_what_the_long_way_writes(steps in vec(published(), 1..12)) {
        let mut node = Node::new();
        two_services(&mut node);
        node.pass();
        for services in steps {
            publish(&mut node, &services);
        }
    }
}
