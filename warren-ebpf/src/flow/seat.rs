//! How many flows a client may have of a published port at a time.
//!
//! There is no counter: nobody sees a record run out or be evicted, so one would leak. A client has
//! seats instead, numbered from 1 on, and each flow takes one: the seat names the flow's tracking
//! record, and the record the seat ([`Flow::seat`]) and whose turn it is ([`Flow::turn`]). A seat is free
//! when its record is over, has run out or is another's. Nothing is to be given back, and what has
//! begun costs nothing more.
//!
//! The search begins at the seat taken last, so that one connection after the other has one seat. A
//! client that has none free is not looked at again for a while ([`PAUSE`]): so it cannot keep a CPU
//! busy.
//!
//! Who takes a seat swaps the time in it, so two never get the same; until its record is there, the
//! seat counts as taken for [`TAKING`].

use super::{
    Operation, Present, Search, Table, Tables,
    decide::{Next, Node, Verdict, Work},
    expired,
    limit::client,
    record::{flow_key, forward_key, patience},
};
use crate::abi::{
    Address, ClientKey, Config, FLOW_CLOSED, FLOW_RESET, Flow, FlowKey, Forward, ForwardKey, Reason, Seat,
    SeatKey, Service,
};

/// Nanoseconds for each seat that a client is not looked at once all are taken: some 150 times what it
/// takes to look.
pub const PAUSE: u64 = 25_000;

/// Nanoseconds within which a record is surely made, once its seat is taken.
pub const TAKING: u64 = 10_000_000;

/// The bits of [`Client::seats`](crate::abi::Client::seats) that are the last seat.
const LAST: u64 = 0xffff;

/// What a seat's record says: it is another's or there is none.
const NOBODY: u32 = 0;
/// It goes on.
const LIVE: u32 = 1;
/// Both sides have closed it.
const CLOSED: u32 = 2;
/// It has run out, or was reset by somebody.
const DEAD: u32 = 3;

/// Tells those who take a seat at different moments from each other.
#[inline(always)]
const fn turn(taken: u64) -> u8 {
    (taken ^ (taken >> 8) ^ (taken >> 16)) as u8
}

/// Takes a seat for the flow that is to be opened, or refuses it.
#[inline(always)]
pub fn take<A: Address, N: Node<A>>(node: &N, present: &Present<'_>, work: &mut Work<A>) {
    let most = node.limit(work.service.id).connections;
    work.next = Next::Open;
    if most == 0 {
        return;
    }
    let client = client(work);
    let mut before = 0;
    node.clients().with(&client, |c| before = c.seats);
    let (now, until, pause) = (present.now, before & !LAST, u64::from(most) * PAUSE);
    // A clock that was another one holds up nobody.
    if now < until && until <= now + pause {
        refuse(work);
        return;
    }
    let last = (before & LAST) as u32;
    let flow = flow_key(present, &forward_key(&work.seen), &work.chosen.backend, &work.chosen.record);
    let key = SeatKey { client, seat: last.saturating_sub(1) };
    let mut search = FreeSeat { now, config: *present.config, key, most, flow, left: 0, found: 0 };
    node.search(most, &mut search);
    let found = search.found;
    if found == 0 {
        node.clients().with(&client, |c| c.seats = (now + pause) & !LAST | u64::from(last));
        refuse(work);
        return;
    }
    node.clients().with(&client, |c| c.seats = u64::from(found));
    work.chosen.record.seat = found as u16;
    work.chosen.record.turn = turn(now);
    if search.left != 0 {
        end(node, &search.flow);
    }
}

#[inline(always)]
fn refuse<A: Address>(work: &mut Work<A>) {
    work.next = Next::Nothing;
    work.verdict = Verdict::drop(Reason::Connections);
}

/// Forgets a flow whose seat another has taken. One that was reset may not have been, and one that was
/// silent may speak again: it would be one too many.
#[inline(always)]
fn end<A: Address>(tables: &impl Tables<A>, key: &FlowKey<A>) {
    let mut forward = ForwardKey::default();
    let found = tables.established().apply(key, Names { forward: &mut forward, key });
    if found.is_none() {
        tables.half_open().apply(key, Names { forward: &mut forward, key });
    }
    tables.established().remove(key);
    tables.half_open().remove(key);
    tables.established_forwards().remove(&forward);
    tables.half_open_forwards().remove(&forward);
}

/// The forward record of a flow.
struct Names<'a, A: Address> {
    forward: &'a mut ForwardKey<A>,
    key: &'a FlowKey<A>,
}

impl<A: Address> Operation<Flow<A>> for Names<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run(self, flow: &mut Flow<A>) {
        *self.forward = ForwardKey {
            client: flow.client,
            published: flow.published,
            client_port: flow.client_port,
            published_port: flow.published_port,
            protocol: self.key.protocol,
            pad: [0; 3],
        };
    }
}

/// Looks for a seat that nobody has, and takes it.
struct FreeSeat<A: Address> {
    now: u64,
    config: Config,
    /// The seat before the one to look at.
    key: SeatKey,
    most: u32,
    /// Whom it is for; once it is found, who had it.
    flow: FlowKey<A>,
    /// Whether the flow of who had it is to be forgotten.
    left: u32,
    found: u32,
}

