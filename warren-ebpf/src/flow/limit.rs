//! How much one client gets of a published port: flows that begin, and packets.
//!
//! A limit is a spacing and a burst, kept as one number per client: the moment at which the client
//! comes out even (the "theoretical arrival time" of the generic cell rate algorithm). What comes when
//! that is further ahead than the burst reaches is one too many and leaves no trace; anything else moves
//! it on by the spacing. So from any moment on a client gets at most its burst, and one more for each
//! spacing that passes, whatever CPUs its packets come by: the number moves by compare and swap. One
//! that is swapped away [`TRIES`] times in a row is let through uncounted.
//!
//! Clients become known at a pace of their own ([`Address::NEWCOMERS`]). While more come than that, as
//! in a flood under made-up addresses, those in excess begin no flows; what was begun goes on, unlimited
//! until its client is known again.

use core::marker::PhantomData;

use super::{
    Operation, Table, Tables,
    decide::{Next, Node, Verdict, Work},
};
use crate::abi::{Address, Client, ClientKey, Limit, Reason};

/// How often a number is swapped that others swap, too.
pub const TRIES: u32 = 4;

/// A client is never further ahead than its burst and this, in nanoseconds, whatever was counted before:
/// under other limits, or on another clock.
const SLACK: u64 = 1_000_000_000;

/// What one more does to a client's number, as [`after`] says it: nothing; it is one too many.
pub const EXCESS: u64 = 0;

/// The moment at which a client comes out even after one more, or [`EXCESS`]. `even` is what it was
/// before; `now` is not 0.
#[inline(always)]
#[must_use]
pub const fn after(even: u64, now: u64, spacing: u32, burst: u32) -> u64 {
    let spacing = spacing as u64;
    let reach = spacing * (burst as u64);
    let even = if even < now { now } else { even };
    if even + spacing <= now + reach { even + spacing } else { EXCESS }
}

/// What a client's number is at most, so that it is not held to what is no more.
#[inline(always)]
#[must_use]
pub const fn at_most(now: u64, spacing: u32, burst: u32) -> u64 {
    now + spacing as u64 * (burst as u64) + SLACK
}

/// Whether one more is one too many, which leaves a client's number as it is. One that is too large is
/// to be lowered, so nothing is said of it.
#[inline(always)]
#[must_use]
pub const fn is_excess(even: u64, now: u64, spacing: u32, burst: u32) -> bool {
    even <= at_most(now, spacing, burst) && after(even, now, spacing, burst) == EXCESS
}

/// Takes one of what a client may have; whether there was one.
#[inline(always)]
pub fn take<A: Address, T: Tables<A>>(
    tables: &T,
    place: &mut u64,
    spacing: u32,
    burst: u32,
    now: u64,
) -> bool {
    let mut i = 0;
    while i < TRIES {
        let seen = *place;
        let most = at_most(now, spacing, burst);
        if seen > most {
            let _ = tables.claim(place, seen, most);
            return false;
        }
        let even = after(seen, now, spacing, burst);
        if even == EXCESS {
            return false;
        }
        if tables.claim(place, seen, even) {
            return true;
        }
        i += 1;
    }
    true
}

/// What a client may have, and of which kind.
#[derive(Clone, Copy)]
struct Measure {
    spacing: u32,
    burst: u32,
    /// Packets; else flows.
    packets: bool,
}

impl Measure {
    #[inline(always)]
    fn new(limit: &Limit, packets: bool) -> Self {
        if packets {
            Self { spacing: limit.packet_spacing, burst: limit.packet_burst, packets }
        } else {
            Self { spacing: limit.flow_spacing, burst: limit.flow_burst, packets }
        }
    }

    /// A client that had its first.
    #[inline(always)]
    fn first(self, now: u64) -> Client {
        let even = if self.spacing == 0 { 0 } else { after(0, now, self.spacing, self.burst) };
        let (flows, packets) = if self.packets { (0, even) } else { (even, 0) };
        Client { flows, packets, seats: 0 }
    }
}

/// One of what a client has.
struct Take<'a, A, T> {
    tables: &'a T,
    measure: Measure,
    now: u64,
    family: PhantomData<A>,
}

impl<A: Address, T: Tables<A>> Operation<Client> for Take<'_, A, T> {
    type Output = bool;

    #[inline(always)]
    fn run(self, client: &mut Client) -> bool {
        let Measure { spacing, burst, packets } = self.measure;
        let place = if packets { &mut client.packets } else { &mut client.flows };
        spacing == 0 || take(self.tables, place, spacing, burst, self.now)
    }
}

/// One of the clients that may become known.
struct Enter<'a, A, T> {
    tables: &'a T,
    spacing: u32,
    burst: u32,
    now: u64,
    family: PhantomData<A>,
}

impl<A: Address, T: Tables<A>> Operation<u64> for Enter<'_, A, T> {
    type Output = bool;

    #[inline(always)]
    fn run(self, gate: &mut u64) -> bool {
        take(self.tables, gate, self.spacing, self.burst, self.now)
    }
}

