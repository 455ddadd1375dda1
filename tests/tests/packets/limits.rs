//! How much one client gets of a port, and who gets nothing: as in the model, and on several CPUs at
//! once as configured.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use warren_ebpf::{
    abi::{CONFIG_DENY, Limit, Reason, SERVICE_LIMITED, SERVICE_PACED, SERVICE_SEATED, TCP, UDP, program},
    flow::decide::{Action, Verdict},
    packet::{ACK, SYN, Tuple},
};

use crate::{
    frame::{Family, make, payload, reversed, tuple},
    testrun::{Twins, UPLINK, classifier},
};

of_both_families!(
    flows_beyond_the_burst_wait_for_the_rate,
    packets_of_known_flows_are_limited,
    clients_have_limits_of_their_own,
    the_rate_holds_on_all_cpus_together,
    so_does_that_of_connections,
    denied_clients_are_cut_off,
);

/// The node of the twins, whose ports of every address have this limit.
pub fn limited<A: Family>(limit: Limit) -> Result<Twins<A>> {
    let mut twins = Twins::<A>::new()?;
    let paced = if limit.packet_spacing == 0 { 0 } else { SERVICE_PACED };
    let seated = if limit.connections == 0 { 0 } else { SERVICE_SEATED };
    for (key, service) in &mut twins.model.services {
        if key.address == A::ZERO {
            service.flags = SERVICE_LIMITED | paced | seated;
            twins.model.limits.insert(service.id, limit);
        }
    }
    twins.mirror()?;
    Ok(twins)
}

/// Whether a packet reaches a container; anything but a counted drop for `reason` is an error otherwise.
pub fn comes_in<A: Family>(twins: &mut Twins<A>, t: Tuple<A>, how: (u8, u8), reason: Reason) -> Result<bool> {
    let before = twins.drops(reason)?;
    let (verdict, _) = twins.enter(t, how.0, how.1)?;
    let counted = twins.drops(reason)? - before;
    match verdict.action {
        Action::Container => ensure!(counted == 0, "counted {counted} though it came in"),
        Action::Drop => ensure!(verdict.reason == reason && counted == 1, "{verdict:?}: {counted}"),
        _ => anyhow::bail!("{verdict:?}"),
    }
    Ok(verdict.action == Action::Container)
}

/// Far longer than a few packets take, and short enough to wait for.
const SPACING: u32 = 2_000_000_000;

/// Lets time pass for both twins.
pub fn wait<A: Family>(twins: &mut Twins<A>, nanos: u32) {
    thread::sleep(Duration::from_nanos(nanos.into()));
    twins.model.now += u64::from(nanos);
}

fn flows_beyond_the_burst_wait_for_the_rate<A: Family>() -> Result<()> {
    let mut twins = limited::<A>(Limit { flow_spacing: SPACING, flow_burst: 4, ..Limit::default() })?;
    for (protocol, port) in [(TCP, 8080), (UDP, 8082)] {
        let begin = |twins: &mut Twins<A>, sport| {
            comes_in(twins, tuple(A::CLIENT, sport, A::NODE, port), (protocol, SYN), Reason::FlowRate)
        };
        for sport in 5000..5004 {
            ensure!(begin(&mut twins, sport)?, "{protocol}: port {sport}");
        }
        ensure!(!begin(&mut twins, 5004)? && !begin(&mut twins, 5005)?);
        ensure!(begin(&mut twins, 5000)?, "what is known begins nothing");
        wait(&mut twins, SPACING + SPACING / 20);
        ensure!(begin(&mut twins, 5006)?, "one more");
        ensure!(!begin(&mut twins, 5007)?, "and no second one");
    }
    twins.same_records()
}

fn packets_of_known_flows_are_limited<A: Family>() -> Result<()> {
    let limit = Limit { packet_spacing: SPACING, packet_burst: 5, ..Limit::default() };
    let mut twins = limited::<A>(limit)?;
    let t = tuple(A::CLIENT, 5000, A::NODE, 8082);
    let (_, inside) = twins.enter(t, TCP, SYN)?;
    twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
    let goes_on = |twins: &mut Twins<A>| comes_in(twins, t, (TCP, ACK), Reason::PacketRate);
    for n in 2..=5 {
        ensure!(goes_on(&mut twins)?, "packet {n}");
    }
    ensure!(!goes_on(&mut twins)?);
    ensure!(
        twins.leave(1, reversed(inside), TCP, ACK)?.0.action == Action::Device,
        "the container may speak"
    );
    wait(&mut twins, SPACING + SPACING / 20);
    ensure!(goes_on(&mut twins)? && !goes_on(&mut twins)?);
    // Lifted, the limit is gone with the next packet.
    twins.model.services.values_mut().for_each(|s| s.flags = 0);
    twins.mirror()?;
    for _ in 0..10 {
        ensure!(goes_on(&mut twins)?);
    }
    twins.same_records()
}

fn clients_have_limits_of_their_own<A: Family>() -> Result<()> {
    let limit = Limit { flow_spacing: SPACING, flow_burst: 1, ..Limit::default() };
    let mut twins = limited::<A>(limit)?;
    let begin = |twins: &mut Twins<A>, client, port| {
        comes_in(twins, tuple(client, 5000 + port, A::NODE, port), (TCP, SYN), Reason::FlowRate)
    };
    ensure!(begin(&mut twins, A::CLIENT, 8080)?);
    let again = tuple(A::CLIENT, 6000, A::NODE, 8080);
    ensure!(!comes_in(&mut twins, again, (TCP, SYN), Reason::FlowRate)?);
    ensure!(begin(&mut twins, A::CLIENT, 8082)?, "another port");
    ensure!(begin(&mut twins, A::REMOTE, 8080)?, "another client");
    // In IPv6 whoever has the first half of the address is one client.
    let neighbour = begin(&mut twins, A::CLIENT.nearby(99), 8080)?;
    ensure!(neighbour == (A::FAMILY == 4), "a neighbour's: {neighbour}");
    ensure!(twins.drops(Reason::Newcomers)? == 0);
    twins.same_records()
}

