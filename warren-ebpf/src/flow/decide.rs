//! The order in which the programs ask their questions, as functions from a packet to a
//! [`Verdict`]. The same for both families: what differs is in [`Family`].

use super::{
    Delivery, Operation, Present, Resolved, Seen, Table, Tables, limit, masquerade,
    notice::{notice_in, notice_out},
    piece::{piece_in, piece_out, remember},
    published::{self, Chosen},
    resolve, seat,
};
use crate::{
    abi::{
        Address, BackendRef, CONFIG_ANYWHERE, CONFIG_DENY, CONFIG_ENABLED, Client, ClientKey,
        FLOW_FROM_CONTAINER, Limit, ROUTE_DROP, ROUTE_PLAIN, Reason, Route, SERVICE_DIRECT, SERVICE_LIMITED,
        SERVICE_PACED, SERVICE_SEATED, Service, ServiceKey, SourceKey, TCP, UDP,
    },
    packet::{self, Family, Ip, Packet, Tuple, notice::Quoted},
};

pub use super::verdict::{Action, Verdict};

/// An IPv4 address.
pub type V4 = [u8; 4];
/// An IPv6 address.
pub type V6 = [u8; 16];

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
    /// Whether a network that it is in is in `DENY4`.
    fn is_denied(&self, address: &A) -> bool;
    /// `LIMIT`; all zero when there is none.
    fn limit(&self, service: u32) -> Limit;
    /// `CLIENT4`.
    fn clients(&self) -> &impl Table<ClientKey, Client>;
    /// The family's row of `GATE`.
    fn gate<O: Operation<u64>>(&self, operation: O) -> Option<O::Output>;
}

/// Whose flows to a port begin: those of a set of sources, of clients outside or of containers.
struct Clients<'a, N> {
    node: &'a N,
    /// [`Service::sources`].
    set: u32,
    from_outside: bool,
}

impl<N> Clients<'_, N> {
    /// Whether it is about the node's published ports at all, or about another container.
    #[inline(always)]
    fn concern<A: Address>(&self, seen: &Seen<A>) -> bool
    where
        N: Node<A>,
    {
        // A packet that shows one of the node's own addresses as its source came a wrong way; the
        // kernel knows what to do with it.
        let astray = self.from_outside
            && (!self.node.is_local(&seen.tuple.destination) || self.node.is_local(&seen.tuple.source));
        let awaited = || seen.protocol == UDP && self.node.expects(&seen.tuple);
        !astray && !awaited()
    }

    /// Whether the port was published for the sender.
    #[inline(always)]
    fn answered<A: Address>(&self, seen: &Seen<A>) -> bool
    where
        N: Node<A>,
    {
        self.set == 0 || self.node.is_source(&SourceKey { set: self.set, address: seen.tuple.source })
    }
}

/// What becomes of a packet, and what was found on the way there. A decision comes in steps, each with
/// a stack of its own where that matters: a look, what the look leaves open ([`Next`]), and for what
/// came from outside [`settle`].
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Work<A: Address> {
    /// Its IP header; all zero when it was not understood (only with `Pass` and `Drop`).
    pub ip: Ip<A>,
    /// What it shows; meaningless when it is passed or dropped.
    pub seen: Seen<A>,
    /// What to do.
    pub verdict: Verdict<A>,
    /// What is still to be asked.
    pub next: Next,
    /// The container that sent it; all zero when none did.
    pub owner: BackendRef,
    /// For [`forward`]: the service it is for.
    pub service: Service,
    /// For [`masquerade()`]: the way it takes.
    pub route: Route<A>,
    /// For [`open`]: whom the flow goes to.
    pub chosen: Chosen<A>,
    /// For [`open`]: whether [`forward`] has found a forward record.
    pub recorded: bool,
}

/// What a look leaves open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u32)]
pub enum Next {
    /// Nothing: the verdict is there.
    #[default]
    Nothing,
    /// [`forward`] says.
    Forward,
    /// [`limit::pace`] says.
    Pace,
    /// [`masquerade()`] says.
    Masquerade,
    /// [`recall`] says.
    Recall,
    /// [`admit`] says.
    Admit,
    /// [`limit::meter`] says.
    Meter,
    /// [`choose`] says.
    Choose,
    /// [`evade`] says.
    Evade,
    /// [`seat::take`] says.
    Seat,
    /// [`open`] says.
    Open,
    /// [`notice_in`] or [`notice_out`] says.
    Notice,
    /// The verdict is there. Before it is carried out, what the packet quotes is to be translated
    /// ([`requote`](packet::notice::requote)).
    Requote,
    /// [`piece_in`] or [`piece_out`] says.
    Piece,
    /// The verdict is there. It is about a fragment that has addresses only
    /// ([`readdress`](packet::piece::readdress)).
    Readdress,
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
    quoted: &mut Quoted<A>,
) {
    look_in(node, present, packet, offset, ifindex, work);
    match work.next {
        Next::Notice => notice_in(node, present, packet, work, quoted),
        Next::Piece => piece_in(node, present, packet, ifindex, work),
        _ => {}
    }
    finish(node, present, work);
    if work.ip.fragment && work.next != Next::Readdress {
        remember(node, present, packet, 0, work);
    }
    settle(node, present, work);
}

