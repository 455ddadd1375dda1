//! What becomes of packets: in the kernel as in the model, in both families.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use aya::maps::Array;
use warren_ebpf::{
    abi::{Address as _, BACKEND_DRAINING, BACKEND_UP, Backend, Reason, TCP, UDP, map, program},
    flow::decide::{Action, V6, Verdict},
    packet::{ACK, FIN, RST, SYN, Tuple},
};

use crate::{
    frame::{Family, make, payload, read, reversed, tuple},
    testrun::{Twins, UPLINK, alone, container, load, run},
};

of_both_families!(
    the_life_of_a_connection,
    blind_handshakes_establish_nothing,
    nobody_outside_reaches_a_container_by_its_own_address,
    every_kind_of_packet_is_decided_as_in_the_model,
    backend_states_are_obeyed_by_the_next_packet,
    colliding_connections_get_ports_of_their_own,
    odd_packets_pass_or_are_counted,
    nothing_happens_before_the_agent_has_configured_it,
);

fn the_life_of_a_connection<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    for port in 40_000..40_020 {
        let t = tuple(A::CLIENT, port, A::NODE, 8080);
        let (verdict, inside) = twins.enter(t, TCP, SYN)?;
        ensure!(verdict.action == Action::Container && inside.source == A::CLIENT);
        let id = verdict.ifindex - 100;
        twins.same_records()?;
        let (_, outside) = twins.leave(id, reversed(inside), TCP, SYN | ACK)?;
        ensure!(outside == reversed(t));
        twins.enter(t, TCP, ACK)?;
        twins.same_records()?;
        ensure!(twins.model.flow_new.is_empty() && !twins.model.flow_est.is_empty(), "established");
        twins.leave(id, reversed(inside), TCP, FIN | ACK)?;
        twins.enter(t, TCP, FIN | ACK)?;
        twins.same_records()?;
    }
    Ok(())
}

/// Made-up sources get answers that they do not see: what they acknowledge is a guess.
fn blind_handshakes_establish_nothing<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let known = tuple(A::CLIENT, 40_000, A::NODE, 8082);
    let (_, known_inside) = twins.enter(known, TCP, SYN)?;
    twins.leave(1, reversed(known_inside), TCP, SYN | ACK)?;
    twins.enter(known, TCP, ACK)?;
    for n in 0..500u32 {
        let t = tuple(A::stranger(n), 5, A::NODE, 8082);
        let (_, inside) = twins.enter(t, TCP, SYN)?;
        twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
        for flags in [ACK, FIN | ACK, RST, ACK] {
            let mut packet = make(t, TCP, flags, b"");
            let guess = n.wrapping_mul(2_654_435_761) | 1;
            set_acknowledgement::<A>(&mut packet, guess);
            let (verdict, _) = twins.pass(program::NODE_IN_L2, UPLINK, &packet)?;
            ensure!(verdict.action == Action::Container, "forwarded all the same: {verdict:?}");
        }
        // After a reset too.
        twins.leave(1, reversed(inside), TCP, ACK)?;
        let mut packet = make(t, TCP, ACK, b"");
        set_acknowledgement::<A>(&mut packet, n | 1 << 31);
        twins.pass(program::NODE_IN_L2, UPLINK, &packet)?;
    }
    twins.same_records()?;
    let established = (twins.model.flow_est.len(), twins.model.fwd_est.len());
    ensure!(established == (1, 1), "{established:?}");
    ensure!(twins.enter(known, TCP, ACK)?.1 == known_inside);
    Ok(())
}

/// Changes the acknowledgement number of a packet without options, and its checksum.
fn set_acknowledgement<A: Family>(packet: &mut [u8], number: u32) {
    let ip = A::header(&warren_ebpf::packet::Bytes(packet), 14).expect("an IP header");
    let at = ip.payload as usize + 8;
    packet[at..at + 4].copy_from_slice(&number.to_be_bytes());
    let (header, rest) = etherparse::TcpHeader::from_slice(&packet[at - 8..]).expect("TCP");
    let check = A::tcp_checksum(&header, ip.source, ip.destination, rest);
    packet[at + 8..at + 10].copy_from_slice(&check.to_be_bytes());
}

fn nobody_outside_reaches_a_container_by_its_own_address<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let mut sent = 0;
    let mut refused = |twins: &mut Twins<A>, packet: &[u8]| -> Result<()> {
        let (verdict, _) = twins.pass(program::NODE_IN_L2, UPLINK, packet)?;
        ensure!(verdict == Verdict::drop(Reason::Unpublished), "{verdict:?}");
        sent += 1;
        Ok(())
    };
    for id in 1..=3 {
        for port in [22, 80, 8080, 61_000] {
            let t = tuple(A::CLIENT, 5, container::<A>(id).0, port);
            for flags in 0..32 {
                refused(&mut twins, &make(t, TCP, flags, payload(TCP, flags)))?;
            }
            refused(&mut twins, &make(t, UDP, 0, b"payload"))?;
        }
        for ping in
            [tuple(A::CLIENT, 7, container::<A>(id).0, 0), tuple(A::CLIENT, 0, container::<A>(id).0, 7)]
        {
            refused(&mut twins, &make(ping, A::ICMP, 0, b"payload"))?;
        }
        // Fragments, and protocols without ports.
        for change in A::without_ports() {
            let mut packet = make(tuple(A::CLIENT, 5, container::<A>(id).0, 80), TCP, SYN, &[7; 30]);
            change(&mut packet);
            refused(&mut twins, &packet)?;
        }
    }
    // What is nobody's passes.
    ensure!(twins.enter(tuple(A::CLIENT, 5, A::UNUSED, 80), TCP, SYN)?.0 == Verdict::PASS);
    let count = twins.drops(Reason::Unpublished)?;
    ensure!(count == sent, "{count} of {sent} are counted");
    twins.same_records()
}

