//! How many flows a client may have of a port at a time: as in the model, and on several CPUs at once
//! as configured.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::HashMap as Hash,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use warren_ebpf::{
    abi::{FLOW_RESET, Flow, FlowKey, Limit, Reason, Seat, SeatKey, TCP, UDP, map, program},
    flow::decide::Action,
    packet::{ACK, FIN, RST, SYN, Tuple},
};

use crate::{
    frame::{Family, make, payload, reversed, tuple},
    limits::{comes_in, limited, wait},
    testrun::{Twins, UPLINK, classifier},
};

of_both_families!(
    connections_beyond_the_limit_wait_for_others_to_end,
    seats_are_given_out_once_on_all_cpus_together,
    who_has_none_free_costs_little,
);

const SEATS: u32 = 3;

fn connections_beyond_the_limit_wait_for_others_to_end<A: Family>() -> Result<()> {
    let mut twins = limited::<A>(Limit { connections: SEATS, ..Limit::default() })?;
    for (protocol, port) in [(TCP, 8080), (UDP, 8082)] {
        let t = |sport| tuple(A::CLIENT, sport, A::NODE, port);
        let begins = |twins: &mut Twins<A>, sport| {
            // What is full is not looked at for a moment.
            wait(twins, 2_000_000);
            comes_in(twins, t(sport), (protocol, SYN), Reason::Connections)
        };
        for sport in 5000..5003 {
            ensure!(begins(&mut twins, sport)?, "{protocol}: port {sport}");
        }
        ensure!(!begins(&mut twins, 5003)? && !begins(&mut twins, 5004)?);
        ensure!(begins(&mut twins, 5000)?, "what is known begins nothing");
        let other = tuple(A::REMOTE, 5000, A::NODE, port);
        ensure!(comes_in(&mut twins, other, (protocol, SYN), Reason::Connections)?, "another client");
        twins.same_records()?;
    }
    let t = tuple(A::CLIENT, 5000, A::NODE, 8080);
    let begins = |twins: &mut Twins<A>, sport| {
        wait(twins, 2_000_000);
        let t = tuple(A::CLIENT, sport, A::NODE, 8080);
        comes_in(twins, t, (TCP, SYN), Reason::Connections)
    };
    let (verdict, inside) = twins.enter(t, TCP, SYN)?;
    let id = verdict.ifindex - 100;
    twins.leave(id, reversed(inside), TCP, SYN | ACK)?;
    twins.enter(t, TCP, ACK)?;
    twins.enter(t, TCP, FIN | ACK)?;
    ensure!(!begins(&mut twins, 5005)?, "half closed");
    twins.leave(id, reversed(inside), TCP, FIN | ACK)?;
    ensure!(begins(&mut twins, 5005)? && !begins(&mut twins, 5006)?, "closed");
    let reset = tuple(A::CLIENT, 5001, A::NODE, 8080);
    twins.enter(reset, TCP, RST)?;
    ensure!(begins(&mut twins, 5006)? && !begins(&mut twins, 5007)?, "reset");
    ensure!(twins.enter(reset, TCP, ACK)?.0.action == Action::Pass, "another has its seat: it is forgotten");
    twins.same_records()?;
    let seats = Hash::<_, SeatKey, Seat<A>>::try_from(twins.ebpf.map(seats::<A>()).context("map")?)?;
    let numbers: Vec<u32> = seats.keys().map(|k| Ok(k?.seat)).collect::<Result<_>>()?;
    ensure!(numbers.iter().all(|n| (1..=SEATS).contains(n)) && numbers.len() == 8, "{numbers:?}");
    Ok(())
}

fn seats<A: Family>() -> &'static str {
    if A::FAMILY == 4 { map::SEAT4 } else { map::SEAT6 }
}

/// A packet of the client, and whether it was let in.
fn send<A: Family>(program: &SchedClassifier, t: Tuple<A>, flags: u8) -> Result<bool> {
    let packet = make(t, TCP, flags, payload(TCP, flags));
    let mut context = [0u8; 192];
    context[40..44].copy_from_slice(&UPLINK.to_ne_bytes());
    let options =
        TestRunOptions { data_in: Some(&packet), ctx_in: Some(&context), ..TestRunOptions::default() };
    Ok(program.test_run(options)?.return_value == 7)
}

