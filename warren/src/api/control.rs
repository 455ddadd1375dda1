//! The `Control` service.

use std::{pin::Pin, sync::Arc};

use futures::Stream;
use tokio::sync::mpsc::Sender;
use tonic::{Request, Response, Status};

use super::{HostPorts, error, events::Events, services::spec_of};
use crate::{
    clock,
    model::{self, NodeId, ServiceId, TaskState},
    proto::v1::{self, control_server},
    seal::Sealer,
    store::{Store, View},
};

/// Serves users from the store.
pub struct Control {
    pub(super) store: Store,
    pub(super) host_ports: Arc<dyn HostPorts>,
    pub(super) sealer: Sealer,
    events: Events,
}

impl Control {
    /// A service over `store`; `host_ports` knows the node's own listeners, `sealer` seals what
    /// registries are told of their users. Begins to remember what happens: to be called in a
    /// runtime.
    #[must_use]
    pub fn new(store: Store, host_ports: Arc<dyn HostPorts>, sealer: Sealer) -> Self {
        let events = Events::start(store.clone(), clock::now);
        Self { store, host_ports, sealer, events }
    }

    pub(super) async fn view(&self) -> Result<View, Status> {
        self.store.read().await.map_err(|e| error::store(&e))
    }
}

/// The service called `asked`, by name or id.
pub(super) fn find<'v>(view: &'v View, asked: &str) -> Result<&'v model::Service, Status> {
    let by_id = asked.parse::<ServiceId>().ok().and_then(|id| view.service(id));
    view.service_by_name(asked).or(by_id).ok_or_else(|| {
        Status::not_found(format!("no service is called \"{asked}\": see `warren service ls`"))
    })
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
        let mut spec = spec_of(spec)?;
        self.seal_auth(&mut spec, registry_auth, None)?;
        Ok(Response::new(self.create(spec, clock::now()).await?.into()))
    }

    async fn update_service(
        &self,
        request: Request<v1::UpdateServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        Ok(Response::new(self.update(request.into_inner()).await?.into()))
    }

    async fn rollback_service(
        &self,
        request: Request<v1::RollbackServiceRequest>,
    ) -> Result<Response<v1::Service>, Status> {
        Ok(Response::new(self.rollback(&request.into_inner().service).await?.into()))
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
        Ok(Response::new(self.scale(&asked, replicas).await?.into()))
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

    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let receiver = self.events.watch(request.into_inner())?;
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }
}

fn name(row: &v1::list_services_response::Row) -> &str {
    row.service.as_ref().and_then(|s| s.spec.as_ref()).map_or("", |s| &s.name)
}
