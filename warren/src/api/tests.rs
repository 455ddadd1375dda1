//! The door against a store that agrees with itself.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use futures::StreamExt as _;
use tonic::{Code, Request};

use super::{Control, HostPorts};
use crate::{
    model::{Id, PortSpec, Protocol, ServiceSpec, TaskSpec, validate},
    proto::v1::{self, control_server::Control as _},
    seal::Sealer,
    store::Store,
};

struct Sshd;

#[async_trait]
impl HostPorts for Sshd {
    async fn owner(&self, ports: Vec<PortSpec>) -> Option<(PortSpec, String)> {
        let ssh = ports.into_iter().find(|p| p.published == 22)?;
        Some((ssh, "sshd (pid 712)".to_owned()))
    }

    async fn listening(&self) -> BTreeSet<(Protocol, u16)> {
        // All but the last two.
        (30_000..=32_765).map(|port| (Protocol::Tcp, port)).collect()
    }

    fn has_address(&self, address: IpAddr) -> bool {
        address == IpAddr::from([10, 0, 0, 1])
    }
}

fn door() -> (Store, Control) {
    let store = Store::local();
    (store.clone(), Control::new(store, Arc::new(Sshd), Sealer::new([1; 32])))
}

fn spec(name: &str, ports: &[&str]) -> Request<v1::CreateServiceRequest> {
    let spec = ServiceSpec {
        name: name.into(),
        labels: Default::default(),
        replicas: 1,
        task: TaskSpec::new("web".parse().unwrap()),
        publish: ports.iter().map(|p| p.parse().unwrap()).collect(),
        limits: Default::default(),
    };
    Request::new(v1::CreateServiceRequest { spec: Some(spec.into()), registry_auth: None })
}

fn by_name(name: &str) -> Request<v1::GetServiceRequest> {
    Request::new(v1::GetServiceRequest { service: name.into() })
}

#[tokio::test]
async fn what_is_created_is_found_by_name_and_by_id() {
    let (_, door) = door();
    let made = door.create_service(spec("web", &["80:80"])).await.unwrap().into_inner();
    assert_eq!(door.get_service(by_name("web")).await.unwrap().into_inner(), made);
    assert_eq!(door.get_service(by_name(&made.id)).await.unwrap().into_inner(), made);
    let e = door.get_service(by_name("gone")).await.unwrap_err();
    assert_eq!(e.code(), Code::NotFound);
    assert!(e.message().contains("\"gone\""), "{e}");
}

