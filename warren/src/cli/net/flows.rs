//! `warren net flows`

use std::time::Duration;

use indicatif::DecimalBytes;

use crate::{
    cli::{Context, ListArgs, output},
    proto::v1::{Flow, ListFlowsRequest},
};

/// List live flows.
///
/// BACKEND is the container's task. AGE is the time since the flow began, of TCP to a published port since it
/// was established. RECEIVED and SENT are the container's, in bytes with IP headers; of a packet in fragments only
/// the first one is counted.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct FlowsArgs {
    /// At most this many.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    limit: u32,
    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn flows(args: FlowsArgs, context: &Context) -> anyhow::Result<()> {
    let request = ListFlowsRequest { limit: args.limit };
    let answer = context.node_local().await?.list_flows(request).await?.into_inner();
    list(answer.flows).print(args.list)?;
    if answer.truncated {
        eprintln!("only the first {} flows are shown: ask for more with --limit", args.limit);
    }
    Ok(())
}

fn list(flows: Vec<Flow>) -> output::List {
    let mut list = output::List::new([
        "KIND",
        "PROTO",
        "CLIENT",
        "PUBLISHED",
        "BACKEND",
        "CONTAINER",
        "STATE",
        "AGE",
        "IDLE",
        "RECEIVED",
        "SENT",
    ]);
    for f in flows {
        let json = serde_json::json!({
            "kind": f.kind, "protocol": f.protocol, "client": f.client, "published": f.published,
            "container": f.container, "task": f.task, "service": f.service, "slot": f.slot, "state": f.state,
            "age_ms": f.age_ms, "idle_ms": f.idle_ms, "received": f.received, "sent": f.sent,
            "received_packets": f.received_packets, "sent_packets": f.sent_packets,
        });
        let id = format!("{} {} {}", f.protocol, f.client, f.container);
        let cells = vec![
            backend_or(&f.service, f.slot, f.task),
            f.container,
            f.state,
            f.age_ms.map_or_else(|| "-".to_owned(), seconds),
            seconds(f.idle_ms),
            DecimalBytes(f.received).to_string(),
            DecimalBytes(f.sent).to_string(),
        ];
        list.row(id, [vec![f.kind, f.protocol, f.client, f.published], cells].concat(), json);
    }
    list
}

/// What a task is called: by its service, else by its id.
pub(super) fn backend_or(service: &str, slot: u32, task: String) -> String {
    match (service, task.as_str()) {
        ("", "") => "-".to_owned(),
        ("", _) => task,
        _ => format!("{service}.{slot}"),
    }
}

fn seconds(milliseconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(milliseconds / 1000)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    fn flow() -> Flow {
        Flow {
            protocol: "tcp".into(),
            client: "198.18.0.2:40000".into(),
            published: "198.18.0.1:8080".into(),
            container: "10.86.0.1:80".into(),
            task: "aaaa000000000001".into(),
            state: "established".into(),
            idle_ms: 1900,
            kind: "in".into(),
            service: "web".into(),
            slot: 2,
            age_ms: Some(3_725_000),
            received: 1_500_000,
            sent: 900,
            received_packets: 1100,
            sent_packets: 9,
        }
    }

    #[test]
    fn flows_are_a_table() {
        let opening = Flow {
            service: String::new(),
            slot: 0,
            state: "opening".into(),
            age_ms: None,
            idle_ms: 0,
            ..flow()
        };
        let text = list(vec![flow(), opening]).render(ListArgs { format: Format::Table, quiet: false });
        assert_eq!(
            text,
            "KIND   PROTO   CLIENT             PUBLISHED         BACKEND            CONTAINER      STATE         AGE        IDLE   RECEIVED   SENT\n\
             in     tcp     198.18.0.2:40000   198.18.0.1:8080   web.2              10.86.0.1:80   established   1h 2m 5s   1s     1.50 MB    900 B\n\
             in     tcp     198.18.0.2:40000   198.18.0.1:8080   aaaa000000000001   10.86.0.1:80   opening       -          0s     1.50 MB    900 B\n"
        );
    }

    #[test]
    fn or_json() {
        let text = list(vec![flow()]).render(ListArgs { format: Format::Json, quiet: false });
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&json[0]["service"], &json[0]["slot"]), (&"web".into(), &2.into()));
        assert_eq!((&json[0]["age_ms"], &json[0]["received_packets"]), (&3_725_000.into(), &1100.into()));
    }
}
