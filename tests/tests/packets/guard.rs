//! The guard in the kernel: it drops what the node's program would drop, and nothing else, and leaves
//! everybody's numbers as they are.

use anyhow::{Context as _, Result, ensure};
use aya::maps::Array;
use warren_ebpf::{
    abi::{CONFIG_DENY, Gate, Limit, Reason, SERVICE_LIMITED, TCP, UDP, map, program},
    flow::decide::{Action, Verdict},
    packet::{ACK, FIN, RST, SYN, Tuple},
};

use crate::{
    frame::{Family, make, payload, reversed, tuple},
    limits::{comes_in, limited, wait},
    testrun::{Twins, load, run},
};

of_both_families!(
    who_is_denied_is_dropped_early,
    flows_beyond_the_limit_are_dropped_early_and_not_counted_twice,
    packets_beyond_the_limit_are_dropped_early,
    newcomers_are_dropped_early_when_too_many_come,
    what_is_not_plain_passes,
    everything_else_passes_untouched,
    what_is_addressed_to_another_host_passes,
    nothing_is_dropped_before_the_agent_has_configured_it,
);

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

/// Longer than a test takes.
const NEVER: u32 = u32::MAX;

/// Lets a packet come to the guard, in the kernel and in the model; whether it drops it, for this reason.
/// Nothing but the counters may change.
fn drops<A: Family>(twins: &mut Twins<A>, packet: &[u8], reason: Reason) -> Result<bool> {
    let look = |twins: &Twins<A>| -> Result<_> { Ok((twins.drops(reason)?, twins.early(reason)?)) };
    let (clients, at_gate, before) = (twins.clients()?, gate(twins)?, look(twins)?);
    let (said, out) = run(&mut twins.ebpf, program::GUARD, 1, packet)?;
    let expected = twins.model.guard(packet, 1);
    ensure!(out == packet, "the guard changes no packet");
    ensure!(twins.clients()? == clients && gate(twins)? == at_gate, "the guard moves nobody's number");
    let after = look(twins)?;
    match said {
        XDP_PASS => ensure!(expected == Verdict::PASS && after == before, "passed: {expected:?}, {after:?}"),
        XDP_DROP => {
            ensure!(expected == Verdict::drop(reason), "dropped: {expected:?}");
            ensure!(after == (before.0, before.1 + 1), "{before:?}, then {after:?}");
        }
        other => anyhow::bail!("the guard says {other}"),
    }
    Ok(said == XDP_DROP)
}

fn gate<A: Family>(twins: &Twins<A>) -> Result<u64> {
    let gates = Array::<_, Gate>::try_from(twins.ebpf.map(map::GATE).context("map")?)?;
    Ok(gates.get(&A::GATE, 0)?.clients)
}

fn frame<A: Family>(t: Tuple<A>, protocol: u8, flags: u8) -> Vec<u8> {
    make(t, protocol, flags, payload(protocol, flags))
}

fn who_is_denied_is_dropped_early<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let known = tuple(A::CLIENT, 5000, A::NODE, 8082);
    let (_, inside) = twins.enter(known, TCP, SYN)?;
    twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
    let denied =
        |twins: &mut Twins<A>, t, protocol, flags| drops(twins, &frame(t, protocol, flags), Reason::Denied);
    ensure!(!denied(&mut twins, known, TCP, ACK)?);
    twins.model.denied = vec![(A::CLIENT.nearby(0), 8 * size_of::<A>() as u32 - 4)];
    twins.model.config.flags |= CONFIG_DENY;
    twins.mirror()?;
    for (protocol, flags) in [(TCP, SYN), (TCP, ACK), (TCP, RST), (TCP, FIN | ACK), (UDP, 0)] {
        ensure!(denied(&mut twins, known, protocol, flags)?, "{protocol} {flags}");
        ensure!(denied(&mut twins, tuple(A::CLIENT, 1, A::LAN, 8081), protocol, flags)?);
    }
    ensure!(!denied(&mut twins, tuple(A::REMOTE, 1, A::NODE, 8080), TCP, SYN)?, "another");
    ensure!(!denied(&mut twins, tuple(A::CLIENT, 1, A::NODE, 22), TCP, SYN)?, "the host's port");
    ensure!(!denied(&mut twins, tuple(A::CLIENT, 1, A::REMOTE, 8080), TCP, SYN)?, "another host's port");
    ensure!(!comes_in(&mut twins, known, (TCP, ACK), Reason::Denied)?, "TC says the same");
    twins.same_records()
}

