//! ICMP errors about packets of flows: whom they are for, and what they must say there. An error is let
//! through only where a live record shows that the container has sent, or got, the packet it quotes.

use super::{
    Operation, Present, Resolved, Table, Tables,
    decide::{self, Action, Next, Node, Verdict, Work},
    masquerade,
    record::{flow_key, same},
    resolve,
};
use crate::{
    abi::{
        Address, BackendRef, EgressKey, FLOW_FROM_CONTAINER, Flow, FlowKey, ForwardKey, ROUTE_DROP,
        ROUTE_PLAIN, Reason, ReturnKey,
    },
    packet::{
        Family, Packet, Tuple,
        notice::{self, Quoted},
    },
};

/// An ICMP message from outside that is no echo. What is not about a packet that the node sent for a container
/// is for the node itself.
#[inline(always)]
pub fn notice_in<A: Family, N: Node<A>, P: Packet>(
    node: &N,
    present: &Present<'_>,
    packet: &P,
    work: &mut Work<A>,
    quoted: &mut Quoted<A>,
) {
    work.next = Next::Nothing;
    // It goes back to where the packet that it quotes came from.
    if !notice::read(packet, &work.ip, quoted) || work.ip.destination != quoted.tuple.source {
        return;
    }
    let mut sender = masqueraded(node, present, quoted);
    if !sender.exists() {
        sender = replied(node, present, quoted);
    }
    if !sender.exists() {
        return;
    }
    let shown =
        Tuple { source: work.ip.source, destination: sender.address, source_port: 0, destination_port: 0 };
    send(work, Verdict::send(Action::Container, sender.ifindex, shown));
}

/// An ICMP message of a container that is no echo.
#[inline(always)]
pub fn notice_out<A: Family, N: Node<A>, P: Packet>(
    node: &N,
    present: &Present<'_>,
    packet: &P,
    work: &mut Work<A>,
    quoted: &mut Quoted<A>,
) {
    work.next = Next::Nothing;
    if !notice::read(packet, &work.ip, quoted) {
        work.verdict = decide::unreadable(node, &work.ip);
        return;
    }
    let mut verdict = Verdict::drop(Reason::NoFlow);
    if work.ip.destination == quoted.tuple.source {
        verdict = published(node, quoted, work.owner);
        if verdict.action == Action::Drop {
            verdict = answered(node, present, quoted, work.owner);
        }
    }
    if verdict.action != Action::Drop {
        send(work, verdict);
    } else if node.is_local(&work.ip.destination) {
        // About a packet that the node itself sent.
        work.verdict = Verdict::PASS;
    } else {
        work.verdict = verdict;
    }
}

/// Has the error go where the verdict says, with what it quotes translated.
#[inline(always)]
fn send<A: Address>(work: &mut Work<A>, verdict: Verdict<A>) {
    work.seen.tuple = Tuple {
        source: work.ip.source,
        destination: work.ip.destination,
        source_port: 0,
        destination_port: 0,
    };
    work.verdict = verdict;
    work.next = Next::Requote;
}

/// The container that has sent the quoted packet under the node's address, if one has.
#[inline(always)]
fn masqueraded<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    quoted: &mut Quoted<A>,
) -> Resolved<A> {
    let shown = &quoted.tuple;
    let key = ReturnKey {
        remote: shown.destination,
        local: shown.source,
        remote_port: shown.destination_port,
        local_port: shown.source_port,
        protocol: quoted.ip.protocol,
        pad: [0; 3],
    };
    let found = masquerade::holder(tables, present, &key);
    let backend = resolve::<A>(tables, found.backend);
    if !backend.exists() || backend.address != found.container {
        return Resolved::default();
    }
    quoted.to = Tuple { source: found.container, source_port: found.container_port, ..*shown };
    backend
}

