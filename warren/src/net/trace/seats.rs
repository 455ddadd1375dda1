//! How many flows a client has at a time of a port that counts them.

use std::collections::BTreeMap;

use warren_ebpf::{
    abi::{ClientKey, Config, FlowKey, Seat, SeatKey, map},
    flow::{Present, seat::is_taken},
};

use super::{
    super::{
        datapath::{
            contents::Rows,
            sys::{bytes_of, from_bytes},
        },
        flows::monotonic_ns,
    },
    Question,
    tables::{Side, Tables, named},
};

/// How many of the sender's seats of a service's port are taken, up to the `most`th.
pub(super) fn taken<A: Side>(
    tables: &Tables<'_>,
    before: &BTreeMap<&'static str, Rows>,
    question: &Question,
    service: u32,
    most: u32,
) -> u32
where
    FlowKey<A>: aya::Pod,
    Seat<A>: aya::Pod,
{
    let client = ClientKey {
        service,
        port: question.destination.port(),
        protocol: question.number(),
        pad: 0,
        network: A::read(question.source.ip()).network(),
    };
    let config: Config = tables.row(map::CONFIG, &0u32.to_ne_bytes()).unwrap_or_default();
    let present = Present { config: &config, now: monotonic_ns() };
    let find = |v4: &'static str, k: &[u8]| before.get(named(v4, A::V4)).and_then(|rows| rows.get(k));
    let is_taken = |seat: &u32| {
        let key = SeatKey { client, seat: *seat };
        let Some(seat) = find(map::SEAT4, bytes_of(&key)).and_then(|v| from_bytes::<Seat<A>>(v)) else {
            return false;
        };
        let k = bytes_of(&seat.flow);
        let flow = find(map::FLOW_EST4, k).or_else(|| find(map::FLOW_NEW4, k));
        is_taken(&present, &key, &seat, flow.and_then(|v| from_bytes(v)))
    };
    (1..=most).map(|seat| u32::from(is_taken(&seat))).sum()
}
