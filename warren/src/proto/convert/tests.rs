//! There and back gives the same value; rubbish gives a sentence.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::{Ipv4Net, Ipv6Net};
use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use crate::{model::*, proto::v1};

fn id<K: 'static>() -> impl Strategy<Value = Id<K>> {
    any::<u128>().prop_map(Id::from_random)
}

fn image() -> impl Strategy<Value = ImageReference> {
    (
        option::of(prop::sample::select(vec!["localhost", "ghcr.io", "reg.example:5000", "docker.io"])),
        "[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?(/[a-z0-9]{1,8}(__[a-z0-9]{1,4})?)?",
        option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}"),
        option::of("sha256:[0-9a-f]{64}"),
    )
        .prop_map(|(registry, path, tag, digest)| {
            let mut text = registry.map(|r| format!("{r}/")).unwrap_or_default() + &path;
            if let Some(t) = tag {
                text += &format!(":{t}");
            }
            if let Some(d) = digest {
                text += &format!("@{d}");
            }
            text.parse().unwrap()
        })
}

fn duration() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_millis)
}

fn port() -> impl Strategy<Value = PortSpec> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|b| IpAddr::V4(Ipv4Addr::from(b))),
        any::<u128>().prop_map(|b| IpAddr::V6(Ipv6Addr::from(b))),
    ];
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    let net = prop_oneof![
        (any::<u32>(), 0..=32u8).prop_map(|(b, len)| Ipv4Net::new(b.into(), len).unwrap().into()),
        (any::<u128>(), 0..=128u8).prop_map(|(b, len)| Ipv6Net::new(b.into(), len).unwrap().into()),
    ];
    let mode = prop::sample::select(vec![PublishMode::Ingress, PublishMode::Host]);
    (option::of(ip), any::<u16>(), any::<u16>(), protocol, vec(net, 0..3), mode).prop_map(
        |(host_ip, published, target, protocol, from, mode)| PortSpec {
            host_ip,
            published,
            target,
            protocol,
            from,
            mode,
        },
    )
}

fn restart() -> impl Strategy<Value = RestartPolicy> {
    let all = vec![RestartCondition::None, RestartCondition::OnFailure, RestartCondition::Any];
    (prop::sample::select(all), duration(), any::<u32>(), duration()).prop_map(
        |(condition, delay, max_attempts, window)| RestartPolicy { condition, delay, max_attempts, window },
    )
}

fn words() -> impl Strategy<Value = Vec<String>> {
    vec(".{0,6}", 0..3)
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|b| IpAddr::V4(Ipv4Addr::from(b))),
        any::<u128>().prop_map(|b| IpAddr::V6(Ipv6Addr::from(b))),
    ]
}

prop_compose! {
    fn names()(
        hosts in vec((".{0,5}", ip()), 0..3), dns in vec(ip(), 0..3), dns_search in words(),
        dns_options in words(),
    ) -> Names {
        Names { hosts, dns, dns_search, dns_options }
    }
}

fn mount() -> impl Strategy<Value = Mount> {
    let source = prop_oneof![
        (".{0,6}", prop::sample::select(Propagation::ALL.to_vec()), any::<bool>(), any::<bool>()).prop_map(
            |(path, propagation, non_recursive, create)| MountSource::Bind {
                path: path.into(),
                propagation,
                non_recursive,
                create,
            }
        ),
        (option::of(".{1,5}"), any::<bool>(), labels())
            .prop_map(|(name, no_copy, labels)| MountSource::Volume { name, no_copy, labels }),
        (any::<Option<u64>>(), any::<Option<u32>>())
            .prop_map(|(size, mode)| MountSource::Tmpfs { size, mode }),
    ];
    (source, ".{0,6}", any::<bool>()).prop_map(|(source, target, read_only)| Mount {
        source,
        target: target.into(),
        read_only,
    })
}