/// The container that has sent the quoted packet as a reply of a flow to a published port, if one has.
#[inline(always)]
fn replied<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    quoted: &mut Quoted<A>,
) -> Resolved<A> {
    let shown = &quoted.tuple;
    let key = ForwardKey {
        client: shown.destination,
        published: shown.source,
        client_port: shown.destination_port,
        published_port: shown.source_port,
        protocol: quoted.ip.protocol,
        pad: [0; 3],
    };
    let established = tables.established_forwards().with(&key, |f| *f);
    let record = match established {
        Some(f) => f,
        None => tables.half_open_forwards().with(&key, |f| *f).unwrap_or_default(),
    };
    let backend = resolve::<A>(tables, record.backend);
    if !backend.exists() {
        return Resolved::default();
    }
    let flow_key = flow_key(present, &key, &backend, &record);
    let of = Of { key: &key, backend: backend.backend };
    let known = match tables.established().apply(&flow_key, of) {
        Some(known) => known,
        None => tables.half_open().apply(&flow_key, of).unwrap_or_default(),
    };
    if !known {
        return Resolved::default();
    }
    quoted.to = Tuple {
        source: flow_key.backend,
        destination: flow_key.client,
        source_port: flow_key.backend_port,
        destination_port: flow_key.client_port,
    };
    backend
}

/// Whether a tracking record is of a conversation with a backend.
#[derive(Clone, Copy)]
struct Of<'a, A: Address> {
    key: &'a ForwardKey<A>,
    backend: BackendRef,
}

impl<A: Address> Operation<Flow<A>> for Of<'_, A> {
    type Output = bool;

    #[inline(always)]
    fn run(self, flow: &mut Flow<A>) -> bool {
        same(flow, self.key) && flow.backend == self.backend
    }
}

/// What becomes of container `owner`'s error about a client's packet; dropped when it is about none.
#[inline(always)]
fn published<A: Address, N: Node<A>>(node: &N, quoted: &mut Quoted<A>, owner: BackendRef) -> Verdict<A> {
    let got = &quoted.tuple;
    let key = FlowKey {
        client: got.source,
        backend: got.destination,
        client_port: got.source_port,
        backend_port: got.destination_port,
        protocol: quoted.ip.protocol,
        pad: [0; 3],
    };
    let established = node.established().with(&key, |flow| *flow);
    let flow = match established {
        Some(flow) => flow,
        None => node.half_open().with(&key, |flow| *flow).unwrap_or_default(),
    };
    if flow.backend.id == 0 || flow.backend != owner {
        return Verdict::drop(Reason::NoFlow);
    }
    quoted.to = Tuple {
        source: flow.client,
        destination: flow.published,
        source_port: flow.client_port,
        destination_port: flow.published_port,
    };
    let shown =
        Tuple { source: flow.published, destination: flow.client, source_port: 0, destination_port: 0 };
    if flow.flags & FLOW_FROM_CONTAINER == 0 {
        return Verdict::send(Action::Device, flow.ifindex, shown);
    }
    let client = resolve::<A>(node, node.endpoint(&flow.client));
    if !client.exists() {
        return Verdict::drop(Reason::NoRoute);
    }
    Verdict::send(Action::Container, client.ifindex, shown)
}

/// What becomes of container `owner`'s error about an answer to what it sent out; dropped when it is about none.
#[inline(always)]
fn answered<A: Address, N: Node<A>>(
    node: &N,
    present: &Present<'_>,
    quoted: &mut Quoted<A>,
    owner: BackendRef,
) -> Verdict<A> {
    let got = &quoted.tuple;
    let key = EgressKey {
        container: got.destination,
        remote: got.source,
        container_port: got.destination_port,
        remote_port: got.source_port,
        protocol: quoted.ip.protocol,
        pad: [0; 3],
    };
    let known = masquerade::live(node, present, &key, owner);
    if known.local_port == 0 {
        return Verdict::drop(Reason::NoFlow);
    }
    let Some(route) = node.route(&key.remote) else { return Verdict::drop(Reason::NoRoute) };
    if route.flags & (ROUTE_DROP | ROUTE_PLAIN) != 0 {
        return Verdict::drop(Reason::NoRoute);
    }
    quoted.to = Tuple { destination: known.local, destination_port: known.local_port, ..*got };
    let shown = Tuple { source: known.local, destination: key.remote, source_port: 0, destination_port: 0 };
    Verdict::send(Action::Device, route.ifindex, shown)
}