fn flows_beyond_the_limit_are_dropped_early_and_not_counted_twice<A: Family>() -> Result<()> {
    const SPACING: u32 = 2_000_000_000;
    let mut twins = limited::<A>(Limit { flow_spacing: SPACING, flow_burst: 3, ..Limit::default() })?;
    for (protocol, port) in [(TCP, 8080), (UDP, 8082)] {
        let t = |sport| tuple(A::CLIENT, sport, A::NODE, port);
        let early =
            |twins: &mut Twins<A>, sport| drops(twins, &frame(t(sport), protocol, SYN), Reason::FlowRate);
        for sport in 5000..5003 {
            ensure!(!early(&mut twins, sport)?, "{protocol}: port {sport}");
            ensure!(comes_in(&mut twins, t(sport), (protocol, SYN), Reason::FlowRate)?);
        }
        for sport in 5003..5050 {
            ensure!(early(&mut twins, sport)?, "{protocol}: port {sport}");
        }
        // All those cost the client nothing: it gets what it would have got.
        ensure!(!early(&mut twins, 5000)?, "what is known begins nothing");
        ensure!(!drops(&mut twins, &frame(t(5003), TCP, ACK), Reason::FlowRate)?, "neither does this");
        wait(&mut twins, SPACING + SPACING / 20);
        ensure!(!early(&mut twins, 5003)? && !early(&mut twins, 5004)?, "nobody's turn is taken by a look");
        ensure!(comes_in(&mut twins, t(5003), (protocol, SYN), Reason::FlowRate)?, "one more");
        ensure!(early(&mut twins, 5004)?, "and no second one");
        ensure!(!comes_in(&mut twins, t(5004), (protocol, SYN), Reason::FlowRate)?);
    }
    twins.same_records()
}

fn packets_beyond_the_limit_are_dropped_early<A: Family>() -> Result<()> {
    let mut twins = limited::<A>(Limit { packet_spacing: NEVER, packet_burst: 4, ..Limit::default() })?;
    let t = tuple(A::CLIENT, 5000, A::NODE, 8082);
    for n in 0..4 {
        let flags = if n == 0 { SYN } else { ACK };
        ensure!(!drops(&mut twins, &frame(t, TCP, flags), Reason::PacketRate)?, "packet {n}");
        ensure!(comes_in(&mut twins, t, (TCP, flags), Reason::PacketRate)?, "packet {n}");
    }
    for sport in [5000, 5001] {
        let t = tuple(A::CLIENT, sport, A::NODE, 8082);
        for flags in [SYN, ACK, FIN | ACK, RST] {
            ensure!(drops(&mut twins, &frame(t, TCP, flags), Reason::PacketRate)?, "{sport} {flags}");
        }
    }
    ensure!(!drops(&mut twins, &frame(t, UDP, 0), Reason::PacketRate)?, "another protocol");
    ensure!(!drops(&mut twins, &frame(tuple(A::REMOTE, 1, A::NODE, 8082), TCP, ACK), Reason::PacketRate)?);
    let astray = tuple(A::CLIENT, 5000, A::REMOTE, 8082);
    ensure!(!drops(&mut twins, &frame(astray, TCP, ACK), Reason::PacketRate)?, "through the node");
    twins.same_records()
}

fn newcomers_are_dropped_early_when_too_many_come<A: Family>() -> Result<()> {
    let mut twins = limited::<A>(Limit { flow_spacing: NEVER, flow_burst: 5, ..Limit::default() })?;
    let t = |client| tuple(client, 5000, A::NODE, 8080);
    ensure!(comes_in(&mut twins, t(A::CLIENT), (TCP, SYN), Reason::Newcomers)?);
    let stranger = frame(t(A::REMOTE), TCP, SYN);
    ensure!(!drops(&mut twins, &stranger, Reason::Newcomers)?);
    // As after a flood of them, half a second ahead of what there is room for.
    let (spacing, burst) = A::NEWCOMERS;
    let clock = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let reach = u64::from(spacing) * u64::from(burst) + 500_000_000;
    let now = clock.tv_sec() as u64 * 1_000_000_000 + clock.tv_nsec() as u64;
    let mut gates = Array::<_, Gate>::try_from(twins.ebpf.map_mut(map::GATE).context("map")?)?;
    gates.set(A::GATE, Gate { clients: now + reach }, 0)?;
    twins.model.gate.set(twins.model.now + reach);
    ensure!(drops(&mut twins, &stranger, Reason::Newcomers)?);
    ensure!(!drops(&mut twins, &frame(t(A::REMOTE), TCP, ACK), Reason::Newcomers)?, "begins nothing");
    let known = tuple(A::CLIENT, 5001, A::NODE, 8080);
    ensure!(!drops(&mut twins, &frame(known, TCP, SYN), Reason::Newcomers)?, "one that is known");
    ensure!(!comes_in(&mut twins, t(A::REMOTE), (TCP, SYN), Reason::Newcomers)?, "TC says the same");
    twins.same_records()
}