impl<A: Address, T: Tables<A>> Search<A, T> for FreeSeat<A> {
    #[inline(always)]
    fn step(&mut self, tables: &T, _: u32) -> bool {
        self.key.seat = if self.key.seat >= self.most { 1 } else { self.key.seat + 1 };
        // All zero: nobody ever had it.
        let seat = tables.seats().with(&self.key, |s| *s).unwrap_or_default();
        if seat.taken == 0 {
            if tables.seats().create(&self.key, &Seat { taken: self.now, flow: self.flow }) {
                self.found = self.key.seat;
            }
            return self.found != 0;
        }
        // Its record is to be replaced: it is begun once more.
        let mut said = CLOSED;
        if !same(&seat.flow, &self.flow) {
            let present = &Present { config: &self.config, now: self.now };
            let (number, turn) = (self.key.seat as u16, turn(seat.taken));
            let asked = Holds { present, client: &self.key.client, seat: number, turn };
            said = tables.established().apply(&seat.flow, asked).unwrap_or(NOBODY);
            if said == NOBODY {
                said = tables.half_open().apply(&seat.flow, asked).unwrap_or(NOBODY);
            }
            if said == LIVE || (said == NOBODY && self.now.saturating_sub(seat.taken) < TAKING) {
                return false;
            }
        }
        let take = Take { tables, seen: seat.taken, now: self.now, flow: &self.flow };
        if tables.seats().apply(&self.key, take) != Some(true) {
            return false;
        }
        self.found = self.key.seat;
        self.left = u32::from(said == DEAD);
        self.flow = seat.flow;
        true
    }
}

/// Whether two tracking records would be one.
#[inline(always)]
fn same<A: Address>(a: &FlowKey<A>, b: &FlowKey<A>) -> bool {
    let addresses = a.client.difference(&b.client) | a.backend.difference(&b.backend);
    let ports = (a.client_port ^ b.client_port) | (a.backend_port ^ b.backend_port);
    addresses | u32::from(ports) == 0
}

/// Whether a tracking record has a seat.
#[derive(Clone, Copy)]
struct Holds<'a> {
    present: &'a Present<'a>,
    client: &'a ClientKey,
    seat: u16,
    turn: u8,
}

impl<A: Address> Operation<Flow<A>> for Holds<'_> {
    type Output = u32;

    #[inline(always)]
    fn run(self, flow: &mut Flow<A>) -> u32 {
        // One question instead of four, for the verifier.
        let other = u32::from(flow.seat ^ self.seat)
            | u32::from(flow.turn ^ self.turn)
            | u32::from(flow.published_port ^ self.client.port)
            | (flow.service ^ self.client.service);
        if other != 0 {
            return NOBODY;
        }
        let state = flow.state;
        if state == FLOW_CLOSED {
            return CLOSED;
        }
        let silent =
            expired(self.present, flow.last_seen, patience(self.present, self.client.protocol, state));
        if state == FLOW_RESET || silent { DEAD } else { LIVE }
    }
}

/// Whether a seat is taken, as [`take`] sees it. `flow` is the tracking record that it names.
#[must_use]
pub fn is_taken<A: Address>(
    present: &Present<'_>,
    key: &SeatKey,
    seat: &Seat<A>,
    flow: Option<Flow<A>>,
) -> bool {
    let asked = Holds { present, client: &key.client, seat: key.seat as u16, turn: turn(seat.taken) };
    match flow.map_or(NOBODY, |mut flow| asked.run(&mut flow)) {
        LIVE => true,
        NOBODY => seat.taken != 0 && present.now.saturating_sub(seat.taken) < TAKING,
        _ => false,
    }
}

/// Takes a seat, if nobody else has in the meantime.
struct Take<'a, A: Address, T> {
    tables: &'a T,
    seen: u64,
    now: u64,
    flow: &'a FlowKey<A>,
}

impl<A: Address, T: Tables<A>> Operation<Seat<A>> for Take<'_, A, T> {
    type Output = bool;

    #[inline(always)]
    fn run(self, seat: &mut Seat<A>) -> bool {
        let taken = self.tables.claim(&mut seat.taken, self.seen, self.now);
        if taken {
            seat.flow = *self.flow;
        }
        taken
    }
}

/// Has the kernel remember the seat of a flow that is established now longer than those of flows that
/// never are: its table forgets first what was not looked up again.
#[inline(always)]
pub(super) fn keep<A: Address>(tables: &impl Tables<A>, service: &Service, key: &ForwardKey<A>, seat: u16) {
    let client = ClientKey {
        service: service.id,
        port: key.published_port,
        protocol: key.protocol,
        pad: 0,
        network: key.client.network(),
    };
    tables.seats().with(&SeatKey { client, seat: u32::from(seat) }, |_| ());
}

/// What the forward record of a flow must say of its seat when it is made anew.
#[inline(always)]
pub(super) fn recall<A: Address>(tables: &impl Tables<A>, key: &FlowKey<A>, record: &mut Forward) {
    let mut found = false;
    tables.established().with(key, |flow| {
        (record.seat, record.turn) = (flow.seat, flow.turn);
        found = true;
    });
    if !found {
        tables.half_open().with(key, |flow| (record.seat, record.turn) = (flow.seat, flow.turn));
    }
}
