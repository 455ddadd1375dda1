//! The order in which the programs ask their questions, as functions from a packet to a
//! [`Verdict`]. The same for both families; only the reading of packets is IPv4's.

use super::{
    Delivery, Present, Resolved, Seen, Tables, masquerade,
    published::{self, Admission},
    resolve,
};
use crate::{
    abi::{
        Address, BackendRef, CONFIG_ENABLED, FLOW_FROM_CONTAINER, ROUTE_DROP, ROUTE_PLAIN, Reason, Route,
        Service, ServiceKey, SourceKey, TCP, UDP,
    },
    packet::{self, Ip, Packet, Tuple},
};

/// An IPv4 address.
pub type V4 = [u8; 4];

/// What the agent told the programs about the node.
pub trait Node<A: Address = V4>: Tables<A> {
    /// `SVC4`.
    fn service(&self, key: &ServiceKey<A>) -> Option<Service>;
    /// Whether `SRC4` has it.
    fn is_source(&self, key: &SourceKey<A>) -> bool;
    /// Whether it is in `LOCAL4`.
    fn is_local(&self, address: &A) -> bool;
    /// `EP4`; all zero when it is no container's.
    fn endpoint(&self, address: &A) -> BackendRef;
    /// `LINK`; all zero when it is no container's.
    fn link(&self, ifindex: u32) -> BackendRef;
    /// `ROUTE4`, longest prefix.
    fn route(&self, address: &A) -> Option<Route<A>>;
    /// Whether a UDP socket of the node is connected to the sender of this packet: it waits for it.
    fn expects(&self, packet: &Tuple<A>) -> bool;
}

/// Flows that clients outside begin, of a set of sources.
struct FromOutside<'a, N>(&'a N, u32);

impl<N> FromOutside<'_, N> {
    /// Whether it is about the node's published ports at all.
    #[inline(always)]
    fn concerns<A: Address>(&self, seen: &Seen<A>) -> bool
    where
        N: Node<A>,
    {
        // A packet that shows one of the node's own addresses as its source came a wrong way; the
        // kernel knows what to do with it.
        self.0.is_local(&seen.tuple.destination)
            && !self.0.is_local(&seen.tuple.source)
            && !(seen.protocol == UDP && self.0.expects(&seen.tuple))
    }
}

impl<A: Address, N: Node<A>> Admission<A> for FromOutside<'_, N> {
    #[inline(always)]
    fn admits(&self, seen: &Seen<A>) -> bool {
        self.concerns(seen) && answers(self.0, self.1, seen)
    }
}

/// Flows that containers of a set of sources begin, to an address of the node or to each other.
struct FromContainer<'a, N>(&'a N, u32);

impl<N> FromContainer<'_, N> {
    /// As [`FromOutside::concerns`].
    #[inline(always)]
    fn concerns<A: Address>(&self, seen: &Seen<A>) -> bool
    where
        N: Node<A>,
    {
        !(seen.protocol == UDP && self.0.expects(&seen.tuple))
    }
}

impl<A: Address, N: Node<A>> Admission<A> for FromContainer<'_, N> {
    #[inline(always)]
    fn admits(&self, seen: &Seen<A>) -> bool {
        self.concerns(seen) && answers(self.0, self.1, seen)
    }
}

/// Whether a port that was published for `set` answers the sender of a new flow's first packet.
#[inline(always)]
fn answers<A: Address, N: Node<A>>(node: &N, set: u32, seen: &Seen<A>) -> bool {
    set == 0 || node.is_source(&SourceKey { set, address: seen.tuple.source })
}

/// What to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Not ours: leave it as it is.
    Pass,
    /// Drop and count it.
    Drop,
    /// Translate it and hand it to the container whose veth has `ifindex` on the node's side.
    Container,
    /// Translate it and send it out of device `ifindex`, to the next hop of the kernel's routes.
    Device,
}

/// What to do with a packet, and how. Flat, every field always set: see [`resolve`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<A = V4> {
    /// What.
    pub action: Action,
    /// Why it is dropped; meaningless otherwise.
    pub reason: Reason,
    /// Where it is sent, else 0.
    pub ifindex: u32,
    /// What it shows.
    pub from: Tuple<A>,
    /// What it must show.
    pub to: Tuple<A>,
}

impl<A: Address> Verdict<A> {
    /// Leave it as it is.
    pub const PASS: Self = Self {
        action: Action::Pass,
        reason: Reason::Spoofed,
        ifindex: 0,
        from: Tuple { source: A::ZERO, destination: A::ZERO, source_port: 0, destination_port: 0 },
        to: Tuple { source: A::ZERO, destination: A::ZERO, source_port: 0, destination_port: 0 },
    };

