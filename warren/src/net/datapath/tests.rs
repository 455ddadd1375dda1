//! Deciding, comparing and writing together, against maps that are only memory.

mod limits;
mod ports;
mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use ipnet::IpNet;
use warren_ebpf::abi::{
    BACKEND_DRAINING, BACKEND_EMPTY, BACKEND_UP, Backend, BackendRef, ROUTE_DROP, Route, SOURCES_NOBODY,
    Service, ServiceKey, TCP, map,
};

use proptest::prelude::*;

use super::{
    super::netlink::host::Host,
    apply::apply,
    contents::{ARRAYS, Contents, Maps, Rows, WRITTEN, read, read_known},
    desired::{Attached, Plan, Serving, Settings, View, plan, prefix_key},
    diff::{Change, diff},
    sources::of_set,
    sys::from_bytes,
};
use crate::model::{
    Assignment, Attachment, NodeId, NodeSubnet, PublishDefault, ServiceEndpoint, ServiceId, TaskId,
};

#[derive(Default)]
struct Memory(BTreeMap<String, Rows>);

impl Maps for Memory {
    fn dump(&self, map: &str) -> io::Result<Rows> {
        let mut rows = self.0.get(map).cloned().unwrap_or_default();
        if ARRAYS.contains(&map) {
            rows.retain(|_, v| v.iter().any(|b| *b != 0));
        }
        Ok(rows)
    }

    fn get(&self, map: &str, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.get(map).and_then(|rows| rows.get(key)).cloned())
    }

    fn set(&mut self, map: &str, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.0.entry(map.into()).or_default().insert(key.into(), value.into());
        Ok(())
    }

    fn delete(&mut self, map: &str, key: &[u8]) -> io::Result<()> {
        assert!(!ARRAYS.contains(&map), "rows of arrays cannot be deleted");
        self.0.entry(map.into()).or_default().remove(key);
        Ok(())
    }
}

struct Node {
    settings: Settings,
    host: Host,
    attached: BTreeMap<TaskId, Attached>,
    denied: BTreeSet<IpNet>,
    assignment: Option<Assignment>,
    retired: Vec<Range<u32>>,
    maps: Memory,
    current: Contents,
}

fn attachment(n: u8, generation: u32) -> Attachment {
    Attachment {
        address: Ipv4Addr::new(10, 86, 0, n),
        address6: Ipv6Addr::new(0xfd00, 0x86, 0, 0, 0, 0, 0, n.into()),
        backend: n.into(),
        generation,
    }
}

fn task(n: u8) -> TaskId {
    TaskId::from_random(n.into())
}

impl Node {
    fn new() -> Self {
        let node = NodeId::from_random(1);
        Self {
            settings: Settings {
                node,
                cookie: 7,
                interfaces: vec![],
                publish_default: PublishDefault::Any,
                pools: vec!["10.86.0.0/16".parse().unwrap(), "fd00:86::/48".parse().unwrap()],
            },
            host: Host::default(),
            attached: BTreeMap::new(),
            denied: BTreeSet::new(),
            assignment: None,
            retired: Vec::new(),
            maps: Memory::default(),
            current: Contents::default(),
        }
    }

    fn attach(&mut self, n: u8, serving: Serving) {
        let a = Attached { attachment: attachment(n, 1), ifindex: 100 + u32::from(n), ipv6: true, serving };
        self.attached.insert(task(n), a);
    }

    /// One service with this many backends (tasks 1 to `n`).
    fn assign(&mut self, n: u8) {
        let node = self.settings.node;
        self.assignment = Some(Assignment {
            generation: 1,
            node,
            subnet: Some(NodeSubnet {
                v4: "10.86.0.0/24".parse().unwrap(),
                v6: "fd00::/64".parse().unwrap(),
            }),
            tasks: vec![],
            ended: vec![],
            services: vec![ServiceEndpoint {
                id: ServiceId::from_random(5),
                name: "web".into(),
                datapath_id: 9,
                ports: vec!["8080:80".parse().unwrap(), "127.0.0.1:9090:90".parse().unwrap()],
                limits: Default::default(),
                backends: (1..=n).map(|i| (task(i), node, attachment(i, 1))).collect(),
            }],
        });
    }

    fn plan(&self) -> Plan {
        plan(&View {
            settings: &self.settings,
            host: &self.host,
            attached: &self.attached,
            denied: &self.denied,
            assignment: self.assignment.as_ref(),
            current: &self.current,
            retired: &self.retired,
        })
    }

