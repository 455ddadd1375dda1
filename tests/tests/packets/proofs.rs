//! What must hold however much comes, and whatever it is: in the kernel, at size.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use etherparse::SlicedPacket;
use warren_ebpf::{
    abi::{ServiceKey, TCP, UDP, program},
    flow::decide::Action,
    packet::{ACK, FIN, RST, SYN, Tuple},
};

use crate::{
    frame::{Family, make, read, reversed, tuple},
    testrun::{Twins, UPLINK, classifier, container, run},
};

of_both_families!(
    four_thousand_connections_of_one_client_to_each_of_two_ports_never_mix,
    a_million_half_open_flows_evict_no_established_one,
    what_goes_in_and_its_answer_are_translated_without_a_trace,
    what_is_no_packet_is_never_forwarded,
);

/// A program's answer to a packet that is sent on.
fn sent_on<A: Family>(twins: &mut Twins<A>, name: &str, ifindex: u32, packet: &[u8]) -> Result<Tuple<A>> {
    let (returned, out) = run(&mut twins.ebpf, name, ifindex, packet)?;
    ensure!(returned == 7, "{name}: {returned}");
    read(&out)
}

fn inward<A: Family>(twins: &mut Twins<A>, t: Tuple<A>, flags: u8) -> Result<Tuple<A>> {
    sent_on(twins, program::NODE_IN_L2, UPLINK, &make(t, TCP, flags, b""))
}

fn outward<A: Family>(twins: &mut Twins<A>, t: Tuple<A>, flags: u8) -> Result<Tuple<A>> {
    sent_on(twins, program::VETH_IN, container::<A>(1).1, &make(t, TCP, flags, b""))
}

/// A second port of the only backend of 8082.
fn two_ports<A: Family>(room: u32) -> Result<Twins<A>> {
    let mut twins = Twins::<A>::sized(room)?;
    let key = |port| ServiceKey { address: A::ZERO, port, protocol: TCP, pad: 0 };
    let service = *twins.model.services.get(&key(8082)).context("published")?;
    twins.model.services.insert(key(8083), service);
    twins.mirror()?;
    Ok(twins)
}

fn four_thousand_connections_of_one_client_to_each_of_two_ports_never_mix<A: Family>() -> Result<()> {
    let mut twins = two_ports::<A>(32_768)?;
    let mut seen = HashMap::new();
    for port in 20_000..24_000 {
        for published in [8082, 8083] {
            let t = tuple(A::CLIENT, port, A::NODE, published);
            let inside = inward(&mut twins, t, SYN)?;
            ensure!(inside.source == A::CLIENT, "{t:?}: the client's address is kept, not {inside:?}");
            ensure!(inside.destination == container::<A>(1).0 && inside.destination_port == 80);
            let untranslated = tuple(A::CLIENT, port, container::<A>(1).0, 80);
            let free = !seen.contains_key(&untranslated);
            ensure!(free == (inside == untranslated), "{t:?}: {inside:?}, its own port being free: {free}");
            ensure!(seen.insert(inside, t).is_none(), "{t:?}: two connections share {inside:?}");
            ensure!(outward(&mut twins, reversed(inside), SYN | ACK)? == reversed(t), "{t:?}");
            ensure!(inward(&mut twins, t, ACK)? == inside, "{t:?}");
        }
    }
    ensure!(seen.len() == 8000);
    // All of them are there at once, in both directions.
    for (inside, t) in seen {
        ensure!(inward(&mut twins, t, ACK)? == inside, "{t:?}");
        ensure!(outward(&mut twins, reversed(inside), ACK)? == reversed(t), "{t:?}");
    }
    Ok(())
}

