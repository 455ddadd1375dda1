//! The path of packets: published ports from a client and from the node itself, and the way out.

use std::{
    io,
    net::{TcpListener, UdpSocket},
    time::Duration,
};

use warren_ebpf::abi::{DropCounter, EARLY, Reason, map};

use super::{
    super::{Guard, datapath::sys::from_bytes},
    *,
};

#[test]
#[ignore = "needs root"]
fn a_client_reaches_every_backend_and_is_seen_as_itself() {
    let world = World::new();
    let client = world.path("c");
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 2, &["8080:80"]))).await;
        agent.serve(1, 80).await;
        agent.serve(2, 80).await;
        let answers = knock(&client, "198.18.0.1:8080", 60);
        assert!(answers.len() == 2, "both backends answer: {answers:?}");
        // Closed to new connections; the established one goes on.
        let (mut stream, answer) = connect(&client, "198.18.0.1:8080").unwrap();
        agent.handle.serve(task(answer.number), &attachment(answer.number), Gate::Draining).await.unwrap();
        let other = 3 - answer.number;
        assert_eq!(knock(&client, "198.18.0.1:8080", 20), BTreeMap::from([(other, 20)]));
        echo(&mut stream, 7).unwrap();

        let (flows, more) = agent.handle.flows(0).await.unwrap();
        let own = answer.own.to_string();
        let flow = flows.iter().find(|f| f.client.to_string() == own).expect("the flow is shown");
        assert_eq!(flow.published.unwrap().to_string(), "198.18.0.1:8080");
        assert_eq!((flow.kind, flow.state, flow.protocol), ("in", "established", "tcp"));
        assert_eq!(flow.task, Some(task(answer.number)));
        assert!(!more);
        assert_eq!(agent.handle.flows(1).await.unwrap().0.len(), 1);

        let published = agent.handle.published().await.unwrap();
        assert_eq!(published.len(), 1);
        let states: BTreeMap<TaskId, &str> =
            published[0].backends.iter().map(|b| (b.task, b.state)).collect();
        assert_eq!(states[&task(answer.number)], "draining");
        assert_eq!(states[&task(other)], "up");
        let check = agent.handle.check().await.unwrap();
        assert_eq!(check.problems, Vec::<String>::new());
        assert!(check.map_bytes > 1 << 20, "{} bytes", check.map_bytes);
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn the_node_itself_reaches_its_published_ports() {
    let world = World::new();
    let node = world.path("n");
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 2, &["8080:80"]))).await;
        agent.serve(1, 80).await;
        agent.serve(2, 80).await;
        for to in ["127.0.0.1:8080", "198.18.0.1:8080"] {
            let mut numbers = std::collections::BTreeSet::new();
            for round in 0..20 {
                let (mut stream, answer) = connect(&node, to).unwrap_or_else(|e| panic!("{to}: {e}"));
                echo(&mut stream, round).unwrap();
                assert_eq!(answer.seen.ip().to_string(), NODE, "{to}");
                assert_eq!(answer.peer.to_string(), to, "the process is told what it asked for");
                numbers.insert(answer.number);
            }
            assert_eq!(numbers.len(), 2, "{to}: both backends answer");
        }
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn containers_reach_the_world_under_the_nodes_address() {
    let world = World::new();
    let client = world.path("c");
    server(&client, format!("{CLIENT}:7000"), 9);
    let udp = namespace::inside(&client, || UdpSocket::bind((CLIENT, 7001))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0u8; 2048];
        while let Ok((n, from)) = udp.recv_from(&mut buffer) {
            let answer = [from.to_string().as_bytes(), b" ", &buffer[..n]].concat();
            let _ = udp.send_to(&answer, from);
        }
    });
    world.node(move |config| async move {
        let agent = Agent::start(&config, None).await;
        let ns = agent.handle.attach(task(1), &attachment(1)).await.unwrap();
        for round in 0..10 {
            let (mut stream, answer) = connect(&ns, "198.18.0.2:7000").unwrap();
            echo(&mut stream, round).unwrap();
            assert_eq!(answer.seen.ip().to_string(), NODE);
            assert_eq!(answer.own.ip().to_string(), "10.86.0.1");
        }
        let answer = namespace::inside(&ns, || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_secs(3)))?;
            socket.send_to(b"hello", (CLIENT, 7001))?;
            let mut buffer = [0u8; 2048];
            let (n, _) = socket.recv_from(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
        })
        .unwrap();
        assert!(answer.starts_with(&format!("{NODE}:")) && answer.ends_with(" hello"), "{answer}");
        for sequence in 1..=3 {
            ping(&ns, CLIENT, sequence).unwrap();
        }
        let (flows, _) = agent.handle.flows(0).await.unwrap();
        let out: std::collections::BTreeSet<_> =
            flows.iter().filter(|f| f.kind == "out" && f.task == Some(task(1))).map(|f| f.protocol).collect();
        assert_eq!(out.into_iter().collect::<Vec<_>>(), ["icmp", "tcp", "udp"]);
        agent.stop().await;
    });
}

