//! `warren net top`: who uses how much of the network.

use std::io::IsTerminal as _;

use indicatif::DecimalBytes;

use super::flows::backend_or;
use crate::{
    cli::{
        Context, Format, ListArgs,
        output::{List, offer},
        screen,
    },
    model::Protocol,
    proto::v1::{Rates, TrafficSample, WatchTrafficRequest, watch_traffic_request},
};

/// Show what published ports, their clients and containers carry, as rates.
///
/// Once a second, until interrupted. IN is towards containers, OUT from them: IP packets, and bytes with IP
/// headers, for each second since the last sample. First the published ports, by the address that clients have
/// asked; then their clients; then what containers have begun with others outside. What a flow carried that came and
/// went between two samples is not in it, nor what the node's own processes ask of published ports.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct TopArgs {
    /// Show it once.
    #[arg(long)]
    no_stream: bool,
    /// At most this many rows of each kind; 0 for all.
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
    /// What comes first.
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    sort: Sort,
    /// Only this published port, such as 8080 or 53/udp, and its clients.
    #[arg(long, value_name = "PORT[/tcp|udp]", value_parser = port)]
    port: Option<Port>,
    /// How to print; JSON is one object a line.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Sort {
    /// The most bytes, of both directions.
    #[default]
    Bytes,
    /// The most packets, of both directions.
    Packets,
    /// The most live flows.
    Flows,
    /// The most flows that have begun.
    New,
}

/// A published port, of one protocol or of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    number: u16,
    protocol: Option<Protocol>,
}

/// Reads a published port.
fn port(text: &str) -> Result<Port, String> {
    let wrong = || format!("{text:?} is no port: write 8080, 8080/tcp or 53/udp");
    let (number, protocol) = match text.split_once('/') {
        None => (text, None),
        Some((number, "tcp")) => (number, Some(Protocol::Tcp)),
        Some((number, "udp")) => (number, Some(Protocol::Udp)),
        Some(_) => return Err(wrong()),
    };
    let number = number.parse().ok().filter(|n| *n != 0).ok_or_else(wrong)?;
    Ok(Port { number, protocol })
}

/// Milliseconds from one sample to the next.
const INTERVAL: u64 = 1000;

pub(super) async fn top(args: TopArgs, context: &Context) -> anyhow::Result<()> {
    let sort = match args.sort {
        Sort::Bytes => watch_traffic_request::Sort::Bytes,
        Sort::Packets => watch_traffic_request::Sort::Packets,
        Sort::Flows => watch_traffic_request::Sort::Flows,
        Sort::New => watch_traffic_request::Sort::New,
    };
    let request = WatchTrafficRequest {
        interval_ms: INTERVAL,
        limit: args.limit,
        sort: sort.into(),
        port: args.port.map_or(0, |p| p.number.into()),
        protocol: args.port.and_then(|p| p.protocol).map_or(0, |p| p.number().into()),
    };
    let mut samples = context.node_local().await?.watch_traffic(request).await?.into_inner();
    let live = !args.no_stream && args.format == Format::Table && std::io::stdout().is_terminal();
    while let Some(sample) = samples.message().await? {
        // The first has nothing to compare with.
        if sample.elapsed_ms == 0 && !live {
            continue;
        }
        let size = if live { screen::size() } else { None };
        let text = match args.format {
            // The last line is the cursor's.
            Format::Table => table(&sample, &args, size.map_or(usize::MAX, |s| s.rows as usize - 1)),
            Format::Json => format!("{}\n", json(&sample)),
        };
        let text = if live { screen::frame(&text, size) } else { text };
        if !offer(&text)? || args.no_stream {
            break;
        }
    }
    Ok(())
}

/// The columns of what flows do.
const RATES: [&str; 4] = ["FLOWS", "NEW/S", "PACKETS/S IN / OUT", "BYTES/S IN / OUT"];

fn cells(rates: Option<&Rates>) -> Vec<String> {
    let r = rates.copied().unwrap_or_default();
    let bytes = |n: f64| DecimalBytes(n.round() as u64);
    vec![
        r.flows.to_string(),
        format!("{:.1}", r.new),
        format!("{:.0} / {:.0}", r.received_packets, r.sent_packets),
        format!("{} / {}", bytes(r.received), bytes(r.sent)),
    ]
}