    /// Drop it.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: Reason) -> Self {
        Self { action: Action::Drop, reason, ..Self::PASS }
    }

    #[inline(always)]
    fn send(action: Action, ifindex: u32, seen: &Seen<A>, to: Tuple<A>) -> Self {
        Self { action, reason: Reason::Spoofed, ifindex, from: seen.tuple, to }
    }

    /// Into a container, if there is a way; else the node's own stack has it.
    #[inline(always)]
    fn deliver(seen: &Seen<A>, delivery: &Delivery<A>) -> Self {
        if delivery.exists() {
            Self::send(Action::Container, delivery.ifindex, seen, delivery.tuple)
        } else {
            Self::PASS
        }
    }
}

/// A packet that came in by a device of the node. `offset` is where its IPv4 header starts.
/// Returns the header too; all zero when it was not understood (only with `Pass` and `Drop`).
#[inline(always)]
pub fn node_in<N: Node, P: Packet>(
    node: &N,
    present: &Present<'_>,
    packet: &P,
    offset: u32,
    ifindex: u32,
) -> (Verdict, Ip<V4>) {
    if present.config.flags & CONFIG_ENABLED == 0 {
        return (Verdict::PASS, Ip::default());
    }
    let Some(ip) = packet::ipv4(packet, offset) else { return (Verdict::PASS, Ip::default()) };
    let verdict = match packet::transport(packet, &ip) {
        Some(segment) => inbound(node, present, &Seen::new(&ip, &segment, ifindex)),
        None => Verdict::PASS,
    };
    (unless_unpublished(node, &ip, verdict), ip)
}

/// What is made of a packet from outside that was read; then comes [`unless_unpublished`], for those
/// without ports too. (One function of both would be handed an `Option`, see [`resolve`].)
#[inline(always)]
pub fn inbound<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, seen: &Seen<A>) -> Verdict<A> {
    if masquerade::concerns(present, seen) {
        let answer = masquerade::inbound(node, present, seen);
        if answer.exists() {
            return Verdict::deliver(seen, &answer);
        }
    }
    if !is_tracked(seen.protocol) {
        return Verdict::PASS;
    }
    let Some(service) = service_at(node, &seen.tuple.destination, seen.tuple.destination_port, seen.protocol)
    else {
        return Verdict::PASS;
    };
    let nobody = BackendRef::default();
    let clients = FromOutside(node, service.sources);
    let delivery = published::forward(node, present, &service, seen, nobody, &clients);
    if !delivery.exists() && is_refused(node, &service, seen) && clients.concerns(seen) {
        return Verdict::drop(Reason::Refused);
    }
    // It shows what one container sends to another by its own address.
    if delivery.tuple.destination == seen.tuple.destination {
        return Verdict::PASS;
    }
    Verdict::deliver(seen, &delivery)
}

/// Whether flows of this protocol are recorded.
#[inline(always)]
fn is_tracked(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP)
}

/// The verdict, unless it leaves to the node's stack what is addressed to a container.
#[inline(always)]
pub fn unless_unpublished<A: Address, N: Node<A>>(node: &N, ip: &Ip<A>, verdict: Verdict<A>) -> Verdict<A> {
    // Last, so that it costs what is ours nothing. Answers to what containers send are addressed to
    // the node; a host that forwards would let everybody else in.
    if verdict.action == Action::Pass && node.endpoint(&ip.destination).id != 0 {
        return Verdict::drop(Reason::Unpublished);
    }
    verdict
}

/// A packet that a container sent, seen on the node's side of its veth.
#[inline(always)]
pub fn veth_in<N: Node, P: Packet>(
    node: &N,
    present: &Present<'_>,
    packet: &P,
    offset: u32,
    ifindex: u32,
) -> (Verdict, Ip<V4>) {
    if present.config.flags & CONFIG_ENABLED == 0 {
        return (Verdict::PASS, Ip::default());
    }
    let Some(ip) = packet::ipv4(packet, offset) else {
        return (Verdict::drop(Reason::Malformed), Ip::default());
    };
    let owner = sender(node, &ip, ifindex);
    if !owner.exists() {
        return (Verdict::drop(Reason::Spoofed), ip);
    }
    let Some(segment) = packet::transport(packet, &ip) else { return (unreadable(node, &ip), ip) };
    (outbound(node, present, &Seen::new(&ip, &segment, ifindex), owner.backend), ip)
}

/// The container behind a device, if it sends under its own address; else nobody.
#[inline(always)]
pub fn sender<A: Address, N: Node<A>>(node: &N, ip: &Ip<A>, ifindex: u32) -> Resolved<A> {
    let owner = resolve(node, node.link(ifindex));
    if owner.address == ip.source { owner } else { Resolved::default() }
}

