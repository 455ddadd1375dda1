//! Agents come and go, of the same build and of others, under load.

use std::{
    sync::atomic::{AtomicBool, AtomicU64},
    thread::{self, JoinHandle, sleep},
};

use warren_ebpf::abi::{map, older};

use super::{
    super::{
        NetError,
        datapath::{
            loader::Loaded,
            sys::{RawMap, bytes_of, from_bytes},
        },
    },
    *,
};

/// A stream and a flood of new connections from a namespace to a port, until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start(ns: &Path, to: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (rounds, connections) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        let (ns1, stop1, rounds1) = (ns.to_path_buf(), Arc::clone(&stop), Arc::clone(&rounds));
        threads.push(thread::spawn(move || {
            let (mut stream, _) = connect(&ns1, to).map_err(|e| format!("stream: {e}"))?;
            while !stop1.load(Ordering::Relaxed) {
                let round = rounds1.fetch_add(1, Ordering::Relaxed);
                echo(&mut stream, round as u32).map_err(|e| format!("stream, round {round}: {e}"))?;
                sleep(Duration::from_millis(1));
            }
            Ok(())
        }));
        for _ in 0..2 {
            let (ns, stop, count) = (ns.to_path_buf(), Arc::clone(&stop), Arc::clone(&connections));
            threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let n = count.fetch_add(1, Ordering::Relaxed);
                    connect(&ns, to).map_err(|e| format!("new connection {n}: {e}"))?;
                    sleep(Duration::from_millis(2));
                }
                Ok(())
            }));
        }
        let load = Self { stop, rounds, connections, threads };
        load.go_on();
        load
    }

    /// Lets it run for a while.
    fn go_on(&self) {
        let (rounds, connections) =
            (self.rounds.load(Ordering::Relaxed), self.connections.load(Ordering::Relaxed));
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.rounds.load(Ordering::Relaxed) < rounds + 100
            || self.connections.load(Ordering::Relaxed) < connections + 50
        {
            if Instant::now() > deadline || self.threads.iter().any(JoinHandle::is_finished) {
                break;
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Stops it; nothing may have failed.
    fn stop(self) {
        self.go_on();
        self.stop.store(true, Ordering::Relaxed);
        for t in self.threads {
            t.join().unwrap().unwrap();
        }
        assert!(self.connections.load(Ordering::Relaxed) >= 100);
    }
}

/// Numbers of the programs on a device, as `bpftool` says.
fn programs() -> Vec<u64> {
    let text = run("bpftool", &["prog", "list"]);
    text.lines().filter_map(|l| l.split_once(':')?.0.trim().parse().ok()).collect()
}

/// Runs `first`, then `second` under load; the second one hears nothing of the cluster for a
/// while.
fn upgrade(first: Vec<Shape>, second: Vec<Shape>, hooks: [Hook; 2]) {
    let world = World::new();
    let client = world.path("c");
    world.node(move |config| async move {
        let web2 = web(&config, 1, 2, &["8080:80"]);
        let made = first.clone();
        let agent = Agent::of_build(&config, Some(Arc::clone(&web2)), first, hooks[0]).await;
        agent.serve(1, 80).await;
        agent.serve(2, 80).await;
        let load = Load::start(&client, "198.18.0.1:8080");
        agent.stop().await;
        load.go_on();
        let before = programs();
        let agent = Agent::of_build(&config, None, second.clone(), hooks[1]).await;
        load.go_on();
        agent.assign(web2).await;
        load.go_on();
        assert_eq!(agent.handle.check().await.unwrap().problems, Vec::<String>::new());
        assert_eq!(agent.handle.list().await.unwrap().len(), 2);
        agent.stop().await;
        load.stop();
        let maps = files_in(&config.pin_root.join("maps"));
        // Flow tables of the same layout keep their size.
        let kept = |s: &Shape| {
            let same = |f: &&Shape| {
                crate::net::datapath::shape::FLOWS.contains(&s.name)
                    && f.name == s.name
                    && f.layout == s.layout
            };
            made.iter().find(same).unwrap_or(s).pin()
        };
        let mut wanted: Vec<String> = second.iter().map(kept).collect();
        wanted.sort();
        assert_eq!(maps, wanted, "no map of the other build is left");
        // Everything of the first agent's was replaced, so its programs are gone.
        let after = programs();
        assert!(after.iter().any(|p| !before.contains(p)), "new programs run");
    });
}

#[test]
#[ignore = "needs root"]
fn an_agent_of_the_same_build_takes_over() {
    upgrade(build(), build(), [Hook::Tcx, Hook::Tcx]);
}

#[test]
#[ignore = "needs root"]
fn an_agent_takes_over_without_tcx() {
    upgrade(build(), build(), [Hook::Clsact, Hook::Clsact]);
}

#[test]
#[ignore = "needs root"]
fn an_agent_takes_over_from_one_without_tcx_and_back() {
    upgrade(build(), build(), [Hook::Clsact, Hook::Tcx]);
    upgrade(build(), build(), [Hook::Tcx, Hook::Clsact]);
}

#[test]
#[ignore = "needs root"]
fn a_build_with_other_structs_in_the_agents_maps_takes_over() {
    let mut other = build();
    for s in other.iter_mut().filter(|s| {
        [map::SVC4, map::BACKEND, map::MAGLEV, map::EP4, map::LINK, map::CONFIG].contains(&s.name)
    }) {
        s.layout ^= 1;
    }
    upgrade(build(), other, [Hook::Tcx, Hook::Tcx]);
}

#[test]
#[ignore = "needs root"]
fn the_tables_of_a_small_board_lock_little_memory() {
    let world = World::new();
    world.node(move |config| async move {
        let locked = |name: &str, memory| {
            let root = config.pin_root.join(name);
            let loaded = Loaded::start(&root, shapes(memory, 4), Hook::Tcx).unwrap();
            map::ALL.iter().map(|name| loaded.map(name).memory()).sum::<u64>()
        };
        let (board, server) = (locked("board", 512 << 20), locked("server", 4 << 30));
        assert!((16 << 20..=19 << 20).contains(&board), "{board}");
        assert!((35 << 20..=43 << 20).contains(&server), "{server}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_build_with_larger_flow_tables_keeps_those_there_are() {
    upgrade(build(), shapes(2 << 30, 2), [Hook::Tcx, Hook::Tcx]);
}

/// What the build before flows were counted has left is made by hand: its programs are not at hand.
#[test]
#[ignore = "needs root"]
fn flows_of_the_build_before_counters_go_on() {
    type Row = warren_ebpf::abi::Flow<[u8; 4]>;
    let world = World::new();
    let client = world.path("c");
    world.node(move |config| async move {
        let web1 = web(&config, 1, 1, &["8080:80"]);
        let agent = Agent::start(&config, Some(Arc::clone(&web1))).await;
        agent.serve(1, 80).await;
        let (mut stream, answer) = connect(&client, "198.18.0.1:8080").unwrap();
        echo(&mut stream, 1).unwrap();
        agent.stop().await;

        let maps = config.pin_root.join("maps");
        let shape = build().into_iter().find(|s| s.name == map::FLOW_EST4).unwrap();
        let table = RawMap::from_pin(&shape.path(&maps)).unwrap();
        let mut rows: Vec<(Vec<u8>, Row)> = Vec::new();
        let read = |k: &[u8], v: &[u8]| {
            rows.push((k.to_vec(), from_bytes(v).unwrap()));
            true
        };
        table.for_each(read).unwrap();
        let [(key, row)] = &rows[..] else { panic!("one flow is established: {rows:?}") };
        assert!(row.traffic.received > 8000 && row.expected != 0, "{row:?}");
        let older = older::Flow {
            last_seen: row.last_seen,
            backend: row.backend,
            ifindex: row.ifindex,
            service: row.service,
            published: row.published,
            client: row.client,
            published_port: row.published_port,
            client_port: row.client_port,
            state: row.state,
            flags: row.flags,
            mtu: 0,
            expected: 0x1234_5678,
            seat: row.seat,
            turn: row.turn,
            pad: 0,
        };
        let pin = maps.join("FLOW_EST4-a8a10854ae9302ea-4000");
        let pin = pin.display().to_string();
        let line = format!("map create {pin} type lru_hash key 16 value 48 entries 16384 name FLOW_EST4");
        run("bpftool", &line.split(' ').collect::<Vec<_>>());
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
        let line =
            format!("map update pinned {pin} key hex {} value hex {}", hex(key), hex(bytes_of(&older)));
        run("bpftool", &line.split(' ').collect::<Vec<_>>());
        // The client's last acknowledgement comes up to a fifth of a second late, and makes the record anew.
        let mut gone_for = 0;
        for _ in 0..500 {
            if table.get(key).unwrap().is_some() {
                table.delete(key).unwrap();
                gone_for = 0;
            }
            gone_for += 1;
            if gone_for == 25 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(gone_for, 25, "nothing is said any more");

        let agent = Agent::start(&config, Some(web1)).await;
        let (flows, _) = agent.handle.flows(0).await.unwrap();
        let flow = flows.iter().find(|f| f.client == answer.own).expect("it was carried over");
        assert_eq!((flow.state, flow.age_ms, flow.traffic.received), ("established", None, 0));
        echo(&mut stream, 2).unwrap();
        let (flows, _) = agent.handle.flows(0).await.unwrap();
        let flow = flows.iter().find(|f| f.client == answer.own).expect("it goes on");
        assert!(flow.age_ms.is_none() && flow.traffic.received > 8000, "{flow:?}");
        assert!(!Path::new(&pin).exists(), "the old table is left");
        agent.stop().await;
    });
}

#[test]
#[ignore = "needs root"]
fn two_agents_do_not_own_one_node() {
    let world = World::new();
    world.node(|config| async move {
        let agent = Agent::start(&config, None).await;
        let (_sender, receiver) = watch::channel(None);
        let second = super::super::start(config.clone(), receiver, CancellationToken::new()).await;
        assert!(matches!(second, Err(NetError::Locked { .. })), "a second agent started");
        assert!(matches!(reset(&config).await, Err(NetError::Locked { .. })));
        let problems = super::super::preflight(&config);
        assert!(problems.iter().any(|p| p.sentence.contains("another agent")), "{problems:?}");
        agent.stop().await;
    });
    let problems = world.node(|config| async move { super::super::preflight(&config) });
    assert_eq!(problems, []);
}

#[test]
#[ignore = "needs root"]
fn a_start_that_died_half_way_is_completed() {
    let world = World::new();
    let client = world.path("c");
    world.node(move |config| async move {
        // Some maps pinned, none filled, no program attached.
        let maps = config.pin_root.join("maps");
        drop(Loaded::start(&config.pin_root, build(), Hook::Tcx).unwrap());
        for s in build().iter().filter(|s| s.name.starts_with('F')) {
            fs::remove_file(s.path(&maps)).unwrap();
        }
        let agent =
            Agent::of_build(&config, Some(web(&config, 1, 1, &["8080:80"])), build(), Hook::Tcx).await;
        agent.serve(1, 80).await;
        knock(&client, "198.18.0.1:8080", 5);
        agent.stop().await;
    });
}
