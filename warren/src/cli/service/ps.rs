use std::{
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

use crate::{
    cli::{Context, Format, ListArgs, output::List},
    clock,
    model::{Health, PortSpec, Service, Task, Timestamp, parse},
    proto::v1::{
        ListNodesRequest, ListProbesRequest, ListServicesRequest, ListTasksRequest, ProbeResult,
        list_probes_response,
    },
};

/// List the tasks of services, with the reason of every wait and every end.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Services, by name or id; all when left away.
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Show the last tries of the tasks' health checks instead. JSON has them in any case.
    #[arg(long)]
    probes: bool,
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
    let services = control.list_services(ListServicesRequest {}).await?.into_inner().rows;
    let mut ports = HashMap::new();
    for service in services.into_iter().filter_map(|row| row.service) {
        let service = Service::try_from(service)?;
        ports.insert(service.id, service.spec.publish);
    }
    // Each slot's newest first, as Docker shows a slot's history.
    tasks.sort_by(|a, b| {
        (&a.service_name, a.slot, b.created_at).cmp(&(&b.service_name, b.slot, a.created_at))
    });
    let mut tried = probes(&tasks, context).await?;
    let tasks: Vec<Row> = tasks
        .into_iter()
        .map(|task| Row {
            node: task.node.map(|n| n.to_string()).map(|n| nodes.get(&n).cloned().unwrap_or(n)),
            tried: tried.remove(&task.id.to_string()).unwrap_or_default(),
            // What has ended answers nowhere.
            ports: ports.get(&task.service).filter(|_| task.is_live()).cloned().unwrap_or_default(),
            task,
        })
        .collect();
    let of_tries = args.probes && args.list.format == Format::Table;
    let list = if of_tries { tries(&tasks) } else { table(&tasks, clock::now()) };
    list.print(args.list)
}

/// A task and what this command knows of it.
struct Row {
    task: Task,
    /// Name of its node.
    node: Option<String>,
    /// What its service publishes.
    ports: Vec<PortSpec>,
    tried: list_probes_response::Row,
}

impl Row {
    fn name(&self) -> String {
        format!("{}.{}", self.task.service_name, self.task.slot)
    }

    fn json(&self) -> serde_json::Value {
        let mut json = super::task_json(&self.task);
        json["node_name"] = self.node.clone().into();
        json["ports"] = self.ports.iter().map(ToString::to_string).collect();
        let health = self.task.status.health;
        json["health"] = (health != Health::None).then(|| health.name()).into();
        json["probe_failures"] = self.tried.failures.into();
        json["probes"] = self.tried.results.iter().map(probe_json).collect();
        json
    }
}

/// What the node knows of the tries of these tasks' health checks, by task.
async fn probes(
    tasks: &[Task],
    context: &Context,
) -> anyhow::Result<HashMap<String, list_probes_response::Row>> {
    let checked = tasks.iter().filter(|t| t.status.health != Health::None);
    let request = ListProbesRequest { tasks: checked.map(|t| t.id.to_string()).collect() };
    if request.tasks.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = context.probes().await?.list_probes(request).await?.into_inner().rows;
    Ok(rows.into_iter().map(|r| (r.task.clone(), r)).collect())
}

fn table(rows: &[Row], now: Timestamp) -> List {
    // Who uses no health checks, or publishes nothing, does not see an empty column.
    let health = rows.iter().any(|r| r.task.status.health != Health::None);
    let ports = rows.iter().any(|r| !r.ports.is_empty());
    let mut columns = vec!["ID", "NAME", "IMAGE", "NODE", "DESIRED", "STATE"];
    columns.extend(health.then_some("HEALTH"));
    columns.extend(ports.then_some("PORTS"));
    columns.push("REASON");
    let mut list = List::new(columns);
    for row in rows {
        let t = &row.task;
        let age = Duration::from_secs(now.since(t.status.at).as_secs());
        let mut cells = vec![
            t.id.to_string(),
            row.name(),
            t.spec.image.familiar(),
            row.node.clone().unwrap_or_default(),
            t.desired.to_string(),
            format!("{} {}", t.status.state, humantime::format_duration(age)),
        ];
        if health {
            cells.push(t.status.health.name().to_owned());
        }
        if ports {
            cells.push(parse::written(&row.ports));
        }
        cells.push(t.status.message.clone());
        list.row(t.id.to_string(), cells, row.json());
    }
    list
}

/// Each task's last tries, oldest first.
fn tries(rows: &[Row]) -> List {
    let mut list = List::new(["ID", "NAME", "AT", "TOOK", "RESULT", "CODE", "OUTPUT"]);
    for row in rows {
        for r in &row.tried.results {
            let words: Vec<&str> = r.output.split_whitespace().collect();
            let cells = vec![
                row.task.id.to_string(),
                row.name(),
                humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(r.at_ms)).to_string(),
                humantime::format_duration(Duration::from_millis(r.took_ms)).to_string(),
                if r.good { "good" } else { "bad" }.to_owned(),
                if r.code == 0 && !r.good { String::new() } else { r.code.to_string() },
                words.join(" "),
            ];
            list.row(row.task.id.to_string(), cells, probe_json(r));
        }
    }
    list
}

fn probe_json(r: &ProbeResult) -> serde_json::Value {
    serde_json::json!({
        "at_ms": r.at_ms,
        "took_ms": r.took_ms,
        "good": r.good,
        "code": r.code,
        "output": r.output,
    })
}
