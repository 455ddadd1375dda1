//! `warren net drops`

use std::time::Duration;

use crate::{
    cli::{Context, ListArgs, output},
    proto::v1::{Dropped, ListDropsRequest},
};

/// Show what the datapath has dropped, by reason, with the last packet of each.
///
/// Only what is surely not wanted is dropped; packets counted here went no further. The counts begin
/// when the datapath's tables are made, at a node's first start after a reboot. Of the last packet is
/// told since the agent started. EARLY: how many of the packets were dropped in a device's driver
/// (`warren node start --guard xdp`).
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct DropsArgs {
    /// Reasons that nothing was dropped for, too.
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn drops(args: DropsArgs, context: &Context) -> anyhow::Result<()> {
    let answer = context.node_local().await?.list_drops(ListDropsRequest {}).await?.into_inner();
    let mut list = output::List::new(["REASON", "PACKETS", "EARLY", "LAST", "MEANING"]);
    for d in answer.drops.into_iter().filter(|d| args.all || d.packets > 0) {
        let json = serde_json::json!({
            "reason": d.reason, "meaning": d.meaning, "packets": d.packets, "early": d.early,
            "last": d.last.as_ref().map(|p| serde_json::json!({
                "ago_ms": p.ago_ms, "source": p.source, "destination": p.destination,
                "protocol": p.protocol, "length": p.length, "device": p.device,
            })),
        });
        let row = vec![d.reason.clone(), d.packets.to_string(), d.early.to_string(), last(&d), d.meaning];
        list.row(d.reason, row, json);
    }
    list.print(args.list)
}

fn last(d: &Dropped) -> String {
    let Some(p) = &d.last else { return "-".to_owned() };
    let ago = humantime::format_duration(Duration::from_secs(p.ago_ms / 1000));
    let protocol = match p.protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        n => format!("protocol {n}"),
    };
    match p.source.as_str() {
        "" => format!("{ago} ago: {} bytes by {}", p.length, p.device),
        _ => format!("{ago} ago: {protocol} {} to {} by {}", p.source, p.destination, p.device),
    }
}
