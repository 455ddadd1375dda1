//! A node with three containers, its published ports, and everybody outside. Each packet is judged
//! ([`judge`](crate::judge)), and its way is: nobody gets a packet that is not for them.

mod events;
mod probe;
mod rules;

use std::collections::HashMap;

use warren_ebpf::{
    abi::{
        BACKEND_UP, Backend, BackendRef, Limit, ROUTE_DROP, Route, SERVICE_LIMITED, SERVICE_PACED,
        SERVICE_SEATED, Service, ServiceKey, TCP, UDP,
    },
    flow::{
        decide::Action,
        model::{Lru, Model},
    },
    maglev,
    packet::Tuple,
};

use crate::{family::Side, input::Setting};

/// The first uplink. The node has two more devices: a second uplink, and a tunnel without link headers.
const UPLINK: u32 = 2;
/// The second one.
const SECOND: u32 = 3;
/// The tunnel.
const TUNNEL: u32 = 4;

/// Backend ids of the containers.
const CONTAINERS: [u32; 3] = [1, 2, 3];

/// A container's device is this and its backend id.
const DEVICES: u32 = 100;

/// Published ports: address (the second uplink's only?), number, the port behind it, and containers.
const PUBLISHED: [(bool, u16, u16, &[u32]); 6] = [
    (false, 8080, 80, &[1, 2, 3]),
    (true, 8081, 80, &[1]),
    (false, FRIENDS, 80, &[1, 2]),
    (false, LIMITED, 80, &[2]),
    (false, 8084, 80, &[]),
    (false, 53, 53, &[1]),
];

/// Published for the first four clients and containers only.
const FRIENDS: u16 = 8082;
/// Published with limits.
const LIMITED: u16 = 8083;
/// The set of sources of [`FRIENDS`].
const SET: u32 = 1;

/// How much one client gets of [`LIMITED`].
const LIMIT: Limit = Limit {
    flow_spacing: 100_000_000,
    flow_burst: 2,
    packet_spacing: 10_000_000,
    packet_burst: 8,
    connections: 3,
};

/// The client that is denied.
const DENIED: u8 = 3;

/// A node and what has happened.
#[derive(Debug)]
pub struct World<A: Side> {
    model: Model<A>,
    /// What containers were shown, and what that had been before: protocol, container, what it saw.
    shown: HashMap<(u8, u32, Tuple<A>), Vec<Tuple<A>>>,
    /// What others were shown of what containers sent: protocol, what they saw; the container and what it sent.
    told: HashMap<(u8, Tuple<A>), Vec<Said<A>>>,
    /// Where first fragments went.
    pieces: HashMap<PieceOf<A>, (Action, u32, A, A)>,
    /// When a client's packets to [`LIMITED`] came through, of flows that began and of all.
    granted: HashMap<(u8, [u8; 8]), [Vec<u64>; 2]>,
    /// What containers got: who, and the frame.
    got: Vec<(u32, Vec<u8>)>,
    /// What went out: by which device, and the frame.
    left: Vec<(u32, Vec<u8>)>,
    /// The last frames, and where they came in.
    last: Vec<(From, Vec<u8>)>,
}

/// A container and what it sent.
type Said<A> = (u32, Tuple<A>);

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum From {
    /// A device of the node.
    Device(u32),
    /// A container.
    Container(u32),
}

/// What the fragments of a packet have in common: where they come from, if from a container; addresses, number
/// and for IPv4 the protocol.
type PieceOf<A> = (Option<u32>, A, A, u32, u8);

impl<A: Side> World<A> {
    /// A node to which nothing has happened.
    #[must_use]
    pub fn new(setting: Setting) -> Self {
        let mut model = Model::new(256, 256);
        if setting.small {
            // Tables so small that records are evicted all the time.
            (model.flow_new, model.fwd_new) = (Lru::new(4), Lru::new(3));
            (model.flow_est, model.fwd_est) = (Lru::new(4), Lru::new(3));
            (model.masq_ret, model.masq_out) = (Lru::new(4), Lru::new(3));
            model.pieces = Lru::new(3);
        }
        if setting.few_ports {
            model.config.masquerade_last = model.config.masquerade_first + 3;
        }
        model.locals = [A::node(), A::lan()].into();
        for id in CONTAINERS {
            let (address, ifindex) = (A::container(id), DEVICES + id);
            model.backends.insert(id, Backend { generation: 1, ifindex, state: BACKEND_UP, ..A::row(id) });
            let tenant = BackendRef { id, generation: 1 };
            model.links.insert(ifindex, tenant);
            if address != A::ZERO {
                model.endpoints.insert(address, tenant);
            }
        }
        let way = |ifindex, source| Route { ifindex, source, flags: 0, mtu: 1500 };
        model.routes.push((A::ZERO, 0, way(UPLINK, A::node())));
        model.routes.push((A::beyond().0, A::beyond().1, way(SECOND, A::lan())));
        model.routes.push((A::nowhere().0, A::nowhere().1, way(TUNNEL, A::ZERO)));
        model.routes.push((A::pool().0, A::pool().1, Route { flags: ROUTE_DROP, ..Route::default() }));
        model.sources.push((SET, A::friends().0, A::friends().1));
        model.sources.push((SET, A::pool().0, A::pool().1));
        model.denied.push((A::client(DENIED), 8 * A::ZERO.as_ref().len() as u32));
        // A socket of the node is connected to one of the ports of a client.
        model.expected.push(Tuple {
            source: A::client(1),
            destination: A::node(),
            source_port: 1001,
            destination_port: 8080,
        });
        model.limits.insert(u32::from(LIMITED), LIMIT);
        for (second, port, target, containers) in PUBLISHED {
            for protocol in [TCP, UDP] {
                let address = if second { A::lan() } else { A::ZERO };
                let service = service(&mut model, port, target, containers);
                model.services.insert(ServiceKey { address, port, protocol, pad: 0 }, service);
            }
        }
        model.sum_up(A::pool());
        Self {
            model,
            shown: HashMap::new(),
            told: HashMap::new(),
            pieces: HashMap::new(),
            granted: HashMap::new(),
            got: Vec::new(),
            left: Vec::new(),
            last: Vec::new(),
        }
    }
}

/// A published port's row.
fn service<A: Side>(model: &mut Model<A>, port: u16, target: u16, containers: &[u32]) -> Service {
    let refs: Vec<_> = containers.iter().map(|id| BackendRef { id: *id, generation: 1 }).collect();
    let mut service = Service { id: u32::from(port), target, ..Service::default() };
    match refs[..] {
        [] => {}
        [one] => service.single = one,
        _ => {
            service.table_size = maglev::table_size(refs.len());
            service.table = model.maglev.len() as u32;
            model.maglev.extend(maglev::build(&refs, service.table_size));
        }
    }
    match port {
        FRIENDS => service.sources = SET,
        LIMITED => service.flags = SERVICE_LIMITED | SERVICE_PACED | SERVICE_SEATED,
        _ => {}
    }
    service
}
