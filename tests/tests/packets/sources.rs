//! Ports that are published for some: the kernel's trie finds what the model finds.

use anyhow::{Result, ensure};
use warren_ebpf::{
    abi::{Reason, SOURCES_NOBODY, Service, ServiceKey, TCP, UDP},
    flow::decide::{Action, V4},
    packet::{ACK, SYN, Tuple},
};

use crate::{
    frame::{reversed, tuple},
    testrun::{CLIENT, LAN, NODE, REMOTE, Twins, alone},
};

/// The node of the twins, with `sources` (set, network, prefix length) and whom each port of every
/// address answers.
fn published_for(sources: &[(u32, V4, u32)], ports: &[(u16, u32)]) -> Result<Twins> {
    let mut twins = Twins::new()?;
    twins.model.sources = sources.to_vec();
    for (port, set) in ports {
        let key = ServiceKey { address: [0; 4], port: *port, protocol: TCP, pad: 0 };
        let row = twins.model.services[&ServiceKey { port: 8082, ..key }];
        twins.model.services.insert(key, Service { sources: *set, ..row });
    }
    twins.mirror()?;
    Ok(twins)
}

/// Whether the first packet of a connection reaches a container; anything but a counted drop is an
/// error otherwise.
fn comes_in(twins: &mut Twins, t: Tuple<V4>) -> Result<bool> {
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

#[test]
#[ignore = "needs root"]
fn a_port_takes_new_flows_from_its_set_only() -> Result<()> {
    alone(|| {
        let sources =
            [(1, [198, 51, 100, 0], 24), (1, REMOTE, 32), (2, [0; 4], 0), (3, [198, 51, 100, 4], 30)];
        let ports = [(9000, 0), (9001, 1), (9002, 2), (9003, 3), (9004, SOURCES_NOBODY), (9005, 4)];
        let mut twins = published_for(&sources, &ports)?;
        for (client, open) in [
            (CLIENT, [true, true, true, true, false, false]),
            ([198, 51, 100, 9], [true, true, true, false, false, false]),
            (REMOTE, [true, true, true, false, false, false]),
            ([203, 0, 113, 10], [true, false, true, false, false, false]),
        ] {
            for ((port, set), open) in ports.into_iter().zip(open) {
                // A client port for each: the same one would collide, and get a random one.
                let came = comes_in(&mut twins, tuple(client, port - 4000, NODE, port))?;
                ensure!(came == open, "{client:?} at the port of set {set}");
            }
        }
        // Another address of the node has the same ports, but 8081 of the LAN is one of its own.
        ensure!(!comes_in(&mut twins, tuple([192, 0, 2, 99], 5000, LAN, 9001))?);
        ensure!(comes_in(&mut twins, tuple([192, 0, 2, 99], 5000, LAN, 8081))?);
        twins.same_records()
    })
}

#[test]
#[ignore = "needs root"]
fn datagrams_begin_flows_for_their_set_only() -> Result<()> {
    alone(|| {
        let mut twins = published_for(&[(1, CLIENT, 32)], &[])?;
        let tcp = ServiceKey { address: [0; 4], port: 8082, protocol: TCP, pad: 0 };
        let row = twins.model.services[&tcp];
        twins.model.services.insert(ServiceKey { protocol: UDP, ..tcp }, Service { sources: 1, ..row });
        twins.mirror()?;
        let ask = |twins: &mut Twins, client, port| -> Result<_> {
            Ok(twins.enter(tuple(client, port, NODE, 8082), UDP, 0)?.0)
        };
        for port in 5000..5010 {
            ensure!(ask(&mut twins, CLIENT, port)?.action == Action::Container);
            let verdict = ask(&mut twins, REMOTE, port)?;
            ensure!(verdict.action == Action::Drop && verdict.reason == Reason::Refused, "{verdict:?}");
        }
        ensure!(twins.drops(Reason::Refused)? == 10);
        ensure!(comes_in(&mut twins, tuple(REMOTE, 5000, NODE, 8082))?, "TCP is everybody's");
        twins.same_records()
    })
}

#[test]
#[ignore = "needs root"]
fn what_is_established_goes_on_when_the_set_changes() -> Result<()> {
    alone(|| {
        let mut twins = published_for(&[(1, CLIENT, 32)], &[(9001, 1)])?;
        let t = tuple(CLIENT, 5000, NODE, 9001);
        let (_, inside) = twins.enter(t, TCP, SYN)?;
        twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
        twins.enter(t, TCP, ACK)?;
        twins.model.services.values_mut().for_each(|s| s.sources = SOURCES_NOBODY);
        twins.mirror()?;
        ensure!(twins.enter(t, TCP, ACK)?.1 == inside);
        ensure!(twins.leave(1, reversed(inside), TCP, ACK)?.1 == reversed(t));
        ensure!(!comes_in(&mut twins, tuple(CLIENT, 5001, NODE, 9001))?);
        // A container is a client like others: the set has not its address.
        let neighbour = tuple([10, 64, 0, 12], 5000, NODE, 9001);
        let (verdict, _) = twins.leave(2, neighbour, TCP, SYN)?;
        ensure!(verdict.action == Action::Drop && verdict.reason == Reason::Refused, "{verdict:?}");
        twins.same_records()
    })
}