const RATE: u32 = 5_000;
const BURST: u32 = 1_000;

fn the_rate_holds_on_all_cpus_together<A: Family>() -> Result<()> {
    let limit = Limit { packet_spacing: 1_000_000_000 / RATE, packet_burst: BURST, ..Limit::default() };
    flood_on_all_cpus::<A>(limit, (UDP, 0, 8082), |let_in| let_in % 7)
}

fn so_does_that_of_connections<A: Family>() -> Result<()> {
    let limit = Limit { flow_spacing: 1_000_000_000 / RATE, flow_burst: BURST, ..Limit::default() };
    // Each that was let in is known from then on, so the next one is another.
    flood_on_all_cpus::<A>(limit, (TCP, SYN, 8080), |let_in| let_in)
}

/// One client floods from every CPU for two seconds; let in is what is configured, give or take one for
/// each CPU and a hundredth. `port` says which source port follows after so many were let in.
fn flood_on_all_cpus<A: Family>(
    limit: Limit,
    (protocol, flags, to): (u8, u8, u16),
    port: impl Fn(u64) -> u64 + Sync,
) -> Result<()> {
    const LONG: Duration = Duration::from_secs(2);
    let mut twins = limited::<A>(limit)?;
    let cpus = thread::available_parallelism()?.get().max(2);
    let program = &*classifier(&mut twins.ebpf, program::NODE_IN_L2)?;
    let began = Instant::now();
    let flood = |n: usize| -> Result<(u64, u64)> {
        let mut context = [0u8; 192];
        context[40..44].copy_from_slice(&UPLINK.to_ne_bytes());
        let (mut let_in, mut sent) = (0, 0);
        while began.elapsed() < LONG {
            // Each CPU has ports of its own.
            let from = 1024 + (port(let_in) * cpus as u64 + n as u64) % 64_000;
            let t = tuple(A::CLIENT, u16::try_from(from)?, A::NODE, to);
            let packet = make(t, protocol, flags, payload(protocol, flags));
            let options = TestRunOptions {
                data_in: Some(&packet),
                ctx_in: Some(&context),
                ..TestRunOptions::default()
            };
            let said = program.test_run(options)?.return_value;
            ensure!(said == 7 || said == 2, "{said}");
            let_in += u64::from(said == 7);
            sent += 1;
        }
        Ok((let_in, sent))
    };
    let passed: Vec<Result<(u64, u64)>> = thread::scope(|scope| {
        let flood = &flood;
        let threads: Vec<_> = (0..cpus).map(|n| scope.spawn(move || flood(n))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    let took = began.elapsed();
    let (mut let_in, mut sent) = (0, 0);
    for each in passed {
        let each = each?;
        (let_in, sent) = (let_in + each.0, sent + each.1);
    }
    let configured = f64::from(BURST) + f64::from(RATE) * took.as_secs_f64();
    let (most, least) = (configured * 1.01 + cpus as f64, configured * 0.99 - cpus as f64);
    println!("{sent} sent on {cpus} CPUs in {took:?}: {let_in} let in, {configured:.0} configured");
    ensure!(sent as f64 > 3.0 * configured, "no flood: {sent} sent, {configured} configured");
    ensure!((least..=most).contains(&(let_in as f64)), "{let_in} of {sent} let in, {configured} configured");
    Ok(())
}

fn denied_clients_are_cut_off<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let whole = 8 * size_of::<A>() as u32;
    let t = tuple(A::CLIENT, 5000, A::NODE, 8082);
    let (_, inside) = twins.enter(t, TCP, SYN)?;
    twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
    let goes_on = |twins: &mut Twins<A>, t| comes_in(twins, t, (TCP, ACK), Reason::Denied);
    ensure!(goes_on(&mut twins, t)?);
    let other = tuple(A::REMOTE, 5000, A::NODE, 8082);
    ensure!(comes_in(&mut twins, other, (TCP, SYN), Reason::Denied)?);

    twins.model.denied = vec![(A::CLIENT.nearby(0), whole - 4), (A::REMOTE.nearby(77), whole)];
    twins.model.config.flags |= CONFIG_DENY;
    twins.mirror()?;
    ensure!(!goes_on(&mut twins, t)?, "the connection it has");
    for protocol in [TCP, UDP] {
        let begins = tuple(A::CLIENT, 5001, A::NODE, 8080);
        ensure!(!comes_in(&mut twins, begins, (protocol, SYN), Reason::Denied)?);
    }
    ensure!(goes_on(&mut twins, other)?, "others are served");
    let ssh = twins.enter(tuple(A::CLIENT, 5000, A::NODE, 22), TCP, SYN)?.0;
    ensure!(ssh == Verdict::PASS, "other ports are the host's: {ssh:?}");
    let through = twins.enter(tuple(A::CLIENT, 5000, A::REMOTE, 8080), TCP, SYN)?.0;
    ensure!(through == Verdict::PASS, "other hosts, too: {through:?}");

    // Not looked up while the agent says that the list is empty.
    twins.model.config.flags &= !CONFIG_DENY;
    twins.mirror()?;
    ensure!(goes_on(&mut twins, t)?);
    twins.same_records()
}
