//! Which events somebody wants.

use std::collections::BTreeMap;

use tonic::Status;

use crate::proto::v1::{Event, watch_events_request};

const KEYS: [&str; 5] = ["type", "event", "service", "task", "node"];

/// For each key that matters, the values that do.
#[derive(Debug)]
pub(super) struct Filter(BTreeMap<String, Vec<String>>);

impl Filter {
    pub(super) fn new(asked: &[watch_events_request::Filter]) -> Result<Self, Status> {
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for f in asked {
            if !KEYS.contains(&f.key.as_str()) {
                return Err(Status::invalid_argument(format!(
                    "events have no \"{}\" to filter by: there are {}",
                    f.key,
                    KEYS.join(", ")
                )));
            }
            wanted.entry(f.key.clone()).or_default().push(f.value.clone());
        }
        Ok(Self(wanted))
    }

    /// All keys must match; of several values of one key, one must.
    pub(super) fn matches(&self, event: &Event) -> bool {
        self.0.iter().all(|(key, values)| {
            let own = |kind: &str| (event.r#type == kind).then_some([event.name.as_str(), event.id.as_str()]);
            let attribute = |name: &str| event.attributes.get(name).map_or("", String::as_str);
            let is = match key.as_str() {
                "type" => [event.r#type.as_str(), ""],
                "event" => [event.event.as_str(), ""],
                "service" => own("service").unwrap_or([attribute("service"), attribute("service_id")]),
                "task" => own("task").unwrap_or_default(),
                _ => own("node").unwrap_or([attribute("node"), ""]),
            };
            values.iter().any(|v| !v.is_empty() && is.contains(&v.as_str()))
        })
    }
}