    /// A pass; returns what was written and checks that a second one writes nothing.
    fn pass(&mut self) -> Vec<Change> {
        let Plan { desired, retire } = self.plan();
        let changes = diff(&self.current, &desired);
        apply(&mut self.maps, &mut self.current, &changes).unwrap();
        for m in WRITTEN {
            assert_eq!(*self.current.rows(m), self.maps.dump(m).unwrap(), "{m}: what we know is what is");
        }
        self.retired.extend(retire);
        assert_eq!(diff(&self.current, &self.plan().desired), [], "a second pass writes nothing");
        changes
    }

    fn service(&self, port: u16, address: [u8; 4]) -> Option<Service> {
        self.current.get(map::SVC4, &ServiceKey { address, port, protocol: TCP, pad: 0 })
    }

    fn table(&self, s: &Service) -> Vec<BackendRef> {
        (s.table..s.table + s.table_size)
            .map(|r| self.current.get(map::MAGLEV, &r).unwrap_or_default())
            .collect()
    }
}

#[test]
fn one_backend_needs_no_table_and_several_share_one() {
    let mut node = Node::new();
    node.assign(2);
    node.attach(1, Serving::Open);
    node.pass();
    let one = node.service(8080, [0; 4]).unwrap();
    assert_eq!((one.single.id, one.table_size, one.target, one.id), (1, 0, 80, 9));
    assert_eq!(node.service(9090, [127, 0, 0, 1]).unwrap().target, 90);

    node.attach(2, Serving::Open);
    node.pass();
    let two = node.service(8080, [0; 4]).unwrap();
    assert_eq!(two.generation, one.generation + 1);
    let table = node.table(&two);
    assert_eq!(table.len(), 251);
    assert!((1..=2).all(|id| table.iter().any(|b| b.id == id)));
    assert_eq!(node.service(9090, [127, 0, 0, 1]).unwrap().table, two.table, "one table for all ports");
}

#[test]
fn a_changed_table_is_written_elsewhere_before_the_service_points_to_it() {
    let mut node = Node::new();
    node.assign(3);
    (1..=3).for_each(|n| node.attach(n, Serving::Open));
    node.pass();
    let before = node.service(8080, [0; 4]).unwrap();
    let rows = node.table(&before);

    node.attach(3, Serving::Draining);
    let changes = node.pass();
    let after = node.service(8080, [0; 4]).unwrap();
    assert!(
        after.table >= before.table + before.table_size || after.table + after.table_size <= before.table
    );
    assert_eq!(node.table(&before), rows, "readers may still be in the old rows");
    assert!(node.table(&after).iter().all(|b| b.id != 3), "no new connections for one that drains");
    let position = |f: &dyn Fn(&Change) -> bool| changes.iter().position(f).unwrap();
    let last_row = changes.len()
        - 1
        - changes
            .iter()
            .rev()
            .position(|c| matches!(c, Change::Set { map, .. } if *map == map::MAGLEV))
            .unwrap();
    assert!(last_row < position(&|c| matches!(c, Change::Set { map, .. } if *map == map::SVC4)));

    node.retired.clear();
    node.pass();
    assert!(node.table(&before).iter().all(|b| b.id == 0), "after a while they are zeroed");
}

#[test]
fn draining_backends_serve_when_no_other_is_there() {
    let mut node = Node::new();
    node.assign(2);
    node.attach(1, Serving::Draining);
    node.attach(2, Serving::Closed);
    node.pass();
    assert_eq!(node.service(8080, [0; 4]).unwrap().single.id, 1);
    node.attach(2, Serving::Open);
    node.pass();
    assert_eq!(node.service(8080, [0; 4]).unwrap().single.id, 2);
    let row: Backend = node.current.get(map::BACKEND, &1u32).unwrap();
    assert_eq!(row.state, BACKEND_DRAINING);
}

#[test]
fn a_row_is_nobodys_while_it_changes_hands() {
    let mut node = Node::new();
    node.attach(1, Serving::Open);
    node.pass();
    let a = node.attached.get_mut(&task(1)).unwrap();
    a.attachment.generation = 2;
    a.ifindex = 200;
    let steps: Vec<Backend> = node
        .pass()
        .into_iter()
        .filter_map(|c| match c {
            Change::Set { map: map::BACKEND, value, .. } => from_bytes(&value),
            _ => None,
        })
        .collect();
    let seen: Vec<(u32, u8)> = steps.iter().map(|b| (b.generation, b.state)).collect();
    assert_eq!(seen, [(1, BACKEND_EMPTY), (2, BACKEND_EMPTY), (2, BACKEND_UP)]);
}

