//! The way to other managers.
//!
//! A cluster has one manager so far: nothing adds a second voter, so openraft never asks for a
//! connection. Should a log name one nevertheless, it is told that the peer cannot be reached and
//! no quorum forms, which is the truth.

use std::io;

use openraft::{
    error::{InstallSnapshotError, RPCError, RaftError, Unreachable},
    network::{RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
        VoteRequest, VoteResponse,
    },
};

use super::types::{Peer, Types};

/// Makes connections, all of them to nowhere.
pub(super) struct NoPeers;

/// A peer that cannot be reached.
pub(super) struct NoPeer(Peer);

impl RaftNetworkFactory<Types> for NoPeers {
    type Network = NoPeer;

    async fn new_client(&mut self, _target: u64, peer: &Peer) -> NoPeer {
        NoPeer(peer.clone())
    }
}

type Answer<T, E = openraft::error::Infallible> = Result<T, RPCError<u64, Peer, RaftError<u64, E>>>;

impl NoPeer {
    #[allow(clippy::result_large_err, reason = "openraft's type")]
    fn refuse<T, E: std::error::Error>(&self) -> Answer<T, E> {
        let why = format!("manager {} cannot be reached: this version runs one manager", self.0.node);
        Err(RPCError::Unreachable(Unreachable::new(&io::Error::other(why))))
    }
}

impl RaftNetwork<Types> for NoPeer {
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Answer<AppendEntriesResponse<u64>> {
        self.refuse()
    }

    async fn install_snapshot(
        &mut self,
        _rpc: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Answer<InstallSnapshotResponse<u64>, InstallSnapshotError> {
        self.refuse()
    }

    async fn vote(&mut self, _rpc: VoteRequest<u64>, _option: RPCOption) -> Answer<VoteResponse<u64>> {
        self.refuse()
    }
}
