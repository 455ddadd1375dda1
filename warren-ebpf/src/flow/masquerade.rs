//! Containers talking to the outside under the node's address. The record that the answer finds is
//! the lock on the port: whoever makes it owns (remote, node address, port), and only one that has
//! run out can be taken over. TCP begins with a pure SYN here too.

use super::{
    Delivery, Operation, Present, Search, Seen, Table, Tables, expired, hash, resolve,
    tcp::{self, Side},
    touch,
};
use crate::{
    abi::{
        Address, BackendRef, Egress, EgressKey, FLOW_ESTABLISHED, FLOW_OPENING, FlowKey, MASQUERADE_REPLIED,
        Reason, Return, ReturnKey, TCP, Traffic,
    },
    packet::Tuple,
};

/// Ports that are tried. With 98 % of the range in use towards one remote port, one search in two
/// hundred fails, and the next packet of the flow searches elsewhere.
const SEARCH: u32 = 256;

/// Gives a packet of container `owner` to a remote the source `local` and a port of its own.
/// Refused are TCP that did not begin here ([`Reason::NoFlow`]) and what finds no port
/// ([`Reason::PortsExhausted`]).
#[inline(always)]
pub fn outbound<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    seen: &Seen<A>,
    owner: BackendRef,
    local: A,
) -> Masqueraded<A> {
    let key = EgressKey {
        container: seen.tuple.source,
        remote: seen.tuple.destination,
        container_port: seen.tuple.source_port,
        remote_port: seen.tuple.destination_port,
        protocol: seen.protocol,
        pad: [0; 3],
    };
    let fresh = |state| Return {
        last_seen: present.now,
        backend: owner,
        container: key.container,
        container_port: key.container_port,
        state,
        flags: 0,
        pad: A::Fill::default(),
        began: present.now,
        traffic: seen.size.sent(),
    };
    let known = tables.egress().with(&key, |e| *e);
    if let Some(known) = known
        && known.local == local
    {
        let return_key = return_key(&key, local, known.local_port);
        let mine = tables.returns().with(&return_key, |r| {
            let mine =
                r.backend == owner && r.container == key.container && r.container_port == key.container_port;
            if mine {
                if seen.segment.pure_syn() && (tcp::over(r.state) || run_out(present, r, key.protocol)) {
                    r.state = FLOW_OPENING;
                    (r.began, r.traffic) = (present.now, Traffic::default());
                } else {
                    r.state = tcp::next(r.state, seen.segment.flags, Side::Client, true);
                }
                touch(&mut r.last_seen, present.now);
                seen.size.count_sent(&mut r.traffic);
            }
            mine
        });
        let kept = match mine {
            Some(mine) => mine,
            // Evicted: the port is taken again before anyone else does.
            None => {
                let state = if seen.segment.pure_syn() { FLOW_OPENING } else { FLOW_ESTABLISHED };
                tables.returns().create(&return_key, &fresh(state))
            }
        };
        if kept {
            return shown(&key, local, known.local_port);
        }
    }
    if key.protocol == TCP && !seen.segment.pure_syn() {
        return Masqueraded::refused(Reason::NoFlow);
    }
    let mut search = FreePort {
        present: *present,
        spread: hash::scramble(
            hash::tuple(&key.container, &key.remote, key.container_port, key.remote_port, key.protocol)
                ^ present.now,
        ),
        key: return_key(&key, local, 0),
        found: 0,
    };
    tables.search(SEARCH, &mut search);
    let port = search.found;
    if port != 0 && take(tables, present, &return_key(&key, local, port), &fresh(FLOW_OPENING)) {
        tables.egress().insert(&key, &Egress { local, local_port: port, pad: 0 });
        return shown(&key, local, port);
    }
    Masqueraded::refused(Reason::PortsExhausted)
}

/// What a packet must show, or why it cannot leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Masqueraded<A> {
    /// What it must show.
    pub tuple: Tuple<A>,
    /// Why not.
    pub refused: Option<Reason>,
}

impl<A: Address> Masqueraded<A> {
    #[inline(always)]
    fn refused(reason: Reason) -> Self {
        Self { tuple: Tuple::default(), refused: Some(reason) }
    }
}

/// Looks for a port that nobody has towards a remote.
struct FreePort<'a, A: Address> {
    present: Present<'a>,
    spread: u64,
    key: ReturnKey<A>,
    found: u16,
}

impl<A: Address, T: Tables<A>> Search<A, T> for FreePort<'_, A> {
    #[inline(always)]
    fn step(&mut self, tables: &T, i: u32) -> bool {
        let first = self.present.config.masquerade_first;
        let count = u32::from(self.present.config.masquerade_last.saturating_sub(first)) + 1;
        let place = hash::scramble(self.spread.wrapping_add(u64::from(i))) % u64::from(count);
        let port = first.wrapping_add(place as u16);
        self.key.local_port = port;
        let held =
            tables.returns().with(&self.key, |r| (r.backend, run_out(&self.present, r, self.key.protocol)));
        if let Some((holder, dead)) = held
            && !dead
            && resolve::<A>(tables, holder).exists()
        {
            return false;
        }
        self.found = port;
        true
    }
}

