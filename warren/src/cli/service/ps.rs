use std::{collections::HashMap, time::SystemTime};

use crate::{
    cli::{Context, ListArgs, output::List},
    model::{Task, Timestamp},
    proto::v1::{ListNodesRequest, ListTasksRequest},
};

/// List the tasks of services, with the reason of every wait and every end.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Services, by name or id; all when left away.
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let mut control = context.control().await?;
    let nodes: HashMap<_, _> = control
        .list_nodes(ListNodesRequest {})
        .await?
        .into_inner()
        .nodes
        .into_iter()
        .map(|n| (n.id, n.description.unwrap_or_default().name))
        .collect();
    let asked = if args.services.is_empty() { vec![String::new()] } else { args.services };
    let mut tasks = Vec::new();
    for service in asked {
        let answer = control.list_tasks(ListTasksRequest { service }).await?.into_inner();
        for task in answer.tasks {
            tasks.push(Task::try_from(task)?);
        }
    }
    // Each slot's newest first, as Docker shows a slot's history.
    tasks.sort_by(|a, b| {
        (&a.service_name, a.slot, b.created_at).cmp(&(&b.service_name, b.slot, a.created_at))
    });
    let now = now();
    let mut list = List::new(&["ID", "NAME", "IMAGE", "NODE", "DESIRED", "STATE", "REASON"]);
    for t in &tasks {
        let node = t.node.map(|n| n.to_string());
        let node_name = node.as_ref().map(|n| nodes.get(n).cloned().unwrap_or_else(|| n.clone()));
        let age = std::time::Duration::from_secs(now.since(t.status.at).as_secs());
        list.row(
            t.id.to_string(),
            vec![
                t.id.to_string(),
                format!("{}.{}", t.service_name, t.slot),
                t.spec.image.familiar(),
                node_name.clone().unwrap_or_default(),
                t.desired.to_string(),
                format!("{} {}", t.status.state, humantime::format_duration(age)),
                t.status.message.clone(),
            ],
            {
                let mut json = super::task_json(t);
                json["node_name"] = node_name.into();
                json
            },
        );
    }
    list.print(args.list)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::default().after(since)
}