fn every_kind_of_packet_is_decided_as_in_the_model<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let one = container::<A>(1).0;
    // From outside.
    for t in [
        tuple(A::CLIENT, 5, A::NODE, 22),
        tuple(A::CLIENT, 5, A::NODE, 8081),
        tuple(A::CLIENT, 5, A::LAN, 8081),
        tuple(A::CLIENT, 5, A::stranger(200), 8080),
        tuple(A::NODE, 5, A::LAN, 8080),
        tuple(A::CLIENT, 5, A::NODE, 61_000),
    ] {
        for flags in 0..32 {
            twins.enter(t, TCP, flags)?;
        }
        twins.enter(t, UDP, 0)?;
    }
    twins.enter(tuple(A::CLIENT, 77, A::NODE, 0), A::ICMP, 0)?;
    // From a container: out, to the node, to a neighbour, to itself, and what it may not do.
    for t in [
        tuple(one, 5, A::REMOTE, 443),
        tuple(one, 6, A::NODE, 22),
        tuple(one, 6, A::NODE, 8080),
        tuple(one, 8, A::NODE, 8082),
        tuple(one, 7, container::<A>(2).0, 80),
        tuple(one, 7, A::UNUSED, 80),
        tuple(one, 7, A::NOBODYS[0], 5353),
        tuple(one, 7, A::NOBODYS[1], 67),
        tuple(container::<A>(2).0, 7, A::REMOTE, 80),
    ] {
        for flags in [SYN, ACK, SYN | ACK, RST, FIN | ACK, 0] {
            twins.leave(1, t, TCP, flags)?;
        }
        twins.leave(1, t, UDP, 0)?;
        twins.leave(1, tuple(t.source, 9, t.destination, 0), A::ICMP, 0)?;
        twins.leave(1, tuple(t.source, 0, t.destination, 9), A::ICMP, 0)?;
    }
    twins.same_records()?;
    // The hairpin's reply.
    let (_, inside) = twins.leave(1, tuple(one, 99, A::NODE, 8082), TCP, SYN)?;
    ensure!(inside == tuple(A::hairpin(&twins.model.config), 99, one, 80), "{inside:?}");
    let (_, back) = twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
    ensure!(back == tuple(A::NODE, 8082, one, 99));
    // Answers to what was masqueraded.
    for protocol in [TCP, UDP] {
        let (verdict, inside) = twins.enter(tuple(A::REMOTE, 443, A::NODE, 61_000), protocol, SYN | ACK)?;
        ensure!(verdict.action == Action::Container && inside == tuple(A::REMOTE, 443, one, 5), "{inside:?}");
    }
    twins.same_records()
}

fn backend_states_are_obeyed_by_the_next_packet<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let t = tuple(A::CLIENT, 1000, A::NODE, 8082);
    let (_, inside) = twins.enter(t, TCP, SYN)?;
    twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
    twins.enter(t, TCP, ACK)?;
    for state in [BACKEND_DRAINING, warren_ebpf::abi::BACKEND_CLOSED, BACKEND_UP] {
        twins.model.backends.get_mut(&1).context("row")?.state = state;
        let row = twins.model.backends[&1];
        Array::<_, Backend>::try_from(twins.ebpf.map_mut(map::BACKEND).context("map")?)?.set(1, row, 0)?;
        twins.enter(t, TCP, ACK)?;
        for port in 2000..2050 {
            twins.enter(tuple(A::CLIENT, port + u16::from(state) * 100, A::NODE, 8080), TCP, SYN)?;
        }
        twins.same_records()?;
    }
    Ok(())
}

fn colliding_connections_get_ports_of_their_own<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let mut kernel = |t: Tuple<A>, flags| -> Result<Tuple<A>> {
        let (returned, out) = run(&mut twins.ebpf, program::NODE_IN_L2, UPLINK, &make(t, TCP, flags, b""))?;
        ensure!(returned == 7, "{t:?}: {returned}");
        read(&out)
    };
    let mut seen = HashMap::new();
    for port in 3000..3200 {
        for published in [(A::NODE, 8082), (A::LAN, 8082), (A::LAN, 8081)] {
            let t = tuple(A::CLIENT, port, published.0, published.1);
            let inside = kernel(t, SYN)?;
            ensure!(inside.source == A::CLIENT, "the address is kept");
            ensure!(seen.insert(inside, t).is_none(), "two connections share {inside:?}");
        }
    }
    for (inside, t) in seen {
        let reply = make(reversed(inside), TCP, SYN | ACK, b"");
        let (returned, out) = run(&mut twins.ebpf, program::VETH_IN, container::<A>(1).1, &reply)?;
        ensure!(returned == 7 && read(&out)? == reversed(t), "{inside:?}");
    }
    Ok(())
}

