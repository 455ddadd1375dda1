//! `Stats`: what tasks use, again and again.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};
use tonic::Status;

use super::{Answers, Containers, answers};
use crate::{
    clock,
    model::{NodeId, Task, TaskId, TaskState},
    proto::v1::{StatsRequest, StatsResponse, TaskStats},
    store::Store,
    worker::runtime::stats::{Usage, cpu_percent},
};

/// Shortest interval: a look costs a few files for each task.
const SHORTEST: Duration = Duration::from_millis(100);

impl Containers {
    pub(super) fn watch_usage(&self, request: &StatsRequest) -> Result<Answers<StatsResponse>, Status> {
        let asked = request
            .tasks
            .iter()
            .map(|id| Ok(self.running(id)?.id))
            .collect::<Result<BTreeSet<_>, Status>>()?;
        let interval = Duration::from_millis(request.interval_ms);
        let (store, node, containerd) = (self.store.clone(), self.node, self.containerd.clone());
        let (sender, stream) = answers();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval.max(SHORTEST));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut before = HashMap::new();
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = sender.closed() => return,
                }
                let tasks = running(&store, node, &asked);
                if tasks.is_empty() && !asked.is_empty() {
                    return; // all that were asked for have ended
                }
                let pids = tasks.iter().map(|t| (t.id, t.status.container.map_or(0, |c| c.pid))).collect();
                let usage = containerd.usage(pids).await.map_err(|e| Status::internal(e.to_string()));
                let answer = usage.map(|u| response(&tasks, &u.into_iter().collect(), &mut before));
                if !asked.is_empty() && answer.as_ref().is_ok_and(|a| a.tasks.is_empty()) {
                    continue; // they have ended a moment ago
                }
                if sender.send(answer).await.is_err() || interval.is_zero() {
                    return;
                }
            }
        });
        Ok(stream)
    }
}

/// The node's running tasks; of those asked for, if any are.
fn running(store: &Store, node: NodeId, asked: &BTreeSet<TaskId>) -> Vec<Task> {
    let view = store.view();
    let mut tasks: Vec<Task> = view
        .tasks_of_node(node)
        .filter(|t| t.status.state == TaskState::Running && (asked.is_empty() || asked.contains(&t.id)))
        .cloned()
        .collect();
    tasks.sort_by(|a, b| (&a.service_name, a.slot, a.id).cmp(&(&b.service_name, b.slot, b.id)));
    tasks
}

fn response(
    tasks: &[Task],
    usage: &HashMap<TaskId, Usage>,
    before: &mut HashMap<TaskId, (Instant, u64)>,
) -> StatsResponse {
    let now = Instant::now();
    let stats = |task: &Task| {
        let usage = usage.get(&task.id)?;
        let last = before.insert(task.id, (now, usage.cpu_ns));
        Some(TaskStats {
            task: task.id.to_string(),
            service: task.service_name.clone(),
            slot: task.slot,
            cpu_ns: usage.cpu_ns,
            cpu_percent: last.map_or(0.0, |(at, cpu)| cpu_percent(cpu, usage.cpu_ns, now - at)),
            memory: usage.memory,
            memory_limit: usage.memory_limit,
            pids: usage.pids,
            received: usage.received,
            sent: usage.sent,
            read: usage.read,
            written: usage.written,
        })
    };
    let tasks: Vec<TaskStats> = tasks.iter().filter_map(stats).collect();
    before.retain(|_, (at, _)| *at == now);
    StatsResponse { at_ms: clock::now().0, tasks }
}