/// The first step of [`node_in`].
#[inline(always)]
pub fn look_in<A: Family, N: Node<A>, P: Packet>(
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
        work.seen = Seen::new(packet, &work.ip, &segment, ifindex);
        inbound(node, present, work);
    } else if work.ip.fragment {
        work.next = Next::Piece;
    } else if is_message(&work.ip) {
        work.next = Next::Notice;
    }
}

/// Whether it is ICMP.
#[inline(always)]
fn is_message<A: Family>(ip: &Ip<A>) -> bool {
    ip.protocol == A::ICMP
}

/// What is made of a packet from outside that was read.
#[inline(always)]
pub(super) fn inbound<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    let seen = &work.seen;
    if masquerade::concerns(present, seen) {
        let answer = masquerade::inbound(node, present, seen);
        if answer.exists() {
            work.verdict = Verdict::deliver(&answer);
            return;
        }
    }
    addressed(node, present, work);
}

/// What is made of one that is no answer to a container: which service it is for, if that answers its
/// sender at all.
#[inline(always)]
pub(super) fn addressed<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    let seen = &work.seen;
    if !is_tracked(seen.protocol) {
        return;
    }
    let Some(service) = service_at(
        node,
        anywhere(present),
        &seen.tuple.destination,
        seen.tuple.destination_port,
        seen.protocol,
    ) else {
        return;
    };
    // Others' traffic through the node is not ours to stop.
    let denied = present.config.flags & CONFIG_DENY != 0 && node.is_denied(&seen.tuple.source);
    if denied && node.is_local(&seen.tuple.destination) {
        work.verdict = Verdict::drop(Reason::Denied);
        return;
    }
    work.service = service;
    work.next = if service.flags & SERVICE_PACED == 0 { Next::Forward } else { Next::Pace };
}

/// Whether flows of this protocol are recorded.
#[inline(always)]
fn is_tracked(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP)
}

/// The last step of a packet from outside, for those without ports too: none is left to the node's
/// stack that is addressed to a container.
#[inline(always)]
pub fn settle<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    // Last, so that it costs what is ours nothing. Answers to what containers send are addressed to
    // the node; a host that forwards would let everybody else in. What was not understood has no
    // destination.
    if work.verdict.action == Action::Pass && inside(node, present, &work.ip.destination).id != 0 {
        work.verdict = Verdict::drop(Reason::Unpublished);
    }
}

/// The container that has an address; all zero when none has.
#[inline(always)]
fn inside<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, address: &A) -> BackendRef {
    if address.may_be_inside(present.config) { node.endpoint(address) } else { BackendRef::default() }
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
    quoted: &mut Quoted<A>,
) {
    look_out(node, present, packet, offset, ifindex, work);
    match work.next {
        Next::Notice => notice_out(node, present, packet, work, quoted),
        Next::Piece => piece_out(node, present, packet, ifindex, work),
        _ => {}
    }
    finish(node, present, work);
    if work.ip.fragment && work.next != Next::Readdress {
        remember(node, present, packet, ifindex, work);
    }
}

/// Takes one step after the other, until the verdict is there.
#[inline(always)]
fn finish<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    loop {
        match work.next {
            Next::Nothing | Next::Notice | Next::Requote | Next::Piece | Next::Readdress => return,
            Next::Pace => limit::pace(node, present.now, work),
            Next::Forward => forward(node, present, work),
            Next::Masquerade => masquerade(node, present, work),
            Next::Recall => recall(node, present, work),
            Next::Admit => admit(node, work),
            Next::Meter => limit::meter(node, present.now, work),
            Next::Choose => choose(node, present, work),
            Next::Evade => evade(node, present, work),
            Next::Seat => seat::take(node, present, work),
            Next::Open => open(node, present, work),
        }
    }
}

