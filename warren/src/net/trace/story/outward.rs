//! What a container sends, and the node's own processes.

use warren_ebpf::abi::Reason;

use super::{
    super::{
        End, Protocol,
        facts::{Done, Facts, Kind},
    },
    Story,
    inward::toward,
    state, whom,
};

/// The way out of a container.
pub(super) fn outward(facts: &Facts, done: &Done, story: &mut Story) {
    let q = &facts.question;
    let Some(sender) = &facts.behind else {
        return story.say("sender", "no container is behind this device");
    };
    if !done.owned {
        return story.say("sender", format!("{sender}, but {} is not its address", q.source.ip()));
    }
    story.say("sender", format!("{sender}, under its own address"));
    if let Some(record) = facts.record.as_ref().filter(|r| r.kind == Kind::Reply) {
        return story.say("flow", format!("a reply to a known one: {}", state(record)));
    }
    if let Some(neighbour) = &facts.neighbour {
        story.say("destination", format!("{neighbour}, on this node"));
        if q.protocol != Protocol::Icmp {
            toward(facts, done, None, story);
        }
        return;
    }
    if facts.to_node {
        match &facts.port {
            Some(port) => {
                story.say("published", format!("{}, for {}", port.name, whom(port)));
                toward(facts, done, Some(port), story);
            }
            None => story.say("destination", "an address of the node, where nothing is published there"),
        }
        return;
    }
    match done.reason {
        Some(Reason::Multicast | Reason::NoRoute) => {
            return story.say("route", "none leads there");
        }
        Some(Reason::NotMasqueraded) => return,
        _ => {}
    }
    let Some(way) = &facts.route else { return };
    let Some(source) = way.source.filter(|_| done.masqueraded) else {
        return story.say("route", format!("out of {}, under its own address", way.device));
    };
    story.say("route", format!("out of {}, as {source}", way.device));
    let said = match (done.reason, facts.record.as_ref().filter(|r| r.kind == Kind::Egress)) {
        (Some(Reason::NoFlow), _) => "no flow is known, and only a SYN begins one".to_owned(),
        (Some(Reason::PortsExhausted), _) => "no port of the node's is free towards there".to_owned(),
        (_, Some(record)) if done.born == 0 => format!("the port that it has already: {}", state(record)),
        _ => "a port that is free at this moment; another packet may get another one".to_owned(),
    };
    story.say("masquerade", said);
}

/// What the node's own processes meet.
pub(super) fn socket(facts: &Facts, story: &mut Story) -> End {
    let q = &facts.question;
    let local = facts.to_node || q.destination.ip().is_loopback();
    let Some(port) = facts.port.as_ref().filter(|_| local && q.protocol != Protocol::Icmp) else {
        story.say(
            "published",
            format!("nothing at {}/{} that is the node's", q.destination, q.protocol.name()),
        );
        story.say("verdict", "left to the node's own stack, as it is");
        return End::Passed;
    };
    story.say("published", format!("{}; the node's own processes always reach it", port.name));
    let states: Vec<_> = port.backends.iter().map(|(name, state)| format!("{name} {state}")).collect();
    if port.takers() == 0 {
        story.say("backend", format!("none takes new flows: {}", states.join(", ")));
        story.say("verdict", "left to the node's own stack, which refuses at once");
        return End::Refused;
    }
    story.say(
        "backend",
        format!(
            "at each connect, one at random of {} that take new flows: {}",
            port.takers(),
            states.join(", ")
        ),
    );
    story.say("verdict", "the socket is pointed at the backend when it connects or sends");
    End::Container
}
