//! The `Probes` service: what came of the last tries of this node's health checks.

use tonic::{Request, Response, Status};

use crate::{
    model::{IdError, TaskId},
    proto::v1::{self, list_probes_response::Row, probes_server},
    worker::health::{Board, ProbeResult, Tries},
};

/// Answers for this node's tasks.
pub(in crate::node) struct Probes {
    pub(in crate::node) board: Board,
}

fn row((task, tries): (TaskId, Tries)) -> Row {
    Row {
        task: task.to_string(),
        failures: tries.failures,
        results: tries.results.into_iter().map(result).collect(),
    }
}

fn result(r: ProbeResult) -> v1::ProbeResult {
    v1::ProbeResult {
        at_ms: r.at.0,
        took_ms: u64::try_from(r.took.as_millis()).unwrap_or(u64::MAX),
        good: r.good,
        code: r.code,
        output: r.output,
    }
}

#[tonic::async_trait]
impl probes_server::Probes for Probes {
    async fn list_probes(
        &self,
        request: Request<v1::ListProbesRequest>,
    ) -> Result<Response<v1::ListProbesResponse>, Status> {
        let tasks = request.into_inner().tasks;
        let tasks: Result<Vec<TaskId>, IdError> = tasks.iter().map(|t| t.parse()).collect();
        let tasks = tasks.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let rows = self.board.get(&tasks).into_iter().map(row).collect();
        Ok(Response::new(v1::ListProbesResponse { rows }))
    }
}
