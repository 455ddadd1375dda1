//! The path of packets over IPv6, and nodes that have none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use super::*;

impl Agent {
    /// [`Agent::serve`], for clients of both families.
    async fn serve_both(&self, n: u8, port: u16) {
        let ns = self.handle.attach(task(n), &attachment(n)).await.unwrap();
        server(&ns, format!("[::]:{port}"), n);
        self.handle.serve(task(n), &attachment(n), Gate::Open).await.unwrap();
    }
}

#[test]
#[ignore = "needs root"]
fn a_client_reaches_every_backend_over_ipv6_and_is_seen_as_itself() {
    let world = World::new();
    let client = world.path("c");
    world.node(move |config| async move {
        let ports = ["8080:80", "198.18.0.1:8081:80"];
        let agent = Agent::start(&config, Some(web(&config, 1, 2, &ports))).await;
        agent.serve_both(1, 80).await;
        agent.serve_both(2, 80).await;
        let answers = knock(&client, "[fd18::1]:8080", 60);
        assert!(answers.len() == 2, "both backends answer: {answers:?}");
        let refused = connect(&client, "[fd18::1]:8081").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "published on an address of IPv4");
        // Closed to new connections; the established one goes on.
        let (mut stream, answer) = connect(&client, "[fd18::1]:8080").unwrap();
        agent.handle.serve(task(answer.number), &attachment(answer.number), Gate::Draining).await.unwrap();
        let other = 3 - answer.number;
        assert_eq!(knock(&client, "[fd18::1]:8080", 20), BTreeMap::from([(other, 20)]));
        echo(&mut stream, 7).unwrap();

        let (flows, _) = agent.handle.flows(0).await.unwrap();
        let flow = flows.iter().find(|f| f.client == answer.own).expect("the flow is shown");
        assert_eq!(flow.published.unwrap().to_string(), "[fd18::1]:8080");
        assert_eq!(flow.container.to_string(), format!("[fd00:86::{}]:80", answer.number));
        assert_eq!((flow.kind, flow.state, flow.task), ("in", "established", Some(task(answer.number))));
        let published = agent.handle.published().await.unwrap();
        let shown = |n: usize| published[n].backends[0].address6.map(|a| a.to_string());
        assert_eq!((shown(0), shown(1)), (Some("[fd00:86::1]:80".into()), None));
        assert_eq!(agent.handle.check().await.unwrap().problems, Vec::<String>::new());

        // Nothing is remembered of a container that is gone.
        agent.handle.detach(task(1)).await.unwrap();
        agent.handle.detach(task(2)).await.unwrap();
        assert_eq!(agent.handle.flows(0).await.unwrap().0, []);
        let refused = connect(&client, "[fd18::1]:8080").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn the_node_itself_reaches_its_published_ports_over_ipv6() {
    let world = World::new();
    let node = world.path("n");
    world.node(move |config| async move {
        let ports = ["8080:80", "127.0.0.1:9090:90"];
        let agent = Agent::start(&config, Some(web(&config, 1, 2, &ports))).await;
        for n in 1..=2 {
            agent.serve_both(n, 80).await;
            // An application that knows nothing of IPv6.
            agent.serve(n, 90).await;
        }
        let own = [
            ("[::1]:8080", NODE),
            ("[fd18::1]:8080", NODE6),
            ("[::ffff:198.18.0.1]:8080", NODE),
            ("[::ffff:127.0.0.1]:9090", NODE),
        ];
        for (to, own) in own {
            let mut numbers = BTreeSet::new();
            for round in 0..20 {
                let (mut stream, answer) = connect(&node, to).unwrap_or_else(|e| panic!("{to}: {e}"));
                echo(&mut stream, round).unwrap();
                assert_eq!(answer.seen.ip().to_canonical().to_string(), own, "{to}");
                assert_eq!(answer.peer.to_string(), to, "the process is told what it asked for");
                numbers.insert(answer.number);
            }
            assert_eq!(numbers.len(), 2, "{to}: both backends answer");
        }
        let refused = connect(&node, "[::1]:9090").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "published on an address of IPv4");
        agent.assign(web(&config, 2, 2, &["8080:90"])).await;
        let (_, answer) = connect(&node, "[::1]:8080").unwrap();
        assert_eq!(answer.seen.ip().to_string(), NODE, "IPv4 for who speaks no IPv6");
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn containers_reach_each_other_themselves_and_the_world_over_ipv6() {
    let world = World::new();
    let client = world.path("c");
    server(&client, format!("[{CLIENT6}]:7000"), 9);
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 1, &["8080:80"]))).await;
        agent.serve_both(1, 80).await;
        let places = [1, 2].map(|n| (n, config.netns_dir.join(task(n).as_str())));
        agent.handle.attach(task(2), &attachment(2)).await.unwrap();
        for (n, place) in &places {
            let own = format!("fd00:86::{n}");
            for round in 0..5 {
                let (mut stream, answer) = connect(place, "[fd18::2]:7000").unwrap();
                echo(&mut stream, round).unwrap();
                assert_eq!(
                    (answer.seen.ip().to_string(), answer.own.ip().to_string()),
                    (NODE6.into(), own.clone())
                );
                assert!(answer.seen.port() >= 61_000);
                let (mut stream, answer) = connect(place, "[fd18::1]:8080").unwrap();
                echo(&mut stream, round).unwrap();
                assert_eq!(answer.own.ip().to_string(), own);
                assert_eq!(answer.seen == answer.own, *n == 2, "only who reaches itself is seen as another");
                let (mut stream, answer) = connect(place, "[fd00:86::1]:80").unwrap();
                echo(&mut stream, round).unwrap();
                assert_eq!(answer.seen, answer.own);
            }
        }
        agent.stop().await;
    });
}

/// IPv6 has no room on its devices.
#[test]
#[ignore = "needs root"]
fn a_node_of_small_packets_serves_ipv4() {
    let world = World::new();
    let client = world.path("c");
    world.node_ip("link set eth0 mtu 1200");
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 2, &["8080:80"]))).await;
        for n in 1..=2 {
            agent.serve(n, 80).await;
            agent.handle.attach(task(n), &attachment(n)).await.unwrap();
        }
        assert_eq!(knock(&client, "198.18.0.1:8080", 30).len(), 2);
        let published = agent.handle.published().await.unwrap();
        assert_eq!(published[0].backends[0].address6, None);
        assert_eq!(agent.handle.check().await.unwrap().problems, Vec::<String>::new());
        agent.stop().await;
    });
}

/// Without IPv6 on its devices all that is IPv4 works.
#[test]
#[ignore = "needs root"]
fn a_node_without_ipv6_serves_ipv4() {
    let world = World::new();
    let client = world.path("c");
    namespace::inside(&world.path("n"), || {
        for which in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1")?;
        }
        Ok(())
    })
    .unwrap();
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 2, &["8080:80"]))).await;
        agent.serve(1, 80).await;
        agent.serve(2, 80).await;
        assert_eq!(knock(&client, "198.18.0.1:8080", 30).len(), 2);
        let published = agent.handle.published().await.unwrap();
        assert_eq!(published[0].backends[0].address6, None);
        assert_eq!(agent.handle.check().await.unwrap().problems, Vec::<String>::new());
        agent.stop().await;
    });
}
