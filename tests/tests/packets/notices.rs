//! ICMP errors through the kernel and through the model.

use anyhow::{Context as _, Result, ensure};
use warren_ebpf::{
    abi::{Reason, TCP, UDP, program},
    flow::decide::{Action, Verdict},
    packet::{ACK, Bytes, SYN, Tuple, notice},
};

use crate::{
    frame::{Family, make, read, reversed, tuple},
    testrun::{Twins, UPLINK, container},
};

of_both_families!(
    errors_from_outside_reach_the_container_that_sent,
    errors_of_containers_reach_the_client,
    errors_about_nothing_known_are_not_let_through,
);

/// How much of a packet is quoted after its IP header: the least there must be, half a TCP header, all.
const QUOTED: [usize; 3] = [8, 18, 1000];

/// ICMP errors of each kind, with more and with less of the packet they are about.
fn errors<A: Family>(from: A, to: A, about: Tuple<A>, protocol: u8) -> Vec<Vec<u8>> {
    let packet = make(about, protocol, ACK, b"payload of some length");
    let quotes = QUOTED.map(|n| &packet[14..(A::PAYLOAD + n).min(packet.len())]);
    quotes.iter().flat_map(|quote| A::errors(from, to, quote)).collect()
}

/// What an error is about.
fn about<A: Family>(packet: &[u8]) -> Result<Tuple<A>> {
    let mut copy = packet.to_vec();
    let packet = Bytes(&mut copy);
    let ip = A::header(&packet, 14).context("no IP header")?;
    let mut quoted = notice::Quoted::default();
    ensure!(notice::read(&packet, &ip, &mut quoted), "no error");
    Ok(quoted.tuple)
}

fn errors_from_outside_reach_the_container_that_sent<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let router = A::stranger(9);
    let one = container::<A>(1);
    for protocol in [TCP, UDP, A::ICMP] {
        let t = tuple(one.0, 5, A::REMOTE, if protocol == A::ICMP { 0 } else { 443 });
        let (_, shown) = twins.leave(1, t, protocol, SYN)?;
        for error in errors(router, A::NODE, shown, protocol) {
            let (verdict, out) = twins.pass(program::NODE_IN_L2, UPLINK, &error)?;
            ensure!((verdict.action, verdict.ifindex) == (Action::Container, one.1), "{verdict:?}");
            ensure!(read::<A>(&out)? == tuple(router, 0, one.0, 0) && about::<A>(&out)? == t);
        }
    }
    for protocol in [TCP, UDP] {
        let t = tuple(A::CLIENT, 4000, A::NODE, 8080);
        let (verdict, inside) = twins.enter(t, protocol, SYN)?;
        for error in errors(router, A::NODE, reversed(t), protocol) {
            let (told, out) = twins.pass(program::NODE_IN_L2, UPLINK, &error)?;
            ensure!((told.action, told.ifindex) == (Action::Container, verdict.ifindex), "{told:?}");
            ensure!(about::<A>(&out)? == reversed(inside));
        }
    }
    twins.same_records()
}

fn errors_of_containers_reach_the_client<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let t = tuple(A::CLIENT, 4000, A::LAN, 8082);
    let (_, inside) = twins.enter(t, UDP, 0)?;
    for error in errors(container::<A>(1).0, A::CLIENT, inside, UDP) {
        let (verdict, out) = twins.pass(program::VETH_IN, container::<A>(1).1, &error)?;
        ensure!((verdict.action, verdict.ifindex) == (Action::Device, UPLINK), "{verdict:?}");
        ensure!(read::<A>(&out)? == tuple(A::LAN, 0, A::CLIENT, 0) && about::<A>(&out)? == t);
    }
    // Another container, and the same one by a way around.
    for client in [2, 1] {
        let t = tuple(container::<A>(client).0, 4000, A::NODE, 8082);
        let (_, inside) = twins.leave(client, t, UDP, 0)?;
        for error in errors(container::<A>(1).0, inside.source, inside, UDP) {
            let (verdict, out) = twins.pass(program::VETH_IN, container::<A>(1).1, &error)?;
            ensure!((verdict.action, verdict.ifindex) == (Action::Container, 100 + client), "{verdict:?}");
            ensure!(about::<A>(&out)? == t);
        }
    }
    let t = tuple(container::<A>(1).0, 5, A::REMOTE, 53);
    let (_, shown) = twins.leave(1, t, UDP, 0)?;
    for error in errors(container::<A>(1).0, A::REMOTE, reversed(t), UDP) {
        let (verdict, out) = twins.pass(program::VETH_IN, container::<A>(1).1, &error)?;
        ensure!((verdict.action, verdict.ifindex) == (Action::Device, UPLINK), "{verdict:?}");
        ensure!(about::<A>(&out)? == reversed(shown));
    }
    twins.same_records()
}

fn errors_about_nothing_known_are_not_let_through<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let one = container::<A>(1);
    let strange = tuple(A::CLIENT, 4000, one.0, 80);
    let mut sent = 0;
    for protocol in [TCP, UDP] {
        for error in errors(one.0, A::CLIENT, strange, protocol) {
            let (verdict, _) = twins.pass(program::VETH_IN, one.1, &error)?;
            ensure!(verdict == Verdict::drop(Reason::NoFlow), "{verdict:?}");
            sent += 1;
        }
        for error in errors(A::CLIENT, one.0, reversed(strange), protocol) {
            let (verdict, _) = twins.pass(program::NODE_IN_L2, UPLINK, &error)?;
            ensure!(verdict == Verdict::drop(Reason::Unpublished), "{verdict:?}");
        }
        // The node's own packets are the node's own business.
        for error in errors(A::CLIENT, A::NODE, tuple(A::NODE, 61_000, A::CLIENT, 80), protocol) {
            ensure!(twins.pass(program::NODE_IN_L2, UPLINK, &error)?.0 == Verdict::PASS);
        }
        for error in errors(one.0, A::NODE, tuple(A::NODE, 5, one.0, 80), protocol) {
            ensure!(twins.pass(program::VETH_IN, one.1, &error)?.0 == Verdict::PASS);
        }
    }
    ensure!(twins.drops(Reason::NoFlow)? == sent);
    twins.same_records()
}
