//! What flows carry, as the programs count it, beside what the kernel counts on the container's device.

use std::{
    io,
    net::UdpSocket,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    super::{Asked, Flow, Meter, Rates, Traffic},
    *,
};

/// A container's device: packets and bytes that it received, and that it sent; and the kernel's own
/// messages at that moment.
fn device(ns: &Path) -> ([u64; 4], u64) {
    loop {
        let before = messages(ns);
        let text = namespace::inside(ns, || fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        let line = text.lines().find_map(|l| l.trim().strip_prefix("eth0:")).expect("a line of eth0");
        let n: Vec<u64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
        if messages(ns) == before {
            return ([n[1], n[0], n[9], n[8]], before);
        }
    }
}

/// How many messages of ICMPv6 a container's kernel has sent by itself, or got.
fn messages(ns: &Path) -> u64 {
    let text = namespace::inside(ns, || fs::read_to_string("/proc/thread-self/net/snmp6")).unwrap();
    let of = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.map_or(0, |l| l.trim().parse::<u64>().unwrap())
    };
    of("Icmp6OutMsgs ") + of("Icmp6InMsgs ")
}

/// A UDP server in a namespace that sends everything back.
fn udp_echo(ns: &Path, address: &'static str) {
    let socket = namespace::inside(ns, move || UdpSocket::bind(address)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0u8; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    });
}

/// So many datagrams of so many bytes there and back.
fn datagrams(ns: &Path, to: &'static str, count: u32, bytes: usize) -> UdpSocket {
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let exchange = move || {
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut buffer = [0u8; 2048];
        for i in 0..count {
            socket.send_to(&buffer[..bytes], to)?;
            let lost = |e| io::Error::other(format!("datagram {i} to {to}: {e}"));
            let (n, _) = socket.recv_from(&mut buffer).map_err(lost)?;
            assert_eq!(n, bytes);
        }
        io::Result::Ok(socket)
    };
    namespace::inside(ns, exchange).unwrap()
}

async fn flow_of(agent: &Agent, own: SocketAddr) -> Flow {
    let (flows, _) = agent.handle.flows(0).await.unwrap();
    flows.into_iter().find(|f| f.client == own).unwrap_or_else(|| panic!("no flow of {own}"))
}

#[test]
#[ignore = "needs root"]
fn flows_carry_what_the_containers_device_carries() {
    let world = World::new();
    let (client, node) = (world.path("c"), world.path("n"));
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 1, &["8080:80", "7000:7/udp"]))).await;
        let ns = agent.handle.attach(task(1), &attachment(1)).await.unwrap();
        server(&ns, "[::]:80".into(), 1);
        udp_echo(&ns, "[::]:7");
        agent.handle.serve(task(1), &attachment(1), Gate::Open).await.unwrap();
        // A link that was just made may lose what is sent first. Of this there is no record.
        drop(connect(&node, "198.18.0.1:8080").unwrap());
        assert_eq!(agent.handle.flows(0).await.unwrap().0, []);

        for (tcp, udp, header) in
            [("198.18.0.1:8080", "198.18.0.1:7000", 20), ("[fd18::1]:8080", "[fd18::1]:7000", 40)]
        {
            let own = datagrams(&client, udp, 50, 500).local_addr().unwrap().port();
            let ip = if header == 20 { CLIENT } else { CLIENT6 };
            let udp = flow_of(&agent, SocketAddr::new(ip.parse().unwrap(), own)).await.traffic;
            assert_eq!((udp.received_packets, udp.sent_packets), (50, 50));
            assert_eq!((udp.received, udp.sent), (50 * (header + 508), 50 * (header + 508)));

            // Now and then the kernel itself says something on the device.
            let mut tries = 0..5;
            loop {
                tries.next().expect("once in five times the kernel says nothing by itself");
                // What closes the last connection is not of the next.
                sleep(Duration::from_millis(300));
                let (before, quiet) = device(&ns);
                let (mut stream, answer) = connect(&client, tcp).unwrap();
                for round in 0..200 {
                    echo(&mut stream, round).unwrap();
                }
                let bulk = vec![7u8; 4 << 20];
                let mut there = stream.try_clone().unwrap();
                let writer = std::thread::spawn(move || there.write_all(&bulk));
                stream.read_exact(&mut vec![0; 4 << 20]).unwrap();
                writer.join().unwrap().unwrap();
                // The last acknowledgement may be on its way.
                sleep(Duration::from_millis(300));
                let flow = flow_of(&agent, answer.own).await;
                let (after, messages) = device(&ns);
                let loud = messages != quiet;
                let moved: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
                let t = flow.traffic;
                println!("{tcp}: device {moved:?}, flow {t:?}, {loud}");
                if loud {
                    continue;
                }
                // The device counts Ethernet headers, too, and merged packets as one.
                assert_eq!((t.received, t.sent), (moved[1] - 14 * moved[0], moved[3] - 14 * moved[2]));
                let payload = (200 * 8000 + (4 << 20)) as u64;
                let least = payload / (1500 - header - 32);
                for (packets, merged) in [(t.received_packets, moved[0]), (t.sent_packets, moved[2])] {
                    assert!(
                        u64::from(packets) >= least && u64::from(packets) >= merged,
                        "{packets} of {least}"
                    );
                }
                assert!(flow.age_ms.is_some_and(|age| age < 20_000), "{:?}", flow.age_ms);
                assert_eq!(flow.replica.map(|r| (r.service, r.slot)), Some(("web".into(), 1)));
                break;
            }
        }
        agent.stop().await;
    });
}

