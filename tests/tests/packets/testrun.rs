//! Packet in, verdict and packet out, through the kernel and through the model, in both families.

use std::{collections::HashMap, process::Command, thread};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap as Hash, PerCpuArray, lpm_trie},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use warren_ebpf::{
    abi::{
        Address as _, BACKEND_DRAINING, BACKEND_UP, Backend, BackendRef, DropCounter, Flow, FlowKey, Forward,
        ForwardKey, Limit, Local, ROUTE_DROP, Reason, Return, ReturnKey, Route, Service, ServiceKey,
        SourceKey, TCP, UDP, map, program,
    },
    flow::{
        decide::{Action, V6, Verdict},
        model::Model,
    },
    maglev,
    packet::{ACK, FIN, RST, SYN, Tuple},
};

use crate::{
    frame::{Family, make, payload, read, reversed, tuple},
    object,
};

/// Names tests, which are functions of the family, once for each.
macro_rules! of_both_families {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            #[test]
            #[ignore = "needs root"]
            fn v4() -> anyhow::Result<()> {
                crate::testrun::alone(super::$test::<warren_ebpf::flow::decide::V4>)
            }

            #[test]
            #[ignore = "needs root"]
            fn v6() -> anyhow::Result<()> {
                crate::testrun::alone(super::$test::<warren_ebpf::flow::decide::V6>)
            }
        })+
    };
}

of_both_families!(
    the_life_of_a_connection,
    blind_handshakes_establish_nothing,
    nobody_outside_reaches_a_container_by_its_own_address,
    every_kind_of_packet_is_decided_as_in_the_model,
    backend_states_are_obeyed_by_the_next_packet,
    colliding_connections_get_ports_of_their_own,
    odd_packets_pass_or_are_counted,
    nothing_happens_before_the_agent_has_configured_it,
);

pub const UPLINK: u32 = 2;
/// Records that the tables of flows have room for.
const ROOM: u32 = 4096;
const MAC: &str = "04:04:04:04:04:04";

/// Runs `test` in a network namespace that ends with it.
pub fn alone<T: Send + 'static>(test: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    ensure!(nix::unistd::geteuid().is_root(), "needs root: run `cargo xtask test`");
    thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        test()
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs `ip` in this thread's namespace.
pub fn ip(args: &str) -> Result<()> {
    let out = Command::new("ip").args(args.split_whitespace()).output().context("ip")?;
    ensure!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// Loads the object and all its TC programs, with small maps.
pub fn load() -> Result<Ebpf> {
    load_sized(ROOM)
}

fn load_sized(room: u32) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for table in ["FLOW_NEW", "FLOW_EST", "FWD_NEW", "FWD_EST", "MASQ_RET", "MASQ_OUT"] {
        for name in map::ALL.iter().filter(|name| name.starts_with(table)) {
            loader.map_max_entries(name, room);
        }
    }
    let mut ebpf = loader.load(&object::bytes()?)?;
    for name in [program::NODE_IN_L2, program::NODE_IN_L3, program::VETH_IN] {
        classifier(&mut ebpf, name)?.load()?;
    }
    Ok(ebpf)
}

pub fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

pub fn container<A: Family>(id: u32) -> (A, u32) {
    (A::container(id), 100 + id)
}

/// The map of a family.
fn named<A: Family>(table: &str) -> &'static str {
    let is = |name: &&&str| name.strip_prefix(table).is_some_and(|n| n == A::FAMILY.to_string());
    map::ALL.iter().find(is).expect("a map of both families")
}

fn backend_ref(id: u32) -> BackendRef {
    BackendRef { id, generation: 1 }
}