/// Looks at what a client has, and takes nothing.
struct Look {
    measure: Measure,
    now: u64,
}

impl Operation<Client> for Look {
    type Output = bool;

    /// Whether it certainly has nothing left.
    #[inline(always)]
    fn run(self, client: &mut Client) -> bool {
        let Measure { spacing, burst, packets } = self.measure;
        let even = if packets { client.packets } else { client.flows };
        spacing != 0 && is_excess(even, self.now, spacing, burst)
    }
}

/// Looks whether clients may become known, and lets none in.
struct LookIn {
    spacing: u32,
    burst: u32,
    now: u64,
}

impl Operation<u64> for LookIn {
    type Output = bool;

    /// Whether certainly none may.
    #[inline(always)]
    fn run(self, gate: &mut u64) -> bool {
        is_excess(*gate, self.now, self.spacing, self.burst)
    }
}

/// What is said of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Granted,
    Excess,
    /// Nothing is known of it, and no more clients become known just now.
    Stranger,
}

/// The sender of a packet to a published port.
#[inline(always)]
pub(super) fn client<A: Address>(work: &Work<A>) -> ClientKey {
    ClientKey {
        service: work.service.id,
        port: work.seen.tuple.destination_port,
        protocol: work.seen.protocol,
        pad: 0,
        network: work.seen.tuple.source.network(),
    }
}

/// Takes one of what the sender of a packet has.
#[inline(always)]
fn ask<A: Address, N: Node<A>>(node: &N, now: u64, packet: bool, work: &Work<A>) -> Answer {
    let key = client(work);
    let measure = Measure::new(&node.limit(key.service), packet);
    match node.clients().apply(&key, Take { tables: node, measure, now, family: PhantomData }) {
        Some(true) => return Answer::Granted,
        Some(false) => return Answer::Excess,
        None => {}
    }
    let (spacing, burst) = A::NEWCOMERS;
    if node.gate(Enter { tables: node, spacing, burst, now, family: PhantomData }) != Some(true) {
        return Answer::Stranger;
    }
    // Where another CPU has just met it, that one's number stays, and this one goes uncounted.
    let _ = node.clients().create(&key, &measure.first(now));
    Answer::Granted
}

/// What [`ask`] would answer, and change nothing by it; `Granted` also where that is not certain.
#[inline(always)]
fn foresee<A: Address, N: Node<A>>(node: &N, now: u64, packet: bool, work: &Work<A>) -> Answer {
    let key = client(work);
    let measure = Measure::new(&node.limit(key.service), packet);
    match node.clients().apply(&key, Look { measure, now }) {
        Some(true) => return Answer::Excess,
        Some(false) => return Answer::Granted,
        None => {}
    }
    let (spacing, burst) = A::NEWCOMERS;
    match node.gate(LookIn { spacing, burst, now }) {
        Some(true) => Answer::Stranger,
        _ => Answer::Granted,
    }
}

/// Whether [`pace`] would certainly drop a packet.
#[inline(always)]
pub(super) fn is_too_fast<A: Address, N: Node<A>>(node: &N, now: u64, work: &Work<A>) -> bool {
    node.is_local(&work.seen.tuple.destination) && foresee(node, now, true, work) == Answer::Excess
}

/// What [`meter`] would make of a flow that begins, where it would certainly drop it; else `Pass`.
#[inline(always)]
pub(super) fn foresee_meter<A: Address, N: Node<A>>(node: &N, now: u64, work: &Work<A>) -> Verdict<A> {
    match foresee(node, now, false, work) {
        Answer::Granted => Verdict::PASS,
        Answer::Excess => Verdict::drop(Reason::FlowRate),
        Answer::Stranger => Verdict::drop(Reason::Newcomers),
    }
}

/// Whether a packet is one that its client may send to a port whose packets are limited.
#[inline(always)]
pub fn pace<A: Address, N: Node<A>>(node: &N, now: u64, work: &mut Work<A>) {
    // What only passes through the node is no client's of it.
    if !node.is_local(&work.seen.tuple.destination) {
        work.next = Next::Forward;
        return;
    }
    work.next = Next::Nothing;
    match ask(node, now, true, work) {
        Answer::Excess => work.verdict = Verdict::drop(Reason::PacketRate),
        // What strangers may do is asked where a flow begins.
        Answer::Granted | Answer::Stranger => work.next = Next::Forward,
    }
}

/// Whether a flow that begins is one that its client may begin.
#[inline(always)]
pub fn meter<A: Address, N: Node<A>>(node: &N, now: u64, work: &mut Work<A>) {
    work.next = Next::Nothing;
    match ask(node, now, false, work) {
        Answer::Granted => work.next = Next::Choose,
        Answer::Excess => work.verdict = Verdict::drop(Reason::FlowRate),
        Answer::Stranger => work.verdict = Verdict::drop(Reason::Newcomers),
    }
}