/// Recognises the answer to a masqueraded packet. Nothing: not of one.
#[inline(always)]
pub fn inbound<A: Address>(tables: &impl Tables<A>, present: &Present<'_>, seen: &Seen<A>) -> Delivery<A> {
    let key = ReturnKey {
        remote: seen.tuple.source,
        local: seen.tuple.destination,
        remote_port: seen.tuple.source_port,
        local_port: seen.tuple.destination_port,
        protocol: seen.protocol,
        pad: [0; 3],
    };
    let found = tables.returns().apply(&key, Answer { present, seen }).unwrap_or_default();
    let backend = resolve::<A>(tables, found.backend);
    if !backend.exists() || backend.address != found.container {
        return Delivery::default();
    }
    let mut tuple = seen.tuple;
    tuple.destination = found.container;
    tuple.destination_port = found.container_port;
    Delivery { tuple, ifindex: backend.ifindex }
}

/// An answer on its record, which it returns; all zero when that has run out.
struct Answer<'a, A> {
    present: &'a Present<'a>,
    seen: &'a Seen<A>,
}

impl<A: Address> Operation<Return<A>> for Answer<'_, A> {
    type Output = Return<A>;

    #[inline(always)]
    fn run(self, record: &mut Return<A>) -> Return<A> {
        if run_out(self.present, record, self.seen.protocol) {
            return Return::default();
        }
        record.state = tcp::next(record.state, self.seen.segment.flags, Side::Server, true);
        record.flags |= MASQUERADE_REPLIED;
        touch(&mut record.last_seen, self.present.now);
        self.seen.size.count_received(&mut record.traffic);
        *record
    }
}

/// Whether the container of a flow that is about to begin already talks to the client, from the
/// very port that the client wants to reach, under the node's address.
#[inline(always)]
pub(super) fn talks<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    flow: &FlowKey<A>,
    owner: BackendRef,
) -> bool {
    let key = EgressKey {
        container: flow.backend,
        remote: flow.client,
        container_port: flow.backend_port,
        remote_port: flow.client_port,
        protocol: flow.protocol,
        pad: [0; 3],
    };
    live(tables, present, &key, owner).local_port != 0
}

/// What the packets of container `owner` show outside; all zero when that is over, or was another's who had
/// its address.
#[inline(always)]
pub(super) fn live<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    key: &EgressKey<A>,
    owner: BackendRef,
) -> Egress<A> {
    let known = tables.egress().with(key, |e| *e).unwrap_or_default();
    let live = tables.returns().with(&return_key(key, known.local, known.local_port), |r| {
        r.backend == owner
            && r.container == key.container
            && r.container_port == key.container_port
            && !run_out(present, r, key.protocol)
    });
    if live == Some(true) { known } else { Egress::default() }
}

/// The record that an answer finds, left as it is; all zero when there is none, or it has run out.
#[inline(always)]
pub(super) fn holder<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    key: &ReturnKey<A>,
) -> Return<A> {
    let found = tables
        .returns()
        .with(key, |r| if run_out(present, r, key.protocol) { Return::default() } else { *r });
    found.unwrap_or_default()
}

/// Whether the destination of an incoming packet can be a masquerading port: a look at two numbers
/// that spares nearly all traffic a look-up.
#[inline(always)]
#[must_use]
pub fn concerns<A>(present: &Present<'_>, seen: &Seen<A>) -> bool {
    let port = seen.tuple.destination_port;
    present.config.masquerade_first <= port && port <= present.config.masquerade_last
}

/// Makes the record, or takes it over from one that has run out or whose container is gone.
#[inline(always)]
fn take<A: Address>(
    tables: &impl Tables<A>,
    present: &Present<'_>,
    key: &ReturnKey<A>,
    fresh: &Return<A>,
) -> bool {
    let Some((holder, dead)) = tables.returns().with(key, |r| (r.backend, run_out(present, r, key.protocol)))
    else {
        return tables.returns().create(key, fresh);
    };
    if !dead && resolve::<A>(tables, holder).exists() {
        return false;
    }
    let claimed = tables.returns().with(key, |r| {
        let seen = r.last_seen;
        // Looked at again: someone may have taken it meanwhile. The value must change, or two
        // could claim it.
        (run_out(present, r, key.protocol) || (r.backend == holder && !dead))
            && tables.claim(&mut r.last_seen, seen, present.now.max(seen + 1))
    });
    if claimed != Some(true) {
        return false;
    }
    tables.returns().insert(key, fresh);
    true
}

/// Whether a record has run out.
#[inline(always)]
fn run_out<A: Address>(present: &Present<'_>, record: &Return<A>, protocol: u8) -> bool {
    let config = present.config;
    let patience = match protocol {
        TCP => tcp::patience(record.state, config),
        protocol if protocol == A::ICMP => config.icmp,
        _ if record.flags & MASQUERADE_REPLIED != 0 => config.udp_both_ways,
        _ => config.udp_one_way,
    };
    expired(present, record.last_seen, patience)
}

#[inline(always)]
fn return_key<A: Address>(key: &EgressKey<A>, local: A, port: u16) -> ReturnKey<A> {
    ReturnKey {
        remote: key.remote,
        local,
        remote_port: key.remote_port,
        local_port: port,
        protocol: key.protocol,
        pad: [0; 3],
    }
}

#[inline(always)]
fn shown<A: Address>(key: &EgressKey<A>, local: A, port: u16) -> Masqueraded<A> {
    let tuple = Tuple {
        source: local,
        destination: key.remote,
        source_port: port,
        destination_port: key.remote_port,
    };
    Masqueraded { tuple, refused: None }
}
