//! Ports that are published for some: the kernel's trie finds what the model finds.

use anyhow::{Result, ensure};
use warren_ebpf::{
    abi::{Reason, SOURCES_NOBODY, Service, ServiceKey, TCP, UDP},
    flow::decide::Action,
    packet::{ACK, SYN, Tuple},
};

use crate::{
    frame::{Family, reversed, tuple},
    testrun::{Twins, container},
};

of_both_families!(
    a_port_takes_new_flows_from_its_set_only,
    datagrams_begin_flows_for_their_set_only,
    what_is_established_goes_on_when_the_set_changes,
);

/// The node of the twins, with `sources` (set, network, prefix length) and whom each port of every
/// address answers.
fn published_for<A: Family>(sources: &[(u32, A, u32)], ports: &[(u16, u32)]) -> Result<Twins<A>> {
    let mut twins = Twins::<A>::new()?;
    twins.model.sources = sources.to_vec();
    for (port, set) in ports {
        let key = ServiceKey { address: A::ZERO, port: *port, protocol: TCP, pad: 0 };
        let row = twins.model.services[&ServiceKey { port: 8082, ..key }];
        twins.model.services.insert(key, Service { sources: *set, ..row });
    }
    twins.mirror()?;
    Ok(twins)
}

/// Whether the first packet of a connection reaches a container; anything but a counted drop is an
/// error otherwise.
fn comes_in<A: Family>(twins: &mut Twins<A>, t: Tuple<A>) -> Result<bool> {
    let before = twins.drops(Reason::Refused)?;
    let (verdict, _) = twins.enter(t, TCP, SYN)?;
    let counted = twins.drops(Reason::Refused)? - before;
    match verdict.action {
        Action::Container => ensure!(counted == 0, "counted {counted} though it came in"),
        Action::Drop => ensure!(verdict.reason == Reason::Refused && counted == 1, "{verdict:?}: {counted}"),
        _ => anyhow::bail!("{verdict:?}"),
    }
    Ok(verdict.action == Action::Container)
}

fn a_port_takes_new_flows_from_its_set_only<A: Family>() -> Result<()> {
    let whole = 8 * size_of::<A>() as u32;
    let sources = [
        (1, A::CLIENT.nearby(0), whole - 6),
        (1, A::REMOTE, whole),
        (2, A::ZERO, 0),
        (3, A::CLIENT.nearby(4), whole - 2),
    ];
    let ports = [(9000, 0), (9001, 1), (9002, 2), (9003, 3), (9004, SOURCES_NOBODY), (9005, 4)];
    let mut twins = published_for(&sources, &ports)?;
    for (client, open) in [
        (A::CLIENT, [true, true, true, true, false, false]),
        (A::CLIENT.nearby(9), [true, true, true, false, false, false]),
        (A::REMOTE, [true, true, true, false, false, false]),
        (A::REMOTE.nearby(10), [true, false, true, false, false, false]),
    ] {
        for ((port, set), open) in ports.into_iter().zip(open) {
            // A client port for each: the same one would collide, and get a random one.
            let came = comes_in(&mut twins, tuple(client, port - 4000, A::NODE, port))?;
            ensure!(came == open, "{client:?} at the port of set {set}");
        }
    }
    // Another address of the node has the same ports, but 8081 of the LAN is one of its own.
    ensure!(!comes_in(&mut twins, tuple(A::NODE.nearby(99), 5000, A::LAN, 9001))?);
    ensure!(comes_in(&mut twins, tuple(A::NODE.nearby(99), 5000, A::LAN, 8081))?);
    twins.same_records()
}

fn datagrams_begin_flows_for_their_set_only<A: Family>() -> Result<()> {
    let mut twins = published_for(&[(1, A::CLIENT, 8 * size_of::<A>() as u32)], &[])?;
    let tcp = ServiceKey { address: A::ZERO, port: 8082, protocol: TCP, pad: 0 };
    let row = twins.model.services[&tcp];
    twins.model.services.insert(ServiceKey { protocol: UDP, ..tcp }, Service { sources: 1, ..row });
    twins.mirror()?;
    let ask = |twins: &mut Twins<A>, client, port| -> Result<_> {
        Ok(twins.enter(tuple(client, port, A::NODE, 8082), UDP, 0)?.0)
    };
    for port in 5000..5010 {
        ensure!(ask(&mut twins, A::CLIENT, port)?.action == Action::Container);
        let verdict = ask(&mut twins, A::REMOTE, port)?;
        ensure!(verdict.action == Action::Drop && verdict.reason == Reason::Refused, "{verdict:?}");
    }
    ensure!(twins.drops(Reason::Refused)? == 10);
    ensure!(comes_in(&mut twins, tuple(A::REMOTE, 5000, A::NODE, 8082))?, "TCP is everybody's");
    twins.same_records()
}

fn what_is_established_goes_on_when_the_set_changes<A: Family>() -> Result<()> {
    let mut twins = published_for(&[(1, A::CLIENT, 8 * size_of::<A>() as u32)], &[(9001, 1)])?;
    let t = tuple(A::CLIENT, 5000, A::NODE, 9001);
    let (_, inside) = twins.enter(t, TCP, SYN)?;
    twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
    twins.enter(t, TCP, ACK)?;
    twins.model.services.values_mut().for_each(|s| s.sources = SOURCES_NOBODY);
    twins.mirror()?;
    ensure!(twins.enter(t, TCP, ACK)?.1 == inside);
    ensure!(twins.leave(1, reversed(inside), TCP, ACK)?.1 == reversed(t));
    ensure!(!comes_in(&mut twins, tuple(A::CLIENT, 5001, A::NODE, 9001))?);
    // A container is a client like others: the set has not its address.
    let neighbour = tuple(container::<A>(2).0, 5000, A::NODE, 9001);
    let (verdict, _) = twins.leave(2, neighbour, TCP, SYN)?;
    ensure!(verdict.action == Action::Drop && verdict.reason == Reason::Refused, "{verdict:?}");
    twins.same_records()
}
