//! The `Control` service.

use std::{pin::Pin, sync::Arc, time::SystemTime};

use futures::Stream;
use tokio::sync::mpsc::Sender;
use tonic::{Request, Response, Status};

use super::{HostPorts, error};
use crate::{
    model::{self, Id, NodeId, PortSpec, ServiceId, TaskState, Timestamp, validate},
    proto::v1::{self, control_server},
    seal::Sealer,
    store::{Store, View},
};

/// Serves users from the store.
pub struct Control {
    store: Store,
    host_ports: Arc<dyn HostPorts>,
    pub(super) sealer: Sealer,
}

impl Control {
    /// A service over `store`; `host_ports` knows the node's own listeners, `sealer` seals what
    /// registries are told of their users.
    #[must_use]
    pub fn new(store: Store, host_ports: Arc<dyn HostPorts>, sealer: Sealer) -> Self {
        Self { store, host_ports, sealer }
    }

    async fn view(&self) -> Result<View, Status> {
        self.store.read().await.map_err(|e| error::store(&e))
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::default().after(since)
}

/// The service called `asked`, by name or id.
fn find<'v>(view: &'v View, asked: &str) -> Result<&'v model::Service, Status> {
    let by_id = asked.parse::<ServiceId>().ok().and_then(|id| view.service(id));
    view.service_by_name(asked).or(by_id).ok_or_else(|| {
        Status::not_found(format!("no service is called \"{asked}\": see `warren service ls`"))
    })
}

/// Why another service's ports keep these from being published, if they do.
fn port_conflict(view: &View, of: ServiceId, ports: &[PortSpec]) -> Option<String> {
    for other in view.services().filter(|s| s.id != of) {
        for taken in &other.spec.publish {
            if let Some(p) = ports.iter().find(|p| p.conflicts(taken)) {
                let name = &other.spec.name;
                let cure = if other.removing {
                    "which is being removed: try again when it is gone".to_owned()
                } else {
                    format!("choose another port or remove that service (`warren service rm {name}`)")
                };
                return Some(format!(
                    "port {}/{} is already published by service {name}; {cure}",
                    p.published, p.protocol
                ));
            }
        }
    }
    None
}

fn tasks_of(view: &View, service: ServiceId) -> Vec<v1::Task> {
    view.tasks_of_service(service).map(|t| t.clone().into()).collect()
}