fn security() -> impl Strategy<Value = Security> {
    let device = (".{0,4}", ".{0,4}", "[rwm]{0,3}").prop_map(|(host, container, access)| Device {
        host: host.into(),
        container: container.into(),
        access,
    });
    let seccomp = prop_oneof![
        Just(Seccomp::Default),
        Just(Seccomp::Unconfined),
        r"\{.{0,5}\}".prop_map(Seccomp::Profile),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (words(), words(), flags, vec(device, 0..3), labels(), seccomp, option::of(".{0,5}")).prop_map(
        |(cap_add, cap_drop, flags, devices, sysctls, seccomp, apparmor)| Security {
            cap_add,
            cap_drop,
            privileged: flags.0,
            devices,
            sysctls,
            seccomp,
            no_new_privileges: flags.1,
            unmasked_paths: flags.2,
            apparmor,
        },
    )
}

prop_compose! {
    fn resources()(
        sizes: (Option<u64>, Option<u64>, Option<u64>, Option<u64>), memory_swap: Option<i64>,
        oom_score_adj: Option<i32>,
    ) -> Resources {
        let (nano_cpus, memory, memory_reservation, pids) = sizes;
        Resources { nano_cpus, memory, memory_reservation, memory_swap, pids, oom_score_adj }
    }
}

fn health() -> impl Strategy<Value = HealthCheck> {
    let http = (
        any::<bool>(),
        any::<u16>(),
        ".{0,5}",
        ".{0,5}",
        vec((".{0,4}", ".{0,4}"), 0..3),
        vec(any::<(u16, u16)>(), 0..3),
    )
        .prop_map(|(https, port, path, method, headers, statuses)| HttpProbe {
            https,
            port,
            path,
            method,
            headers,
            statuses,
        });
    let probe = prop_oneof![
        Just(Probe::Disabled),
        words().prop_map(Probe::Command),
        ".{0,6}".prop_map(Probe::Shell),
        http.prop_map(Probe::Http),
        any::<u16>().prop_map(Probe::Tcp),
    ];
    let some = || option::of(duration());
    (option::of(probe), some(), some(), any::<Option<u32>>(), some(), some()).prop_map(
        |(probe, interval, timeout, retries, start_period, start_interval)| HealthCheck {
            probe,
            interval,
            timeout,
            retries,
            start_period,
            start_interval,
        },
    )
}

prop_compose! {
    /// The parts that say how the container is made.
    fn made(spec: TaskSpec)(
        text in (option::of(".{0,5}"), option::of(".{0,5}"), words(), option::of(".{0,5}")),
        flags: (bool, bool, bool), names in names(), mounts in vec(mount(), 0..3), shm_size: Option<u64>,
        security in security(), ulimits in vec((".{0,4}", any::<u64>(), any::<u64>()), 0..3),
        network in prop::sample::select(vec![NetworkMode::Cluster, NetworkMode::Host, NetworkMode::None]),
        resources in resources(), health in health(),
    ) -> TaskSpec {
        let ulimit = |(name, soft, hard): &(String, u64, u64)| Ulimit { name: name.clone(), soft: *soft, hard: *hard };
        TaskSpec {
            workdir: text.0.clone().map(Into::into), user: text.1.clone(), groups: text.2.clone(),
            hostname: text.3.clone(), init: flags.0, tty: flags.1, read_only: flags.2, names: names.clone(),
            mounts: mounts.clone(), shm_size, security: security.clone(),
            ulimits: ulimits.iter().map(ulimit).collect(), network, resources: resources.clone(),
            health: health.clone(), ..spec.clone()
        }
    }
}

fn task_spec() -> impl Strategy<Value = TaskSpec> {
    let pull = prop::sample::select(vec![PullPolicy::Always, PullPolicy::Missing, PullPolicy::Never]);
    let sealed = option::of(vec(any::<u8>(), 1..5).prop_map(Sealed));
    let process = (image(), option::of(words()), words(), vec((".{0,5}", ".{0,5}"), 0..3), labels());
    (process, pull, sealed, duration(), restart(), any::<(u64, u32)>(), any::<(Option<i32>, u32)>())
        .prop_map(|(process, pull, registry_auth, stop_grace, restart, log, (stop_signal, force_update))| {
            TaskSpec {
                entrypoint: process.1,
                args: process.2,
                env: process.3,
                labels: process.4,
                pull,
                registry_auth,
                stop_grace,
                restart,
                log: LogLimits { max_size: log.0, max_files: log.1 },
                stop_signal,
                force_update,
                ..TaskSpec::new(process.0)
            }
        })
        .prop_flat_map(made)
        // On the heap: these values are large, and what is made of them larger.
        .boxed()
}

fn labels() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    prop::collection::btree_map(".{0,5}", ".{0,5}", 0..3)
}