/// Flows of the client that go on.
fn live<A: Family>(twins: &Twins<A>) -> Result<usize> {
    let name = if A::FAMILY == 4 { map::FLOW_NEW4 } else { map::FLOW_NEW6 };
    let flows = Hash::<_, FlowKey<A>, Flow<A>>::try_from(twins.ebpf.map(name).context("map")?)?;
    let mut live = 0;
    for row in &flows {
        live += usize::from(row?.1.state < FLOW_RESET);
    }
    Ok(live)
}

fn seats_are_given_out_once_on_all_cpus_together<A: Family>() -> Result<()> {
    const MOST: u32 = 40;
    const LONG: Duration = Duration::from_millis(500);
    let mut twins = limited::<A>(Limit { connections: MOST, ..Limit::default() })?;
    let cpus = thread::available_parallelism()?.get().max(2);
    let program = &*classifier(&mut twins.ebpf, program::NODE_IN_L2)?;
    let began = Instant::now();
    // Each has ports of its own, goes through them again and again, and ends each second connection.
    let churn = |n: usize| -> Result<(u64, u64)> {
        let (mut begun, mut refused) = (0, 0);
        while began.elapsed() < LONG {
            for i in 0..100 {
                let t = tuple(A::CLIENT, 5000 + 100 * n as u16 + i, A::NODE, 8082);
                if send(program, t, SYN)? {
                    begun += 1;
                } else {
                    refused += 1;
                }
                if i % 2 == 0 {
                    send(program, t, RST)?;
                }
            }
        }
        Ok((begun, refused))
    };
    let said: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cpus).map(|n| scope.spawn(move || churn(n))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic")).collect()
    });
    let (mut begun, mut refused) = (0, 0);
    for each in said {
        let each = each?;
        (begun, refused) = (begun + each.0, refused + each.1);
    }
    let live = live(&twins)?;
    println!("{begun} begun, {refused} refused on {cpus} CPUs: {live} live, {MOST} configured");
    ensure!(begun > 1000 && refused > 1000, "no crowd: {begun} begun, {refused} refused");
    ensure!((1..=MOST as usize + cpus).contains(&live), "{live} live of {MOST}");
    // When it is quiet: all that there are.
    let program = &*classifier(&mut twins.ebpf, program::NODE_IN_L2)?;
    for port in 20_000..20_100 {
        thread::sleep(Duration::from_millis(2));
        send(program, tuple(A::CLIENT, port, A::NODE, 8082), SYN)?;
    }
    let live = self::live(&twins)?;
    ensure!((MOST as usize..=MOST as usize + cpus).contains(&live), "{live} live of {MOST}");
    Ok(())
}

fn who_has_none_free_costs_little<A: Family>() -> Result<()> {
    const MOST: u32 = 1000;
    let mut twins = limited::<A>(Limit { connections: MOST, ..Limit::default() })?;
    let program = &*classifier(&mut twins.ebpf, program::NODE_IN_L2)?;
    for port in 0..MOST as u16 {
        ensure!(send(program, tuple(A::CLIENT, 2000 + port, A::NODE, 8082), SYN)?, "{port}");
    }
    let refused = make(tuple(A::CLIENT, 9000, A::NODE, 8082), TCP, SYN, payload(TCP, SYN));
    let mut context = [0u8; 192];
    context[40..44].copy_from_slice(&UPLINK.to_ne_bytes());
    let mut times = Vec::new();
    for repeat in [1, 100_000] {
        let options = TestRunOptions {
            data_in: Some(&refused),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let result = program.test_run(options)?;
        ensure!(result.return_value == 2, "{}", result.return_value);
        times.push(result.duration);
    }
    println!(
        "refused with {MOST} seats taken: {:?} for the first one, {:?} for one in a flood",
        times[0], times[1]
    );
    ensure!(times[1] < times[0] / 4, "a search each time: {times:?}");
    Ok(())
}
