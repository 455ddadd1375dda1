//! Links, devices and sysctls: what is made is right, what is made half is completed, and nothing
//! is left.

use warren_ebpf::abi::map;

use super::{
    super::{NetError, attach::host_name, engine::Engine, misnamed_interfaces, preflight},
    *,
};

fn sysctl(ns: &Path, key: &str) -> String {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    namespace::inside(ns, move || fs::read_to_string(path)).unwrap().trim().to_owned()
}

/// Rows in a map of the node, as `bpftool` counts them (of arrays: not all zero).
fn rows(config: &Config, name: &str) -> usize {
    let shape = build().into_iter().find(|s| s.name == name).unwrap();
    let pin = shape.path(&config.pin_root.join("maps"));
    let text = run("bpftool", &["-j", "map", "dump", "pinned", &pin.display().to_string()]);
    text.matches("\"key\":").count()
}

/// Mounts below a directory.
fn mounts(dir: &Path) -> usize {
    let dir = dir.display().to_string();
    fs::read_to_string("/proc/self/mounts").unwrap().matches(dir.as_str()).count()
}

#[test]
#[ignore = "needs root"]
fn a_containers_link_is_as_designed() {
    let world = World::new();
    let node = world.path("n");
    world.node_ip("link set eth0 mtu 1400");
    let before: Vec<String> =
        ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"].map(|k| sysctl(&node, k)).into();
    let n = world.ns("n");
    world.node(move |config| async move {
        let agent = Agent::start(&config, None).await;
        let ns = agent.handle.attach(task(7), &attachment(7)).await.unwrap();
        let again = agent.handle.attach(task(7), &attachment(7)).await.unwrap();
        assert_eq!((&ns, ns.parent().unwrap()), (&again, config.netns_dir.as_path()));
        let name = host_name(task(7));
        let host = ip(&format!("-n {n} -d link show {name}"));
        assert!(host.contains("mtu 1400") && host.contains("state UP"), "{host}");
        assert!(host.contains(&format!("alias warren:{}:{}:7:1007:", config.node, task(7))), "{host}");
        assert!(host.contains("02:57:61:72:72:6e") && host.contains("addrgenmode none"), "{host}");
        let route = ip(&format!("-n {n} route get 10.86.0.7"));
        assert!(route.contains(&format!("dev {name} src {NODE}")), "{route}");
        let neighbours = ip(&format!("-n {n} neigh show dev {name}"));
        assert!(neighbours.matches("PERMANENT").count() == 2, "{neighbours}");
        let inside = |line: &str| {
            let target = format!("--net={}", ns.display());
            run("nsenter", &[&[target.as_str(), "ip"], &line.split(' ').collect::<Vec<_>>()[..]].concat())
        };
        let eth0 = inside("address show dev eth0");
        assert!(eth0.contains("inet 10.86.0.7/32") && eth0.contains("inet6 fd00:86::7/128"), "{eth0}");
        assert!(eth0.contains("mtu 1400") && !eth0.contains("fe80") && !eth0.contains("tentative"), "{eth0}");
        assert!(inside("link show lo").contains("LOOPBACK,UP"));
        assert!(inside("route").contains("default via 169.254.1.1 dev eth0"));
        assert!(inside("-6 route").contains("default via fe80::1 dev eth0"));
        let neighbours = inside("neigh");
        assert!(neighbours.matches("lladdr 02:57:61:72:72:6e PERMANENT").count() == 2, "{neighbours}");
        assert_eq!(sysctl(&ns, "net.ipv4.ping_group_range"), "0\t2147483647");
        assert_eq!(sysctl(&ns, "net.ipv4.ip_unprivileged_port_start"), "0");
        // The node and its container reach each other, under their own addresses.
        server(&ns, "0.0.0.0:80".into(), 7);
        let own = PathBuf::from("/run/netns").join(&n);
        let (_, answer) = connect(&own, "10.86.0.7:80").unwrap();
        assert_eq!(answer.seen.ip().to_string(), NODE);
        server(&own, "0.0.0.0:81".into(), 1);
        let (_, answer) = connect(&ns, &format!("{NODE}:81")).unwrap();
        assert_eq!(answer.seen.ip().to_string(), "10.86.0.7");
        agent.stop().await;
    });
    let after: Vec<String> =
        ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"].map(|k| sysctl(&node, k)).into();
    assert_eq!(before, after);
}

