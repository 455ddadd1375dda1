//! `warren net …`

mod deny;
mod drops;
mod flows;
mod top;
mod trace;

use clap::Subcommand;

use super::{Context, Format, ListArgs, output};
use crate::proto::v1::{CheckNetworkRequest, ListPublishedRequest};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List published ports and the tasks behind them, as the datapath has them.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    Flows(flows::FlowsArgs),
    Top(top::TopArgs),
    /// Show what the datapath has dropped, by reason, with the last packet of each.
    Drops(drops::DropsArgs),
    /// Networks whose clients published ports of this node never answer.
    #[command(subcommand)]
    Deny(deny::Verb),
    /// Show what the datapath would do with a packet, and why; nothing is changed by it.
    Trace(trace::TraceArgs),
    /// Compare what the datapath should hold with what it holds; fails when they differ.
    Check(CheckArgs),
}

/// List published ports and the tasks behind them, as the datapath has them.
#[derive(Debug, clap::Args)]
pub(super) struct LsArgs {
    #[command(flatten)]
    list: ListArgs,
}

/// Compare what the datapath should hold with what it holds; fails when they differ.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// How to print.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

pub(super) async fn run(verb: Verb, context: &Context) -> anyhow::Result<()> {
    match verb {
        Verb::Ls(args) => ls(args, context).await,
        Verb::Flows(args) => flows::flows(args, context).await,
        Verb::Top(args) => top::top(args, context).await,
        Verb::Drops(args) => drops::drops(args, context).await,
        Verb::Deny(verb) => deny::run(verb, context).await,
        Verb::Trace(args) => trace::trace(args, context).await,
        Verb::Check(args) => check(args, context).await,
    }
}

async fn ls(args: LsArgs, context: &Context) -> anyhow::Result<()> {
    let answer = context.node_local().await?.list_published(ListPublishedRequest {}).await?.into_inner();
    let mut list = output::List::new(["PORT", "SERVICE", "FROM", "BACKENDS"]);
    for p in answer.ports {
        let port = p.port.unwrap_or_default();
        let protocol = if port.protocol == 17 { "udp" } else { "tcp" };
        let ip = if port.host_ip.is_empty() { "*" } else { &port.host_ip };
        let name = format!("{}:{}/{protocol}", bracketed(ip), port.published);
        let backends: Vec<_> = p
            .backends
            .iter()
            .map(|b| format!("{}:{} {}", bracketed(&b.address), port.target, b.state))
            .collect();
        let backends_json: Vec<_> = p
            .backends
            .iter()
            .map(|b| {
                serde_json::json!({
                    "task": b.task, "address": b.address, "address6": b.address6, "state": b.state, "id": b.id,
                    "generation": b.generation,
                })
            })
            .collect();
        let json = serde_json::json!({
            "service": p.service,
            "host_ip": port.host_ip,
            "published": port.published,
            "target": port.target,
            "protocol": protocol,
            "table_size": p.table_size,
            "sources": p.sources.as_ref().map(|s| &s.networks),
            "backends": backends_json,
        });
        let from = match &p.sources {
            None => "any".to_owned(),
            Some(s) if s.networks.is_empty() => "this node".to_owned(),
            Some(s) => s.networks.join(", "),
        };
        list.row(name.clone(), vec![name, p.service, from, backends.join(", ")], json);
    }
    list.print(args.list)
}

/// An address as it stands before a port.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

async fn check(args: CheckArgs, context: &Context) -> anyhow::Result<()> {
    let c = context.node_local().await?.check_network(CheckNetworkRequest {}).await?.into_inner();
    let text = match args.format {
        Format::Json => {
            let maps: Vec<_> = c
                .maps
                .iter()
                .map(|m| {
                    serde_json::json!({
                        "name": m.name, "entries": m.entries, "capacity": m.capacity, "bytes": m.bytes,
                    })
                })
                .collect();
            let programs: Vec<_> = c
                .programs
                .iter()
                .map(|p| {
                    serde_json::json!({
                        "name": p.name, "runs": p.runs, "run_ns": p.run_ns,
                        "verified_instructions": p.verified_instructions, "attached": p.attached,
                    })
                })
                .collect();
            let json = serde_json::json!({
                "problems": c.problems, "notes": c.notes, "map_bytes": c.map_bytes, "maps": maps, "programs": programs,
            });
            format!("{json:#}\n")
        }
        Format::Table => {
            let mut text = String::new();
            for p in &c.programs {
                text.push_str(&format!(
                    "program {}: {} verified instructions, attached to {}\n",
                    p.name,
                    p.verified_instructions,
                    if p.attached.is_empty() { "nothing".to_owned() } else { p.attached.join(", ") },
                ));
            }
            for m in &c.maps {
                text.push_str(&format!(
                    "map {}: {} of {} entries, {}\n",
                    m.name,
                    m.entries,
                    m.capacity,
                    indicatif::HumanBytes(m.bytes)
                ));
            }
            text.push_str(&format!("maps lock {}\n", indicatif::HumanBytes(c.map_bytes)));
            for n in &c.notes {
                text.push_str(&format!("note: {n}\n"));
            }
            for p in &c.problems {
                text.push_str(&format!("problem: {p}\n"));
            }
            text
        }
    };
    output::print(&text)?;
    match c.problems.len() {
        0 => Ok(()),
        1 => anyhow::bail!(
            "the network differs from what it should be in 1 place, named above: it is mended within seconds, or restart the node"
        ),
        n => anyhow::bail!(
            "the network differs from what it should be in {n} places, named above: it is mended within seconds, or restart the node"
        ),
    }
}