/// One list below the other, in so many lines: ports, clients, and containers unless one port was asked for.
fn table(sample: &TrafficSample, args: &TopArgs, lines: usize) -> String {
    let containers = if args.port.is_none() { sample.out.len() } else { 0 };
    // Three headings with two empty lines between, and what may be said at the end.
    let rows = lines.saturating_sub(7);
    let [ports_shown, clients_shown, out_shown] =
        screen::shares(rows, [sample.ports.len(), sample.clients.len(), containers]);
    let new = |names: &[&'static str]| List::new([names, &RATES].concat());
    let add = |list: &mut List, names: Vec<String>, rates: Option<&Rates>| {
        list.row("", [names, cells(rates)].concat(), serde_json::Value::Null);
    };
    let mut ports = new(&["PORT", "SERVICE"]);
    for p in sample.ports.iter().take(ports_shown) {
        let name = format!("{}/{}", p.published, p.protocol);
        add(&mut ports, vec![name, or_dash(&p.service)], p.rates.as_ref());
    }
    let mut clients = new(&["CLIENT", "PORT", "SERVICE"]);
    for c in sample.clients.iter().take(clients_shown) {
        let name = format!("{}/{}", c.published, c.protocol);
        add(&mut clients, vec![c.client.clone(), name, or_dash(&c.service)], c.rates.as_ref());
    }
    let mut out = new(&["OUTGOING OF"]);
    for o in sample.out.iter().take(out_shown) {
        add(&mut out, vec![backend_or(&o.service, o.slot, o.task.clone())], o.rates.as_ref());
    }
    let lists = if args.port.is_none() { vec![ports, clients, out] } else { vec![ports, clients] };
    let all = ListArgs { format: Format::Table, quiet: false };
    let mut text = lists.iter().map(|list| list.render(all)).collect::<Vec<_>>().join("\n");
    if sample.truncated {
        text.push_str(&format!(
            "\nonly the first {} rows of each kind are shown: ask for more with --limit\n",
            args.limit
        ));
    }
    text
}

fn or_dash(service: &str) -> String {
    if service.is_empty() { "-".to_owned() } else { service.to_owned() }
}

/// A row's names, with what its flows do.
fn row(mut names: serde_json::Value, rates: Option<&Rates>) -> serde_json::Value {
    let r = rates.copied().unwrap_or_default();
    let numbers = [
        ("flows", r.flows.into()),
        ("new_per_s", r.new.into()),
        ("received_packets_per_s", r.received_packets.into()),
        ("sent_packets_per_s", r.sent_packets.into()),
        ("received_per_s", r.received.into()),
        ("sent_per_s", r.sent.into()),
    ];
    if let Some(object) = names.as_object_mut() {
        object.extend(numbers.map(|(name, n): (&str, serde_json::Value)| (name.to_owned(), n)));
    }
    names
}

fn json(sample: &TrafficSample) -> serde_json::Value {
    use serde_json::json;
    let ports = sample.ports.iter().map(|p| {
        row(
            json!({ "published": p.published, "protocol": p.protocol, "service": p.service }),
            p.rates.as_ref(),
        )
    });
    let clients = sample.clients.iter().map(|c| {
        let names = json!({
            "client": c.client, "published": c.published, "protocol": c.protocol, "service": c.service,
        });
        row(names, c.rates.as_ref())
    });
    let out = sample
        .out
        .iter()
        .map(|o| row(json!({ "task": o.task, "service": o.service, "slot": o.slot }), o.rates.as_ref()));
    json!({
        "at_ms": sample.at_ms,
        "elapsed_ms": sample.elapsed_ms,
        "ports": ports.collect::<Vec<_>>(),
        "clients": clients.collect::<Vec<_>>(),
        "out": out.collect::<Vec<_>>(),
        "truncated": sample.truncated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::traffic_sample;

    fn args(port: Option<Port>) -> TopArgs {
        TopArgs { no_stream: false, limit: 1, sort: Sort::Bytes, port, format: Format::Table }
    }

    fn sample() -> TrafficSample {
        let rates = |flows, in_bytes| {
            let (received_packets, sent_packets, sent) = (1200.4, 1000.0, 64_000.0);
            Some(Rates { flows, new: 2.5, received_packets, sent_packets, received: in_bytes, sent })
        };
        let (port, of, name) = ("198.18.0.1:8080", "tcp", "web");
        TrafficSample {
            at_ms: 7,
            elapsed_ms: 1001,
            ports: vec![traffic_sample::Port {
                published: port.into(),
                protocol: of.into(),
                service: name.into(),
                rates: rates(12, 1_500_000.4),
            }],
            clients: vec![traffic_sample::Client {
                client: "198.18.0.2".into(),
                published: port.into(),
                protocol: of.into(),
                service: String::new(),
                rates: rates(3, 1e6),
            }],
            out: vec![traffic_sample::Outgoing {
                task: "aaaa000000000001".into(),
                service: "web".into(),
                slot: 2,
                rates: rates(1, 0.0),
            }],
            truncated: true,
        }
    }

    #[test]
    fn a_sample_is_three_tables() {
        let ports = "PORT                  SERVICE   FLOWS   NEW/S   PACKETS/S IN / OUT   BYTES/S IN / OUT\n\
             198.18.0.1:8080/tcp   web       12      2.5     1200 / 1000          1.50 MB / 64.00 kB\n";
        let clients = "CLIENT       PORT                  SERVICE   FLOWS   NEW/S   PACKETS/S IN / OUT   BYTES/S IN / OUT\n\
             198.18.0.2   198.18.0.1:8080/tcp   -         3       2.5     1200 / 1000          1.00 MB / 64.00 kB\n";
        let out = "OUTGOING OF   FLOWS   NEW/S   PACKETS/S IN / OUT   BYTES/S IN / OUT\n\
             web.2         1       2.5     1200 / 1000          0 B / 64.00 kB\n";
        let more = "only the first 1 rows of each kind are shown: ask for more with --limit\n";
        assert_eq!(table(&sample(), &args(None), usize::MAX), [ports, clients, out, more].join("\n"));
        let one = Some(Port { number: 8080, protocol: None });
        assert_eq!(table(&sample(), &args(one), usize::MAX), [ports, clients, more].join("\n"));
        // A screen with room for one row.
        let small = table(&sample(), &args(None), 8);
        assert!(small.lines().count() <= 8 && small.starts_with(ports), "{small}");
        assert!(!small.contains("198.18.0.2"), "{small}");
    }

    #[test]
    fn or_json() {
        let json = json(&sample());
        assert_eq!((&json["at_ms"], &json["elapsed_ms"]), (&7.into(), &1001.into()));
        assert_eq!(
            json["ports"][0],
            serde_json::json!({
                "published": "198.18.0.1:8080", "protocol": "tcp", "service": "web", "flows": 12,
                "new_per_s": 2.5, "received_packets_per_s": 1200.4, "sent_packets_per_s": 1000.0,
                "received_per_s": 1_500_000.4, "sent_per_s": 64_000.0,
            })
        );
        assert_eq!(
            (&json["clients"][0]["client"], &json["clients"][0]["flows"]),
            (&"198.18.0.2".into(), &3.into())
        );
        assert_eq!((&json["out"][0]["slot"], &json["out"][0]["received_per_s"]), (&2.into(), &0.0.into()));
    }

    #[test]
    fn ports_are_written_with_or_without_their_protocol() {
        let read = |number, protocol| Ok(Port { number, protocol });
        assert_eq!(port("8080"), read(8080, None));
        assert_eq!(port("8080/tcp"), read(8080, Some(Protocol::Tcp)));
        assert_eq!(port("53/udp"), read(53, Some(Protocol::Udp)));
        for bad in ["", "0", "65536", "53/sctp", "web", "/tcp"] {
            assert!(port(bad).is_err_and(|e| e.contains("is no port")), "{bad}");
        }
    }
}
