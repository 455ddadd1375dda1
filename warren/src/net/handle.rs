//! The verbs of the node's network.

use std::{path::PathBuf, sync::Arc};

use ipnet::IpNet;

use super::{
    NetError,
    deny::{self, DenyList},
    drops::{self, LastDrops},
    engine::Engine,
    flows, report,
    trace::{self, Question, Trace},
    traffic::{Asked, Meter},
};
use crate::model::{Attachment, TaskId};

/// What a task takes of the traffic of published ports, besides what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// New connections.
    Open,
    /// No new ones, except while no other task takes any. One that never was open, or is held,
    /// stays as it is.
    Draining,
    /// No new ones. One that never was open stays as it is.
    Held,
}

/// How the rest of the node speaks to its network. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    engine: Arc<Engine>,
    last_drops: LastDrops,
}

impl Handle {
    pub(super) fn new(engine: Arc<Engine>, last_drops: LastDrops) -> Self {
        Self { engine, last_drops }
    }

    /// Makes the task's network namespace, link, addresses and routes, and returns where the
    /// namespace is mounted. It gets no traffic from published ports before [`Handle::serve`].
    /// Repeatable: completes what is half-made.
    pub async fn attach(&self, task: TaskId, attachment: &Attachment) -> Result<PathBuf, NetError> {
        self.engine.attach(task, attachment).await
    }

    /// Opens or closes the task to new connections of published ports, from the next packet on.
    /// Established ones are left alone, but for connected UDP sockets of the node's own processes: when
    /// this returns, none leads to a task that was closed. Closing one that is not attached is no error.
    pub async fn serve(&self, task: TaskId, attachment: &Attachment, gate: Gate) -> Result<(), NetError> {
        self.engine.serve(task, attachment, gate)?;
        if gate != Gate::Open {
            // What is told to end next must not be sent to any more.
            self.engine.end_sockets().await?;
        }
        Ok(())
    }

    /// Removes every trace of the task, flows included. Nothing there is no error.
    pub async fn detach(&self, task: TaskId) -> Result<(), NetError> {
        self.engine.detach(task).await
    }

    /// Everything attached, whole or half-made.
    pub async fn list(&self) -> Result<Vec<TaskId>, NetError> {
        self.engine.list()
    }

    /// Published ports, as the datapath has them.
    pub async fn published(&self) -> Result<Vec<report::Published>, NetError> {
        Ok(report::published(&self.engine))
    }

    /// Live flows, at most `limit` (0: all), and whether there are more.
    pub async fn flows(&self, limit: usize) -> Result<(Vec<flows::Flow>, bool), NetError> {
        let engine = Arc::clone(&self.engine);
        tokio::task::spawn_blocking(move || flows::flows(&engine, limit))
            .await
            .map_err(|_| NetError::Stopped)?
    }

    /// Something that tells, each time it is asked, what flows have carried since it was asked before.
    #[must_use]
    pub fn meter(&self, asked: Asked) -> Meter {
        Meter::new(Arc::clone(&self.engine), asked)
    }

    /// What was dropped, a row for each reason there is.
    pub async fn dropped(&self) -> Result<Vec<drops::Dropped>, NetError> {
        drops::dropped(&self.engine, &self.last_drops)
    }

    /// The networks whose clients published ports never answer.
    #[must_use]
    pub fn denied(&self) -> DenyList {
        self.engine.state().denied.clone()
    }

    /// Adds networks to the deny list and removes some from it; holds from the next packet on, and is
    /// kept. One error, and nothing is changed.
    pub async fn deny(&self, add: &[IpNet], remove: &[IpNet]) -> Result<DenyList, NetError> {
        deny::change(&self.engine, add, remove).await
    }

    /// What the datapath would do with a packet; nothing is changed by it.
    pub async fn trace(&self, question: Question) -> Result<Trace, NetError> {
        trace::trace(&self.engine, question).await
    }

    /// Compares what should be with what is.
    pub async fn check(&self) -> Result<report::Check, NetError> {
        report::check(&self.engine).await
    }

    /// What packets are rehearsed with.
    #[cfg(test)]
    pub(super) fn stage(&self) -> super::datapath::rehearsal::Stage {
        self.engine.state().loaded.stage()
    }

    /// Number and link-layer address of a device.
    #[cfg(test)]
    pub(super) fn device(&self, name: &str) -> (u32, [u8; 6]) {
        let state = self.engine.state();
        let device = state.host.device(name).expect("there is such a device");
        (device.index, device.mac.as_slice().try_into().expect("an Ethernet address"))
    }

    /// Waits until the datapath has reached this generation.
    #[cfg(test)]
    pub(super) async fn wait_generation(&self, generation: u64) -> Result<(), NetError> {
        let mut reached = self.engine.generation.subscribe();
        reached.wait_for(|g| *g >= generation).await.map(drop).map_err(|_| NetError::Stopped)
    }
}
