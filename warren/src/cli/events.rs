//! `warren events`

use std::time::{Duration, SystemTime};

use super::{Context, Format, output, time};
use crate::proto::v1::{Event, WatchEventsRequest, watch_events_request::Filter};

/// Show what happens in the cluster, from now on or from a moment on.
///
/// The node remembers the last 4096 events since it was started. One line for each: time, type,
/// event, id, and what else is known.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Begin with what is remembered from this moment on: as long ago (10m), or RFC 3339
    /// (2026-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<time::Moment>,
    /// End at this moment, written in the same way; without it, go on until interrupted.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    until: Option<time::Moment>,
    /// Show only those whose KEY is VALUE: type, event, service, task or node. Of several values of
    /// one key one must be so, of several keys all.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = filter)]
    filter: Vec<Filter>,
    /// How to print: lines, or one JSON object a line.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

fn filter(text: &str) -> Result<Filter, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {
            Ok(Filter { key: key.to_owned(), value: value.to_owned() })
        }
        _ => Err("write it as KEY=VALUE, for example type=task".to_owned()),
    }
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let ms = |m: time::Moment| u64::try_from(m.unix_ns(now) / 1_000_000).unwrap_or_default().max(1);
    let request = WatchEventsRequest {
        since_ms: ms(args.since.unwrap_or(time::Moment::At(now))),
        until_ms: args.until.map(ms).unwrap_or_default(),
        filters: args.filter,
    };
    let mut events = context.control().await?.watch_events(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        let text = match args.format {
            Format::Table => line(&event),
            Format::Json => format!("{}\n", json(event)),
        };
        if !output::offer(&text)? {
            return Ok(());
        }
    }
    anyhow::ensure!(args.until.is_some(), "the node stopped: its events go on when it is back");
    Ok(())
}

fn line(e: &Event) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(e.at_ms);
    let mut attributes: Vec<_> = e.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
    attributes.push(format!("name={}", e.name));
    attributes.sort();
    // What others wrote stays on the line.
    let attributes = attributes.join(", ").replace(char::is_control, " ");
    format!("{} {} {} {} ({attributes})\n", humantime::format_rfc3339_millis(at), e.r#type, e.event, e.id)
}

fn json(e: Event) -> serde_json::Value {
    serde_json::json!({
        "at_ms": e.at_ms,
        "type": e.r#type,
        "event": e.event,
        "id": e.id,
        "name": e.name,
        "attributes": e.attributes.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_what_and_of_whom() {
        let e = Event {
            at_ms: 1_475_713_029_042,
            r#type: "task".into(),
            event: "failed".into(),
            id: "abc".into(),
            name: "web.1".into(),
            attributes: [("exit_code", "3"), ("message", "exited\nwith status 3")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        };
        assert_eq!(
            line(&e),
            "2016-10-06T00:17:09.042Z task failed abc (exit_code=3, message=exited with status 3, name=web.1)\n"
        );
        assert_eq!(json(e)["attributes"]["exit_code"], "3");
    }

    #[test]
    fn filters_have_a_key_and_a_value() {
        assert_eq!(filter("type=task").map(|f| (f.key, f.value)), Ok(("type".into(), "task".into())));
        for bad in ["", "type", "=x", "type="] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
