//! `StatPath`, `CopyFrom`, `CopyTo`: files in and out of containers.

use tonic::{Status, Streaming};

use super::{Answers, Containers, answers, runtime_error};
use crate::{
    proto::v1::{
        CopyChunk, CopyFromRequest, CopyToRequest, CopyToResponse, StatPathRequest, StatPathResponse,
        copy_to_request::Part,
    },
    worker::runtime::copy::{CopyError, Owners, PathKind},
};

impl Containers {
    fn copy_error(&self, e: &CopyError) -> Status {
        match e {
            CopyError::NotRunning(id) => self.stopped(*id),
            CopyError::NotFound(..) => Status::not_found(e.to_string()),
            CopyError::NotADirectory(..) | CopyError::Failed(..) => {
                Status::failed_precondition(e.to_string())
            }
            CopyError::Runtime(e) => runtime_error(e),
        }
    }

    pub(super) async fn stat(&self, request: StatPathRequest) -> Result<StatPathResponse, Status> {
        let task = self.running(&request.task)?;
        let kind = self.containerd.stat_path(task.id, &request.path).await;
        let kind = kind.map_err(|e| self.copy_error(&e))?;
        Ok(StatPathResponse { exists: kind != PathKind::Absent, directory: kind == PathKind::Directory })
    }

    pub(super) async fn read(&self, request: CopyFromRequest) -> Result<Answers<CopyChunk>, Status> {
        let task = self.running(&request.task)?;
        let CopyFromRequest { path, name, follow_link, .. } = request;
        let chunks = self.containerd.copy_from(task.id, &path, &name, follow_link).await;
        let mut chunks = chunks.map_err(|e| self.copy_error(&e))?;
        // The first decides whether there is anything to copy: what is wrong with the path is an
        // answer, not a broken stream.
        let mut next = match chunks.recv().await {
            Some(Err(e)) => return Err(self.copy_error(&e)),
            first => first,
        };
        let (sender, stream) = answers();
        tokio::spawn(async move {
            while let Some(chunk) = next {
                let chunk = chunk.map(|data| CopyChunk { data });
                let chunk = chunk.map_err(|e| Status::failed_precondition(e.to_string()));
                if sender.send(chunk).await.is_err() {
                    return;
                }
                next = chunks.recv().await;
            }
        });
        Ok(stream)
    }

    pub(super) async fn write(&self, mut parts: Streaming<CopyToRequest>) -> Result<CopyToResponse, Status> {
        let Some(CopyToRequest { part: Some(Part::To(to)) }) = parts.message().await? else {
            return Err(Status::invalid_argument("the first message says where to"));
        };
        let task = self.running(&to.task)?;
        let owners = if to.keep_owners { Owners::Archived } else { Owners::Own };
        let copy = self.containerd.copy_to(task.id, &to.directory, owners).await;
        let (chunks, done) = copy.map_err(|e| self.copy_error(&e))?;
        while let Some(message) = parts.message().await? {
            if let Some(Part::Data(data)) = message.part.filter(|p| *p != Part::Data(Vec::new())) {
                // A closed channel: it has ended already, and `done` says why.
                if chunks.send(data).await.is_err() {
                    break;
                }
            }
        }
        let _ = chunks.send(Vec::new()).await;
        match done.await {
            Ok(Ok(_)) => Ok(CopyToResponse {}),
            Ok(Err(e)) => Err(self.copy_error(&e)),
            Err(_) => Err(self.stopped(task.id)),
        }
    }
}
