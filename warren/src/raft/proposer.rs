//! The store's door into the consensus.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use openraft::{
    Raft, RaftMetrics, ServerState,
    error::{CheckIsLeaderError, ClientWriteError, ForwardToLeader, RaftError as OpenRaftError},
};
use tokio::sync::watch;

use super::{
    error::Fault,
    types::{Answer, Command, Peer, Types},
};
use crate::{
    model::StoreAction,
    store::{Outcome, Proposer, StoreError},
};

pub(super) struct Consensus {
    raft: Raft<Types>,
    metrics: watch::Receiver<RaftMetrics<u64, Peer>>,
    /// The last term in which this node led and had caught up; 0 for none.
    ready_in: AtomicU64,
    fault: Fault,
}

impl Consensus {
    pub(super) fn new(raft: Raft<Types>, fault: Fault) -> Self {
        Self { metrics: raft.metrics(), raft, ready_in: AtomicU64::new(0), fault }
    }

    fn stopped(&self, e: &dyn ToString) -> StoreError {
        StoreError::Stopped(self.fault.get().unwrap_or_else(|| e.to_string()))
    }
}

fn forward(f: ForwardToLeader<u64, Peer>) -> StoreError {
    StoreError::NotLeader { leader: f.leader_node.and_then(|p| p.node.parse().ok()) }
}

#[async_trait]
impl Proposer for Consensus {
    async fn propose(&self, actions: Vec<StoreAction>) -> Result<Outcome, StoreError> {
        match self.raft.client_write(Command(actions)).await {
            Ok(written) => match written.data {
                Answer::Applied(version) => Ok(Outcome::Applied { version }),
                Answer::Conflict => Ok(Outcome::Conflict),
                Answer::Nothing => Err(self.stopped(&"a proposal was answered as if it were none")),
            },
            Err(OpenRaftError::APIError(ClientWriteError::ForwardToLeader(f))) => Err(forward(f)),
            Err(e) => Err(self.stopped(&e)),
        }
    }

    async fn barrier(&self) -> Result<(), StoreError> {
        match self.raft.ensure_linearizable().await {
            Ok(_) => Ok(()),
            Err(OpenRaftError::APIError(CheckIsLeaderError::ForwardToLeader(f))) => Err(forward(f)),
            Err(OpenRaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
                Err(StoreError::NotLeader { leader: None })
            }
            Err(e) => Err(self.stopped(&e)),
        }
    }

    async fn ready(&self) -> Result<(), StoreError> {
        let term = {
            let m = self.metrics.borrow();
            (m.state == ServerState::Leader && m.running_state.is_ok()).then_some(m.current_term)
        };
        if term.is_some_and(|t| t == self.ready_in.load(Ordering::Acquire)) {
            return Ok(());
        }
        self.barrier().await?;
        self.ready_in.store(term.unwrap_or(0), Ordering::Release);
        Ok(())
    }
}