/// Changes a word of a packet and the checksums that cover it.
fn change(packet: &mut [u8], word: usize, checks: &[usize], to: u16) {
    let at = |p: &[u8], i: usize| u16::from_be_bytes([p[i], p[i + 1]]);
    for &check in checks {
        let mut sum = u32::from(!at(packet, check)) + u32::from(!at(packet, word)) + u32::from(to);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        packet[check..check + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    packet[word..word + 2].copy_from_slice(&to.to_be_bytes());
}

fn a_million_half_open_flows_evict_no_established_one<A: Family>() -> Result<()> {
    const FLOOD: u32 = 1_000_000;
    let mut twins = Twins::<A>::sized(8192)?;
    let mut established = Vec::new();
    for port in 1000..3000 {
        let t = tuple(A::CLIENT, port, A::NODE, 8082);
        let inside = inward(&mut twins, t, SYN)?;
        outward(&mut twins, reversed(inside), SYN | ACK)?;
        inward(&mut twins, t, ACK)?;
        established.push((t, inside));
    }
    // Each from another port and another address.
    let mut packet = make(tuple(A::stranger(0), 1024, A::NODE, 8082), TCP, SYN, b"");
    let check = A::PAYLOAD + 16;
    // The source's last word; the header has a checksum of its own in IPv4.
    let host = if A::PAYLOAD == 34 { 28 } else { 36 };
    let mut context = [0u8; 192];
    context[40..44].copy_from_slice(&UPLINK.to_ne_bytes());
    for n in 0..FLOOD {
        change(&mut packet, A::PAYLOAD, &[check], 1024 + (n % 60_000) as u16);
        if n % 60_000 == 0 {
            let checks = if A::PAYLOAD == 34 { &[check, 24][..] } else { &[check] };
            change(&mut packet, host, checks, (n / 60_000) as u16);
        }
        let options =
            TestRunOptions { data_in: Some(&packet), ctx_in: Some(&context), ..TestRunOptions::default() };
        let program = classifier(&mut twins.ebpf, program::NODE_IN_L2)?;
        let returned = program.test_run(options)?.return_value;
        ensure!(returned == 7, "{n}: {returned}");
        // They were good packets to the last.
        ensure!(n % 10_007 != 0 || read::<A>(&packet).is_ok(), "{n}: {packet:02x?}");
        // Those that are in use now and then, and those that are silent all along.
        if n % 1000 == 0 {
            let (t, inside) = established[(n / 1000 % 1000) as usize];
            ensure!(inward(&mut twins, t, ACK)? == inside, "{n}: {t:?}");
        }
    }
    for (t, inside) in established {
        // The backend's word first: it would not be let out if its record were gone.
        ensure!(outward(&mut twins, reversed(inside), ACK)? == reversed(t), "{t:?}");
        ensure!(inward(&mut twins, t, ACK)? == inside, "{t:?}");
    }
    Ok(())
}

/// A reply made for what the container sees, translated, is byte by byte the reply made for what the
/// client sees; the same for the question.
fn what_goes_in_and_its_answer_are_translated_without_a_trace<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let mut dice = Dice(7);
    let link = |packet: &mut [u8]| packet[..12].fill(0);
    for n in 0..2000u32 {
        let t = tuple(A::stranger(n % 200), dice.roll() as u16 | 1, A::NODE, 8082);
        let body: Vec<u8> = (0..dice.roll() % 700).map(|_| dice.roll() as u8).collect();
        let protocol = if n % 2 == 0 { TCP } else { UDP };
        let (first, later) = if protocol == TCP { (SYN, ACK) } else { (0, 0) };
        let (verdict, inside) = twins.enter(t, protocol, first)?;
        if verdict.action != Action::Container {
            continue;
        }
        let answer = if protocol == TCP { SYN | ACK } else { 0 };
        twins.leave(1, reversed(inside), protocol, answer)?;
        for (name, ifindex, from, to) in [
            (program::NODE_IN_L2, UPLINK, t, inside),
            (program::VETH_IN, container::<A>(1).1, reversed(inside), reversed(t)),
        ] {
            let (verdict, mut out) = twins.pass(name, ifindex, &make(from, protocol, later, &body))?;
            ensure!(matches!(verdict.action, Action::Container | Action::Device), "{verdict:?}");
            let mut wanted = make(to, protocol, later, &body);
            link(&mut out);
            link(&mut wanted);
            // Time to live is the way's.
            let hops = if A::PAYLOAD == 34 { vec![22, 24, 25] } else { vec![21] };
            hops.into_iter().for_each(|at| wanted[at] = out[at]);
            ensure!(out == wanted, "{from:?}\ngot    {out:02x?}\nwanted {wanted:02x?}");
        }
    }
    Ok(())
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as u32 as usize
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll() % all.len()]
    }
}