/// The first step of [`veth_in`].
#[inline(always)]
pub fn look_out<A: Family, N: Node<A>, P: Packet>(
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
    if !owner.exists() {
        work.verdict = Verdict::drop(Reason::Spoofed);
        return;
    }
    work.owner = owner.backend;
    let Some(segment) = packet::transport(packet, &work.ip) else {
        if work.ip.fragment {
            work.next = Next::Piece;
        } else if is_message(&work.ip) {
            work.next = Next::Notice;
        } else {
            work.verdict = unreadable(node, &work.ip);
        }
        return;
    };
    work.seen = Seen::new(packet, &work.ip, &segment, ifindex);
    outbound(node, present, work);
}

/// The container behind a device, if it sends under its own address; else nobody.
#[inline(always)]
fn sender<A: Address, N: Node<A>>(node: &N, ip: &Ip<A>, ifindex: u32) -> Resolved<A> {
    let owner = resolve(node, node.link(ifindex));
    if owner.address == ip.source { owner } else { Resolved::default() }
}

/// What is made of a packet of a container that was read.
#[inline(always)]
pub(super) fn outbound<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    let seen = &work.seen;
    let tracked = is_tracked(seen.protocol);
    if tracked {
        let reply = published::reply(node, present, seen, work.owner);
        if reply.exists() {
            work.verdict = replied(node, &reply);
            return;
        }
    }
    let destination = seen.tuple.destination;
    let neighbour = inside(node, present, &destination);
    if neighbour.id != 0 {
        // TCP and UDP are tracked as if that address were published: the other container's replies must
        // not be taken for those of a flow of the same client port that came through a published port.
        if tracked {
            work.service = Service {
                single: neighbour,
                target: seen.tuple.destination_port,
                flags: SERVICE_DIRECT,
                ..Service::default()
            };
            work.next = Next::Forward;
        } else {
            work.verdict = beside(node, seen);
        }
        return;
    }
    if node.is_local(&destination) {
        if tracked
            && let Some(service) =
                service_at(node, anywhere(present), &destination, seen.tuple.destination_port, seen.protocol)
        {
            work.service = service;
            work.next = Next::Forward;
        }
        return;
    }
    if destination.undeliverable() {
        work.verdict = Verdict::drop(Reason::Multicast);
        return;
    }
    let Some(route) = node.route(&destination) else {
        work.verdict = Verdict::drop(Reason::NoRoute);
        return;
    };
    if route.flags & ROUTE_DROP != 0 {
        work.verdict = Verdict::drop(Reason::NoRoute);
    } else if route.flags & ROUTE_PLAIN != 0 {
        work.verdict = Verdict::send(Action::Device, route.ifindex, seen.tuple);
    } else if route.source == A::ZERO {
        work.verdict = Verdict::drop(Reason::NoRoute);
    } else if seen.protocol == A::ICMP && seen.segment.acknowledgement != 0 {
        // An echo reply: somebody pinged the container, which nobody outside can.
        work.verdict = Verdict::drop(Reason::NotMasqueraded);
    } else {
        work.route = route;
        work.next = Next::Masquerade;
    }
}

/// A container's reply, back to where the flow came from.
#[inline(always)]
fn replied<A: Address, N: Node<A>>(node: &N, reply: &published::Reply<A>) -> Verdict<A> {
    if reply.flags & FLOW_FROM_CONTAINER == 0 {
        return Verdict::send(Action::Device, reply.ifindex, reply.tuple);
    }
    // By address, not by the device it came in by: device numbers are reused.
    let client = resolve::<A>(node, node.endpoint(&reply.tuple.destination));
    if !client.exists() {
        return Verdict::drop(Reason::NoRoute);
    }
    Verdict::send(Action::Container, client.ifindex, reply.tuple)
}

/// Asks for the backend of what goes to a service, if it is of a known flow.
#[inline(always)]
pub fn forward<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    let seen = &work.seen;
    let mut unknown = false;
    let delivery = published::forward(node, present, &work.service, seen, &mut unknown);
    if !delivery.exists() && (unknown || seen.begins()) {
        work.next = if seen.begins() { Next::Admit } else { Next::Recall };
        work.recorded = !unknown;
        return;
    }
    work.next = Next::Nothing;
    work.verdict = forwarded(node, work, &delivery);
}

/// Asks for the backend of what is of a flow that only half a record is left of.
#[inline(always)]
pub fn recall<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    work.next = Next::Nothing;
    let delivery = published::recall(node, present, &work.service, &work.seen, work.owner);
    work.verdict = forwarded(node, work, &delivery);
}

