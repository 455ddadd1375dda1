//! What a trace says is what happens then, and nothing is changed by it.

use warren_ebpf::{
    abi::{Client, DropCounter, Reason, map, program},
    packet::{ACK, SYN},
};

use super::{
    super::{
        End, Guard, Question, Trace, TracedProtocol,
        attach::{HOST_MAC, host_name},
        datapath::{
            contents::{Maps as _, Opened, Rows},
            rehearsal::{Entrance, InEarnest, Stage},
            sys::{bytes_of, from_bytes},
        },
    },
    *,
};
use crate::model::{ClientLimits, Rate};

const OUTSIDE: &str = "eth0";

/// A packet of one line: protocol, source, destination; then the flags and the size.
fn packet(line: &str, flags: u8, size: u32) -> Question {
    let words: Vec<&str> = line.split(' ').collect();
    let protocol = match words[0] {
        "tcp" => TracedProtocol::Tcp,
        "udp" => TracedProtocol::Udp,
        _ => TracedProtocol::Icmp,
    };
    let (source, destination) = (words[1].parse().unwrap(), words[2].parse().unwrap());
    Question { protocol, source, destination, flags, size, from: words.get(3).map(|w| (*w).to_owned()) }
}

/// The large maps that no program writes.
const LARGE: [&str; 2] = [map::BACKEND, map::MAGLEV];

/// All that is in the maps but `without`, and but the ring, which cannot be read.
fn everything(live: &Opened, without: &[&str]) -> BTreeMap<&'static str, Rows> {
    let read = live.keys().filter(|m| **m != map::EVENTS && !without.contains(m));
    read.map(|m| (*m, live.dump(m).unwrap())).collect()
}

fn dropped(live: &Opened) -> Vec<u64> {
    let of = |reason: &Reason| -> u64 {
        let row = live[map::DROPS].get(&(*reason as u32).to_ne_bytes()).unwrap().unwrap();
        row.chunks_exact(16).filter_map(from_bytes::<DropCounter>).map(|c| c.packets).sum()
    };
    Reason::ALL.iter().map(of).collect()
}

/// Has the clients of a network come out even only after so long.
fn use_up(live: &Opened, clients: &str, network: &[u8; 8], after: Duration) {
    let clients = &live[clients];
    let mut keys = Vec::new();
    clients
        .for_each(|k, _| {
            keys.extend(k.ends_with(network).then(|| k.to_vec()));
            true
        })
        .unwrap();
    let even = super::super::flows::monotonic_ns() + u64::try_from(after.as_nanos()).unwrap();
    for k in keys {
        let row = clients.get(&k).unwrap().unwrap();
        let mut row: Client = from_bytes(&row).unwrap();
        (row.flows, row.packets) = (even, even);
        clients.set(&k, bytes_of(&row)).unwrap();
    }
}

struct Site {
    agent: Agent,
    stage: Stage,
    earnest: InEarnest,
}

impl Site {
    /// Traces a packet, which must change nothing; then has it happen, which must end as was said.
    async fn compare(&mut self, line: &str, flags: u8, size: u32, end: End, words: &[&str]) -> Trace {
        let question = packet(line, flags, size);
        // Others send, too (neighbour discovery): what a trace changes it changes each time.
        let mut tries = 0;
        let trace = loop {
            let before = everything(&self.stage.live, &LARGE);
            let trace = self.agent.handle.trace(question.clone()).await.unwrap();
            let after = everything(&self.stage.live, &LARGE);
            tries += 1;
            let differing: Vec<_> =
                before.iter().filter(|(m, rows)| after[*m] != **rows).map(|(m, _)| m).collect();
            if differing.is_empty() {
                break trace;
            }
            assert!(tries < 5, "{line}: {differing:?} are not as before");
        };
        let told: Vec<String> = trace.steps.iter().map(|s| format!("{}: {}", s.what, s.said)).collect();
        let told = told.join("\n");
        assert_eq!(trace.end, end, "{line}:\n{told}");
        for word in words {
            assert!(told.contains(word), "{line}: {word:?} is not in\n{told}");
        }

        let (index, mac) = self.agent.handle.device(&trace.device);
        let (program, mac) =
            if trace.device == OUTSIDE { (program::NODE_IN_L2, mac) } else { (program::VETH_IN, HOST_MAC) };
        assert_eq!(trace.program, program);
        assert_eq!(trace.tag, trace.running_tag, "the very program that is on the device");
        let family = if question.source.is_ipv4() { 4 } else { 6 };
        let entrance = Entrance { program, ifindex: index, frame: question.frame(mac), family };
        let counted = dropped(&self.stage.live);
        let (action, frame) = self.earnest.perform(&entrance).unwrap();
        let counts = dropped(&self.stage.live);
        let really = match action {
            7 => match super::super::trace::shown(&frame) {
                Some(shown) if Some(shown) == trace.shown => end,
                // A port that was free then may be another one now.
                Some((source, destination)) if told.contains("free at this moment") => {
                    let (from, to) = trace.shown.unwrap();
                    assert_eq!((source.ip(), destination), (from.ip(), to), "{line}:\n{told}");
                    end
                }
                shown => {
                    assert!(end == End::TooBig && shown.is_none(), "{line}: {shown:?} after\n{told}");
                    End::TooBig
                }
            },
            2 => End::Dropped,
            _ => {
                if end == End::Refused {
                    End::Refused
                } else {
                    End::Passed
                }
            }
        };
        assert_eq!(really, end, "{line}: {action} after\n{told}");
        for (reason, (before, now)) in Reason::ALL.iter().zip(counted.iter().zip(counts)) {
            let expected = match end {
                End::Dropped => trace.reason == Some(reason.name()),
                End::TooBig => *reason == Reason::TooBig,
                _ => false,
            };
            let expected = u64::from(expected);
            assert_eq!(now - before, expected, "{line}: {} after\n{told}", reason.name());
        }
        trace
    }
}

