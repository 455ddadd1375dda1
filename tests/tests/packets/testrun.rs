//! A node twice, in the kernel and in the model, in both families: packet in, verdict and packet out.

use std::{collections::HashMap, process::Command, thread};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap as Hash, PerCpuArray, lpm_trie},
    programs::{SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use warren_ebpf::{
    abi::{
        BACKEND_UP, Backend, BackendRef, Client, ClientKey, DropCounter, EARLY, Flow, FlowKey, Forward,
        ForwardKey, Limit, Local, Mac, ROUTE_DROP, Reason, Return, ReturnKey, Route, Service, ServiceKey,
        SourceKey, TCP, Traffic, UDP, map, program,
    },
    flow::{
        decide::{Action, Verdict},
        model::Model,
    },
    maglev,
    packet::Tuple,
};

use crate::{
    frame::{Family, make, payload, read},
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

/// Loads the object and all its programs for packets, with small maps.
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
    let guard: &mut Xdp = ebpf.program_mut(program::GUARD).context("no guard")?.try_into()?;
    guard.load()?;
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
    // Packets to the guard come in by lo; all are addressed to this.
    node.macs.insert(1, Mac { address: [4; 6], pad: 0 });
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
    node.sum_up(A::POOL);
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
        let mut macs = table::<u32, Mac>(ebpf, map::MAC)?;
        model.macs.iter().try_for_each(|(k, v)| macs.insert(k, v, 0))?;
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
        self.counted(reason as u32)
    }

    /// How many of them the guard has dropped, and it alone.
    pub fn early(&self, reason: Reason) -> Result<u64> {
        self.counted(EARLY + reason as u32)
    }

    fn counted(&self, row: u32) -> Result<u64> {
        let drops = PerCpuArray::<_, DropCounter>::try_from(self.ebpf.map(map::DROPS).context("map")?)?;
        Ok(drops.get(&row, 0)?.iter().map(|c| c.packets).sum())
    }

    /// What the kernel has counted of its one established flow.
    pub fn traffic(&self) -> Result<Traffic> {
        let map = self.ebpf.map(named::<A>("FLOW_EST")).context("map")?;
        let rows = Hash::<_, FlowKey<A>, Flow<A>>::try_from(map)?;
        let (_, flow) = rows.iter().next().context("no flow is established")??;
        Ok(flow.traffic)
    }

    /// What the kernel knows of clients of ports with limits.
    pub fn clients(&self) -> Result<HashMap<ClientKey, (u64, u64, u64)>> {
        let map = self.ebpf.map(named::<A>("CLIENT")).context("map")?;
        let rows = Hash::<_, ClientKey, Client>::try_from(map)?;
        Ok(rows
            .iter()
            .map(|r| r.map(|(k, c)| (k, (c.flows, c.packets, c.seats))))
            .collect::<Result<_, _>>()?)
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
        // Seconds, but for what the client of a half-open connection must acknowledge.
        let timeless = |half_open: bool, k: &FlowKey<A>, mut f: Flow<A>| {
            (f.last_seen, f.turn) = (0, 0);
            if k.protocol == UDP || !half_open {
                f.expected = 0;
            }
            f
        };
        for (name, table) in [("FLOW_NEW", &self.model.flow_new), ("FLOW_EST", &self.model.flow_est)] {
            let (half_open, name) = (name == "FLOW_NEW", named::<A>(name));
            let kernel: HashMap<FlowKey<A>, _> =
                rows(&self.ebpf, name)?.into_iter().map(|(k, v)| (k, timeless(half_open, &k, v))).collect();
            let model = table.rows().into_iter().map(|(k, v)| (k, timeless(half_open, &k, v))).collect();
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
            (r.last_seen, r.began) = (0, 0);
            r
        };
        let kernel: HashMap<ReturnKey<A>, _> =
            rows(&self.ebpf, named::<A>("MASQ_RET"))?.into_iter().map(|(k, v)| (k, timeless(v))).collect();
        let model = self.model.masq_ret.rows().into_iter().map(|(k, v)| (k, timeless(v))).collect();
        ensure!(kernel == model, "MASQ_RET: kernel {kernel:?}\nmodel {model:?}");
        Ok(())
    }
}

/// One packet through the guard, as if it came in by lo.
fn early(ebpf: &mut Ebpf, packet: &[u8]) -> Result<(i32, Vec<u8>)> {
    let mut out = vec![0; packet.len() + 64];
    let options =
        TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::default() };
    let guard: &mut Xdp = ebpf.program_mut(program::GUARD).context("no guard")?.try_into()?;
    let result = guard.test_run(options)?;
    out.truncate(result.data_size_out as usize);
    Ok((result.return_value as i32, out))
}

/// One packet through a program in the kernel: what it returned, and the packet after it.
pub fn run(ebpf: &mut Ebpf, name: &str, ifindex: u32, packet: &[u8]) -> Result<(i32, Vec<u8>)> {
    if name == program::GUARD {
        return early(ebpf, packet);
    }
    run_merged(ebpf, name, ifindex, packet, (0, 0))
}

/// The same for one that packets are merged in: how many, and what each carries.
pub fn run_merged(
    ebpf: &mut Ebpf,
    name: &str,
    ifindex: u32,
    packet: &[u8],
    (segments, size): (u32, u32),
) -> Result<(i32, Vec<u8>)> {
    // struct __sk_buff: ifindex is at byte 40, gso_segs at 164, gso_size at 176.
    let mut context = [0u8; 192];
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context[164..168].copy_from_slice(&segments.to_ne_bytes());
    context[176..180].copy_from_slice(&size.to_ne_bytes());
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
