//! Flows and what they carry, as messages; `WatchTraffic`: rates, again and again.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tonic::Status;

use super::{Answers, NodeLocal, answers, net_error};
use crate::{
    clock,
    model::Protocol,
    net::{self, Asked, Rates, Replica, Sort},
    proto::v1::{self, traffic_sample, watch_traffic_request},
};

/// Shortest interval: a look reads every flow there is.
const SHORTEST: Duration = Duration::from_millis(200);

impl NodeLocal {
    pub(super) fn watch(
        &self,
        request: &v1::WatchTrafficRequest,
    ) -> Result<Answers<v1::TrafficSample>, Status> {
        let interval = Duration::from_millis(request.interval_ms);
        let mut meter = self.net.meter(asked(request)?);
        let (sender, stream) = answers();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval.max(SHORTEST));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = sender.closed() => return,
                }
                let answer = meter.look().await.map(sample).map_err(|e| net_error(&e));
                let failed = answer.is_err();
                if sender.send(answer).await.is_err() || failed || interval.is_zero() {
                    return;
                }
            }
        });
        Ok(stream)
    }
}

fn asked(request: &v1::WatchTrafficRequest) -> Result<Asked, Status> {
    let protocol = match request.protocol {
        0 => None,
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        n => {
            return Err(Status::invalid_argument(format!(
                "ports of protocol {n} are not published: 6 (TCP) and 17 (UDP) are"
            )));
        }
    };
    let port = u16::try_from(request.port)
        .map_err(|_| Status::invalid_argument(format!("{} is no port: 65535 is the last", request.port)))?;
    Ok(Asked {
        sort: match request.sort() {
            watch_traffic_request::Sort::Bytes => Sort::Bytes,
            watch_traffic_request::Sort::Packets => Sort::Packets,
            watch_traffic_request::Sort::Flows => Sort::Flows,
            watch_traffic_request::Sort::New => Sort::New,
        },
        limit: request.limit as usize,
        port: (port != 0).then_some((port, protocol)),
    })
}

/// Service and slot of a task, or nothing.
fn called(replica: Option<Replica>) -> (String, u32) {
    replica.map_or_else(Default::default, |r| (r.service, r.slot))
}

pub(super) fn flow(f: net::Flow) -> v1::Flow {
    let (service, slot) = called(f.replica);
    v1::Flow {
        protocol: f.protocol.to_owned(),
        client: f.client.to_string(),
        published: f.published.map(|p| p.to_string()).unwrap_or_default(),
        container: f.container.to_string(),
        task: f.task.map(|t| t.to_string()).unwrap_or_default(),
        state: f.state.to_owned(),
        idle_ms: f.idle_ms,
        kind: f.kind.to_owned(),
        service,
        slot,
        age_ms: f.age_ms,
        received: f.traffic.received,
        sent: f.traffic.sent,
        received_packets: f.traffic.received_packets,
        sent_packets: f.traffic.sent_packets,
    }
}

fn rates(r: Rates) -> Option<v1::Rates> {
    Some(v1::Rates {
        flows: r.flows,
        new: r.new,
        received_packets: r.received_packets,
        sent_packets: r.sent_packets,
        received: r.received,
        sent: r.sent,
    })
}

fn sample(traffic: net::Traffic) -> v1::TrafficSample {
    let ports = traffic.ports.into_iter().map(|p| traffic_sample::Port {
        published: p.published.to_string(),
        protocol: p.protocol.to_owned(),
        service: p.service,
        rates: rates(p.rates),
    });
    let clients = traffic.clients.into_iter().map(|c| traffic_sample::Client {
        client: c.client.to_string(),
        published: c.published.to_string(),
        protocol: c.protocol.to_owned(),
        service: c.service,
        rates: rates(c.rates),
    });
    let out = traffic.out.into_iter().map(|o| {
        let (service, slot) = called(o.replica);
        let task = o.task.map(|t| t.to_string()).unwrap_or_default();
        traffic_sample::Outgoing { task, service, slot, rates: rates(o.rates) }
    });
    v1::TrafficSample {
        at_ms: clock::now().0,
        elapsed_ms: u64::try_from(traffic.elapsed.as_millis()).unwrap_or(u64::MAX),
        ports: ports.collect(),
        clients: clients.collect(),
        out: out.collect(),
        truncated: traffic.truncated,
    }
}