prop_compose! {
    fn rate()(per_second: u32, burst: u32) -> Rate {
        Rate { per_second, burst }
    }
}

prop_compose! {
    fn limits()(
        conn_rate in option::of(rate()), packet_rate in option::of(rate()), conns: Option<u32>,
    ) -> ClientLimits {
        ClientLimits { conn_rate, packet_rate, conns }
    }
}

fn service_spec() -> impl Strategy<Value = ServiceSpec> {
    (".{0,9}", labels(), any::<u32>(), task_spec(), vec(port(), 0..3), limits())
        .prop_map(|(name, labels, replicas, task, publish, limits)| ServiceSpec {
            name,
            labels,
            replicas,
            task,
            publish,
            limits,
        })
        .boxed()
}

prop_compose! {
    fn service()(
        id in id(), version: u64, spec_version: u64, datapath_id: u32, spec in service_spec(),
        previous in option::of(service_spec()), removing: bool, at: u64,
    ) -> Service {
        Service {
            id, version, spec_version, datapath_id, spec, previous, removing, created_at: Timestamp(at),
        }
    }
}

prop_compose! {
    fn status()(
        state in prop::sample::select(TaskState::ALL.to_vec()), at: u64, message in ".{0,9}",
        container in option::of((any::<u32>(), option::of(any::<i32>()), any::<bool>())),
        health in prop::sample::select(
            vec![Health::None, Health::Starting, Health::Healthy, Health::Unhealthy]),
    ) -> TaskStatus {
        let container =
            container.map(|(pid, exit_code, oom_killed)| ContainerStatus { pid, exit_code, oom_killed });
        TaskStatus { state, at: Timestamp(at), message, container, health }
    }
}

prop_compose! {
    fn attachment()(a: u32, b: u128, backend: u32, generation: u32) -> Attachment {
        Attachment { address: a.into(), address6: b.into(), backend, generation }
    }
}

prop_compose! {
    fn task()(
        ids in (id(), id(), option::of(id())), numbers: (u64, u32, u64), service_name in ".{0,9}",
        spec in task_spec(), attachment in option::of(attachment()),
        desired in prop::sample::select(TaskState::ALL.to_vec()), status in status(), times: (u64, u64),
        restarts in vec(any::<u64>(), 0..3),
    ) -> Task {
        Task {
            id: ids.0, version: numbers.0, service: ids.1, service_name, slot: numbers.1, spec,
            spec_version: numbers.2, node: ids.2, attachment, desired, status,
            created_at: Timestamp(times.0), start_at: Timestamp(times.1),
            restarts: restarts.into_iter().map(Timestamp).collect(),
        }
    }
}

prop_compose! {
    fn subnet()(a: u32, p in 0u8..=32, b: u128, q in 0u8..=128) -> NodeSubnet {
        NodeSubnet { v4: Ipv4Net::new(a.into(), p).unwrap(), v6: Ipv6Net::new(b.into(), q).unwrap() }
    }
}

prop_compose! {
    fn node()(
        id in id(), version: u64, text in (".{0,9}", ".{0,9}", ".{0,9}", ".{0,9}"), labels in labels(),
        size: (u32, u64), subnet in option::of(subnet()), at: u64,
        availability in prop::sample::select(
            vec![Availability::Active, Availability::Pause, Availability::Drain]),
        state in prop::sample::select(vec![NodeState::Unknown, NodeState::Ready, NodeState::Down]),
        publish_default in prop::sample::select(
            vec![PublishDefault::Any, PublishDefault::Lan, PublishDefault::None]),
    ) -> Node {
        let (name, arch, kernel, release) = text;
        let description = NodeDescription {
            name, labels, arch, kernel, cpus: size.0, memory: size.1, version: release,
            publish_default,
        };
        Node { id, version, description, availability, state, subnet, created_at: Timestamp(at) }
    }
}

prop_compose! {
    fn cluster()(id in id(), version: u64, nets in subnet(), at: u64) -> Cluster {
        let network = ClusterNetwork { pool: nets.v4, pool6: nets.v6 };
        Cluster { id, version, network, created_at: Timestamp(at) }
    }
}

prop_compose! {
    fn endpoint()(
        id in id(), name in ".{0,9}", datapath_id: u32, ports in vec(port(), 0..3),
        limits in limits(), backends in vec((id(), id(), attachment()), 0..3),
    ) -> ServiceEndpoint {
        ServiceEndpoint { id, name, datapath_id, ports, limits, backends }
    }
}