/// Whether another library reads it as a packet.
fn is_packet(frame: &[u8]) -> bool {
    SlicedPacket::from_ethernet(frame).is_ok_and(|packet| packet.net.is_some())
}

/// A frame that may be anything: noise, cut off, as it was made, or with some bytes changed.
fn anything<A: Family>(dice: &mut Dice, n: u32) -> Vec<u8> {
    let port = 1000 + (dice.roll() % 50) as u16;
    let t = if n.is_multiple_of(2) {
        tuple(A::CLIENT, port, A::NODE, dice.one_of(&[8080, 8082, 61_000, 22]))
    } else {
        tuple(A::container(1), dice.one_of(&[80, 81]), dice.one_of(&[A::CLIENT, A::REMOTE]), port)
    };
    let flags = dice.one_of(&[SYN, SYN | ACK, ACK, FIN | ACK, RST]);
    let mut packet = make(t, dice.one_of(&[TCP, UDP, A::ICMP]), flags, &[7; 24]);
    match n % 8 {
        0 | 1 => {
            let kept = dice.one_of(&[12, 14, 15]);
            packet[kept..].iter_mut().for_each(|b| *b = dice.roll() as u8);
        }
        2 | 3 => {
            let least = A::PAYLOAD + dice.roll() % (packet.len() - A::PAYLOAD);
            packet.truncate(least.max(54));
        }
        4 => {}
        _ => {
            for _ in 0..=dice.roll() % 4 {
                let at = 12 + dice.roll() % (packet.len() - 12);
                packet[at] = dice.one_of(&[0, 1, 0x7f, 0x80, 0xff, dice.0 as u8]);
            }
        }
    }
    packet
}

/// What another library does not read as a packet is never sent on and leaves no record, be it alone or
/// among good ones; and a packet with right checksums leaves with right ones.
fn what_is_no_packet_is_never_forwarded<A: Family>() -> Result<()> {
    const FRAMES: u32 = 150_000;
    let mut twins = Twins::<A>::new()?;
    for alone in [true, false] {
        let mut dice = Dice(11);
        let (mut sent_on, mut refused) = (0, 0);
        for n in 0..FRAMES {
            let packet = anything::<A>(&mut dice, n);
            let good = is_packet(&packet);
            if alone && good {
                continue;
            }
            let (name, ifindex) = match n % 2 {
                0 => (program::NODE_IN_L2, UPLINK),
                _ => (program::VETH_IN, container::<A>(1).1),
            };
            let (returned, out) = run(&mut twins.ebpf, name, ifindex, &packet)?;
            ensure!(good || returned != 7, "{n}: sent on: {packet:02x?}");
            if returned == 7 {
                ensure!(read::<A>(&packet).is_err() || read::<A>(&out).is_ok(), "{n}: {out:02x?}");
                sent_on += 1;
            } else {
                ensure!(out == packet, "{n}: what is not sent on is not touched");
                refused += u32::from(!good);
            }
        }
        ensure!(refused > 20_000, "{refused} were no packets: too few to tell");
        if alone {
            // The model has seen nothing and has no record.
            twins.same_records()?;
        } else {
            ensure!(sent_on > 10_000, "{sent_on} were sent on: too few to tell");
        }
    }
    Ok(())
}