/// What is made of a packet of container `owner` that was read.
#[inline(always)]
pub fn outbound<A: Address, N: Node<A>>(
    node: &N,
    present: &Present<'_>,
    seen: &Seen<A>,
    owner: BackendRef,
) -> Verdict<A> {
    if is_tracked(seen.protocol) {
        let reply = published::reply(node, present, seen, owner);
        if reply.exists() {
            if reply.flags & FLOW_FROM_CONTAINER == 0 {
                return Verdict::send(Action::Device, reply.ifindex, seen, reply.tuple);
            }
            // By address, not by the device it came in by: device numbers are reused.
            let client = resolve::<A>(node, node.endpoint(&reply.tuple.destination));
            if !client.exists() {
                return Verdict::drop(Reason::NoRoute);
            }
            return Verdict::send(Action::Container, client.ifindex, seen, reply.tuple);
        }
    }
    let destination = seen.tuple.destination;
    if node.is_local(&destination) {
        if !is_tracked(seen.protocol) {
            return Verdict::PASS;
        }
        let service = service_at(node, &destination, seen.tuple.destination_port, seen.protocol);
        let Some(service) = service else { return Verdict::PASS };
        let clients = FromContainer(node, service.sources);
        let delivery = published::forward(node, present, &service, seen, owner, &clients);
        if !delivery.exists() && is_refused(node, &service, seen) && clients.concerns(seen) {
            return Verdict::drop(Reason::Refused);
        }
        return Verdict::deliver(seen, &delivery);
    }
    let neighbour = node.endpoint(&destination);
    if neighbour.id != 0 {
        return beside(node, present, seen, owner, neighbour);
    }
    if destination.undeliverable() {
        return Verdict::drop(Reason::Multicast);
    }
    let Some(route) = node.route(&destination) else { return Verdict::drop(Reason::NoRoute) };
    if route.flags & ROUTE_DROP != 0 {
        return Verdict::drop(Reason::NoRoute);
    }
    if route.flags & ROUTE_PLAIN != 0 {
        return Verdict::send(Action::Device, route.ifindex, seen, seen.tuple);
    }
    if route.source == A::ZERO {
        return Verdict::drop(Reason::NoRoute);
    }
    // An echo reply has no source "port": somebody pinged the container, which nobody outside can.
    if seen.protocol == A::ICMP && seen.tuple.destination_port != 0 {
        return Verdict::drop(Reason::NotMasqueraded);
    }
    let shown = masquerade::outbound(node, present, seen, owner, route.source);
    match shown.refused {
        Some(reason) => Verdict::drop(reason),
        None => Verdict::send(Action::Device, route.ifindex, seen, shown.tuple),
    }
}

/// From a container to another one of this node, by its own address. TCP and UDP are tracked as if
/// that address were published: the other container's replies must not be taken for those of a flow of
/// the same client port that came through a published port.
#[inline(always)]
fn beside<A: Address, N: Node<A>>(
    node: &N,
    present: &Present<'_>,
    seen: &Seen<A>,
    owner: BackendRef,
    neighbour: BackendRef,
) -> Verdict<A> {
    let neighbour = resolve::<A>(node, neighbour);
    if !neighbour.exists() {
        return Verdict::drop(Reason::NoRoute);
    }
    let direct = Delivery { tuple: seen.tuple, ifindex: neighbour.ifindex };
    if !is_tracked(seen.protocol) {
        return Verdict::deliver(seen, &direct);
    }
    let service =
        Service { single: neighbour.backend, target: seen.tuple.destination_port, ..Service::default() };
    let tracked = published::forward(node, present, &service, seen, owner, &FromContainer(node, 0));
    Verdict::deliver(seen, if tracked.exists() { &tracked } else { &direct })
}

/// What happens to a packet of a container without ports that we know: the node may have it,
/// nobody else.
#[inline(always)]
fn unreadable<A: Address, N: Node<A>>(node: &N, ip: &Ip<A>) -> Verdict<A> {
    if node.is_local(&ip.destination) {
        Verdict::PASS
    } else if ip.destination.undeliverable() {
        Verdict::drop(Reason::Multicast)
    } else if ip.fragment {
        Verdict::drop(Reason::Fragment)
    } else if matches!(ip.protocol, TCP | UDP) {
        Verdict::drop(Reason::Malformed)
    } else {
        Verdict::drop(Reason::NotMasqueraded)
    }
}

/// Whether what led nowhere would have begun a flow with a port that was published for others.
/// Silence is the answer, as of a firewall: who scans a network learns nothing of what is there for
/// others.
#[inline(always)]
fn is_refused<A: Address, N: Node<A>>(node: &N, service: &Service, seen: &Seen<A>) -> bool {
    seen.begins() && !answers(node, service.sources, seen)
}

/// The service published at an address and port of the node; the exact address comes first.
#[inline(always)]
pub fn service_at<A: Address, N: Node<A>>(node: &N, address: &A, port: u16, protocol: u8) -> Option<Service> {
    let mut key = ServiceKey { address: *address, port, protocol, pad: 0 };
    match node.service(&key) {
        None => {
            key.address = A::ZERO;
            node.service(&key)
        }
        exact => exact,
    }
}