/// The node of the model, with containers 1 to 3.
fn node<A: Family>(room: u32) -> Model<A> {
    let mut node = Model::new(room as usize, room as usize);
    node.locals = vec![A::NODE, A::LAN];
    for id in 1..=3 {
        let (address, ifindex) = container::<A>(id);
        let row = Backend { generation: 1, ifindex, state: BACKEND_UP, ..A::row(address) };
        node.backends.insert(id, row);
        node.endpoints.insert(address, backend_ref(id));
        node.links.insert(ifindex, backend_ref(id));
    }
    node.routes.push((A::ZERO, 0, Route { ifindex: UPLINK, source: A::NODE, flags: 0, mtu: 1500 }));
    node.routes.push((A::POOL.0, A::POOL.1, Route { flags: ROUTE_DROP, ..Route::default() }));
    // One port, so that both choose the same.
    node.config.masquerade_last = node.config.masquerade_first;
    let published = [(A::ZERO, 8080, &[1, 2, 3][..]), (A::LAN, 8081, &[1]), (A::ZERO, 8082, &[1])];
    for (address, port, backends) in published {
        let refs: Vec<_> = backends.iter().map(|id| backend_ref(*id)).collect();
        let mut service = Service { id: u32::from(port), target: 80, ..Service::default() };
        if let [one] = refs[..] {
            service.single = one;
        } else {
            service.table_size = maglev::table_size(refs.len());
            service.table = node.maglev.len() as u32;
            node.maglev.extend(maglev::build(&refs, service.table_size));
        }
        for protocol in [TCP, UDP] {
            node.services.insert(ServiceKey { address, port, protocol, pad: 0 }, service);
        }
    }
    node
}

/// A node twice: in memory and in the kernel.
pub struct Twins<A: Family> {
    pub model: Model<A>,
    pub ebpf: Ebpf,
}

impl<A: Family> Twins<A> {
    /// In this thread's namespace, which gets the devices.
    pub fn new() -> Result<Self> {
        Self::sized(ROOM)
    }

    /// With room for so many records in each table of flows.
    pub fn sized(room: u32) -> Result<Self> {
        for index in [UPLINK, 101, 102, 103] {
            ip(&format!(
                "link add d{index} index {index} address {MAC} type veth peer name p{index} index {}",
                index + 1000
            ))?;
        }
        let mut twins = Self { model: node(room), ebpf: load_sized(room)? };
        twins.mirror()?;
        Ok(twins)
    }

