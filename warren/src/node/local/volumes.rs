//! The `Volumes` service: what outlives the containers of this node.

use std::collections::BTreeMap;

use tonic::{Request, Response, Status};

use crate::{
    clock,
    model::{MountSource, NodeId, TaskSpec},
    proto::v1::{self, volumes_server},
    store::Store,
    worker::volumes::{self, VolumeError, VolumeInfo},
};

/// Answers for this node's volumes.
#[derive(Clone)]
pub(in crate::node) struct Volumes {
    pub(in crate::node) node: NodeId,
    pub(in crate::node) volumes: volumes::Volumes,
    pub(in crate::node) store: Store,
}

fn volume_error(e: &VolumeError) -> Status {
    let code = match e {
        VolumeError::Name(_) => tonic::Code::InvalidArgument,
        VolumeError::NotFound(_) => tonic::Code::NotFound,
        VolumeError::Exists(_) => tonic::Code::AlreadyExists,
        VolumeError::InUse { .. } => tonic::Code::FailedPrecondition,
        VolumeError::Saved(_) | VolumeError::Io { .. } => tonic::Code::Internal,
    };
    Status::new(code, e.to_string())
}

/// Whether a task like this mounts the volume.
fn mounts(spec: &TaskSpec, volume: &str) -> bool {
    let named = |s: &MountSource| matches!(s, MountSource::Volume { name: Some(n), .. } if n == volume);
    spec.mounts.iter().any(|m| named(&m.source))
}

impl Volumes {
    /// Works on the disk, off the async threads.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(Self) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, Status> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || work(this)).await;
        done.map_err(|e| Status::internal(e.to_string()))?.map_err(|e| volume_error(&e))
    }

    /// Services that name the volume, now or in what they can be rolled back to, and those whose
    /// tasks here have it.
    fn services_of(&self, volume: &str) -> Vec<String> {
        let view = self.store.view();
        let named = view.services().filter(|s| {
            mounts(&s.spec.task, volume) || s.previous.as_ref().is_some_and(|p| mounts(&p.task, volume))
        });
        let tasks = view
            .tasks_of_node(self.node)
            .filter(|t| !t.status.state.is_final() && mounts(&t.spec, volume))
            .map(|t| t.service_name.clone());
        let mut all: Vec<String> = named.map(|s| s.spec.name.clone()).chain(tasks).collect();
        all.sort();
        all.dedup();
        all
    }

    fn user_of(&self, volume: &str) -> Option<String> {
        let services = self.services_of(volume);
        (!services.is_empty()).then(|| format!("service {}", services.join(", ")))
    }

    fn tell(&self, v: VolumeInfo, size: Option<u64>) -> v1::Volume {
        v1::Volume {
            services: self.services_of(&v.name),
            name: v.name,
            labels: v.labels.into_iter().collect(),
            path: v.data.display().to_string(),
            created_at_ms: v.created_at.0,
            size,
        }
    }
}

#[tonic::async_trait]
impl volumes_server::Volumes for Volumes {
    async fn create_volume(
        &self,
        request: Request<v1::CreateVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        let v1::CreateVolumeRequest { name, labels } = request.into_inner();
        let labels: BTreeMap<String, String> = labels.into_iter().collect();
        let made = self.work(move |this| this.volumes.create(&name, &labels, clock::now())).await?;
        Ok(Response::new(self.tell(made, None)))
    }

    async fn list_volumes(
        &self,
        _: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<v1::ListVolumesResponse>, Status> {
        let all = self.work(|this| this.volumes.list()).await?;
        let volumes = all.into_iter().map(|v| self.tell(v, None)).collect();
        Ok(Response::new(v1::ListVolumesResponse { volumes }))
    }

    async fn get_volume(
        &self,
        request: Request<v1::GetVolumeRequest>,
    ) -> Result<Response<v1::Volume>, Status> {
        let name = request.into_inner().name;
        let (volume, size) =
            self.work(move |this| Ok((this.volumes.get(&name)?, this.volumes.size(&name)?))).await?;
        Ok(Response::new(self.tell(volume, Some(size))))
    }

    async fn remove_volume(
        &self,
        request: Request<v1::RemoveVolumeRequest>,
    ) -> Result<Response<v1::RemoveVolumeResponse>, Status> {
        let name = request.into_inner().name;
        self.work(move |this| this.volumes.remove(&name, || this.user_of(&name))).await?;
        Ok(Response::new(v1::RemoveVolumeResponse {}))
    }

    async fn prune_volumes(
        &self,
        request: Request<v1::PruneVolumesRequest>,
    ) -> Result<Response<v1::PruneVolumesResponse>, Status> {
        let dry_run = request.into_inner().dry_run;
        let (gone, reclaimed) = self
            .work(move |this| {
                let (mut gone, mut reclaimed) = (Vec::new(), 0);
                for volume in this.volumes.list()? {
                    let name = volume.name.clone();
                    let size = if !dry_run {
                        match this.volumes.remove(&name, || this.user_of(&name)) {
                            Err(VolumeError::InUse { .. } | VolumeError::NotFound(_)) => continue,
                            size => size?,
                        }
                    } else if this.user_of(&name).is_none() {
                        this.volumes.size(&name)?
                    } else {
                        continue;
                    };
                    reclaimed += size;
                    gone.push((volume, size));
                }
                Ok((gone, reclaimed))
            })
            .await?;
        let volumes = gone.into_iter().map(|(v, size)| self.tell(v, Some(size))).collect();
        Ok(Response::new(v1::PruneVolumesResponse { volumes, reclaimed }))
    }
}