#[test]
fn nothing_is_left_of_a_container_that_goes() {
    let mut node = Node::new();
    node.assign(2);
    (1..=2).for_each(|n| node.attach(n, Serving::Open));
    node.pass();
    node.attached.clear();
    node.assignment.as_mut().unwrap().services.clear();
    node.pass();
    node.retired.clear();
    node.pass();
    for m in
        [map::SVC4, map::SVC6, map::SRC4, map::SRC6, map::BACKEND, map::MAGLEV, map::EP4, map::EP6, map::LINK]
    {
        assert!(node.current.rows(m).is_empty(), "{m} is not empty");
    }
}

#[test]
fn reading_the_known_rows_again_shows_whatever_a_program_may_come_to() {
    let mut node = Node::new();
    node.assign(2);
    (1..=2).for_each(|n| node.attach(n, Serving::Open));
    node.pass();
    let same = |node: &Node, found: Contents| WRITTEN.iter().all(|m| found.rows(m) == node.current.rows(m));
    assert!(same(&node, read_known(&node.maps, &node.current).unwrap()));
    assert!(same(&node, read(&node.maps).unwrap()));
    for m in WRITTEN {
        for key in node.current.rows(m).keys() {
            let old = node.maps.0[m][key].clone();
            node.maps.0.get_mut(m).unwrap().insert(key.clone(), vec![0; old.len()]);
            assert!(!same(&node, read_known(&node.maps, &node.current).unwrap()), "{m}");
            node.maps.0.get_mut(m).unwrap().insert(key.clone(), old);
        }
    }
    // A row that nothing refers to: seen by the whole reading.
    node.maps.set(map::BACKEND, &9999u32.to_ne_bytes(), &[1; 4]).unwrap();
    assert!(same(&node, read_known(&node.maps, &node.current).unwrap()));
    assert!(!same(&node, read(&node.maps).unwrap()));
}

#[test]
fn without_an_assignment_published_ports_stay_as_they_are() {
    let mut node = Node::new();
    node.assign(2);
    (1..=2).for_each(|n| node.attach(n, Serving::Open));
    node.pass();
    let before = node.service(8080, [0; 4]);
    node.assignment = None;
    node.pass();
    assert!(before.is_some());
    assert_eq!(node.service(8080, [0; 4]), before);
}

#[test]
fn sources_are_there_before_the_port_and_a_changed_set_is_another_one() {
    let mut node = Node::new();
    node.assign(1);
    node.attach(1, Serving::Open);
    let publish = |node: &mut Node, ports: &[&str]| {
        let service = &mut node.assignment.as_mut().unwrap().services[0];
        service.ports = ports.iter().map(|p| p.parse().unwrap()).collect();
    };
    let set = |node: &Node, port| node.service(port, [0; 4]).unwrap().sources;
    let from = |port: u16, nets: &str| format!("published={port},target=80,from={nets}");
    publish(&mut node, &[&from(80, "10.0.0.0/8"), &from(81, "10.0.0.0/8"), "82:80"]);
    node.pass();
    let first = set(&node, 80);
    assert_eq!((set(&node, 81), set(&node, 82)), (first, 0));
    assert_ne!(first, 0);
    assert_eq!(of_set(map::SRC4, &node.current, first), ["10.0.0.0/8".parse().unwrap()]);

    publish(&mut node, &[&from(80, "10.0.0.0/8,192.0.2.1"), &from(81, "10.0.0.0/8"), &from(82, "fd00::/8")]);
    let changes = node.pass();
    assert_ne!(set(&node, 80), first);
    assert_eq!((set(&node, 81), set(&node, 82)), (first, SOURCES_NOBODY));
    let of = |m: &str| changes.iter().filter(|c| matches!(c, Change::Set { map, .. } if *map == m)).count();
    assert_eq!((of(map::SRC4), of(map::SVC4)), (2, 2), "{changes:?}");
    let first_port = changes.iter().position(|c| matches!(c, Change::Set { map: map::SVC4, .. })).unwrap();
    assert!(changes[first_port..].iter().all(|c| !matches!(c, Change::Set { map: map::SRC4, .. })));

    // Gone only after nobody refers to it.
    publish(&mut node, &[&from(80, "10.0.0.0/8,192.0.2.1"), "81:80"]);
    let changes = node.pass();
    let at = |f: &dyn Fn(&Change) -> bool| changes.iter().position(f).unwrap();
    let freed = at(&|c| matches!(c, Change::Delete { map: map::SRC4, .. }));
    assert!(at(&|c| matches!(c, Change::Set { map: map::SVC4, .. })) < freed);
    assert!(of_set(map::SRC4, &node.current, first).is_empty());

    // The node's default, which follows its devices; until it hears anything all stays as it is.
    node.settings.publish_default = PublishDefault::None;
    node.pass();
    assert_eq!(set(&node, 81), SOURCES_NOBODY);
    node.settings.publish_default = PublishDefault::Lan;
    node.pass();
    assert!(of_set(map::SRC4, &node.current, set(&node, 81)).contains(&"192.168.0.0/16".parse().unwrap()));
    let before = node.current.rows(map::SRC4).clone();
    node.assignment = None;
    node.pass();
    assert_eq!(*node.current.rows(map::SRC4), before);
}