    /// Writes the model's description of the node into the maps.
    pub fn mirror(&mut self) -> Result<()> {
        let (model, ebpf) = (&self.model, &mut self.ebpf);
        fn table<'a, K: aya::Pod, V: aya::Pod>(
            ebpf: &'a mut Ebpf,
            name: &str,
        ) -> Result<Hash<&'a mut aya::maps::MapData, K, V>> {
            Ok(Hash::try_from(ebpf.map_mut(name).with_context(|| format!("no map {name}"))?)?)
        }
        fn array<'a, V: aya::Pod>(
            ebpf: &'a mut Ebpf,
            name: &str,
        ) -> Result<Array<&'a mut aya::maps::MapData, V>> {
            Ok(Array::try_from(ebpf.map_mut(name).with_context(|| format!("no map {name}"))?)?)
        }
        array(ebpf, map::CONFIG)?.set(0, model.config, 0)?;
        let mut services = table::<ServiceKey<A>, Service>(ebpf, named::<A>("SVC"))?;
        model.services.iter().try_for_each(|(k, v)| services.insert(k, v, 0))?;
        let mut backends = array::<Backend>(ebpf, map::BACKEND)?;
        model.backends.iter().try_for_each(|(k, v)| backends.set(*k, v, 0))?;
        let mut rows = array::<BackendRef>(ebpf, map::MAGLEV)?;
        model.maglev.iter().enumerate().try_for_each(|(k, v)| rows.set(k as u32, v, 0))?;
        let mut endpoints = table::<A, BackendRef>(ebpf, named::<A>("EP"))?;
        model.endpoints.iter().try_for_each(|(k, v)| endpoints.insert(k, v, 0))?;
        let mut links = table::<u32, BackendRef>(ebpf, map::LINK)?;
        model.links.iter().try_for_each(|(k, v)| links.insert(k, v, 0))?;
        let mut locals = table::<A, Local>(ebpf, named::<A>("LOCAL"))?;
        model.locals.iter().try_for_each(|k| locals.insert(k, Local { ifindex: UPLINK }, 0))?;
        let sources = ebpf.map_mut(named::<A>("SRC")).context("no map of sources")?;
        let mut sources = lpm_trie::LpmTrie::<_, SourceKey<A>, u32>::try_from(sources)?;
        for (set, net, len) in &model.sources {
            let key = SourceKey { set: *set, address: *net };
            sources.insert(&lpm_trie::Key::new(32 + len, key), 1, 0)?;
        }
        let mut limits = table::<u32, Limit>(ebpf, map::LIMIT)?;
        model.limits.iter().try_for_each(|(k, v)| limits.insert(k, v, 0))?;
        let denied = ebpf.map_mut(named::<A>("DENY")).context("no deny list")?;
        let mut denied = lpm_trie::LpmTrie::<_, A, u32>::try_from(denied)?;
        for (net, len) in &model.denied {
            denied.insert(&lpm_trie::Key::new(*len, *net), 1, 0)?;
        }
        let routes = ebpf.map_mut(named::<A>("ROUTE")).context("no map of routes")?;
        let mut routes = lpm_trie::LpmTrie::<_, A, Route<A>>::try_from(routes)?;
        for (net, len, value) in &model.routes {
            routes.insert(&lpm_trie::Key::new(*len, *net), value, 0)?;
        }
        Ok(())
    }

    /// One packet through both. Checks that verdict, bytes and checksums agree, and returns them.
    pub fn pass(&mut self, name: &str, ifindex: u32, packet: &[u8]) -> Result<(Verdict<A>, Vec<u8>)> {
        let (returned, out) = run(&mut self.ebpf, name, ifindex, packet)?;
        let mut expected = packet.to_vec();
        let verdict = match name {
            program::VETH_IN => self.model.veth_in(&mut expected, ifindex),
            _ => self.model.node_in(&mut expected, ifindex),
        };
        let action = match verdict.action {
            Action::Pass => -1,
            Action::Drop => 2,
            Action::Container | Action::Device => 7,
        };
        ensure!(returned == action, "{name}: the kernel says {returned}, the model {verdict:?}");
        ensure!(out == expected, "{name}: {verdict:?}\nkernel {out:02x?}\nmodel  {expected:02x?}");
        if action == 7 {
            ensure!(read(&out)? == verdict.to, "{name}: {verdict:?}");
        } else {
            ensure!(out == packet, "{name}: what is not sent on is not touched");
        }
        Ok((verdict, out))
    }

    pub fn enter(&mut self, t: Tuple<A>, protocol: u8, flags: u8) -> Result<(Verdict<A>, Tuple<A>)> {
        let (verdict, out) =
            self.pass(program::NODE_IN_L2, UPLINK, &make(t, protocol, flags, payload(protocol, flags)))?;
        Ok((verdict, read(&out)?))
    }

    pub fn leave(&mut self, id: u32, t: Tuple<A>, protocol: u8, flags: u8) -> Result<(Verdict<A>, Tuple<A>)> {
        let (verdict, out) = self.pass(
            program::VETH_IN,
            container::<A>(id).1,
            &make(t, protocol, flags, payload(protocol, flags)),
        )?;
        Ok((verdict, read(&out)?))
    }

    /// How many packets the kernel's programs have dropped for this reason.
    pub fn drops(&self, reason: Reason) -> Result<u64> {
        let drops = PerCpuArray::<_, DropCounter>::try_from(self.ebpf.map(map::DROPS).context("map")?)?;
        Ok(drops.get(&(reason as u32), 0)?.iter().map(|c| c.packets).sum())
    }

    /// Checks that both have the same records (times apart).
    pub fn same_records(&mut self) -> Result<()> {
        fn rows<K: aya::Pod + Eq + std::hash::Hash, V: aya::Pod>(
            ebpf: &Ebpf,
            name: &str,
        ) -> Result<HashMap<K, V>> {
            let table = Hash::<_, K, V>::try_from(ebpf.map(name).context("map")?)?;
            Ok(table.iter().collect::<Result<_, _>>()?)
        }
        let timeless = |k: &FlowKey<A>, mut f: Flow<A>| {
            (f.last_seen, f.turn) = (0, 0);
            if k.protocol == UDP {
                f.expected = 0;
            }
            f
        };
        for (name, table) in [("FLOW_NEW", &self.model.flow_new), ("FLOW_EST", &self.model.flow_est)] {
            let name = named::<A>(name);
            let kernel: HashMap<FlowKey<A>, _> =
                rows(&self.ebpf, name)?.into_iter().map(|(k, v)| (k, timeless(&k, v))).collect();
            let model = table.rows().into_iter().map(|(k, v)| (k, timeless(&k, v))).collect();
            ensure!(kernel == model, "{name}: kernel {kernel:?}\nmodel {model:?}");
        }
        for (name, table) in [("FWD_NEW", &self.model.fwd_new), ("FWD_EST", &self.model.fwd_est)] {
            let name = named::<A>(name);
            let timeless = |(k, f)| (k, Forward { turn: 0, ..f });
            let rows: HashMap<ForwardKey<A>, Forward> = rows(&self.ebpf, name)?;
            let kernel: HashMap<_, _> = rows.into_iter().map(timeless).collect();
            let model = table.rows().into_iter().map(timeless).collect();
            ensure!(kernel == model, "{name}: kernel {kernel:?}\nmodel {model:?}");
        }
        let timeless = |mut r: Return<A>| {
            r.last_seen = 0;
            r
        };
        let kernel: HashMap<ReturnKey<A>, _> =
            rows(&self.ebpf, named::<A>("MASQ_RET"))?.into_iter().map(|(k, v)| (k, timeless(v))).collect();
        let model = self.model.masq_ret.rows().into_iter().map(|(k, v)| (k, timeless(v))).collect();
        ensure!(kernel == model, "MASQ_RET: kernel {kernel:?}\nmodel {model:?}");
        Ok(())
    }
}