/// Devices, routes and neighbours of a namespace, without what the kernel does to eth0 by itself.
fn traces(ns: &str) -> Vec<String> {
    ["-o link", "route show table all", "-6 route show table all", "neigh"]
        .iter()
        .flat_map(|line| {
            let text = ip(&format!("-n {ns} {line}"));
            text.lines()
                .filter(|l| !l.contains("fe80") && !l.contains("lladdr"))
                .map(String::from)
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
#[ignore = "needs root"]
fn a_hundred_rounds_leave_nothing() {
    let world = World::new();
    let client = world.path("c");
    let n = world.ns("n");
    let config = world.config.clone();
    world.node(move |config| async move {
        let agent =
            Agent::of_build(&config, Some(web(&config, 1, 1, &["8080:80"])), build(), Hook::Tcx).await;
        let before = traces(&n);
        let pins = files_in(&config.pin_root.join("links"));
        for round in 0..100 {
            agent.serve(1, 80).await;
            knock(&client, "198.18.0.1:8080", 1);
            connect(&config.netns_dir.join(task(1).as_str()), &format!("{CLIENT}:1")).unwrap_err();
            agent.handle.serve(task(1), &attachment(1), Gate::Draining).await.unwrap();
            agent.handle.detach(task(1)).await.unwrap();
            assert_eq!(agent.handle.list().await.unwrap(), [], "round {round}");
        }
        agent.handle.detach(task(1)).await.unwrap();
        agent.assign(web(&config, 2, 0, &[])).await;
        let after = traces(&n);
        assert_eq!(before, after);
        assert_eq!(files_in(&config.pin_root.join("links")), pins);
        assert_eq!(files_in(&config.netns_dir), ["namespace", "reserved-ports"]);
        for m in [
            map::SVC4,
            map::EP4,
            map::LINK,
            map::FLOW_NEW4,
            map::FLOW_EST4,
            map::FWD_NEW4,
            map::FWD_EST4,
            map::MASQ_RET4,
            map::MASQ_OUT4,
            map::SOCK4,
        ] {
            assert_eq!(rows(&config, m), 0, "{m}");
        }
        agent.stop().await;
    });
    drop(world);
    let root = config.pin_root.parent().unwrap();
    assert!(!root.exists() && !config.netns_dir.exists(), "reset leaves nothing");
}

#[test]
#[ignore = "needs root"]
fn devices_that_appear_later_take_part() {
    for hook in [Hook::Tcx, Hook::Clsact] {
        let world = World::new();
        let client = world.path("c");
        let (n, c) = (world.ns("n"), world.ns("c"));
        world.node(move |config| async move {
            let agent = Agent::of_build(&config, Some(web(&config, 1, 1, &["8080:80"])), build(), hook).await;
            agent.serve(1, 80).await;
            let pins = files_in(&config.pin_root.join("links"));
            ip(&format!("link add late netns {n} type veth peer name late netns {c}"));
            ip(&format!("-n {n} address add 198.19.7.1/24 dev late"));
            ip(&format!("-n {c} address add 198.19.7.2/24 dev late"));
            ip(&format!("-n {n} link set late up"));
            ip(&format!("-n {c} link set late up"));
            let deadline = Instant::now() + Duration::from_secs(5);
            loop {
                match connect(&client, "198.19.7.1:8080") {
                    Ok((_, answer)) => {
                        assert_eq!(answer.seen.ip().to_string(), "198.19.7.2");
                        break;
                    }
                    Err(e) => assert!(Instant::now() < deadline, "{hook:?}: {e}"),
                }
                // The loop runs on this thread.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if hook == Hook::Clsact {
                let filters = run("tc", &["-n", &n, "filter", "show", "dev", "late", "ingress"]);
                assert!(filters.contains("node_in_l2") && filters.contains("direct-action"), "{filters}");
            }
            ip(&format!("-n {n} link del late"));
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(agent.handle.check().await.unwrap().problems, Vec::<String>::new());
            assert_eq!(files_in(&config.pin_root.join("links")), pins, "no pin of a device that is gone");
            knock(&client, "198.18.0.1:8080", 5);
            agent.stop().await;
        });
    }
}

#[test]
#[ignore = "needs root"]
fn devices_without_link_headers_get_their_program() {
    let world = World::new();
    let n = world.ns("n");
    world.node_ip("tuntap add mode tun name tun7");
    world.node(move |config| async move {
        let agent = Agent::of_build(&config, None, build(), Hook::Clsact).await;
        let filters = run("tc", &["-n", &n, "filter", "show", "dev", "tun7", "ingress"]);
        assert!(filters.contains("node_in_l3"), "{filters}");
        let filters = run("tc", &["-n", &n, "filter", "show", "dev", "lo", "ingress"]);
        assert!(filters.is_empty(), "{filters}");
        agent.stop().await;
        // Narrowed: the other device is let go.
        let narrow = Config { interfaces: vec!["eth0".into()], ..config };
        let agent = Agent::of_build(&narrow, None, build(), Hook::Clsact).await;
        let filters = run("tc", &["-n", &n, "filter", "show", "dev", "tun7", "ingress"]);
        assert!(filters.is_empty(), "{filters}");
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn a_port_of_a_bridge_that_is_named_is_told() {
    let world = World::new();
    let n = world.ns("n");
    world.node_ip("link add br0 type bridge");
    world.node(move |config| async move {
        let named = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let before = |names: Vec<String>| async move { misnamed_interfaces(&names).await.unwrap() };
        assert_eq!(before(named(&["eth0"])).await, []);
        assert!(before(named(&["eth7"])).await[0].sentence.contains("no network device eth7"));
        let narrow = Config { interfaces: named(&["eth0"]), ..config };
        let agent = Agent::start(&narrow, None).await;
        assert_eq!(agent.handle.check().await.unwrap().problems, Vec::<String>::new());
        // It becomes one under a running agent.
        ip(&format!("-n {n} link set eth0 master br0"));
        let told = "--interface eth0 does nothing: eth0 is a port of the bridge br0; name br0 instead";
        assert_eq!(agent.handle.check().await.unwrap().problems, [told]);
        assert_eq!(before(named(&["eth0"])).await[0].sentence, told);
        assert_eq!(before(named(&["eth0", "br0"])).await, [], "the bridge is named, too");
        ip(&format!("-n {n} link set eth0 nomaster"));
        // Until the agent has looked again, its program is not there.
        let deadline = Instant::now() + Duration::from_secs(5);
        while !agent.handle.check().await.unwrap().problems.is_empty() {
            assert!(Instant::now() < deadline, "it takes no part again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn reverse_path_filters_are_not_in_the_way() {
    let world = World::new();
    let (client, node) = (world.path("c"), world.path("n"));
    server(&client, format!("{CLIENT}:7000"), 9);
    for strictness in ["1", "2"] {
        namespace::inside(&node, move || {
            fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", strictness)?;
            fs::write("/proc/sys/net/ipv4/conf/default/rp_filter", strictness)
        })
        .unwrap();
        let (client, node) = (client.clone(), node.clone());
        world.node(move |config| async move {
            let agent = Agent::start(&config, Some(web(&config, 1, 1, &["8080:80"]))).await;
            agent.serve(1, 80).await;
            knock(&client, "198.18.0.1:8080", 5);
            connect(&node, "127.0.0.1:8080").unwrap();
            connect(&config.netns_dir.join(task(1).as_str()), "198.18.0.2:7000").unwrap();
            agent.handle.detach(task(1)).await.unwrap();
            agent.stop().await;
        });
    }
}

#[test]
#[ignore = "needs root"]
fn pins_of_other_nodes_are_found() {
    use crate::net::datapath::bpffs::{self, Lock};
    let world = World::new();
    let other = NodeId::from_random(u128::from(std::process::id()) << 8 | 0x6f);
    let root = crate::net::pin_root(other);
    bpffs::ensure(&root).unwrap();
    let found = |held| bpffs::others(&world.config.pin_root).contains(&(root.parent().unwrap().into(), held));
    let lock = Lock::take(&root).unwrap();
    assert!(found(true), "an agent holds it");
    drop(lock);
    assert!(found(false), "nobody holds it");
    fs::remove_dir_all(root.parent().unwrap()).unwrap();
}

#[test]
#[ignore = "needs root"]
fn what_others_remove_is_brought_back() {
    let world = World::new();
    let client = world.path("c");
    let n = world.ns("n");
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 1, &["8080:80"]))).await;
        agent.serve(1, 80).await;
        let name = host_name(task(1));
        ip(&format!("-n {n} route del 10.86.0.1"));
        ip(&format!("-n {n} link set eth0 mtu 1300"));
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let link = ip(&format!("-n {n} link show {name}"));
            let route = ip(&format!("-n {n} route"));
            if link.contains("mtu 1300") && route.contains("10.86.0.1 dev wr") {
                break;
            }
            assert!(Instant::now() < deadline, "{link}{route}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ip(&format!("-n {n} link set {name} down"));
        let deadline = Instant::now() + Duration::from_secs(5);
        while !ip(&format!("-n {n} link show {name}")).contains("state UP") {
            assert!(Instant::now() < deadline, "the link stays down");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        knock(&client, "198.18.0.1:8080", 5);
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn half_made_links_are_listed_completed_and_removed() {
    let world = World::new();
    let client = world.path("c");
    let n = world.ns("n");
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 3, &["8080:80"]))).await;
        // Died after the namespace.
        namespace::create(&config.netns_dir.join(task(1).as_str())).unwrap();
        // Died before the mount.
        fs::write(config.netns_dir.join(task(2).as_str()), "").unwrap();
        // Died before the alias.
        namespace::create(&config.netns_dir.join(task(3).as_str())).unwrap();
        let name = host_name(task(3));
        ip(&format!("-n {n} link add {name} address 02:57:61:72:72:6e type veth peer name other"));
        let mut listed = agent.handle.list().await.unwrap();
        listed.sort();
        assert_eq!(listed, {
            let mut all = [task(1), task(2), task(3)];
            all.sort();
            all
        });
        agent.handle.detach(task(2)).await.unwrap();
        agent.serve(1, 80).await;
        agent.serve(3, 80).await;
        let answers = knock(&client, "198.18.0.1:8080", 30);
        assert_eq!(answers.keys().copied().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(agent.handle.list().await.unwrap().len(), 2);
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn published_ports_are_reserved_and_given_back() {
    let world = World::new();
    let node = world.path("n");
    let key = "net.ipv4.ip_local_reserved_ports";
    namespace::inside(&node, || fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "8080,9000-9002"))
        .unwrap();
    let ns = node.clone();
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 0, &["8080:80", "8081:80"]))).await;
        assert_eq!(sysctl(&ns, key), "8080-8081,9000-9002");
        agent.assign(web(&config, 2, 0, &["8090:80"])).await;
        assert_eq!(sysctl(&ns, key), "8080,8090,9000-9002");
        // As if it had been killed: another one takes over what it added.
        agent.stop().await;
        reset(&config).await.unwrap();
        assert_eq!(sysctl(&ns, key), "8080,9000-9002");
    });
}

#[test]
#[ignore = "needs root"]
fn a_node_is_started_and_reset_only_where_it_lives() {
    for hook in [Hook::Tcx, Hook::Clsact] {
        let world = World::new();
        let n = world.ns("n");
        let client = world.path("c");
        world.node(move |config| async move {
            let agent = Agent::of_build(&config, Some(web(&config, 1, 2, &["8080:80"])), build(), hook).await;
            agent.handle.attach(task(1), &attachment(1)).await.unwrap();
            agent.handle.serve(task(1), &attachment(1), Gate::Open).await.unwrap();
            agent.stop().await;
        });
        // From here: its threads must not hold the node's namespace.
        server(&world.config.netns_dir.join(task(1).as_str()), "0.0.0.0:80".into(), 1);
        // Elsewhere there is a half-made link of another node, and a port reserved.
        let key = "net.ipv4.ip_local_reserved_ports";
        let stranger = host_name(task(9));
        let c = world.ns("c");
        ip(&format!("-n {c} link add {stranger} address 02:57:61:72:72:6e type veth peer name other"));
        namespace::inside(&client, || fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "8080"))
            .unwrap();
        let elsewhere = |expected: fn(Result<(), NetError>)| {
            let config = world.config.clone();
            namespace::inside(&client, move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let told =
                        preflight(&config).iter().any(|p| p.sentence == NetError::Elsewhere.to_string());
                    expected(if told { Err(NetError::Elsewhere) } else { Ok(()) });
                    let (_sender, receiver) = watch::channel(None);
                    let started = Engine::start(config.clone(), receiver, build(), hook).await;
                    expected(started.map(drop));
                    expected(reset(&config).await);
                });
                Ok(())
            })
            .unwrap();
        };
        elsewhere(|r| assert!(matches!(r, Err(NetError::Elsewhere)), "{r:?}"));
        knock(&client, "198.18.0.1:8080", 3);
        // When its namespace is gone for good, the node may live anywhere.
        ip(&format!("netns del {n}"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while ip(&format!("-n {c} -o link")).contains("eth0") {
            assert!(Instant::now() < deadline, "the namespace does not go");
            std::thread::sleep(Duration::from_millis(20));
        }
        elsewhere(|r| r.unwrap());
        assert!(ip(&format!("-n {c} -o link")).contains(&stranger), "another node's link");
        assert_eq!(sysctl(&client, key), "8080", "another namespace's ports");
        assert!(!world.config.netns_dir.exists() && !world.config.pin_root.exists());
        // For what cleans up.
        ip(&format!("netns add {n}"));
    }
}

#[test]
#[ignore = "needs root"]
fn links_in_the_making_are_no_problem() {
    let world = World::new();
    world.node(move |config| async move {
        let agent = Agent::start(&config, Some(web(&config, 1, 3, &["8080:80"]))).await;
        for n in [1, 2, 3] {
            let place = attachment(n);
            let attach = agent.handle.attach(task(n), &place);
            tokio::pin!(attach);
            let mut checks = 0;
            while tokio::time::timeout(Duration::from_millis(1), &mut attach).await.is_err() {
                assert_eq!(agent.handle.check().await.unwrap().problems, Vec::<String>::new());
                checks += 1;
            }
            assert!(checks > 0);
            assert_eq!(agent.handle.check().await.unwrap().problems, Vec::<String>::new());
        }
        // One that was given up half-way is somebody's problem again.
        agent.handle.detach(task(1)).await.unwrap();
        let place = attachment(1);
        let given_up = agent.handle.attach(task(1), &place);
        let _ = tokio::time::timeout(Duration::from_millis(1), given_up).await;
        agent.handle.attach(task(1), &attachment(1)).await.unwrap();
        assert_eq!(agent.handle.check().await.unwrap().problems, Vec::<String>::new());
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn ports_on_addresses_that_the_node_lacks_are_told() {
    let world = World::new();
    world.node(move |config| async move {
        let ports = ["198.18.0.1:8080:80", "127.0.0.1:8081:80", "8082:80", "198.18.0.77:8083:80"];
        let agent = Agent::start(&config, Some(web(&config, 1, 1, &ports))).await;
        let problems = agent.handle.check().await.unwrap().problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("198.18.0.77") && problems[0].contains("service web"), "{problems:?}");
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn reset_removes_what_a_killed_agent_left() {
    let world = World::new();
    let n = world.ns("n");
    let config = world.config.clone();
    world.node(move |config| async move {
        for hook in [Hook::Tcx, Hook::Clsact] {
            let agent = Agent::of_build(&config, Some(web(&config, 1, 2, &["8080:80"])), build(), hook).await;
            agent.serve(1, 80).await;
            agent.handle.attach(task(2), &attachment(2)).await.unwrap();
            assert_eq!(mounts(&config.netns_dir), 2);
            agent.stop().await;
            reset(&config).await.unwrap();
            reset(&config).await.unwrap();
            let links = ip(&format!("-n {n} -o link"));
            assert_eq!(links.lines().count(), 2, "{links}");
            assert!(!run("tc", &["-n", &n, "qdisc"]).contains("clsact"));
        }
    });
    assert_eq!(mounts(&config.netns_dir), 0);
    assert!(!config.netns_dir.exists() && !config.pin_root.exists());
}
