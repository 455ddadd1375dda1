//! `warren stats`: what running tasks use.

use std::io::IsTerminal as _;

use indicatif::{BinaryBytes, DecimalBytes};

use super::{
    Context, Format, ListArgs,
    output::{List, offer},
    screen, target,
};
use crate::proto::v1::{StatsRequest, StatsResponse};

/// Show what running tasks use: processors, memory, network, disks, processes.
///
/// Once a second, until interrupted. 100 % is one processor.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show it once.
    #[arg(long)]
    no_stream: bool,
    /// How to print; JSON is one array of objects a line.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Tasks and services; all that run on this node when left away.
    #[arg(value_name = "TASK|SERVICE")]
    targets: Vec<String>,
}

/// Milliseconds from one sample to the next.
const INTERVAL: u64 = 1000;

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let mut tasks = Vec::new();
    if !args.targets.is_empty() {
        let all = target::all(context).await?;
        for word in &args.targets {
            tasks.extend(target::running(&all, word)?.iter().map(|t| t.id.to_string()));
        }
    }
    let request = StatsRequest { tasks, interval_ms: INTERVAL };
    let mut samples = context.containers().await?.stats(request).await?.into_inner();
    let live = !args.no_stream && args.format == Format::Table && std::io::stdout().is_terminal();
    // The first has nothing to compare processors with.
    let mut first = true;
    while let Some(sample) = samples.message().await? {
        if std::mem::take(&mut first) && (args.no_stream || !live) {
            continue;
        }
        let text = match args.format {
            Format::Table => table(&sample),
            Format::Json => format!("{}\n", json(&sample)),
        };
        let text = if live { screen::frame(&text, screen::size()) } else { text };
        if !offer(&text)? || args.no_stream {
            break;
        }
    }
    Ok(())
}

fn table(sample: &StatsResponse) -> String {
    let mut list =
        List::new(["TASK", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"]);
    for t in &sample.tasks {
        let cells = vec![
            t.task.clone(),
            format!("{}.{}", t.service, t.slot),
            format!("{:.2}%", t.cpu_percent),
            format!("{} / {}", BinaryBytes(t.memory), BinaryBytes(t.memory_limit)),
            format!("{:.2}%", share(t.memory, t.memory_limit)),
            format!("{} / {}", DecimalBytes(t.received), DecimalBytes(t.sent)),
            format!("{} / {}", DecimalBytes(t.read), DecimalBytes(t.written)),
            t.pids.to_string(),
        ];
        list.row(t.task.clone(), cells, serde_json::Value::Null);
    }
    list.render(ListArgs { format: Format::Table, quiet: false })
}

fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 * 100.0 }
}

fn json(sample: &StatsResponse) -> serde_json::Value {
    let tasks = sample.tasks.iter().map(|t| {
        serde_json::json!({
            "id": t.task,
            "name": format!("{}.{}", t.service, t.slot),
            "service": t.service,
            "slot": t.slot,
            "at_ms": sample.at_ms,
            "cpu_ns": t.cpu_ns,
            "cpu_percent": t.cpu_percent,
            "memory": t.memory,
            "memory_limit": t.memory_limit,
            "memory_percent": share(t.memory, t.memory_limit),
            "pids": t.pids,
            "received": t.received,
            "sent": t.sent,
            "read": t.read,
            "written": t.written,
        })
    });
    tasks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::TaskStats;

    fn sample() -> StatsResponse {
        let task = TaskStats {
            task: "aaaa000000000001".into(),
            service: "web".into(),
            slot: 2,
            cpu_ns: 5,
            cpu_percent: 12.345,
            memory: 64 << 20,
            memory_limit: 256 << 20,
            pids: 3,
            received: 1_500_000,
            sent: 900,
            read: 0,
            written: 4096,
        };
        StatsResponse { at_ms: 7, tasks: vec![task] }
    }

    #[test]
    fn a_sample_is_a_table() {
        assert_eq!(
            table(&sample()),
            "TASK               NAME    CPU %    MEM USAGE / LIMIT        MEM %    NET I/O           BLOCK I/O       PIDS\n\
             aaaa000000000001   web.2   12.35%   64.00 MiB / 256.00 MiB   25.00%   1.50 MB / 900 B   0 B / 4.10 kB   3\n"
        );
    }

    #[test]
    fn or_json() {
        let json = json(&sample());
        assert_eq!((&json[0]["name"], &json[0]["memory_percent"]), (&"web.2".into(), &25.0.into()));
    }
}