#[test]
fn addresses_of_the_pool_do_not_leave_the_node() {
    let mut node = Node::new();
    node.pass();
    let route: Route<[u8; 4]> = node.current.get(map::ROUTE4, &prefix_key::<8>(16, &[10, 86, 0, 0])).unwrap();
    assert_eq!(route.flags, ROUTE_DROP);
    let pool6: [u8; 16] = "fd00:86::".parse::<Ipv6Addr>().unwrap().octets();
    let route: Route<[u8; 16]> = node.current.get(map::ROUTE6, &prefix_key::<20>(48, &pool6)).unwrap();
    assert_eq!(route.flags, ROUTE_DROP);
}

#[test]
fn a_port_is_published_on_both_families_or_where_its_address_is() {
    let mut node = Node::new();
    node.assign(1);
    let ports = ["8080:80", "127.0.0.1:9090:90"].map(|p| p.parse::<crate::model::PortSpec>().unwrap());
    let of_ipv6 = crate::model::PortSpec { host_ip: Some(Ipv6Addr::LOCALHOST.into()), ..ports[1].clone() };
    node.assignment.as_mut().unwrap().services[0].ports = ports.iter().cloned().chain([of_ipv6]).collect();
    node.attach(1, Serving::Open);
    node.pass();
    let service6 = |node: &Node, port: u16, address: Ipv6Addr| -> Option<Service> {
        let key = ServiceKey { address: address.octets(), port, protocol: TCP, pad: 0 };
        node.current.get(map::SVC6, &key)
    };
    assert_eq!(service6(&node, 8080, Ipv6Addr::UNSPECIFIED), node.service(8080, [0; 4]));
    assert_eq!(service6(&node, 9090, Ipv6Addr::LOCALHOST).unwrap().target, 90);
    assert_eq!(node.current.rows(map::SVC4).len(), 2);
    assert_eq!(node.current.rows(map::SVC6).len(), 2);
}

#[test]
fn a_container_without_ipv6_has_no_address_of_it() {
    let mut node = Node::new();
    node.attach(1, Serving::Open);
    node.attached.get_mut(&task(1)).unwrap().ipv6 = false;
    node.pass();
    let row: Backend = node.current.get(map::BACKEND, &1u32).unwrap();
    assert_eq!((row.address, row.address6, row.state), ([10, 86, 0, 1], [0; 16], BACKEND_UP));
    assert!(node.current.rows(map::EP6).is_empty());
}

/// A table that only IPv6 uses is as safe from being written over.
#[test]
fn tables_of_ports_on_ipv6_only_are_not_written_over() {
    let mut node = Node::new();
    node.assign(2);
    let port = &mut node.assignment.as_mut().unwrap().services[0].ports;
    port.truncate(1);
    port[0].host_ip = Some(Ipv6Addr::UNSPECIFIED.into());
    (1..=2).for_each(|n| node.attach(n, Serving::Open));
    node.pass();
    let key = ServiceKey { address: [0u8; 16], port: 8080, protocol: TCP, pad: 0 };
    let before: Service = node.current.get(map::SVC6, &key).unwrap();
    let other = ServiceEndpoint {
        datapath_id: 1,
        ports: vec!["80:80".parse().unwrap()],
        ..node.assignment.as_ref().unwrap().services[0].clone()
    };
    node.assignment.as_mut().unwrap().services.push(other);
    node.pass();
    let beside = node.service(80, [0; 4]).unwrap();
    assert!(beside.table >= before.table + before.table_size, "{beside:?} lies in {before:?}");
    assert_eq!(node.current.get::<_, Service>(map::SVC6, &key), Some(before));
}

#[test]
fn states_not_said_yet_are_those_of_the_assignment() {
    let mut node = Node::new();
    node.assign(1);
    node.attach(1, Serving::Unknown);
    node.pass();
    assert_eq!(node.service(8080, [0; 4]).unwrap().single.id, 0, "a task nothing is known of is not served");
}

