//! Who uses how much: what flows carry, for each second, by published port, by client and by container.
//!
//! The programs count bytes and packets in the records of flows. A [`Meter`] reads the records again and
//! again and compares: what a flow carried that came and went between two looks is not in it.

mod rates;
mod sample;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use self::sample::Sample;
use super::{
    NetError,
    engine::Engine,
    flows::{Owners, Replica},
};
use crate::model::{Protocol, TaskId};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// What comes first.
    pub sort: Sort,
    /// So many rows of each kind; 0: all.
    pub limit: usize,
    /// Only what goes to published ports of this number, of one protocol or of both.
    pub port: Option<(u16, Option<Protocol>)>,
}

/// What rows are ordered by, the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    /// Bytes of both directions.
    #[default]
    Bytes,
    /// Packets of both directions.
    Packets,
    /// Live flows.
    Flows,
    /// Flows that have begun.
    New,
}

/// What some flows do; all but their number for each second.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// How many live.
    pub flows: u64,
    /// How many have begun.
    pub new: f64,
    /// Packets to containers.
    pub received_packets: f64,
    /// Packets from containers.
    pub sent_packets: f64,
    /// Bytes to containers.
    pub received: f64,
    /// Bytes from containers.
    pub sent: f64,
}

/// What goes through a published port, by the address that clients have asked.
#[derive(Debug, Clone, PartialEq)]
pub struct PortTraffic {
    /// Where clients have connected to.
    pub published: SocketAddr,
    /// "tcp" or "udp".
    pub protocol: &'static str,
    /// The service; empty when it is gone.
    pub service: String,
    /// How much.
    pub rates: Rates,
}

/// What one client sends to a published port and gets from it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientTraffic {
    /// Who.
    pub client: IpAddr,
    /// Where it has connected to.
    pub published: SocketAddr,
    /// "tcp" or "udp".
    pub protocol: &'static str,
    /// The service; empty when it is gone.
    pub service: String,
    /// How much.
    pub rates: Rates,
}

/// What a container has begun with others outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// The container's task, when it is attached.
    pub task: Option<TaskId>,
    /// Which of a service's tasks that is, while the node has to run it.
    pub replica: Option<Replica>,
    /// How much.
    pub rates: Rates,
}

/// What was carried between two looks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Traffic {
    /// The time between; zero at the first look, which has nothing to compare with: all rates are 0.
    pub elapsed: Duration,
    /// By published port.
    pub ports: Vec<PortTraffic>,
    /// By client of each port.
    pub clients: Vec<ClientTraffic>,
    /// What containers have begun.
    pub out: Vec<Outgoing>,
    /// Whether there are more rows of a kind than were asked for.
    pub truncated: bool,
}

/// What flows belong to.
#[derive(Debug, Default)]
struct Names {
    /// Services by their numbers.
    services: BTreeMap<u32, String>,
    owners: Owners,
}

/// Tells what flows have carried since it was asked before.
#[derive(Debug)]
pub struct Meter {
    engine: Arc<Engine>,
    asked: Asked,
    before: Option<(Instant, Sample)>,
}

impl Meter {
    pub(super) fn new(engine: Arc<Engine>, asked: Asked) -> Self {
        Self { engine, asked, before: None }
    }

    /// Reads the flow tables, a thread of its own at work on it: large ones take tens of milliseconds.
    ///
    /// # Errors
    /// [`NetError`] when the kernel does not let them be read.
    pub async fn look(&mut self) -> Result<Traffic, NetError> {
        let (engine, asked, before) = (Arc::clone(&self.engine), self.asked, self.before.take());
        let look = move || {
            let at = Instant::now();
            let present = Sample::read(&engine)?;
            let names = names(&engine);
            let before = before.as_ref().map(|(since, sample)| (sample, at - *since));
            let traffic = rates::traffic(before, &present, &names, &asked);
            Ok((traffic, (at, present)))
        };
        let (traffic, present) = tokio::task::spawn_blocking(look).await.map_err(|_| NetError::Stopped)??;
        self.before = Some(present);
        Ok(traffic)
    }
}

fn names(engine: &Engine) -> Names {
    let assignment = engine.heard();
    let services = assignment.as_ref().map(|a| a.services.as_slice()).unwrap_or_default();
    Names {
        services: services.iter().map(|s| (s.datapath_id, s.name.clone())).collect(),
        owners: Owners::of(engine),
    }
}
