//! `warren net trace`

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail};

use crate::{
    cli::{Context, Format, output},
    proto::v1::{TracePacketRequest, TracePacketResponse},
};

/// Show what the datapath would do with a packet, and why; nothing is changed by it.
///
/// The packet is made up and tried on a second instance of the programs that carry the traffic, with the
/// tables as they are at this moment: no flow is born or kept alive by it, nothing is counted, no limit is
/// used up. What follows is each thing that was decided, the verdict last.
///
/// Example: `warren net trace tcp 203.0.113.9 192.0.2.1:8080` asks what becomes of a new connection.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct TraceArgs {
    /// What it carries; icmp is an echo request ("ping").
    #[arg(value_name = "PROTO", value_enum)]
    protocol: Protocol,
    /// Who sends it: an address, with a port (40000 if left out; the identifier of an echo request).
    #[arg(value_name = "SRC", value_parser = end)]
    source: End,
    /// Where to: an address, with a port but for icmp.
    #[arg(value_name = "DST", value_parser = end)]
    destination: End,
    /// Where it comes in: a device of the node, a task's id (or its start), or `node` for a process of the
    /// node itself. Left out, the source says so: a container's address, one of the node's own, or else the
    /// device that answers would leave by.
    #[arg(long, visible_alias = "device", value_name = "WHERE")]
    from: Option<String>,
    /// TCP flags: `ack` is what a connection sends that is there already.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "syn", value_name = "FLAG")]
    flags: Vec<Flag>,
    /// Length in bytes, from the IP header on; 0 is the headers alone.
    #[arg(long, default_value_t = 0, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(..=3500))]
    size: u32,
    /// How to print.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Flag {
    Fin,
    Syn,
    Rst,
    Ack,
}

/// An address, and a port if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    address: IpAddr,
    port: Option<u16>,
}

/// Reads one end of a packet.
fn end(text: &str) -> Result<End, String> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(End { address: socket.ip(), port: Some(socket.port()) });
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).filter(|t| t.contains(':'));
    match bare.unwrap_or(text).parse() {
        Ok(address) => Ok(End { address, port: None }),
        Err(_) => Err(format!(
            "{text:?} is no address: write 192.0.2.1, 192.0.2.1:80, 2001:db8::1 or [2001:db8::1]:80"
        )),
    }
}

/// The source port of a packet that is given none.
const PORT: u16 = 40_000;

/// From what was typed to what is asked.
fn request(args: &TraceArgs) -> anyhow::Result<TracePacketRequest> {
    let (source, destination) = (args.source, args.destination);
    let protocol = match args.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp => "icmp",
    };
    let to = match (args.protocol, destination.port) {
        (Protocol::Icmp, None) => 0,
        (Protocol::Icmp, Some(port)) => bail!("an echo request goes to no port: leave out {port}"),
        (_, port) => port.with_context(|| {
            format!("DST lacks its port: write {}", SocketAddr::new(destination.address, 80))
        })?,
    };
    let flag = |f: &Flag| match f {
        Flag::Fin => 0x01,
        Flag::Syn => 0x02,
        Flag::Rst => 0x04,
        Flag::Ack => 0x10,
    };
    Ok(TracePacketRequest {
        protocol: protocol.to_owned(),
        source: SocketAddr::new(source.address, source.port.unwrap_or(PORT)).to_string(),
        destination: SocketAddr::new(destination.address, to).to_string(),
        tcp_flags: args.flags.iter().map(flag).fold(0, |all, f| all | f),
        size: args.size,
        from: args.from.clone().unwrap_or_default(),
    })
}

pub(super) async fn trace(args: TraceArgs, context: &Context) -> anyhow::Result<()> {
    let request = request(&args)?;
    let answer = context.node_local().await?.trace_packet(request).await?.into_inner();
    output::print(&match args.format {
        Format::Json => format!("{:#}\n", json(&answer)),
        Format::Table => text(&answer),
    })
}

fn json(t: &TracePacketResponse) -> serde_json::Value {
    let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let steps: Vec<_> =
        t.steps.iter().map(|s| serde_json::json!({ "what": s.what, "said": s.said })).collect();
    serde_json::json!({
        "program": t.program, "device": t.device, "tag": some(&t.tag), "running_tag": some(&t.running_tag),
        "steps": steps, "verdict": t.verdict, "reason": some(&t.reason), "to_device": some(&t.to_device),
        "source": some(&t.source), "destination": some(&t.destination),
    })
}

fn text(t: &TracePacketResponse) -> String {
    let width = t.steps.iter().map(|s| s.what.len()).max().unwrap_or(0);
    t.steps.iter().map(|s| format!("{:width$}   {}\n", s.what, s.said)).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::proto::v1::trace_packet_response::Step;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: TraceArgs,
    }

    fn typed(line: &str) -> Result<TracePacketRequest, String> {
        let words = std::iter::once("trace").chain(line.split(' '));
        let line = Line::try_parse_from(words).map_err(|e| e.to_string())?;
        request(&line.args).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_typed_is_what_is_asked() {
        let ask = |protocol: &str, source: &str, destination: &str| TracePacketRequest {
            protocol: protocol.into(),
            source: source.into(),
            destination: destination.into(),
            tcp_flags: 2,
            size: 0,
            from: String::new(),
        };
        let plain = ask("tcp", "10.0.0.9:40001", "192.0.2.1:8080");
        assert_eq!(typed("tcp 10.0.0.9:40001 192.0.2.1:8080").unwrap(), plain);
        assert_eq!(typed("udp ::1 [fd00::7]:53").unwrap(), ask("udp", "[::1]:40000", "[fd00::7]:53"));
        assert_eq!(typed("icmp [fd00::7] fd00::9").unwrap(), ask("icmp", "[fd00::7]:40000", "[fd00::9]:0"));
        let more =
            typed("tcp 10.0.0.9:40001 192.0.2.1:8080 --flags syn,ack --size 1400 --device eth0").unwrap();
        assert_eq!(more, TracePacketRequest { tcp_flags: 0x12, size: 1400, from: "eth0".into(), ..plain });
        for (wrong, why) in [
            ("tcp 10.0.0.9 192.0.2.1", "192.0.2.1:80"),
            ("tcp 10.0.0.9 fd00::7", "[fd00::7]:80"),
            ("icmp 10.0.0.9 192.0.2.1:7", "no port"),
            ("tcp here 192.0.2.1:80", "no address"),
            ("tcp 10.0.0.9:99999 192.0.2.1:80", "no address"),
            ("tcp [10.0.0.9] 192.0.2.1:80", "no address"),
            ("sctp 10.0.0.9 192.0.2.1:80", "sctp"),
            ("tcp 10.0.0.9 192.0.2.1:80 --flags urg", "urg"),
            ("tcp 10.0.0.9 192.0.2.1:80 --size 4000", "4000"),
        ] {
            let said = typed(wrong).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }

    #[test]
    fn steps_stand_below_each_other() {
        let step = |what: &str, said: &str| Step { what: what.into(), said: said.into() };
        let t = TracePacketResponse {
            steps: vec![step("flow", "none known"), step("verdict", "dropped")],
            verdict: "dropped".into(),
            reason: "denied".into(),
            ..Default::default()
        };
        assert_eq!(text(&t), "flow      none known\nverdict   dropped\n");
        let json = json(&t);
        assert_eq!((&json["verdict"], &json["reason"]), (&"dropped".into(), &"denied".into()));
        assert!(json["to_device"].is_null() && json["steps"][1]["what"] == "verdict", "{json}");
    }
}