/// One packet through a program in the kernel: what it returned, and the packet after it.
pub fn run(ebpf: &mut Ebpf, name: &str, ifindex: u32, packet: &[u8]) -> Result<(i32, Vec<u8>)> {
    // struct __sk_buff: ifindex is at byte 40.
    let mut context = [0u8; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    let mut out = vec![0; packet.len() + 64];
    let options = TestRunOptions {
        data_in: Some(packet),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = classifier(ebpf, name)?.test_run(options)?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value as i32, out))
}

fn the_life_of_a_connection<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    for port in 40_000..40_020 {
        let t = tuple(A::CLIENT, port, A::NODE, 8080);
        let (verdict, inside) = twins.enter(t, TCP, SYN)?;
        ensure!(verdict.action == Action::Container && inside.source == A::CLIENT);
        let id = verdict.ifindex - 100;
        twins.same_records()?;
        let (_, outside) = twins.leave(id, reversed(inside), TCP, SYN | ACK)?;
        ensure!(outside == reversed(t));
        twins.enter(t, TCP, ACK)?;
        twins.same_records()?;
        ensure!(twins.model.flow_new.is_empty() && !twins.model.flow_est.is_empty(), "established");
        twins.leave(id, reversed(inside), TCP, FIN | ACK)?;
        twins.enter(t, TCP, FIN | ACK)?;
        twins.same_records()?;
    }
    Ok(())
}

/// Made-up sources get answers that they do not see: what they acknowledge is a guess.
fn blind_handshakes_establish_nothing<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let known = tuple(A::CLIENT, 40_000, A::NODE, 8082);
    let (_, known_inside) = twins.enter(known, TCP, SYN)?;
    twins.leave(1, reversed(known_inside), TCP, SYN | ACK)?;
    twins.enter(known, TCP, ACK)?;
    for n in 0..500u32 {
        let t = tuple(A::stranger(n), 5, A::NODE, 8082);
        let (_, inside) = twins.enter(t, TCP, SYN)?;
        twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
        for flags in [ACK, FIN | ACK, RST, ACK] {
            let mut packet = make(t, TCP, flags, b"");
            let guess = n.wrapping_mul(2_654_435_761) | 1;
            set_acknowledgement::<A>(&mut packet, guess);
            let (verdict, _) = twins.pass(program::NODE_IN_L2, UPLINK, &packet)?;
            ensure!(verdict.action == Action::Container, "forwarded all the same: {verdict:?}");
        }
        // After a reset too.
        twins.leave(1, reversed(inside), TCP, ACK)?;
        let mut packet = make(t, TCP, ACK, b"");
        set_acknowledgement::<A>(&mut packet, n | 1 << 31);
        twins.pass(program::NODE_IN_L2, UPLINK, &packet)?;
    }
    twins.same_records()?;
    let established = (twins.model.flow_est.len(), twins.model.fwd_est.len());
    ensure!(established == (1, 1), "{established:?}");
    ensure!(twins.enter(known, TCP, ACK)?.1 == known_inside);
    Ok(())
}

