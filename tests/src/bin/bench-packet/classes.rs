//! The kinds of packets that are measured, on the node of the packets' tests.

use std::{os::fd::AsFd, rc::Rc, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::programs::Xdp;
use warren_ebpf::{
    abi::{CONFIG_DENY, SOURCES_NOBODY, Service, ServiceKey, TCP, UDP, program},
    flow::decide::Action,
    packet::{ACK, SYN},
};

use crate::{
    frame::{Family, make, reversed, tuple},
    testrun::{Twins, UPLINK, classifier, container, load},
    wrapper::{Hook, Program, Random, XDP_PASS},
};

const PASSED: i32 = -1;
const DROPPED: i32 = 2;
const SENT: i32 = 7;
const XDP_DROP: i32 = 1;

/// A kind of packet.
pub struct Class {
    /// What it is.
    pub name: String,
    /// The program it meets.
    pub program: Rc<Program>,
    /// The device it comes in by.
    pub ifindex: u32,
    /// Its bytes.
    pub packet: Vec<u8>,
    /// What differs each time.
    pub random: Option<Random>,
    /// What the program returns.
    pub returns: i32,
}

/// All of them in a family, with the flows they belong to.
///
/// # Errors
/// A flow cannot be made.
pub fn all<A: Family>(twins: &mut Twins<A>) -> Result<Vec<Class>> {
    // As most nodes are: no port on an address of its own.
    twins.model.services.retain(|key, _| key.address == A::ZERO);
    twins.model.sum_up(A::POOL);
    // A port that answers nobody outside.
    let key = ServiceKey { address: A::ZERO, port: 8099, protocol: TCP, pad: 0 };
    let row = twins.model.services[&ServiceKey { port: 8082, ..key }];
    twins.model.services.insert(key, Service { sources: SOURCES_NOBODY, ..row });
    twins.mirror()?;

    let outside = tuple(A::CLIENT, 40_000, A::NODE, 8080);
    let (tcp, tcp_inside) = twins.enter(outside, TCP, SYN)?;
    ensure!(tcp.action == Action::Container, "{tcp:?}");
    let tcp_backend = tcp.ifindex - 100;
    twins.leave(tcp_backend, reversed(tcp_inside), TCP, SYN | ACK)?;
    twins.enter(outside, TCP, ACK)?;

    let (one, _) = container::<A>(1);
    let out = tuple(one, 5000, A::REMOTE, 443);
    let mut masqueraded = Vec::new();
    for protocol in [TCP, UDP] {
        let (verdict, outside) = twins.leave(1, out, protocol, SYN)?;
        ensure!(verdict.action == Action::Device, "{verdict:?}");
        twins.enter(reversed(outside), protocol, SYN | ACK)?;
        twins.leave(1, out, protocol, ACK)?;
        masqueraded.push((protocol, outside));
    }

    let (udp, udp_inside) = twins.enter(outside, UDP, 0)?;
    let udp_backend = udp.ifindex - 100;
    twins.leave(udp_backend, reversed(udp_inside), UDP, 0)?;
    thread::sleep(Duration::from_millis(2200));
    twins.enter(outside, UDP, 0)?;
    twins.leave(udp_backend, reversed(udp_inside), UDP, 0)?;

    let (node_in, veth_in) = (&of_tc(twins, program::NODE_IN_L2)?, &of_tc(twins, program::VETH_IN)?);
    let mut classes = Vec::new();
    let mut add = |name: &str, program: &Rc<Program>, ifindex: u32, packet: Vec<u8>, returns: i32| {
        let name = format!("v{} {name}", A::FAMILY);
        let program = Rc::clone(program);
        classes.push(Class { name, program, ifindex, packet, random: None, returns });
    };
    let tcp_packet = |t| make(t, TCP, ACK, &[7; 40]);
    let udp_packet = |t| make(t, UDP, 0, &[7; 40]);
    let link = |id| container::<A>(id).1;
    let host = tuple(A::CLIENT, 40_000, A::NODE, 22);
    add("TCP of the host, passed", node_in, UPLINK, tcp_packet(host), PASSED);
    add("UDP of the host, passed", node_in, UPLINK, udp_packet(host), PASSED);
    add("TCP established, in", node_in, UPLINK, tcp_packet(outside), SENT);
    add("TCP established, reply", veth_in, link(tcp_backend), tcp_packet(reversed(tcp_inside)), SENT);
    add("UDP established, in", node_in, UPLINK, udp_packet(outside), SENT);
    add("UDP established, reply", veth_in, link(udp_backend), udp_packet(reversed(udp_inside)), SENT);
    for (protocol, outside) in masqueraded {
        let (name, packet) =
            if protocol == TCP { ("TCP", tcp_packet(out)) } else { ("UDP", udp_packet(out)) };
        let back = reversed(outside);
        let back = if protocol == TCP { tcp_packet(back) } else { udp_packet(back) };
        add(&format!("{name} masqueraded, out"), veth_in, link(1), packet, SENT);
        add(&format!("{name} masqueraded, answer"), node_in, UPLINK, back, SENT);
    }
    let refused = tuple(A::CLIENT, 40_000, A::NODE, 8099);
    add(
        "new TCP, refused by its source, dropped",
        node_in,
        UPLINK,
        make(refused, TCP, SYN, &[7; 40]),
        DROPPED,
    );
    let inside = tuple(A::CLIENT, 40_000, one, 80);
    add(
        "new TCP to a container's own address, dropped",
        node_in,
        UPLINK,
        make(inside, TCP, SYN, &[7; 40]),
        DROPPED,
    );
    let mut broken = make(out, TCP, SYN, &[7; 40]);
    // A TCP header shorter than one.
    broken[A::PAYLOAD + 12] = 0x10;
    add("malformed TCP of a container, dropped", veth_in, link(1), broken, DROPPED);
    let random = Random { address: (A::PAYLOAD - size_of::<A>() - 2) as u8, port: A::PAYLOAD as u8 };
    for (name, protocol) in [("TCP", TCP), ("UDP", UDP)] {
        let packet = make(outside, protocol, SYN, &[7; 40]);
        let name = format!("v{} new {name}", A::FAMILY);
        classes.push(Class {
            name,
            program: Rc::clone(node_in),
            ifindex: UPLINK,
            packet,
            random: Some(random),
            returns: SENT,
        });
    }
    classes.extend(of_guard(twins)?);
    Ok(classes)
}

/// What the guard sees. It has a node of its own: with a deny list, everything else would be asked
/// about it, too.
fn of_guard<A: Family>(twins: &Twins<A>) -> Result<Vec<Class>> {
    let mut guarded = Twins { model: twins.model.clone(), ebpf: load()? };
    guarded.model.denied = vec![(A::CLIENT, 8 * size_of::<A>() as u32)];
    guarded.model.config.flags |= CONFIG_DENY;
    guarded.mirror()?;
    let guard: &mut Xdp = guarded.ebpf.program_mut(program::GUARD).context("no guard")?.try_into()?;
    let guard = Rc::new(Program::of(guard.fd()?.as_fd(), Hook::Xdp)?);
    let class = |name: &str, port, returns| Class {
        name: format!("v{} guard, {name}", A::FAMILY),
        program: Rc::clone(&guard),
        ifindex: UPLINK,
        packet: make(tuple(A::CLIENT, 40_000, A::NODE, port), TCP, ACK, &[7; 40]),
        random: None,
        returns,
    };
    Ok(vec![
        class("TCP of the host, passed", 22, XDP_PASS),
        class("TCP of who is denied, dropped", 8080, XDP_DROP),
    ])
}

fn of_tc<A: Family>(twins: &mut Twins<A>, name: &str) -> Result<Rc<Program>> {
    let fd = classifier(&mut twins.ebpf, name)?.fd().context(name.to_owned())?;
    Ok(Rc::new(Program::of(fd.as_fd(), Hook::Tc)?))
}