fn odd_packets_pass_or_are_counted<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let (inbound, outbound) =
        (tuple(A::CLIENT, 9, A::NODE, 8080), tuple(container::<A>(1).0, 9, A::REMOTE, 80));
    let base = |t| make(t, TCP, SYN, &[7; 30]);
    for (n, change) in A::without_ports().into_iter().chain(A::broken()).enumerate() {
        let mut packet = base(inbound);
        change(&mut packet);
        let case = twins.pass(program::NODE_IN_L2, UPLINK, &packet).with_context(|| format!("case {n}"))?;
        ensure!(case.0 == Verdict::PASS, "case {n}: {case:?}");
        let mut packet = base(outbound);
        change(&mut packet);
        let case = twins
            .pass(program::VETH_IN, container::<A>(1).1, &packet)
            .with_context(|| format!("case {n}"))?;
        ensure!(case.0.action == Action::Drop, "case {n}: {case:?}");
    }
    // Options are passed over, not refused.
    for change in A::extended() {
        let mut packet = base(inbound);
        change(&mut packet);
        let (verdict, _) = twins.pass(program::NODE_IN_L2, UPLINK, &packet)?;
        ensure!(verdict.action == Action::Container, "{verdict:?}");
        let mut packet = base(outbound);
        change(&mut packet);
        let (verdict, _) = twins.pass(program::VETH_IN, container::<A>(1).1, &packet)?;
        ensure!(verdict.action == Action::Device, "{verdict:?}");
    }
    twins.same_records()?;
    // Not IP at all.
    for (ethertype, from_container) in [(0x0806u16, -1), (0x88cc, 2)] {
        let mut packet = base(outbound);
        packet[12..14].copy_from_slice(&ethertype.to_be_bytes());
        ensure!(run(&mut twins.ebpf, program::NODE_IN_L2, UPLINK, &packet)? == (-1, packet.clone()));
        ensure!(run(&mut twins.ebpf, program::VETH_IN, container::<A>(1).1, &packet)?.0 == from_container);
    }
    // Other hosts' packets, seen on a bridge port.
    let mut packet = base(inbound);
    packet[0] = 6;
    ensure!(run(&mut twins.ebpf, program::NODE_IN_L2, UPLINK, &packet)? == (-1, packet.clone()));
    for (reason, at_least) in
        [(Reason::Malformed, 8), (Reason::Fragment, 2), (Reason::Protocol, 1), (Reason::NotMasqueraded, 2)]
    {
        let count = twins.drops(reason)?;
        ensure!(count >= at_least, "{}: {count}", reason.name());
    }
    Ok(())
}

fn nothing_happens_before_the_agent_has_configured_it<A: Family>() -> Result<()> {
    let mut ebpf = load()?;
    let packet = make(tuple(container::<A>(1).0, 5, A::NODE, 8080), TCP, SYN, b"");
    for name in [program::NODE_IN_L2, program::NODE_IN_L3, program::VETH_IN] {
        ensure!(run(&mut ebpf, name, 1, &packet)? == (-1, packet.clone()), "{name}");
    }
    Ok(())
}

/// What keeps a link of IPv6 going is the kernel's, and no container's to send elsewhere.
#[test]
#[ignore = "needs root"]
fn neighbour_discovery_passes() -> Result<()> {
    const GROUP: V6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];
    const GATEWAY: V6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    alone(|| {
        let mut twins = Twins::<V6>::new()?;
        let (own, device) = container::<V6>(1);
        for kind in [130u8, 131, 132, 133, 134, 135, 136, 143] {
            for (source, destination) in [(own, GROUP), (V6::default(), GROUP), (own, GATEWAY)] {
                let mut packet = make(tuple(source, 9, destination, 0), V6::ICMP, 0, b"");
                packet[54] = kind;
                let (verdict, _) = twins.pass(program::VETH_IN, device, &packet)?;
                ensure!(verdict == Verdict::PASS, "{kind} to {destination:?}: {verdict:?}");
            }
            for destination in [V6::NODE, GATEWAY] {
                let mut packet = make(tuple(V6::CLIENT, 9, destination, 0), V6::ICMP, 0, b"");
                packet[54] = kind;
                let (verdict, _) = twins.pass(program::NODE_IN_L2, UPLINK, &packet)?;
                ensure!(verdict == Verdict::PASS, "{kind}: {verdict:?}");
            }
            let mut packet = make(tuple(own, 9, V6::REMOTE, 0), V6::ICMP, 0, b"");
            packet[54] = kind;
            let (verdict, _) = twins.pass(program::VETH_IN, device, &packet)?;
            ensure!(verdict == Verdict::drop(Reason::NotMasqueraded), "{kind}: {verdict:?}");
        }
        Ok(())
    })
}