/// Changes the acknowledgement number of a packet without options, and its checksum.
fn set_acknowledgement<A: Family>(packet: &mut [u8], number: u32) {
    let ip = A::header(&warren_ebpf::packet::Bytes(packet), 14).expect("an IP header");
    let at = ip.payload as usize + 8;
    packet[at..at + 4].copy_from_slice(&number.to_be_bytes());
    let (header, rest) = etherparse::TcpHeader::from_slice(&packet[at - 8..]).expect("TCP");
    let check = A::tcp_checksum(&header, ip.source, ip.destination, rest);
    packet[at + 8..at + 10].copy_from_slice(&check.to_be_bytes());
}

fn nobody_outside_reaches_a_container_by_its_own_address<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let mut sent = 0;
    let mut refused = |twins: &mut Twins<A>, packet: &[u8]| -> Result<()> {
        let (verdict, _) = twins.pass(program::NODE_IN_L2, UPLINK, packet)?;
        ensure!(verdict == Verdict::drop(Reason::Unpublished), "{verdict:?}");
        sent += 1;
        Ok(())
    };
    for id in 1..=3 {
        for port in [22, 80, 8080, 61_000] {
            let t = tuple(A::CLIENT, 5, container::<A>(id).0, port);
            for flags in 0..32 {
                refused(&mut twins, &make(t, TCP, flags, payload(TCP, flags)))?;
            }
            refused(&mut twins, &make(t, UDP, 0, b"payload"))?;
        }
        for ping in
            [tuple(A::CLIENT, 7, container::<A>(id).0, 0), tuple(A::CLIENT, 0, container::<A>(id).0, 7)]
        {
            refused(&mut twins, &make(ping, A::ICMP, 0, b"payload"))?;
        }
        // Fragments, and protocols without ports.
        for change in A::without_ports() {
            let mut packet = make(tuple(A::CLIENT, 5, container::<A>(id).0, 80), TCP, SYN, &[7; 30]);
            change(&mut packet);
            refused(&mut twins, &packet)?;
        }
    }
    // What is nobody's passes.
    ensure!(twins.enter(tuple(A::CLIENT, 5, A::UNUSED, 80), TCP, SYN)?.0 == Verdict::PASS);
    let count = twins.drops(Reason::Unpublished)?;
    ensure!(count == sent, "{count} of {sent} are counted");
    twins.same_records()
}