/// What may happen to a node with four containers and two services.
#[derive(Debug, Clone)]
enum Happening {
    Attach(u8, bool),
    Drain(u8),
    Detach(u8),
    Assign(Vec<Vec<u8>>),
    TimePasses,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1u8..=4, prop::bool::weighted(0.8)).prop_map(|(n, open)| Happening::Attach(n, open)),
        1 => (1u8..=4).prop_map(Happening::Drain),
        1 => (1u8..=4).prop_map(Happening::Detach),
        2 => proptest::collection::vec(proptest::collection::vec(1u8..=4, 0..8), 0..3).prop_map(Happening::Assign),
        1 => Just(Happening::TimePasses),
    ]
}

/// The containers each service may lead to, by the service's number.
fn behind(node: &Node) -> BTreeMap<u32, Vec<u32>> {
    let services = node.assignment.iter().flat_map(|a| &a.services);
    services.map(|s| (s.datapath_id, s.backends.iter().map(|b| b.2.backend).collect())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, in whatever order: at no moment between two writes does a service lead to
    /// a container that was behind neither the old nor the new one, or to nobody although it says
    /// that it has a table; and who has read a service before the first write finds its table as
    /// it was until after the last.
    #[test]
    fn every_moment_is_true(happenings in proptest::collection::vec(happening(), 1..25)) {
        let mut node = Node::new();
        for h in happenings {
            let before = behind(&node);
            match h {
                Happening::Attach(n, true) => node.attach(n, Serving::Open),
                Happening::Attach(n, false) => node.attach(n, Serving::Closed),
                Happening::Drain(n) => {
                    if let Some(a) = node.attached.get_mut(&task(n)) {
                        a.serving = Serving::Draining;
                    }
                }
                Happening::Detach(n) => drop(node.attached.remove(&task(n))),
                Happening::Assign(services) => {
                    node.assign(0);
                    let id = node.settings.node;
                    let assignment = node.assignment.as_mut().unwrap();
                    let template = assignment.services.remove(0);
                    for (i, members) in (0u16..).zip(services) {
                        let members: BTreeSet<u8> = members.into_iter().collect();
                        let mut port = template.ports[0].clone();
                        port.published += i;
                        assignment.services.push(ServiceEndpoint {
                            datapath_id: u32::from(i) + 1,
                            ports: vec![port],
                            backends: members.into_iter().map(|n| (task(n), id, attachment(n, 1))).collect(),
                            ..template.clone()
                        });
                    }
                }
                Happening::TimePasses => node.retired.clear(),
            }
            let after = behind(&node);
            let mut at = node.current.clone();
            let read: Vec<Service> =
                at.iter::<ServiceKey<[u8; 4]>, Service>(map::SVC4).map(|(_, s)| s).collect();
            let tables: Vec<_> = read.iter().map(|s| node.table(s)).collect();
            let Plan { desired, .. } = node.plan();
            for change in diff(&node.current, &desired) {
                apply(&mut Memory::default(), &mut at, std::slice::from_ref(&change)).unwrap();
                // A write of a row matters to whoever has that row; all else to everyone.
                let written = match &change {
                    Change::Set { map: map::MAGLEV, key, .. } => from_bytes::<u32>(key),
                    _ => None,
                };
                let rows = |s: &Service| match written {
                    Some(row) => row.max(s.table)..(row + 1).min(s.table + s.table_size),
                    None => s.table..s.table + s.table_size,
                };
                for (s, table) in read.iter().zip(&tables) {
                    let now = rows(s).map(|r| at.get::<u32, BackendRef>(map::MAGLEV, &r).unwrap_or_default());
                    let table = rows(s).map(|r| table[(r - s.table) as usize]);
                    prop_assert!(now.eq(table), "the table of {:?} changed where it lay", s);
                }
                for (_, s) in at.iter::<ServiceKey<[u8; 4]>, Service>(map::SVC4) {
                    let mine = |id: u32| [&before, &after].iter().any(|m| m.get(&s.id).is_some_and(|b| b.contains(&id)));
                    prop_assert!(s.single.id == 0 || mine(s.single.id), "{:?}", s);
                    for row in rows(&s) {
                        let b: BackendRef = at.get(map::MAGLEV, &row).unwrap_or_default();
                        prop_assert!(mine(b.id), "row {} of {:?} leads to {:?} after {:?}", row, s, b, change);
                    }
                }
            }
            node.pass();
        }
    }
}