prop_compose! {
    fn assignment()(
        generation: u64, node in id(), subnet in option::of(subnet()), tasks in vec(task(), 0..3),
        ended in vec(id(), 0..3), services in vec(endpoint(), 0..3),
    ) -> Assignment {
        Assignment { generation, node, subnet, tasks, ended, services }
    }
}

fn action() -> impl Strategy<Value = StoreAction> {
    let change = prop_oneof![
        cluster().prop_map(Change::PutCluster),
        node().prop_map(Change::PutNode),
        service().prop_map(Change::PutService).boxed(),
        task().prop_map(Change::PutTask).boxed(),
        id().prop_map(Change::RemoveNode),
        id().prop_map(Change::RemoveService),
        id().prop_map(Change::RemoveTask),
    ];
    (any::<u64>(), change).prop_map(|(expected_version, change)| StoreAction { expected_version, change })
}

prop_compose! {
    fn snapshot()(
        version: u64, cluster in option::of(cluster()), nodes in vec(node(), 0..3),
        services in vec(service(), 0..3), tasks in vec(task(), 0..3),
    ) -> StoreSnapshot {
        StoreSnapshot { version, cluster, nodes, services, tasks }
    }
}

/// Through bytes, not only through the generated types.
fn over_the_wire<M, W>(model: M) -> Result<(), TestCaseError>
where
    W: Message + Default + for<'a> From<&'a M>,
    M: TryFrom<W, Error: std::fmt::Debug> + PartialEq + std::fmt::Debug,
{
    let bytes = W::from(&model).encode_to_vec();
    let back = M::try_from(W::decode(bytes.as_slice()).unwrap()).unwrap();
    prop_assert_eq!(back, model);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn services_round_trip(x in service()) { over_the_wire::<_, v1::Service>(x)? }
    #[test]
    fn tasks_round_trip(x in task()) { over_the_wire::<_, v1::Task>(x)? }
    #[test]
    fn nodes_round_trip(x in node()) { over_the_wire::<_, v1::Node>(x)? }
    #[test]
    fn assignments_round_trip(x in assignment()) { over_the_wire::<_, v1::Assignment>(x)? }
    #[test]
    fn actions_round_trip(x in action()) { over_the_wire::<_, v1::StoreAction>(x)? }
    #[test]
    fn snapshots_round_trip(x in snapshot()) { over_the_wire::<_, v1::StoreSnapshot>(x)? }

    /// Whatever arrives, the answer is a value or a sentence, never a panic.
    #[test]
    fn rubbish_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(t) = v1::Task::decode(bytes.as_slice()) { let _ = Task::try_from(t); }
        if let Ok(a) = v1::StoreAction::decode(bytes.as_slice()) { let _ = StoreAction::try_from(a); }
    }
}

#[test]
fn errors_name_the_field_and_the_fault() {
    let good = v1::ServiceSpec {
        name: "web".into(),
        task: Some((&TaskSpec::new("web".parse().unwrap())).into()),
        ..Default::default()
    };
    assert!(ServiceSpec::try_from(good.clone()).is_ok());
    let said = |change: &dyn Fn(&mut v1::ServiceSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        ServiceSpec::try_from(spec).unwrap_err().to_string()
    };
    assert_eq!(said(&|s| s.task = None), "bad service.task: it is missing from the message");
    assert!(said(&|s| s.task.as_mut().unwrap().image = "A".into()).starts_with("bad task.image: bad image"));
    let port = |p: v1::PortSpec| said(&move |s| s.publish = vec![p.clone()]);
    assert_eq!(
        port(v1::PortSpec { published: 70_000, protocol: 6, ..Default::default() }),
        "bad port.published: 70000 is too large"
    );
    assert!(port(v1::PortSpec { protocol: 132, ..Default::default() }).contains("neither TCP"));
    assert!(port(v1::PortSpec { host_ip: "x".into(), protocol: 6, ..Default::default() }).contains("\"x\""));
    let state = TaskStatus::try_from(v1::TaskStatus { state: 3, ..Default::default() }).unwrap_err();
    assert_eq!(state.to_string(), "bad task.status.state: 3 is not a task state; update this node");
    assert!(StoreAction::try_from(v1::StoreAction::default()).is_err());
}