fn every_kind_of_packet_is_decided_as_in_the_model<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let one = container::<A>(1).0;
    // From outside.
    for t in [
        tuple(A::CLIENT, 5, A::NODE, 22),
        tuple(A::CLIENT, 5, A::NODE, 8081),
        tuple(A::CLIENT, 5, A::LAN, 8081),
        tuple(A::CLIENT, 5, A::stranger(200), 8080),
        tuple(A::NODE, 5, A::LAN, 8080),
        tuple(A::CLIENT, 5, A::NODE, 61_000),
    ] {
        for flags in 0..32 {
            twins.enter(t, TCP, flags)?;
        }
        twins.enter(t, UDP, 0)?;
    }
    twins.enter(tuple(A::CLIENT, 77, A::NODE, 0), A::ICMP, 0)?;
    // From a container: out, to the node, to a neighbour, to itself, and what it may not do.
    for t in [
        tuple(one, 5, A::REMOTE, 443),
        tuple(one, 6, A::NODE, 22),
        tuple(one, 6, A::NODE, 8080),
        tuple(one, 8, A::NODE, 8082),
        tuple(one, 7, container::<A>(2).0, 80),
        tuple(one, 7, A::UNUSED, 80),
        tuple(one, 7, A::NOBODYS[0], 5353),
        tuple(one, 7, A::NOBODYS[1], 67),
        tuple(container::<A>(2).0, 7, A::REMOTE, 80),
    ] {
        for flags in [SYN, ACK, SYN | ACK, RST, FIN | ACK, 0] {
            twins.leave(1, t, TCP, flags)?;
        }
        twins.leave(1, t, UDP, 0)?;
        twins.leave(1, tuple(t.source, 9, t.destination, 0), A::ICMP, 0)?;
        twins.leave(1, tuple(t.source, 0, t.destination, 9), A::ICMP, 0)?;
    }
    twins.same_records()?;
    // The hairpin's reply.
    let (_, inside) = twins.leave(1, tuple(one, 99, A::NODE, 8082), TCP, SYN)?;
    ensure!(inside == tuple(A::hairpin(&twins.model.config), 99, one, 80), "{inside:?}");
    let (_, back) = twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
    ensure!(back == tuple(A::NODE, 8082, one, 99));
    // Answers to what was masqueraded.
    for protocol in [TCP, UDP] {
        let (verdict, inside) = twins.enter(tuple(A::REMOTE, 443, A::NODE, 61_000), protocol, SYN | ACK)?;
        ensure!(verdict.action == Action::Container && inside == tuple(A::REMOTE, 443, one, 5), "{inside:?}");
    }
    twins.same_records()
}

fn backend_states_are_obeyed_by_the_next_packet<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let t = tuple(A::CLIENT, 1000, A::NODE, 8082);
    let (_, inside) = twins.enter(t, TCP, SYN)?;
    twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
    twins.enter(t, TCP, ACK)?;
    for state in [BACKEND_DRAINING, warren_ebpf::abi::BACKEND_CLOSED, BACKEND_UP] {
        twins.model.backends.get_mut(&1).context("row")?.state = state;
        let row = twins.model.backends[&1];
        Array::<_, Backend>::try_from(twins.ebpf.map_mut(map::BACKEND).context("map")?)?.set(1, row, 0)?;
        twins.enter(t, TCP, ACK)?;
        for port in 2000..2050 {
            twins.enter(tuple(A::CLIENT, port + u16::from(state) * 100, A::NODE, 8080), TCP, SYN)?;
        }
        twins.same_records()?;
    }
    Ok(())
}

fn colliding_connections_get_ports_of_their_own<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let mut kernel = |t: Tuple<A>, flags| -> Result<Tuple<A>> {
        let (returned, out) = run(&mut twins.ebpf, program::NODE_IN_L2, UPLINK, &make(t, TCP, flags, b""))?;
        ensure!(returned == 7, "{t:?}: {returned}");
        read(&out)
    };
    let mut seen = HashMap::new();
    for port in 3000..3200 {
        for published in [(A::NODE, 8082), (A::LAN, 8082), (A::LAN, 8081)] {
            let t = tuple(A::CLIENT, port, published.0, published.1);
            let inside = kernel(t, SYN)?;
            ensure!(inside.source == A::CLIENT, "the address is kept");
            ensure!(seen.insert(inside, t).is_none(), "two connections share {inside:?}");
        }
    }
    for (inside, t) in seen {
        let reply = make(reversed(inside), TCP, SYN | ACK, b"");
        let (returned, out) = run(&mut twins.ebpf, program::VETH_IN, container::<A>(1).1, &reply)?;
        ensure!(returned == 7 && read(&out)? == reversed(t), "{inside:?}");
    }
    Ok(())
}