#[tokio::test]
async fn a_refusal_names_the_cause_and_stores_nothing() {
    let (store, door) = door();
    door.create_service(spec("web", &["80:80"])).await.unwrap();
    let version = store.view().version();
    for (request, code, needle) in [
        (spec("web", &[]), Code::AlreadyExists, "web exists already"),
        (spec("api", &["80:8080"]), Code::FailedPrecondition, "already published by service web"),
        (spec("api", &["10.0.0.1:80:1"]), Code::FailedPrecondition, "already published by service web"),
        (spec("api", &["9.9.9.9:81:1"]), Code::FailedPrecondition, "no address 9.9.9.9"),
        (spec("ssh", &["22:22"]), Code::FailedPrecondition, "sshd (pid 712)"),
        (spec("-", &[]), Code::InvalidArgument, "bad service name"),
        (spec("two", &["1:1", "1:2"]), Code::InvalidArgument, "already published"),
        (
            Request::new(v1::CreateServiceRequest { spec: None, registry_auth: None }),
            Code::InvalidArgument,
            "no service",
        ),
    ] {
        let e = door.create_service(request).await.unwrap_err();
        assert_eq!(e.code(), code, "{e}");
        assert!(e.message().contains(needle), "{e}");
    }
    let scale = v1::ScaleServiceRequest { service: "web".into(), replicas: 1_000_000 };
    assert_eq!(door.scale_service(Request::new(scale)).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(store.view().version(), version);
}

#[tokio::test]
async fn removal_is_marked_once_and_keeps_the_name() {
    let (store, door) = door();
    door.create_service(spec("web", &["80:80"])).await.unwrap();
    let rm = || Request::new(v1::RemoveServiceRequest { service: "web".into() });
    assert!(door.remove_service(rm()).await.unwrap().into_inner().removing);
    let version = store.view().version();
    door.remove_service(rm()).await.unwrap();
    assert_eq!(store.view().version(), version, "a second removal changed something");
    let e = door.create_service(spec("web", &[])).await.unwrap_err();
    assert!(e.message().contains("being removed"), "{e}");
    let scale = v1::ScaleServiceRequest { service: "web".into(), replicas: 2 };
    assert_eq!(door.scale_service(Request::new(scale)).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_watch_shows_each_change_and_ends_when_the_service_is_gone() {
    let (store, door) = door();
    let made = door.create_service(spec("web", &[])).await.unwrap().into_inner();
    let mut watch = door.watch_service(by_name("web")).await.unwrap().into_inner();
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(first.service.as_ref().map(|s| &s.id), Some(&made.id));
    let scale = v1::ScaleServiceRequest { service: "web".into(), replicas: 3 };
    door.scale_service(Request::new(scale)).await.unwrap();
    let second = watch.next().await.unwrap().unwrap();
    assert_eq!(second.service.and_then(|s| s.spec).map(|s| s.replicas), Some(3));
    let id = made.id.parse().unwrap();
    let remove = |tx: &mut crate::store::Tx| {
        tx.remove_service(id);
        Ok::<_, ()>(())
    };
    store.update(remove).await.unwrap();
    assert!(watch.next().await.unwrap().unwrap().service.is_none());
    assert!(watch.next().await.is_none());
    // Asked for by its id, what is gone is an answer at once.
    let mut late = door.watch_service(by_name(&made.id)).await.unwrap().into_inner();
    assert!(late.next().await.unwrap().unwrap().service.is_none());
}

fn update(
    service: &v1::Service,
    change: impl FnOnce(&mut v1::ServiceSpec),
) -> Request<v1::UpdateServiceRequest> {
    let mut spec = service.spec.clone().unwrap();
    change(&mut spec);
    Request::new(v1::UpdateServiceRequest {
        service: service.id.clone(),
        version: service.version,
        spec: Some(spec),
        registry_auth: None,
    })
}

fn back(service: &str) -> Request<v1::RollbackServiceRequest> {
    Request::new(v1::RollbackServiceRequest { service: service.into() })
}

fn user(service: &v1::Service) -> Option<String> {
    service.spec.as_ref().and_then(|s| s.task.as_ref()).and_then(|t| t.user.clone())
}

#[tokio::test]
async fn an_update_is_of_the_version_that_was_read_and_can_be_taken_back() {
    let (store, door) = door();
    let first = door.create_service(spec("web", &["80:80"])).await.unwrap().into_inner();
    let e = door.rollback_service(back("web")).await.unwrap_err();
    assert_eq!(e.code(), Code::FailedPrecondition);
    assert!(e.message().contains("never updated"), "{e}");

    let as_user = |name: &'static str| {
        move |s: &mut v1::ServiceSpec| s.task.as_mut().unwrap().user = Some(name.to_owned())
    };
    let second = door.update_service(update(&first, as_user("me"))).await.unwrap().into_inner();
    assert_eq!((user(&second).as_deref(), second.previous.clone()), (Some("me"), first.spec.clone()));
    assert!(second.spec_version > first.spec_version);
    let e = door.update_service(update(&first, as_user("you"))).await.unwrap_err();
    assert_eq!(e.code(), Code::Aborted, "{e}");

    // The same again is no change: what a rollback returns to stays.
    let version = store.view().version();
    let same = door.update_service(update(&second, |_| {})).await.unwrap().into_inner();
    assert_eq!((same, store.view().version()), (second.clone(), version));

    // A rollback and another one: there and back. A number of replicas set since stays.
    let scale = v1::ScaleServiceRequest { service: "web".into(), replicas: 4 };
    door.scale_service(Request::new(scale)).await.unwrap();
    let third = door.rollback_service(back("web")).await.unwrap().into_inner();
    assert_eq!((user(&third), third.spec.as_ref().map(|s| s.replicas)), (None, Some(4)));
    let fourth = door.rollback_service(back(&third.id)).await.unwrap().into_inner();
    assert_eq!(user(&fourth).as_deref(), Some("me"));
}

#[tokio::test]
async fn an_update_that_may_not_be_stores_nothing() {
    let (store, door) = door();
    door.create_service(spec("api", &["81:80"])).await.unwrap();
    let web = door.create_service(spec("web", &["80:80"])).await.unwrap().into_inner();
    let version = store.view().version();
    let ports = |port: &str| {
        let port: PortSpec = port.parse().unwrap();
        move |s: &mut v1::ServiceSpec| s.publish = vec![port.into()]
    };
    for (request, code, needle) in [
        (update(&web, |s| s.name = "other".into()), Code::InvalidArgument, "cannot be renamed"),
        (update(&web, |s| s.replicas = 1_000_000), Code::InvalidArgument, "too many"),
        (
            update(&web, |s| s.task.as_mut().unwrap().workdir = Some("x".into())),
            Code::InvalidArgument,
            "--workdir",
        ),
        (update(&web, ports("81:80")), Code::FailedPrecondition, "already published by service api"),
        (update(&web, ports("22:22")), Code::FailedPrecondition, "sshd (pid 712)"),
        (update(&web, ports("9.9.9.9:83:80")), Code::FailedPrecondition, "no address 9.9.9.9"),
    ] {
        let e = door.update_service(request).await.unwrap_err();
        assert_eq!(e.code(), code, "{e}");
        assert!(e.message().contains(needle), "{e}");
    }
    assert_eq!(store.view().version(), version);
    // A port that went to somebody else meanwhile cannot be rolled back to.
    let moved = door.update_service(update(&web, ports("82:80"))).await.unwrap().into_inner();
    assert!(door.create_service(spec("new", &["80:80"])).await.is_ok());
    let e = door.rollback_service(back("web")).await.unwrap_err();
    assert!(e.message().contains("already published by service new"), "{e}");
    let rm = v1::RemoveServiceRequest { service: "web".into() };
    door.remove_service(Request::new(rm)).await.unwrap();
    for e in [
        door.update_service(update(&moved, |s| s.replicas = 2)).await.unwrap_err(),
        door.rollback_service(back("web")).await.unwrap_err(),
    ] {
        assert!(e.message().contains("is being removed"), "{e}");
    }
}

fn published(service: &v1::Service) -> Vec<String> {
    let spec = ServiceSpec::try_from(service.spec.clone().unwrap()).unwrap();
    spec.publish.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_port_that_is_left_open_gets_a_free_one_and_keeps_it() {
    let (store, door) = door();
    let web = door.create_service(spec("web", &["80", "80/udp"])).await.unwrap().into_inner();
    let first = published(&web);
    // Where nobody listens: of TCP two ports are left.
    let number = first[0].strip_suffix(":80/tcp").unwrap().parse::<u16>().unwrap();
    assert!([32_766, 32_767].contains(&number), "{first:?}");
    let api = door.create_service(spec("api", &["80"])).await.unwrap().into_inner();
    assert_eq!(published(&api), [format!("{}:80/tcp", 32_766 + 32_767 - number)]);
    let version = store.view().version();
    let e = door.create_service(spec("third", &["80"])).await.unwrap_err();
    assert_eq!((e.code(), store.view().version()), (Code::ResourceExhausted, version));
    assert!(e.message().contains("no port of 30000 to 32767 is free"), "{e}");

    // Asked for the same again, open as it was, nothing changes; nor with another change.
    let open = |s: &mut v1::ServiceSpec| s.publish.iter_mut().for_each(|p| p.published = 0);
    let same = door.update_service(update(&web, open)).await.unwrap().into_inner();
    assert_eq!((&same, store.view().version()), (&web, version));
    let changed = update(&web, |s| {
        open(s);
        s.task.as_mut().unwrap().user = Some("me".into());
    });
    let changed = door.update_service(changed).await.unwrap().into_inner();
    assert_eq!(published(&changed), first);
    // A rollback has it, too, and one that is given up is free again.
    assert_eq!(published(&door.rollback_service(back("web")).await.unwrap().into_inner()), first);
    let now = door.get_service(by_name("web")).await.unwrap().into_inner();
    door.update_service(update(&now, |s| s.publish.clear())).await.unwrap();
    let third = door.create_service(spec("third", &["80"])).await.unwrap().into_inner();
    assert_eq!(published(&third), [first[0].clone()]);
    let e = door.rollback_service(back("web")).await.unwrap_err();
    assert!(e.message().contains("already published by service third"), "{e}");
}

#[tokio::test]
async fn ports_are_one_for_each_protocol_and_address() {
    let (_, door) = door();
    door.create_service(spec("web", &["80:80", "10.0.0.1:81:80"])).await.unwrap();
    for (name, ports, conflict) in [
        ("a", "80:80/udp", false),
        ("b", "80:80/tcp", true),
        ("c", "81:80", true),
        ("d", "published=81,target=80,ip=10.0.0.1,from=10.0.0.0/8", true),
        ("e", "82:80", false),
    ] {
        let said = door.create_service(spec(name, &[ports])).await;
        assert_eq!(said.is_err(), conflict, "{ports}: {said:?}");
    }
    let many = |n: u16| {
        let mut request = spec("many", &[]);
        let port: v1::PortSpec = "1:1".parse::<PortSpec>().unwrap().into();
        request.get_mut().spec.as_mut().unwrap().publish =
            (0..n).map(|i| v1::PortSpec { published: (1000 + i).into(), ..port.clone() }).collect();
        request
    };
    // Four are published.
    let e = door.create_service(many(16_381)).await.unwrap_err();
    assert!(e.message().contains("room for 16384"), "{e}");
    let mut sources = many(33);
    let mut net = 0u32;
    for port in &mut sources.get_mut().spec.as_mut().unwrap().publish {
        port.from = (0..250)
            .map(|_| {
                net += 1;
                std::net::Ipv4Addr::from(net).to_string() + "/32"
            })
            .collect();
    }
    let e = door.create_service(sources).await.unwrap_err();
    assert!(e.message().contains("8250 networks in from="), "{e}");
    door.create_service(many(16_380)).await.unwrap();
}

#[tokio::test]
async fn services_with_limits_are_as_many_as_nodes_keep_count_of() {
    let (store, door) = door();
    let limits = |n| v1::ClientLimits { conns: n, ..Default::default() };
    let limited = |name: &str, port: &str| {
        let mut request = spec(name, &[port]);
        request.get_mut().spec.as_mut().unwrap().limits = Some(limits(Some(9)));
        request
    };
    let first = door.create_service(limited("first", "1:80")).await.unwrap().into_inner();
    let model = store.view().services().next().unwrap().clone();
    let fill = |tx: &mut crate::store::Tx| {
        for n in 2..=validate::MAX_LIMITED {
            let mut service = crate::model::Service { id: Id::from_random(n as u128), ..model.clone() };
            service.spec.name = format!("s{n}");
            service.spec.publish[0].published = u16::try_from(n).unwrap();
            tx.put_service(service);
        }
        Ok::<_, ()>(())
    };
    store.update(fill).await.unwrap();
    // Others there may be, and those that are there may change.
    let plain = door.create_service(spec("plain", &["10000:80"])).await.unwrap().into_inner();
    let first = door.update_service(update(&first, |s| s.limits = Some(limits(Some(8))))).await.unwrap();
    let first = first.into_inner();
    for refused in [
        door.create_service(limited("more", "10002:80")).await,
        door.update_service(update(&plain, |s| s.limits = Some(limits(Some(9))))).await,
    ] {
        let e = refused.unwrap_err();
        assert_eq!(e.code(), Code::FailedPrecondition, "{e}");
        assert!(e.message().contains("2048 services with limits per client already"), "{e}");
    }
    door.update_service(update(&first, |s| s.limits = None)).await.unwrap();
    door.create_service(limited("more", "10002:80")).await.unwrap();
    let e = door.rollback_service(back("first")).await.unwrap_err();
    assert!(e.message().contains("room for 2048"), "{e}");
}

#[tokio::test]
async fn credentials_are_sealed_and_the_same_ones_change_nothing() {
    let (store, door) = door();
    let auth = |password: &str| v1::RegistryAuth {
        server: "docker.io".into(),
        username: "me".into(),
        password: password.into(),
        identity_token: String::new(),
    };
    let mut request = spec("web", &[]).into_inner();
    // Whatever a request says is sealed is not believed.
    request.spec.as_mut().unwrap().task.as_mut().unwrap().registry_auth = b"forged".to_vec();
    request.registry_auth = Some(v1::RegistryAuth { server: "other.example".into(), ..auth("hunter2") });
    let e = door.create_service(Request::new(request.clone())).await.unwrap_err();
    assert!(e.message().contains("for registry other.example"), "{e}");
    request.registry_auth = Some(auth("hunter2"));
    let made = door.create_service(Request::new(request)).await.unwrap().into_inner();
    let sealed =
        |store: &Store| store.view().services().next().unwrap().spec.task.registry_auth.clone().unwrap();
    let first = sealed(&store);
    assert_ne!(first.0, b"forged");
    assert_eq!(Sealer::new([1; 32]).open(&first).unwrap().password, "hunter2");
    assert!(!format!("{made:?}").contains("hunter2"));

    let update = async |auth| {
        let now = door.get_service(by_name("web")).await.unwrap().into_inner();
        let (service, version, spec) = (now.id, now.version, now.spec);
        let r = v1::UpdateServiceRequest { service, version, spec, registry_auth: auth };
        door.update_service(Request::new(r)).await.unwrap();
    };
    update(Some(auth("hunter2"))).await;
    update(None).await;
    assert_eq!(sealed(&store), first, "nothing has changed");
    update(Some(auth("new"))).await;
    assert_eq!(Sealer::new([1; 32]).open(&sealed(&store)).unwrap().password, "new");
}