#[test]
#[ignore = "needs root"]
fn what_a_trace_says_is_what_happens() {
    let world = World::new();
    world.node(move |config| async move {
        let mut assignment =
            web(&config, 1, 2, &["8080:80", "8053:53/udp", "published=8081,target=80,from=203.0.113.0/24"]);
        let held = Arc::get_mut(&mut assignment).unwrap();
        let mut slow = held.services[0].clone();
        (slow.name, slow.datapath_id) = ("slow".into(), 4);
        slow.ports = vec!["8090:80".parse().unwrap(), "8091:80/udp".parse().unwrap()];
        let rate = Some(Rate { per_second: 1, burst: 2 });
        slow.limits = ClientLimits { conn_rate: rate, ..ClientLimits::default() };
        held.services.push(slow.clone());
        (slow.name, slow.datapath_id) = ("paced".into(), 5);
        slow.ports = vec!["8092:80/udp".parse().unwrap()];
        slow.limits = ClientLimits { packet_rate: rate, ..ClientLimits::default() };
        held.services.push(slow.clone());
        (slow.name, slow.datapath_id) = ("seated".into(), 6);
        slow.ports = vec!["8093:80".parse().unwrap(), "8093:80/udp".parse().unwrap()];
        slow.limits = ClientLimits { conns: Some(2), ..ClientLimits::default() };
        held.services.push(slow);
        let agent = Agent::start(&config, Some(assignment)).await;
        for n in [1, 2, 3] {
            agent.handle.attach(task(n), &attachment(n)).await.unwrap();
        }
        for n in [1, 2] {
            agent.handle.serve(task(n), &attachment(n), Gate::Open).await.unwrap();
        }
        agent.handle.deny(&["198.18.0.66/32".parse().unwrap()], &[]).await.unwrap();
        let stage = agent.handle.stage();
        let earnest = stage.in_earnest().unwrap();
        let mut site = Site { agent, stage, earnest };
        let large = everything(&site.stage.live, &[]);
        let (dropped, passed, inside, out) = (End::Dropped, End::Passed, End::Container, End::Device);

        for (client, node, container) in [
            (CLIENT.to_owned(), NODE.to_owned(), "10.86.0"),
            (format!("[{CLIENT6}]"), format!("[{NODE6}]"), "v6"),
        ] {
            let at = |n: u8| {
                if container == "v6" { format!("[fd00:86::{n}]") } else { format!("{container}.{n}") }
            };
            let nobody = if container == "v6" { "[2001:db8::9]" } else { "203.0.113.9" };
            // A connection, from its first packet on.
            let line = format!("tcp {client}:4001 {node}:8080");
            let t = site
                .compare(
                    &line,
                    SYN,
                    0,
                    inside,
                    &[
                        "published: *:8080/tcp of service web, for everybody",
                        "begins one",
                        "chosen by the client's address and port among 2",
                        "destination",
                    ],
                )
                .await;
            let (from, to) = t.shown.unwrap();
            site.compare(&line, SYN, 0, inside, &["flow: known, of web.", "opening, last packet 0s ago"])
                .await;
            let reply = format!("tcp {to} {from}");
            let t = site
                .compare(
                    &reply,
                    SYN | ACK,
                    0,
                    out,
                    &["a reply to a known one: opening", "fit eth0 (MTU 1500)"],
                )
                .await;
            assert_eq!(t.shown.unwrap(), (format!("{node}:8080").parse().unwrap(), from));
            site.compare(&line, ACK, 900, inside, &["flow: known, of web.", "replied", "900 bytes"]).await;
            site.compare(
                &format!("tcp {client}:4002 {node}:8080"),
                ACK,
                0,
                passed,
                &["none known, and only a SYN begins one"],
            )
            .await;
            // Datagrams.
            let line = format!("udp {client}:4003 {node}:8053");
            site.compare(&line, 0, 0, inside, &["8053/udp of service web", "begins one"]).await;
            site.compare(&line, 0, 0, inside, &["flow: known", "one way"]).await;
            // What is not published, or not for everybody.
            site.compare(
                &format!("tcp {client}:4004 {node}:8079"),
                SYN,
                0,
                passed,
                &["published: nothing at"],
            )
            .await;
            site.compare(&format!("icmp {client}:7 {node}:0"), 0, 0, passed, &["for the node itself"]).await;
            site.compare(
                &format!("tcp {client}:4005 {}:80", at(1)),
                SYN,
                0,
                dropped,
                &["web.1", "dropped: unpublished"],
            )
            .await;
            // Limits, to the end of what a client has.
            for port in 4010..4012 {
                site.compare(
                    &format!("tcp {client}:{port} {node}:8090"),
                    SYN,
                    0,
                    inside,
                    &["flow rate: a client may have 1 new flows a second, 2 at once: one more"],
                )
                .await;
                site.compare(
                    &format!("udp {client}:{port} {node}:8092"),
                    0,
                    0,
                    inside,
                    &["packet rate: a client may send 1 packets a second, 2 at once: one more"],
                )
                .await;
            }
            // Places: a limit of IPv6 is its network's.
            for protocol in ["tcp", "udp"] {
                for (port, said) in [(4010, "0 of 2"), (4011, "1 of 2")] {
                    let line = format!("{protocol} {client}:{port} {node}:8093");
                    let said = format!("seats: a client may have 2 flows at a time: {said} are taken");
                    site.compare(&line, SYN, 0, inside, &[&said]).await;
                }
                let words = [
                    "backend: web.",
                    "seats: a client may have 2 flows at a time: all are taken",
                    "dropped: conns",
                ];
                let third = |client: &str| format!("{protocol} {client}:4012 {node}:8093");
                site.compare(&third(&client), SYN, 0, dropped, &words).await;
                let (neighbour, end) =
                    if container == "v6" { ("[fd18::77]", dropped) } else { ("198.18.0.77", inside) };
                site.compare(&third(neighbour), SYN, 0, end, &[]).await;
                let known = format!("{protocol} {client}:4010 {node}:8093");
                site.compare(&known, SYN, 0, inside, &["flow: known"]).await;
            }
            // From containers: to each other, to the outside, and what they may not.
            site.compare(
                &format!("tcp {}:5000 {}:80", at(3), at(1)),
                SYN,
                0,
                inside,
                &["sender: ", "web.1", "by its own address"],
            )
            .await;
            let line = format!("tcp {}:5001 {node}:8080", at(3));
            site.compare(&line, SYN, 0, inside, &["for everybody", "begins one", "among 2"]).await;
            site.compare(&line, SYN, 0, inside, &["flow: known"]).await;
            let line = format!("tcp {}:5002 {client}:7000", at(1));
            let t =
                site.compare(&line, SYN, 0, out, &["route: out of eth0, as", "free at this moment"]).await;
            assert_eq!(t.shown.unwrap().0.ip(), format!("{node}:0").parse::<SocketAddr>().unwrap().ip());
            let t = site.compare(&line, ACK, 0, out, &["the port that it has already: opening"]).await;
            let answer = format!("tcp {client}:7000 {}", t.shown.unwrap().0);
            site.compare(&answer, SYN | ACK, 0, inside, &["masquerade: the answer to what web.1", "opening"])
                .await;
            site.compare(&format!("icmp {}:9 {client}:0", at(1)), 0, 0, out, &["free at this moment"]).await;
            site.compare(
                &format!("tcp {}:5003 {client}:7000", at(1)),
                ACK,
                0,
                dropped,
                &["dropped: no-flow"],
            )
            .await;
            site.compare(
                &format!("udp {}:5004 {client}:7000", at(1)),
                0,
                1501,
                End::TooBig,
                &["1501 bytes do not fit eth0 (MTU 1500)"],
            )
            .await;
            let own = host_name(task(1));
            site.compare(
                &format!("udp {}:5005 {client}:7000 {own}", at(2)),
                0,
                0,
                dropped,
                &["is not its address", "dropped: spoofed"],
            )
            .await;
            let many = if container == "v6" { "[ff0e::1]" } else { "224.0.1.1" };
            site.compare(&format!("udp {}:5006 {many}:7000", at(1)), 0, 0, dropped, &["dropped: multicast"])
                .await;
            let none = if container == "v6" { "[fd00:86::77]" } else { "10.86.0.77" };
            site.compare(&format!("udp {}:5007 {none}:7000", at(1)), 0, 0, dropped, &["dropped: no-route"])
                .await;
            // What only passes through.
            site.compare(
                &format!("tcp {client}:4020 {nobody}:8080"),
                SYN,
                0,
                passed,
                &["no address of this node"],
            )
            .await;
        }
        for line in ["tcp 198.18.0.2:4006 198.18.0.1:8081", "tcp [fd18::2]:4006 [fd18::1]:8081"] {
            if line.contains("fd18") {
                site.compare(line, SYN, 0, dropped, &["dropped: refused"]).await;
            } else {
                site.compare(
                    line,
                    SYN,
                    0,
                    dropped,
                    &["for 203.0.113.0/24", "is none of those", "dropped: refused"],
                )
                .await;
            }
        }
        site.compare("tcp 203.0.113.7:4006 198.18.0.1:8081", SYN, 0, inside, &["is one of those"]).await;
        site.compare(
            "tcp 198.18.0.66:4007 198.18.0.1:8080",
            SYN,
            0,
            dropped,
            &["198.18.0.66 is in 198.18.0.66/32", "dropped: denied"],
        )
        .await;
        // One who has used up what it had: its numbers are far ahead.
        let outsider = "198.18.0.7:4030 198.18.0.1";
        for (protocol, port) in [("tcp", 8090), ("udp", 8092)] {
            let line = format!("{protocol} {outsider}:{port}");
            site.compare(&line, SYN, 0, inside, &["one more is within it"]).await;
            use_up(&site.stage.live, map::CLIENT4, &[198, 18, 0, 7, 0, 0, 0, 0], Duration::from_secs(600));
            let reason = if protocol == "tcp" { "dropped: conn-rate" } else { "dropped: packet-rate" };
            let line = format!("{protocol} 198.18.0.7:4031 198.18.0.1:{port}");
            site.compare(&line, SYN, 0, dropped, &["used up", reason]).await;
        }
        for (name, rows) in everything(&site.stage.live, &[]) {
            assert!(!LARGE.contains(&name) || rows == large[name], "{name} has changed");
        }
        // Nobody takes any more.
        for n in [1, 2] {
            site.agent.handle.serve(task(n), &attachment(n), Gate::Held).await.unwrap();
        }
        site.compare(
            "tcp 198.18.0.2:4040 198.18.0.1:8080",
            SYN,
            0,
            End::Refused,
            &["none takes new flows: web.1", "refuses at once"],
        )
        .await;

        // The node's own processes, and places that are not there.
        let ask = |line: &str| site.agent.handle.trace(packet(line, SYN, 0));
        assert_eq!(ask("tcp 127.0.0.1:1 127.0.0.1:8080").await.unwrap().end, End::Refused);
        assert_eq!(ask("tcp 127.0.0.1:1 127.0.0.1:8070").await.unwrap().end, passed);
        site.agent.handle.serve(task(1), &attachment(1), Gate::Open).await.unwrap();
        let own = ask("tcp 198.18.0.1:1 198.18.0.1:8080").await.unwrap();
        assert_eq!((own.end, own.device.as_str()), (inside, "cgroup"));
        let why = ask("tcp 198.18.0.2:1 198.18.0.1:8080 eth7").await.unwrap_err().to_string();
        assert!(why.contains("eth7") && why.contains("eth0") && !why.contains('\n'), "{why}");
        site.agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn filters_and_devices_without_link_header_can_be_asked_too() {
    let world = World::new();
    world.node_ip("tuntap add dev tun0 mode tun");
    world.node_ip("address add 198.19.0.1/24 dev tun0");
    world.node_ip("link set tun0 up");
    world.node(move |config| async move {
        let assignment = Some(web(&config, 1, 1, &["8080:80"]));
        let agent = Agent::of_build(&config, assignment, build(), Hook::Clsact).await;
        agent.handle.attach(task(1), &attachment(1)).await.unwrap();
        agent.handle.serve(task(1), &attachment(1), Gate::Open).await.unwrap();
        let ask = |line: &str| agent.handle.trace(packet(line, SYN, 0));
        let t = ask("tcp 198.18.0.2:1 198.18.0.1:8080").await.unwrap();
        assert_eq!((t.end, t.program, t.device.as_str()), (End::Container, program::NODE_IN_L2, "eth0"));
        assert!(!t.tag.is_empty() && t.running_tag.is_empty(), "{t:?}");
        // The route to the sender says where it comes in.
        let t = ask("tcp 198.19.0.2:1 198.19.0.1:8080").await.unwrap();
        assert_eq!((t.end, t.program, t.device.as_str()), (End::Container, program::NODE_IN_L3, "tun0"));
        let said = &t.steps[0].said;
        assert!(said.contains("tried as node_in_l2"), "{said}");
        let t = ask("tcp 198.18.0.2:1 198.18.0.1:8080 tun0").await.unwrap();
        assert_eq!((t.end, t.device.as_str()), (End::Container, "tun0"));
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn what_the_guard_drops_early_is_told() {
    let world = World::new();
    world.node(move |config| async move {
        let mut assignment = web(&config, 1, 1, &["8080:80", "8080:80/udp"]);
        let rate = Some(Rate { per_second: 1, burst: 2 });
        Arc::get_mut(&mut assignment).unwrap().services[0].limits =
            ClientLimits { conn_rate: rate, conns: Some(1), ..ClientLimits::default() };
        let config = Config { guard: Guard::Xdp, ..config };
        let agent = Agent::start(&config, Some(assignment)).await;
        agent.handle.attach(task(1), &attachment(1)).await.unwrap();
        agent.handle.serve(task(1), &attachment(1), Gate::Open).await.unwrap();
        agent
            .handle
            .deny(&["198.18.0.66/32".parse().unwrap(), "fd18::66/128".parse().unwrap()], &[])
            .await
            .unwrap();
        let stage = agent.handle.stage();
        let earnest = stage.in_earnest().unwrap();
        let mut site = Site { agent, stage, earnest };
        const EARLY: &str = "guard: dropped early, in the driver of eth0";
        let not_early = |t: &Trace| assert!(t.steps.iter().all(|s| s.what != "guard"), "{t:?}");
        for [client, denied, node] in
            [[CLIENT, "198.18.0.66", NODE], ["[fd18::2]", "[fd18::66]", "[fd18::1]"]]
        {
            for protocol in ["tcp", "udp"] {
                let words = ["deny list", EARLY, "dropped: denied"];
                let line = format!("{protocol} {denied}:4000 {node}:8080");
                site.compare(&line, SYN, 0, End::Dropped, &words).await;
                let line = |port: u16| format!("{protocol} {client}:{port} {node}:8080");
                not_early(&site.compare(&line(4000), SYN, 0, End::Container, &["0 of 1 are taken"]).await);
                // That of a place is nobody's but the program's.
                not_early(&site.compare(&line(4001), SYN, 0, End::Dropped, &["dropped: conns"]).await);
                // As far as the guard believes a number.
                let (clients, network) = if node == NODE {
                    (map::CLIENT4, [198, 18, 0, 2, 0, 0, 0, 0])
                } else {
                    (map::CLIENT6, [0xfd, 0x18, 0, 0, 0, 0, 0, 0])
                };
                use_up(&site.stage.live, clients, &network, Duration::from_millis(2_900));
                let words = ["flow rate: a client may have 1 new flows a second, 2 at once: used up", EARLY];
                let t = site.compare(&line(4002), SYN, 0, End::Dropped, &words).await;
                assert_eq!(t.reason, Some("conn-rate"));
                not_early(&site.compare(&line(4000), SYN, 0, End::Container, &["flow: known"]).await);
            }
            // What is dropped of a container's is not the guard's.
            let from = if node == NODE { "10.86.0.9" } else { "[fd00:86::9]" };
            let line = format!("udp {from}:1 {client}:1 {}", host_name(task(1)));
            not_early(&site.compare(&line, 0, 0, End::Dropped, &["dropped: spoofed"]).await);
        }
        site.agent.stop().await;
    });
}