fn odd_packets_pass_or_are_counted<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let (inbound, outbound) =
        (tuple(A::CLIENT, 9, A::NODE, 8080), tuple(container::<A>(1).0, 9, A::REMOTE, 80));
    let base = |t| make(t, TCP, SYN, &[7; 30]);
    for (n, change) in A::without_ports().into_iter().chain(A::broken()).enumerate() {
        let mut packet = base(inbound);
        change(&mut packet);
        let case = twins.pass(program::NODE_IN_L2, UPLINK, &packet).with_context(|| format!("case {n}"))?;
        ensure!(case.0 == Verdict::PASS, "case {n}: {case:?}");
        let mut packet = base(outbound);
        change(&mut packet);
        let case = twins
            .pass(program::VETH_IN, container::<A>(1).1, &packet)
            .with_context(|| format!("case {n}"))?;
        ensure!(case.0.action == Action::Drop, "case {n}: {case:?}");
    }
    // Options are passed over, not refused.
    for change in A::extended() {
        let mut packet = base(inbound);
        change(&mut packet);
        let (verdict, _) = twins.pass(program::NODE_IN_L2, UPLINK, &packet)?;
        ensure!(verdict.action == Action::Container, "{verdict:?}");
        let mut packet = base(outbound);
        change(&mut packet);
        let (verdict, _) = twins.pass(program::VETH_IN, container::<A>(1).1, &packet)?;
        ensure!(verdict.action == Action::Device, "{verdict:?}");
    }
    twins.same_records()?;
    // Not IP at all.
    for (ethertype, from_container) in [(0x0806u16, -1), (0x88cc, 2)] {
        let mut packet = base(outbound);
        packet[12..14].copy_from_slice(&ethertype.to_be_bytes());
        ensure!(run(&mut twins.ebpf, program::NODE_IN_L2, UPLINK, &packet)? == (-1, packet.clone()));
        ensure!(run(&mut twins.ebpf, program::VETH_IN, container::<A>(1).1, &packet)?.0 == from_container);
    }
    // Other hosts' packets, seen on a bridge port.
    let mut packet = base(inbound);
    packet[0] = 6;
    ensure!(run(&mut twins.ebpf, program::NODE_IN_L2, UPLINK, &packet)? == (-1, packet.clone()));
    for (reason, at_least) in
        [(Reason::Malformed, 8), (Reason::Fragment, 2), (Reason::Protocol, 1), (Reason::NotMasqueraded, 2)]
    {
        let count = twins.drops(reason)?;
        ensure!(count >= at_least, "{}: {count}", reason.name());
    }
    Ok(())
}

fn nothing_happens_before_the_agent_has_configured_it<A: Family>() -> Result<()> {
    let mut ebpf = load()?;
    let packet = make(tuple(container::<A>(1).0, 5, A::NODE, 8080), TCP, SYN, b"");
    for name in [program::NODE_IN_L2, program::NODE_IN_L3, program::VETH_IN] {
        ensure!(run(&mut ebpf, name, 1, &packet)? == (-1, packet.clone()), "{name}");
    }
    Ok(())
}

/// What keeps a link of IPv6 going is the kernel's, and no container's to send elsewhere.
#[test]
#[ignore = "needs root"]
fn neighbour_discovery_passes() -> Result<()> {
    const GROUP: V6 = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];
    const GATEWAY: V6 = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    alone(|| {
        let mut twins = Twins::<V6>::new()?;
        let (own, device) = container::<V6>(1);
        for kind in [130u8, 131, 132, 133, 134, 135, 136, 143] {
            for (source, destination) in [(own, GROUP), (V6::default(), GROUP), (own, GATEWAY)] {
                let mut packet = make(tuple(source, 9, destination, 0), V6::ICMP, 0, b"");
                packet[54] = kind;
                let (verdict, _) = twins.pass(program::VETH_IN, device, &packet)?;
                ensure!(verdict == Verdict::PASS, "{kind} to {destination:?}: {verdict:?}");
            }
            for destination in [V6::NODE, GATEWAY] {
                let mut packet = make(tuple(V6::CLIENT, 9, destination, 0), V6::ICMP, 0, b"");
                packet[54] = kind;
                let (verdict, _) = twins.pass(program::NODE_IN_L2, UPLINK, &packet)?;
                ensure!(verdict == Verdict::PASS, "{kind}: {verdict:?}");
            }
            let mut packet = make(tuple(own, 9, V6::REMOTE, 0), V6::ICMP, 0, b"");
            packet[54] = kind;
            let (verdict, _) = twins.pass(program::VETH_IN, device, &packet)?;
            ensure!(verdict == Verdict::drop(Reason::NotMasqueraded), "{kind}: {verdict:?}");
        }
        Ok(())
    })
}
