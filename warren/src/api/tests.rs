//! The door against a store that agrees with itself.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use futures::StreamExt as _;
use tonic::{Code, Request};

use super::{Control, HostPorts};
use crate::{
    model::{PortSpec, ServiceSpec, TaskSpec},
    proto::v1::{self, control_server::Control as _},
    seal::Sealer,
    store::Store,
};

struct Sshd;

#[async_trait]
impl HostPorts for Sshd {
    async fn owner(&self, port: PortSpec) -> Option<String> {
        (port.published == 22).then(|| "sshd (pid 712)".to_owned())
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
