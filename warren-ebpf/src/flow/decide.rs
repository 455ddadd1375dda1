//! The order in which the programs ask their questions, as functions from a packet to a
//! [`Verdict`]. The same for both families: what differs is in [`Family`].

use super::{Delivery, Present, Resolved, Seen, Tables, masquerade, published, resolve};
use crate::{
    abi::{
        Address, BackendRef, CONFIG_ENABLED, FLOW_FROM_CONTAINER, ROUTE_DROP, ROUTE_PLAIN, Reason, Route,
        Service, ServiceKey, TCP, UDP,
    },
    packet::{self, Family, Ip, Packet, Tuple},
};

/// An IPv4 address.
pub type V4 = [u8; 4];
/// An IPv6 address.
pub type V6 = [u8; 16];

/// What the agent told the programs about the node.
pub trait Node<A: Address = V4>: Tables<A> {
    /// `SVC4`.
    fn service(&self, key: &ServiceKey<A>) -> Option<Service>;
    /// Whether it is in `LOCAL4`.
    fn is_local(&self, address: &A) -> bool;
    /// `EP4`; all zero when it is no container's.
    fn endpoint(&self, address: &A) -> BackendRef;
    /// `LINK`; all zero when it is no container's.
    fn link(&self, ifindex: u32) -> BackendRef;
    /// `ROUTE4`, longest prefix.
    fn route(&self, address: &A) -> Option<Route<A>>;

    // What takes most of the stack, so that a node can give each a frame of its own.

    /// [`published::forward`].
    #[inline(always)]
    fn forward(
        &self,
        present: &Present<'_>,
        service: &Service,
        seen: &Seen<A>,
        origin: BackendRef,
    ) -> Delivery<A>
    where
        Self: Sized,
    {
        published::forward(self, present, service, seen, origin)
    }

    /// [`published::reply`].
    #[inline(always)]
    fn reply(&self, present: &Present<'_>, seen: &Seen<A>, owner: BackendRef) -> published::Reply<A>
    where
        Self: Sized,
    {
        published::reply(self, present, seen, owner)
    }

    /// [`masquerade::outbound`].
    #[inline(always)]
    fn masquerade(
        &self,
        present: &Present<'_>,
        seen: &Seen<A>,
        owner: BackendRef,
        local: &A,
    ) -> masquerade::Masqueraded<A>
    where
        Self: Sized,
    {
        masquerade::outbound(self, present, seen, owner, *local)
    }

    /// [`masquerade::inbound`].
    #[inline(always)]
    fn answer(&self, present: &Present<'_>, seen: &Seen<A>) -> Delivery<A>
    where
        Self: Sized,
    {
        masquerade::inbound(self, present, seen)
    }
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
    /// What it must show.
    pub to: Tuple<A>,
}

impl<A: Address> Default for Verdict<A> {
    #[inline(always)]
    fn default() -> Self {
        Self::PASS
    }
}

impl<A: Address> Verdict<A> {
    /// Leave it as it is.
    pub const PASS: Self = Self {
        action: Action::Pass,
        reason: Reason::Spoofed,
        ifindex: 0,
        to: Tuple { source: A::ZERO, destination: A::ZERO, source_port: 0, destination_port: 0 },
    };

    /// Drop it.
    #[inline(always)]
    #[must_use]
    pub const fn drop(reason: Reason) -> Self {
        Self { action: Action::Drop, reason, ..Self::PASS }
    }

    #[inline(always)]
    fn send(action: Action, ifindex: u32, to: Tuple<A>) -> Self {
        Self { action, reason: Reason::Spoofed, ifindex, to }
    }

    /// Into a container, if there is a way; else the node's own stack has it.
    #[inline(always)]
    fn deliver(delivery: &Delivery<A>) -> Self {
        if delivery.exists() {
            Self::send(Action::Container, delivery.ifindex, delivery.tuple)
        } else {
            Self::PASS
        }
    }
}

/// What becomes of a packet, and what was found on the way there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work<A: Address> {
    /// Its IP header; all zero when it was not understood (only with `Pass` and `Drop`).
    pub ip: Ip<A>,
    /// What it shows; meaningless when it is passed or dropped.
    pub seen: Seen<A>,
    /// What to do.
    pub verdict: Verdict<A>,
}

/// A packet that came in by a device of the node. `offset` is where its IP header starts.
#[inline(always)]
pub fn node_in<A: Family, N: Node<A>, P: Packet>(
    node: &N,
    present: &Present<'_>,
    packet: &P,
    offset: u32,
    ifindex: u32,
    work: &mut Work<A>,
) {
    *work = Work::default();
    if present.config.flags & CONFIG_ENABLED == 0 {
        return;
    }
    let Some(ip) = A::header(packet, offset) else { return };
    work.ip = ip;
    if let Some(segment) = packet::transport(packet, &work.ip) {
        work.seen = Seen::new(&work.ip, &segment, ifindex);
        work.verdict = inbound(node, present, &work.seen);
    }
    if unpublished(node, &work.ip, &work.verdict) {
        work.verdict = Verdict::drop(Reason::Unpublished);
    }
}

/// What is made of a packet from outside that was read; then comes [`unpublished`], for those without
/// ports too.
#[inline(always)]
fn inbound<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, seen: &Seen<A>) -> Verdict<A> {
    if masquerade::concerns(present, seen) {
        let answer = node.answer(present, seen);
        if answer.exists() {
            return Verdict::deliver(&answer);
        }
    }
    if seen.protocol != TCP {
        return Verdict::PASS;
    }
    let Some(service) = service_at(node, &seen.tuple.destination, seen.tuple.destination_port, seen.protocol)
    else {
        return Verdict::PASS;
    };
    // A packet that shows one of the node's own addresses as its source came a wrong way; the
    // kernel knows what to do with it. Known flows have passed this once.
    if seen.segment.pure_syn()
        && (!node.is_local(&seen.tuple.destination) || node.is_local(&seen.tuple.source))
    {
        return Verdict::PASS;
    }
    let delivery = node.forward(present, &service, seen, BackendRef::default());
    // It shows what one container sends to another by its own address.
    if delivery.tuple.destination == seen.tuple.destination {
        return Verdict::PASS;
    }
    Verdict::deliver(&delivery)
}