/// Rates of a while, in which something is done.
async fn during(meter: &mut Meter, work: impl FnOnce()) -> Traffic {
    meter.look().await.unwrap();
    let begun = Instant::now();
    work();
    sleep(Duration::from_millis(500).saturating_sub(begun.elapsed()));
    meter.look().await.unwrap()
}

#[test]
#[ignore = "needs root"]
fn rates_are_of_the_port_the_client_and_the_container() {
    let world = World::new();
    let (client, node) = (world.path("c"), world.path("n"));
    udp_echo(&client, "0.0.0.0:7001");
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 1, &["8080:80", "7000:7/udp"]))).await;
        let ns = agent.handle.attach(task(1), &attachment(1)).await.unwrap();
        udp_echo(&ns, "[::]:7");
        server(&ns, "[::]:80".into(), 1);
        agent.handle.serve(task(1), &attachment(1), Gate::Open).await.unwrap();
        // A link that was just made may lose what is sent first. Of this there is no record.
        drop(connect(&node, "198.18.0.1:8080").unwrap());
        assert_eq!(agent.handle.flows(0).await.unwrap().0, []);
        let mut meter = agent.handle.meter(Asked::default());
        let found = during(&mut meter, || {
            drop(datagrams(&client, "198.18.0.1:7000", 100, 500));
            drop(datagrams(&client, "198.18.0.1:7000", 100, 500));
            drop(datagrams(&ns, "198.18.0.2:7001", 40, 100));
        })
        .await;
        let seconds = found.elapsed.as_secs_f64();
        let counted = |r: &Rates| {
            [r.new, r.received_packets, r.sent_packets, r.received, r.sent]
                .map(|n| (n * seconds).round() as u64)
        };
        let whole = [2, 200, 200, 200 * 528, 200 * 528];
        assert_eq!(found.ports.len(), 1, "{found:?}");
        let port = &found.ports[0];
        assert_eq!((port.published.to_string(), port.protocol), ("198.18.0.1:7000".into(), "udp"));
        assert_eq!((port.service.as_str(), port.rates.flows), ("web", 2));
        assert_eq!(counted(&port.rates), whole);
        assert_eq!(found.clients.len(), 1, "{found:?}");
        assert_eq!(found.clients[0].client.to_string(), CLIENT);
        assert_eq!(counted(&found.clients[0].rates), whole);
        assert_eq!(found.out.len(), 1, "{found:?}");
        assert_eq!(found.out[0].task, Some(task(1)));
        assert_eq!(counted(&found.out[0].rates), [1, 40, 40, 40 * 128, 40 * 128]);

        // A connection that is established between two looks is one flow, and begins once.
        let held = connect(&client, "198.18.0.1:8080").unwrap();
        let found = during(&mut meter, || drop(connect(&client, "198.18.0.1:8080").unwrap())).await;
        let port = found.ports.iter().find(|p| p.protocol == "tcp").expect("a row");
        assert_eq!((port.rates.flows, counted(&port.rates)[0]), (2, 1));
        drop(held);
        agent.stop().await;
    });
}