/// Whether a flow is the sender's to begin.
#[inline(always)]
pub fn admit<A: Address, N: Node<A>>(node: &N, work: &mut Work<A>) {
    let seen = &work.seen;
    let clients = Clients { node, set: work.service.sources, from_outside: work.owner.id == 0 };
    work.next = Next::Nothing;
    if !clients.concern(seen) {
        work.verdict = forwarded(node, work, &Delivery::default());
    } else if clients.answered(seen) {
        let limited = clients.from_outside && work.service.flags & SERVICE_LIMITED != 0;
        work.next = if limited { Next::Meter } else { Next::Choose };
    } else {
        // Silence, as of a firewall: who scans a network learns nothing of what is there for others.
        work.verdict = Verdict::drop(Reason::Refused);
    }
}

/// Which backend a flow that begins gets.
#[inline(always)]
pub fn choose<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    let free = published::choose(node, present, &work.service, &work.seen, work.owner, &mut work.chosen);
    work.next = if free { chosen(work) } else { Next::Evade };
}

/// What is still to be asked of a flow when it is known whom it goes to.
#[inline(always)]
fn chosen<A: Address>(work: &Work<A>) -> Next {
    let seated = work.service.flags & SERVICE_SEATED != 0 && work.owner.id == 0;
    if seated && work.chosen.backend.exists() { Next::Seat } else { Next::Open }
}

/// Which other backend it gets, or source port, when another conversation has its place.
#[inline(always)]
pub fn evade<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    published::evade(node, present, &work.service, &work.seen, work.owner, &mut work.chosen);
    work.next = chosen(work);
}

/// Makes the records of a flow that begins.
#[inline(always)]
pub fn open<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    work.next = Next::Nothing;
    let delivery = published::open(node, present, &work.service, &work.seen, &work.chosen, work.recorded);
    work.verdict = forwarded(node, work, &delivery);
}

/// The way to a backend, or past it.
#[inline(always)]
fn forwarded<A: Address, N: Node<A>>(node: &N, work: &Work<A>, delivery: &Delivery<A>) -> Verdict<A> {
    let from_outside = work.owner.id == 0;
    if from_outside && delivery.tuple.destination == work.seen.tuple.destination {
        // It shows what one container sends to another by its own address.
        Verdict::PASS
    } else if delivery.exists() || from_outside {
        Verdict::deliver(delivery)
    } else {
        beside(node, &work.seen)
    }
}

/// Asks for what a packet to the outside must show.
#[inline(always)]
pub fn masquerade<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    let shown = masquerade::outbound(node, present, &work.seen, work.owner, work.route.source);
    work.next = Next::Nothing;
    work.verdict = match shown.refused {
        Some(reason) => Verdict::drop(reason),
        None => Verdict::send(Action::Device, work.route.ifindex, shown.tuple),
    };
}

/// As it is to the container that has its destination, if one has, else to the node.
#[inline(always)]
fn beside<A: Address, N: Node<A>>(node: &N, seen: &Seen<A>) -> Verdict<A> {
    let neighbour = node.endpoint(&seen.tuple.destination);
    if neighbour.id == 0 {
        return Verdict::PASS;
    }
    let neighbour = resolve::<A>(node, neighbour);
    if !neighbour.exists() {
        return Verdict::drop(Reason::NoRoute);
    }
    Verdict::send(Action::Container, neighbour.ifindex, seen.tuple)
}

/// What happens to a packet of a container without ports that we know: the node may have it,
/// nobody else.
#[inline(always)]
pub(super) fn unreadable<A: Address, N: Node<A>>(node: &N, ip: &Ip<A>) -> Verdict<A> {
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

/// The service published at an address and port of the node; the exact address comes first, unless all are
/// known to be published `anywhere`.
#[inline(always)]
pub fn service_at<A: Address, N: Node<A>>(
    node: &N,
    anywhere: bool,
    address: &A,
    port: u16,
    protocol: u8,
) -> Option<Service> {
    let mut key = ServiceKey { address: A::ZERO, port, protocol, pad: 0 };
    if !anywhere {
        key.address = *address;
        let exact = node.service(&key);
        if exact.is_some() {
            return exact;
        }
        key.address = A::ZERO;
    }
    node.service(&key)
}

/// Whether no packet can be for a port that is published on an address of its own.
#[inline(always)]
fn anywhere(present: &Present<'_>) -> bool {
    present.config.flags & CONFIG_ANYWHERE != 0
}