/// Whether the verdict leaves to the node's stack what is addressed to a container.
#[inline(always)]
fn unpublished<A: Address, N: Node<A>>(node: &N, ip: &Ip<A>, verdict: &Verdict<A>) -> bool {
    // Last, so that it costs what is ours nothing. Answers to what containers send are addressed to
    // the node; a host that forwards would let everybody else in.
    verdict.action == Action::Pass && node.endpoint(&ip.destination).id != 0
}

/// A packet that a container sent, seen on the node's side of its veth.
#[inline(always)]
pub fn veth_in<A: Family, N: Node<A>, P: Packet>(
    node: &N,
    present: &Present<'_>,
    packet: &P,
    offset: u32,
    ifindex: u32,
    work: &mut Work<A>,
) {
    *work = Work::default();
    if present.config.flags & CONFIG_ENABLED == 0 {
        return;
    }
    let Some(ip) = A::header(packet, offset) else {
        work.verdict = Verdict::drop(Reason::Malformed);
        return;
    };
    work.ip = ip;
    if A::is_of_the_link(packet, &work.ip) {
        return;
    }
    let owner = sender(node, &work.ip, ifindex);
    work.verdict = if !owner.exists() {
        Verdict::drop(Reason::Spoofed)
    } else if let Some(segment) = packet::transport(packet, &work.ip) {
        work.seen = Seen::new(&work.ip, &segment, ifindex);
        outbound(node, present, &work.seen, owner.backend)
    } else {
        unreadable(node, &work.ip)
    };
}

/// The container behind a device, if it sends under its own address; else nobody.
#[inline(always)]
fn sender<A: Address, N: Node<A>>(node: &N, ip: &Ip<A>, ifindex: u32) -> Resolved<A> {
    let owner = resolve(node, node.link(ifindex));
    if owner.address == ip.source { owner } else { Resolved::default() }
}

/// What is made of a packet of container `owner` that was read.
#[inline(always)]
fn outbound<A: Address, N: Node<A>>(
    node: &N,
    present: &Present<'_>,
    seen: &Seen<A>,
    owner: BackendRef,
) -> Verdict<A> {
    if seen.protocol == TCP {
        let reply = node.reply(present, seen, owner);
        if reply.exists() {
            if reply.flags & FLOW_FROM_CONTAINER == 0 {
                return Verdict::send(Action::Device, reply.ifindex, reply.tuple);
            }
            // By address, not by the device it came in by: device numbers are reused.
            let client = resolve::<A>(node, node.endpoint(&reply.tuple.destination));
            if !client.exists() {
                return Verdict::drop(Reason::NoRoute);
            }
            return Verdict::send(Action::Container, client.ifindex, reply.tuple);
        }
    }
    let destination = seen.tuple.destination;
    if node.is_local(&destination) {
        let service = match seen.protocol {
            TCP => service_at(node, &destination, seen.tuple.destination_port, seen.protocol),
            _ => None,
        };
        let Some(service) = service else { return Verdict::PASS };
        return Verdict::deliver(&node.forward(present, &service, seen, owner));
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
        return Verdict::send(Action::Device, route.ifindex, seen.tuple);
    }
    if route.source == A::ZERO {
        return Verdict::drop(Reason::NoRoute);
    }
    // An echo reply has no source "port": somebody pinged the container, which nobody outside can.
    if seen.protocol == A::ICMP && seen.tuple.destination_port != 0 {
        return Verdict::drop(Reason::NotMasqueraded);
    }
    let shown = node.masquerade(present, seen, owner, &route.source);
    match shown.refused {
        Some(reason) => Verdict::drop(reason),
        None => Verdict::send(Action::Device, route.ifindex, shown.tuple),
    }
}

/// From a container to another one of this node, by its own address. TCP is tracked as if that
/// address were published: the other container's replies must not be taken for those of a flow of
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
    if seen.protocol != TCP {
        return Verdict::deliver(&direct);
    }
    let service =
        Service { single: neighbour.backend, target: seen.tuple.destination_port, ..Service::default() };
    let tracked = node.forward(present, &service, seen, owner);
    Verdict::deliver(if tracked.exists() { &tracked } else { &direct })
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