/// Sends an echo request as an unprivileged process may (`ping_group_range`) and waits for the
/// answer.
fn ping(ns: &Path, to: &str, sequence: u16) -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let to: SocketAddr = SocketAddr::new(to.parse().map_err(io::Error::other)?, 0);
    namespace::inside(ns, move || {
        let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
        let socket = UdpSocket::from(fd);
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        // Echo request; the kernel fills checksum and identifier in.
        let mut packet = vec![8, 0, 0, 0, 0, 0];
        packet.extend(sequence.to_be_bytes());
        packet.extend(b"warren");
        socket.send_to(&packet, to)?;
        let mut buffer = [0u8; 100];
        let (n, from) = socket.recv_from(&mut buffer)?;
        let right = from.ip() == to.ip() && buffer[0] == 0 && buffer[6..n] == packet[6..];
        if right { Ok(()) } else { Err(io::Error::other(format!("{from} said {:?}", &buffer[..n]))) }
    })
}

#[test]
#[ignore = "needs root"]
fn what_nobody_serves_is_refused_at_once_and_what_is_not_published_is_the_nodes() {
    let world = World::new();
    let client = world.path("c");
    let node = world.path("n");
    server(&node, "0.0.0.0:22".into(), 22);
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 1, &["8080:80", "198.18.0.1:8081:80"]))).await;
        let refused = connect(&client, "198.18.0.1:8080").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        agent.serve(1, 80).await;
        assert_eq!(knock(&client, "198.18.0.1:8081", 3), BTreeMap::from([(1, 3)]));
        assert_eq!(knock(&client, "198.18.0.1:22", 3), BTreeMap::from([(22, 3)]));
        agent.assign(web(&config, 2, 1, &[])).await;
        let refused = connect(&client, "198.18.0.1:8080").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn two_nodes_of_one_kernel_publish_the_same_port() {
    let worlds = [World::new(), World::new()];
    std::thread::scope(|scope| {
        for (i, world) in worlds.iter().enumerate() {
            scope.spawn(move || {
                let (client, node) = (world.path("c"), world.path("n"));
                world.node(move |config| async move {
                    let agent = Agent::start(&config, Some(web(&config, 1, 1, &["8080:80"]))).await;
                    let ns = agent.handle.attach(task(1), &attachment(1)).await.unwrap();
                    server(&ns, "0.0.0.0:80".into(), 100 + i as u8);
                    agent.handle.serve(task(1), &attachment(1), Gate::Open).await.unwrap();
                    for from in [&client, &node] {
                        for _ in 0..20 {
                            let (_, answer) = connect(from, "198.18.0.1:8080").unwrap();
                            assert_eq!(usize::from(answer.number), 100 + i);
                        }
                    }
                    agent.stop().await;
                });
            });
        }
    });
}

#[test]
#[ignore = "needs root"]
fn the_hosts_own_listener_is_found() {
    let world = World::new();
    let node = world.path("n");
    let owner = namespace::inside(&node, || {
        let _listener = TcpListener::bind("0.0.0.0:8080")?;
        Ok(crate::net::Listeners::look().owner(8080, crate::model::Protocol::Tcp, None))
    });
    assert!(owner.unwrap().unwrap().ends_with(&format!("(pid {})", std::process::id())));
    // Not in this namespace.
    assert_eq!(crate::net::Listeners::look().owner(8080, crate::model::Protocol::Tcp, None), None);
}

#[test]
#[ignore = "needs root"]
fn the_guard_drops_what_is_addressed_to_its_device_and_nothing_else() {
    let world = World::new();
    let client = world.path("c");
    let (n, c) = (world.ns("n"), world.ns("c"));
    world.node(move |config| async move {
        let config = Config { guard: Guard::Xdp, ..config };
        let agent = Agent::start(&config, Some(web(&config, 1, 1, &["8080:80/udp"]))).await;
        agent.serve(1, 80).await;
        agent.handle.deny(&[format!("{CLIENT}/32").parse().unwrap()], &[]).await.unwrap();
        let drops = agent.handle.stage().live[map::DROPS].clone();
        let early = || -> u64 {
            let row = drops.get(&(EARLY + Reason::Denied as u32).to_ne_bytes()).unwrap().unwrap();
            row.chunks_exact(16).filter_map(from_bytes::<DropCounter>).map(|c| c.packets).sum()
        };
        let send = || {
            let sent = namespace::inside(&client, || {
                UdpSocket::bind((CLIENT, 0))?.send_to(b"x", (NODE, 8080)).map(drop)
            });
            sent.unwrap();
        };
        // Until one more is dropped early; it takes a look at the neighbour first, and the agent a pass.
        let dropped = async || {
            let (before, deadline) = (early(), Instant::now() + Duration::from_secs(5));
            while early() == before {
                assert!(Instant::now() < deadline, "nothing is dropped early");
                send();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        dropped().await;
        // The kernel knows the device by another address from now on, and so does the guard.
        ip(&format!("-n {n} link set eth0 address 02:00:00:00:00:99"));
        ip(&format!("-n {c} neigh flush dev eth0"));
        dropped().await;
        // As a device sees them that takes whatever it hears.
        ip(&format!("-n {c} neigh replace {NODE} lladdr 02:00:00:00:00:77 dev eth0 nud permanent"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = early();
        for _ in 0..10 {
            send();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(early(), before, "another host's");
        agent.stop().await;
    });
}