/// Sends what the service is, now and after each change, until it is gone or nobody listens.
async fn follow(store: Store, id: ServiceId, sender: Sender<Result<v1::ServiceProgress, Status>>) {
    let mut changes = store.watch();
    let mut sent = None;
    loop {
        // Marked before the look, so that a change during it is seen in the next round.
        changes.mark_unchanged();
        let view = store.view();
        let service = view.service(id).map(|s| s.clone().into());
        let progress = v1::ServiceProgress { service, tasks: tasks_of(&view, id) };
        if sent.as_ref() != Some(&progress) {
            let gone = progress.service.is_none();
            if sender.send(Ok(progress.clone())).await.is_err() || gone {
                return;
            }
            sent = Some(progress);
        }
        tokio::select! {
            () = sender.closed() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

#[tonic::async_trait]
impl control_server::Control for Control {
    async fn create_service(
        &self,
        request: Request<v1::CreateServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        let v1::CreateServiceRequest { spec, registry_auth } = request.into_inner();
        let spec = spec.ok_or_else(|| Status::invalid_argument("the request has no service"))?;
        let mut spec =
            model::ServiceSpec::try_from(spec).map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.seal_auth(&mut spec, registry_auth, None)?;
        validate::service(&spec).map_err(|e| Status::invalid_argument(e.to_string()))?;
        for port in &spec.publish {
            if let Some(address) = port.host_ip.filter(|a| !self.host_ports.has_address(*a)) {
                return Err(Status::failed_precondition(format!(
                    "cannot publish {port}: this node has no address {address}; choose one that `ip address` shows, or leave it away"
                )));
            }
            if let Some(owner) = self.host_ports.owner(*port).await {
                return Err(Status::failed_precondition(format!(
                    "port {}/{} is in use on this node by {owner}: choose another port or stop that process",
                    port.published, port.protocol
                )));
            }
        }
        let service = model::Service {
            id: Id::from_random(rand::random()),
            version: 0,
            spec_version: 1,
            datapath_id: 0,
            spec,
            previous: None,
            removing: false,
            created_at: now(),
        };
        let stored = self
            .store
            .update(|tx| {
                if let Some(taken) = tx.service_by_name(&service.spec.name) {
                    let cure = if taken.removing {
                        "it is being removed: try again when it is gone"
                    } else {
                        "choose another name or remove that one"
                    };
                    return Err(Status::already_exists(format!(
                        "a service called {} exists already; {cure}",
                        service.spec.name
                    )));
                }
                if let Some(why) = port_conflict(tx, service.id, &service.spec.publish) {
                    return Err(Status::failed_precondition(why));
                }
                tx.put_service(service.clone());
                Ok(service.id)
            })
            .await
            .map_err(error::update)?;
        let view = self.store.view();
        // It can be gone again already: then what was asked for is the answer.
        let service = view.service(stored).map_or(service, |s| s.clone());
        Ok(Response::new(service.into()))
    }

    async fn get_service(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        let view = self.view().await?;
        Ok(Response::new(find(&view, &request.into_inner().service)?.clone().into()))
    }

    async fn list_services(
        &self,
        _: Request<v1::ListServicesRequest>,
    ) -> Result<Response<v1::ListServicesResponse>, Status> {
        let view = self.view().await?;
        let mut rows: Vec<_> = view
            .services()
            .map(|s| {
                let running = view
                    .tasks_of_service(s.id)
                    .filter(|t| t.is_live() && t.status.state == TaskState::Running)
                    .count();
                v1::list_services_response::Row {
                    service: Some(s.clone().into()),
                    running: u32::try_from(running).unwrap_or(u32::MAX),
                }
            })
            .collect();
        rows.sort_by(|a, b| name(a).cmp(name(b)));
        Ok(Response::new(v1::ListServicesResponse { rows }))
    }

    async fn scale_service(
        &self,
        request: Request<v1::ScaleServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        let v1::ScaleServiceRequest { service: asked, replicas } = request.into_inner();
        let id = self
            .store
            .update(|tx| {
                let mut service = find(tx, &asked)?.clone();
                if service.removing {
                    return Err(Status::failed_precondition(format!(
                        "service {asked} is being removed and cannot be scaled"
                    )));
                }
                service.spec.replicas = replicas;
                validate::service(&service.spec).map_err(|e| Status::invalid_argument(e.to_string()))?;
                let id = service.id;
                tx.put_service(service);
                Ok(id)
            })
            .await
            .map_err(error::update)?;
        let view = self.store.view();
        Ok(Response::new(find(&view, id.as_str())?.clone().into()))
    }

    async fn remove_service(
        &self,
        request: Request<v1::RemoveServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        let asked = request.into_inner().service;
        let removed = self
            .store
            .update(|tx| {
                let mut service = find(tx, &asked)?.clone();
                if !service.removing {
                    service.removing = true;
                    tx.put_service(service.clone());
                }
                Ok(service)
            })
            .await
            .map_err(error::update)?;
        Ok(Response::new(removed.into()))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let view = self.view().await?;
        let asked = request.into_inner().service;
        let tasks = if asked.is_empty() {
            view.tasks().map(|t| t.clone().into()).collect()
        } else {
            tasks_of(&view, find(&view, &asked)?.id)
        };
        Ok(Response::new(v1::ListTasksResponse { tasks }))
    }

    type WatchServiceStream = Pin<Box<dyn Stream<Item = Result<v1::ServiceProgress, Status>> + Send>>;

    async fn watch_service(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Result<Response<Self::WatchServiceStream>, Status> {
        let asked = request.into_inner().service;
        let view = self.view().await?;
        // An id that is gone is an answer ("gone"); a name nobody has is a mistake.
        let id = match find(&view, &asked) {
            Ok(service) => service.id,
            Err(unknown) => asked.parse().map_err(|_| unknown)?,
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(follow(self.store.clone(), id, sender));
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let view = self.view().await?;
        Ok(Response::new(v1::ListNodesResponse { nodes: view.nodes().map(|n| n.clone().into()).collect() }))
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::Node>, Status> {
        let asked = request.into_inner().node;
        let view = self.view().await?;
        if let Some(node) = asked.parse::<NodeId>().ok().and_then(|id| view.node(id)) {
            return Ok(Response::new(node.clone().into()));
        }
        let called: Vec<_> = view
            .nodes()
            .filter(|n| {
                n.description.name == asked || (!asked.is_empty() && n.id.as_str().starts_with(&asked))
            })
            .collect();
        match called.as_slice() {
            [node] => Ok(Response::new((**node).clone().into())),
            [] => Err(Status::not_found(format!("no node is called \"{asked}\": see `warren node ls`"))),
            several => Err(Status::invalid_argument(format!(
                "{} nodes are called \"{asked}\": name one by its id, see `warren node ls`",
                several.len()
            ))),
        }
    }
}

fn name(row: &v1::list_services_response::Row) -> &str {
    row.service.as_ref().and_then(|s| s.spec.as_ref()).map_or("", |s| &s.name)
}
