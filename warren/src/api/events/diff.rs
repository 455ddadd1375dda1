//! What happened between two looks at the store.

use std::collections::HashMap;

use crate::{
    model::{Health, Node, NodeState, Service, Task, Timestamp},
    proto::v1::Event,
    store::View,
};

/// The events that lead from `before` to `after`, in the order of their times; `now` is the time
/// of what has none of its own.
pub(super) fn diff(before: &View, after: &View, now: Timestamp) -> Vec<Event> {
    let mut events = Vec::new();
    for new in after.services() {
        let old = before.service(new.id);
        if old.is_none_or(|old| old.version != new.version) {
            events.extend(of_service(old, new, now));
        }
    }
    let gone = before.services().filter(|s| !s.removing && after.service(s.id).is_none());
    events.extend(gone.map(|s| service(s, "remove", now)));
    for new in after.tasks() {
        let old = before.task(new.id);
        if old.is_none_or(|old| old.version != new.version) {
            events.extend(of_task(old, new, now));
        }
    }
    // Its record went with its end, or before it began: how it ended was not seen.
    let unseen = |t: &&Task| !t.status.state.is_final() && after.task(t.id).is_none();
    events.extend(before.tasks().filter(unseen).map(|t| task(t, "remove", now)));
    for new in after.nodes() {
        let old = before.node(new.id).map_or(NodeState::Unknown, |n| n.state);
        events.extend(of_node(old, new, now));
    }
    events.sort_by_key(|e| e.at_ms);
    events
}

fn of_service(old: Option<&Service>, new: &Service, now: Timestamp) -> Option<Event> {
    let Some(old) = old else { return Some(service(new, "create", new.created_at)) };
    if new.removing {
        return (!old.removing).then(|| service(new, "remove", now));
    }
    if old.spec_version != new.spec_version {
        let swapped = old.previous.as_ref() == Some(&new.spec) && new.previous.as_ref() == Some(&old.spec);
        return Some(service(new, if swapped { "rollback" } else { "update" }, now));
    }
    (old.spec.replicas != new.spec.replicas).then(|| service(new, "scale", now))
}

fn service(s: &Service, event: &str, at: Timestamp) -> Event {
    let attributes = HashMap::from([
        ("image".to_owned(), s.spec.task.image.to_string()),
        ("replicas".to_owned(), s.spec.replicas.to_string()),
    ]);
    Event {
        at_ms: at.0,
        r#type: "service".into(),
        event: event.into(),
        id: s.id.to_string(),
        name: s.spec.name.clone(),
        attributes,
    }
}

/// A task's new state and its new health: one event each.
fn of_task(old: Option<&Task>, new: &Task, now: Timestamp) -> impl Iterator<Item = Event> {
    let moved = old.is_none_or(|old| old.status.state != new.status.state);
    let state = moved.then(|| task(new, new.status.state.name(), new.status.at));
    let known = old.map_or(Health::None, |old| old.status.health);
    let told = matches!(new.status.health, Health::Healthy | Health::Unhealthy);
    let health = (told && known != new.status.health).then(|| {
        // The task's time is that of its state.
        task(new, new.status.health.name(), if moved { new.status.at } else { now })
    });
    state.into_iter().chain(health)
}

fn task(t: &Task, event: &str, at: Timestamp) -> Event {
    let container = t.status.container;
    let attributes = [
        ("service", Some(t.service_name.clone())),
        ("service_id", Some(t.service.to_string())),
        ("slot", Some(t.slot.to_string())),
        ("image", Some(t.spec.image.to_string())),
        ("node", t.node.map(|n| n.to_string())),
        ("message", (!t.status.message.is_empty()).then(|| t.status.message.clone())),
        ("exit_code", container.and_then(|c| c.exit_code).map(|code| code.to_string())),
        ("oom_killed", container.filter(|c| c.oom_killed).map(|_| "true".to_owned())),
    ];
    Event {
        at_ms: at.0,
        r#type: "task".into(),
        event: event.into(),
        id: t.id.to_string(),
        name: format!("{}.{}", t.service_name, t.slot),
        attributes: attributes.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))).collect(),
    }
}

fn of_node(old: NodeState, new: &Node, now: Timestamp) -> Option<Event> {
    let event = match new.state {
        NodeState::Ready => "ready",
        NodeState::Down => "down",
        NodeState::Unknown => return None,
    };
    (old != new.state).then(|| Event {
        at_ms: now.0,
        r#type: "node".into(),
        event: event.into(),
        id: new.id.to_string(),
        name: new.description.name.clone(),
        attributes: HashMap::new(),
    })
}