fn what_is_not_plain_passes<A: Family>() -> Result<()> {
    let mut twins = limited::<A>(Limit { packet_spacing: NEVER, packet_burst: 1, ..Limit::default() })?;
    twins.model.denied = vec![(A::REMOTE, 8 * size_of::<A>() as u32)];
    twins.model.config.flags |= CONFIG_DENY;
    twins.mirror()?;
    let t = tuple(A::CLIENT, 5000, A::NODE, 8080);
    ensure!(comes_in(&mut twins, t, (TCP, SYN), Reason::PacketRate)?);
    for from in [A::CLIENT, A::REMOTE] {
        let packet = make(Tuple { source: from, ..t }, TCP, SYN, &[7; 30]);
        let reason = if from == A::CLIENT { Reason::PacketRate } else { Reason::Denied };
        ensure!(drops(&mut twins, &packet, reason)?, "as it is");
        let changes = A::without_ports().into_iter().chain(A::broken()).chain(A::extended());
        for (n, change) in changes.enumerate() {
            let mut packet = packet.clone();
            change(&mut packet);
            ensure!(!drops(&mut twins, &packet, reason).with_context(|| format!("case {n}"))?, "case {n}");
        }
        let mut tagged = packet.clone();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        ensure!(run(&mut twins.ebpf, program::GUARD, 1, &tagged)?.0 == XDP_PASS, "a VLAN's tag");
        let mut group = packet.clone();
        group[0] |= 1;
        ensure!(run(&mut twins.ebpf, program::GUARD, 1, &group)?.0 == XDP_PASS, "sent to a group");
        for ethertype in [0x0806u16, 0x88cc, 0x8863] {
            let mut other = packet.clone();
            other[12..14].copy_from_slice(&ethertype.to_be_bytes());
            ensure!(run(&mut twins.ebpf, program::GUARD, 1, &other)?.0 == XDP_PASS, "{ethertype:x}");
        }
    }
    Ok(())
}

fn everything_else_passes_untouched<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    for service in twins.model.services.values_mut() {
        service.flags = SERVICE_LIMITED;
    }
    twins.mirror()?;
    for t in [
        tuple(A::CLIENT, 5, A::NODE, 22),
        tuple(A::CLIENT, 5, A::NODE, 8080),
        tuple(A::CLIENT, 5, A::LAN, 8081),
        tuple(A::CLIENT, 5, A::REMOTE, 8080),
        tuple(A::NODE, 5, A::LAN, 8080),
        tuple(A::CLIENT, 5, A::NODE, 61_000),
        tuple(A::CLIENT, 5, A::container(1), 80),
    ] {
        for flags in 0..32 {
            ensure!(!drops(&mut twins, &frame(t, TCP, flags), Reason::FlowRate)?, "{t:?} {flags}");
        }
        ensure!(!drops(&mut twins, &frame(t, UDP, 0), Reason::FlowRate)?, "{t:?}");
    }
    let ping = tuple(A::CLIENT, 77, A::NODE, 0);
    ensure!(!drops(&mut twins, &frame(ping, A::ICMP, 0), Reason::FlowRate)?);
    ensure!(twins.enter(tuple(A::CLIENT, 5, A::NODE, 8080), TCP, SYN)?.0.action == Action::Container);
    twins.same_records()
}

fn what_is_addressed_to_another_host_passes<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    twins.model.denied = vec![(A::CLIENT, 8 * size_of::<A>() as u32)];
    twins.model.config.flags |= CONFIG_DENY;
    twins.mirror()?;
    let packet = frame(tuple(A::CLIENT, 5, A::NODE, 8080), TCP, SYN);
    ensure!(drops(&mut twins, &packet, Reason::Denied)?);
    for byte in 0..6 {
        let mut other = packet.clone();
        other[byte] ^= 0x10;
        ensure!(!drops(&mut twins, &other, Reason::Denied)?, "byte {byte}");
    }
    let device = twins.model.macs.get_mut(&1).context("no device")?;
    device.address = [6; 6];
    twins.mirror()?;
    ensure!(!drops(&mut twins, &packet, Reason::Denied)?, "the device has another address now");
    let other = [&[6; 6][..], &packet[6..]].concat();
    ensure!(drops(&mut twins, &other, Reason::Denied)?);
    Ok(())
}

fn nothing_is_dropped_before_the_agent_has_configured_it<A: Family>() -> Result<()> {
    let mut ebpf = load()?;
    let packet = frame(tuple(A::CLIENT, 5, A::NODE, 8080), TCP, SYN);
    ensure!(run(&mut ebpf, program::GUARD, 1, &packet)? == (XDP_PASS, packet));
    Ok(())
}
