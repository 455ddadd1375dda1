//! What comes in by a device of the node.

use warren_ebpf::abi::Reason;

use super::{
    super::{
        End, Protocol,
        facts::{Done, Facts, Kind, Port},
        place::Place,
    },
    Story, rate, state, whom,
};

/// The way in.
pub(super) fn inward(facts: &Facts, done: &Done, story: &mut Story) {
    let q = &facts.question;
    if let Some(record) = facts.record.as_ref().filter(|r| r.kind == Kind::Answer) {
        story.say("masquerade", format!("the answer to what {} sent: {}", record.backend, state(record)));
        return;
    }
    if facts.in_range {
        story.say("masquerade", "a port that masquerading uses, but no container waits for this there");
    }
    if q.protocol == Protocol::Icmp {
        story.say("published", "echo requests are for the node itself");
        return unpublished(facts, done, story);
    }
    let Some(port) = &facts.port else {
        story.say("published", format!("nothing at {}/{}", q.destination, q.protocol.name()));
        return unpublished(facts, done, story);
    };
    story.say("published", format!("{}, for {}", port.name, whom(port)));
    match &facts.denied {
        Some(nets) if !nets.is_empty() && facts.to_node => {
            let nets: Vec<_> = nets.iter().map(ToString::to_string).collect();
            story.say("deny list", format!("{} is in {}", q.source.ip(), nets.join(", ")));
        }
        Some(_) => story.say("deny list", format!("{} is not on it", q.source.ip())),
        None => {}
    }
    if done.reason == Some(Reason::Denied) {
        return;
    }
    if port.paced && port.limit.packet_spacing != 0 && facts.to_node {
        let limit = rate(port.limit.packet_spacing, port.limit.packet_burst, "packets");
        let said = if done.reason == Some(Reason::PacketRate) { "used up" } else { "one more is within it" };
        story.say("packet rate", format!("a client may send {limit}: {said}"));
        if done.reason == Some(Reason::PacketRate) {
            return;
        }
    }
    toward(facts, done, Some(port), story);
}

/// What is not for a published port.
fn unpublished(facts: &Facts, done: &Done, story: &mut Story) {
    if let (Some(name), Some(Reason::Unpublished)) = (&facts.neighbour, done.reason) {
        story.say("destination", format!("{name} itself, which nobody outside reaches by its own address"));
    }
}

/// To a backend, by a known flow or by a new one.
pub(super) fn toward(facts: &Facts, done: &Done, port: Option<&Port>, story: &mut Story) {
    let q = &facts.question;
    let outside = !matches!(facts.place, Place::Container { .. });
    match facts.record.as_ref().filter(|r| r.kind == Kind::Forward) {
        Some(record) if done.chosen.is_none() && record.lives => {
            return story.say("flow", format!("known, of {}: {}", record.backend, state(record)));
        }
        Some(record) if !record.lives && !q.begins() => {
            return story.say("flow", format!("known, but its backend is gone ({})", record.backend));
        }
        Some(record) => {
            let why = if record.lives { "over" } else { "of a backend that is gone" };
            story.say(
                "flow",
                format!("one is known and {why} ({}): this packet begins another", state(record)),
            );
        }
        None if !q.begins() => {
            let said = if done.end == End::Container {
                "only the container's half of its record is left, which names the way"
            } else {
                "none known, and only a SYN begins one"
            };
            return story.say("flow", said);
        }
        None => story.say("flow", "none known: this packet begins one"),
    }
    if outside && !facts.to_node {
        return story.say("destination", "no address of this node: what only passes through is let pass");
    }
    if outside && facts.from_node {
        return story.say("source", "an address of the node itself, from outside: not for a container");
    }
    let Some(port) = port else { return backend(facts, done, None, story) };
    if q.protocol == Protocol::Udp && done.end == End::Passed && done.chosen.is_none() && port.takers() > 0 {
        return story
            .say("socket", "one of the node's own sockets is connected to the sender: it is that one's");
    }
    if done.reason == Some(Reason::Refused) {
        return story.say("sources", format!("{} is none of those it is published for", q.source.ip()));
    }
    if port.sources.is_some() {
        story.say("sources", format!("{} is one of those it is published for", q.source.ip()));
    }
    if outside && port.limited && port.limit.flow_spacing != 0 {
        let limit = rate(port.limit.flow_spacing, port.limit.flow_burst, "new flows");
        let said = match done.reason {
            Some(Reason::FlowRate) => "used up",
            Some(Reason::Newcomers) => "not counted, too many clients are new just now",
            _ => "one more is within it",
        };
        story.say("flow rate", format!("a client may have {limit}: {said}"));
    }
    if matches!(done.reason, None | Some(Reason::Connections)) {
        backend(facts, done, Some(port), story);
    }
    if outside && port.seated && done.chosen.is_some() {
        seats(done, port, story);
    }
}

/// How many flows the client has, where no more than so many may go on at a time.
fn seats(done: &Done, port: &Port, story: &mut Story) {
    let (taken, most) = (port.seats, port.limit.connections);
    let said = match done.reason {
        Some(Reason::Connections) if taken >= most => "all are taken".to_owned(),
        // Who was refused is not looked at again at once.
        Some(Reason::Connections) => {
            format!("all were taken when it was looked at last, a moment ago; by now {taken} of {most} are")
        }
        _ if taken >= most => "all are taken, one of them by a flow whose place this one takes".to_owned(),
        _ => format!("{taken} of {most} are taken, this one gets another"),
    };
    story.say("seats", format!("a client may have {most} flows at a time: {said}"));
}

fn backend(facts: &Facts, done: &Done, port: Option<&Port>, story: &mut Story) {
    let all = port.map(|p| p.backends.as_slice()).unwrap_or_default();
    let states: Vec<_> = all.iter().map(|(name, state)| format!("{name} {state}")).collect();
    let said = match (&done.chosen, port) {
        (None, _) if all.is_empty() => "there is none on this node".to_owned(),
        (None, _) => format!("none takes new flows: {}", states.join(", ")),
        (Some(chosen), None) => format!("{chosen}, by its own address"),
        (Some(chosen), Some(_)) if all.len() == 1 => format!("{chosen}, the only one"),
        (Some(chosen), Some(port)) => format!(
            "{chosen}, chosen by the client's address and port among {} that take new flows, of {}: {}",
            port.takers(),
            all.len(),
            states.join(", ")
        ),
    };
    story.say("backend", said);
    let kept = done.shown.is_some_and(|(source, _)| source == facts.question.source);
    if done.chosen.is_some() && done.shown.is_some() && !kept {
        story.say(
            "source",
            "replaced: another conversation has this one's place, or a container reaches itself",
        );
    }
}
