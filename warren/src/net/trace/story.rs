//! Facts in words: one sentence for each thing that is decided, in the order of the programs. Pure.

use std::{fmt::Write as _, time::Duration};

use warren_ebpf::{
    abi::{Reason, program},
    packet::{ACK, FIN, RST, SYN},
};

use super::{
    super::drops::meaning,
    End, Protocol, Step, Trace,
    evidence::{Done, Facts, Kind, Port, Record},
    place::Place,
};

/// What is said so far.
#[derive(Debug, Default)]
struct Story(Vec<Step>);

impl Story {
    fn say(&mut self, what: &'static str, said: impl Into<String>) {
        self.0.push(Step { what, said: said.into() });
    }
}

/// Tells everything.
pub(super) fn tell(facts: &Facts) -> Trace {
    let mut story = Story::default();
    let (program, device) = entrance(facts, &mut story);
    story.say("packet", packet(facts));
    let Some(done) = &facts.done else {
        let end = socket(facts, &mut story);
        return Trace {
            program,
            device,
            tag: String::new(),
            running_tag: String::new(),
            steps: story.0,
            end,
            reason: None,
            to_device: None,
            shown: None,
        };
    };
    if facts.enabled {
        if let Place::Container { .. } = facts.place {
            outward(facts, done, &mut story);
        } else {
            inward(facts, done, &mut story);
        }
    } else {
        story.say("datapath", "not yet switched on: everything is left as it is");
    }
    conclusion(facts, done, &mut story);
    Trace {
        program,
        device,
        tag: facts.tag.clone(),
        running_tag: facts.running_tag.clone(),
        steps: story.0,
        end: done.end,
        reason: done.reason.map(Reason::name),
        to_device: (done.to != 0).then(|| name(facts, done.to)),
        shown: done.shown,
    }
}

fn entrance(facts: &Facts, story: &mut Story) -> (&'static str, String) {
    let (program, device) = match &facts.place {
        Place::Device { name, bare: false, .. } => (program::NODE_IN_L2, name.clone()),
        Place::Device { name, .. } => (program::NODE_IN_L3, name.clone()),
        Place::Container { name, .. } => (program::VETH_IN, name.clone()),
        Place::Node => {
            story.say(
                "program",
                "the socket hooks of the cgroup: the kernel lets nobody try them, so this is read from the tables",
            );
            return ("sock_connect", "cgroup".to_owned());
        }
    };
    let bare = matches!(facts.place, Place::Device { bare: true, .. });
    let said = if bare {
        format!(
            "{program} on {device}, tried as {}: they differ in the link header alone, which a packet that is tried always has",
            program::NODE_IN_L2
        )
    } else if facts.running_tag.is_empty() {
        format!(
            "{program} (tag {}) on {device}; the one that is attached there does not tell its tag",
            facts.tag
        )
    } else if facts.running_tag == facts.tag {
        format!("{program} (tag {}) on {device}: the very one that is attached there", facts.tag)
    } else {
        format!(
            "{program} (tag {}); on {device} runs one of ANOTHER BUILD (tag {}), which may decide otherwise",
            facts.tag, facts.running_tag
        )
    };
    story.say("program", said);
    (program, device)
}

fn packet(facts: &Facts) -> String {
    let q = &facts.question;
    let size = q.size.clamp(q.headers(), super::LARGEST);
    match q.protocol {
        Protocol::Tcp => {
            let names = [(SYN, "syn"), (ACK, "ack"), (FIN, "fin"), (RST, "rst")];
            let flags: Vec<_> = names.iter().filter(|(f, _)| q.flags & f != 0).map(|(_, n)| *n).collect();
            format!("tcp {} from {} to {}, {size} bytes", flags.join("+"), q.source, q.destination)
        }
        Protocol::Udp => format!("udp from {} to {}, {size} bytes", q.source, q.destination),
        Protocol::Icmp => format!(
            "echo request {} from {} to {}, {size} bytes",
            q.source.port(),
            q.source.ip(),
            q.destination.ip()
        ),
    }
}

fn inward(facts: &Facts, done: &Done, story: &mut Story) {
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
fn toward(facts: &Facts, done: &Done, port: Option<&Port>, story: &mut Story) {
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
    if done.reason.is_none() {
        backend(facts, done, Some(port), story);
    }
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

fn outward(facts: &Facts, done: &Done, story: &mut Story) {
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
fn socket(facts: &Facts, story: &mut Story) -> End {
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

fn conclusion(facts: &Facts, done: &Done, story: &mut Story) {
    let q = &facts.question;
    if let Some((source, destination)) = done.shown {
        let mut changes = String::new();
        for (what, before, after) in
            [("source", q.source, source), ("destination", q.destination, destination)]
        {
            let same = if q.protocol == Protocol::Icmp && what == "destination" {
                before.ip() == after.ip()
            } else {
                before == after
            };
            if !same {
                let comma = if changes.is_empty() { "" } else { ", " };
                let _ = write!(changes, "{comma}{what} {before} becomes {after}");
            }
        }
        story.say("addresses", if changes.is_empty() { "as they are".to_owned() } else { changes });
    }
    let size = q.size.clamp(q.headers(), super::LARGEST);
    let known = facts.devices.get(&done.to).map_or(0, |(_, mtu)| *mtu);
    match done.end {
        End::Device => {
            story.say("size", format!("{size} bytes fit {} (MTU {known})", name(facts, done.to)));
        }
        End::TooBig => {
            story.say("size", format!("{size} bytes do not fit {} (MTU {})", name(facts, done.to), done.mtu));
        }
        _ => {}
    }
    let verdict = match (done.end, done.reason) {
        (End::Passed, _) => "left to the node's own stack, as it is".to_owned(),
        (End::Refused, _) => {
            "left to the node's own stack, which refuses at once (TCP reset, port unreachable)".to_owned()
        }
        (End::Dropped, Some(reason)) => format!("dropped: {} ({})", reason.name(), meaning(reason)),
        (End::Dropped, None) => "dropped".to_owned(),
        (End::Container, _) => format!("into the container behind {}", name(facts, done.to)),
        (End::Device, _) => format!("out of {}, by the node's routes", name(facts, done.to)),
        (End::TooBig, _) => format!("not sent on: the sender is told that {} bytes fit", done.mtu),
    };
    story.say("verdict", verdict);
}

fn name(facts: &Facts, device: u32) -> String {
    facts.devices.get(&device).map_or_else(|| format!("device {device}"), |(name, _)| name.clone())
}

fn whom(port: &Port) -> String {
    match &port.sources {
        None => "everybody".to_owned(),
        Some(nets) if nets.is_empty() => "this node alone".to_owned(),
        Some(nets) => nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn state(record: &Record) -> String {
    let Some(state) = record.state else { return "the half that names the backend is left".to_owned() };
    let idle = Duration::from_millis(record.idle_ms - record.idle_ms % 1000);
    let over = if record.over { ", run out" } else { "" };
    format!("{state}, last packet {} ago{over}", humantime::format_duration(idle))
}

fn rate(spacing: u32, burst: u32, of: &str) -> String {
    let per_second = f64::from(1_000_000_000) / f64::from(spacing.max(1));
    format!("{per_second:.0} {of} a second, {burst} at once")
}

#[cfg(test)]
mod tests {
    use super::{super::Question, *};

    fn facts(place: Place) -> Facts {
        let question = Question {
            protocol: Protocol::Tcp,
            source: "192.0.2.9:4000".parse().unwrap(),
            destination: "198.51.100.7:80".parse().unwrap(),
            flags: SYN,
            size: 0,
            from: None,
        };
        Facts {
            question,
            place,
            enabled: true,
            tag: "11".into(),
            running_tag: "11".into(),
            done: Some(Done {
                end: End::Passed,
                reason: None,
                shown: None,
                to: 0,
                mtu: 0,
                owned: false,
                chosen: None,
                masqueraded: false,
                born: 0,
            }),
            denied: None,
            to_node: true,
            from_node: false,
            behind: None,
            neighbour: None,
            port: None,
            in_range: false,
            record: None,
            route: None,
            devices: [(7, ("eth0".to_owned(), 1500))].into(),
        }
    }

    fn device(bare: bool) -> Place {
        Place::Device { index: 7, name: "eth0".into(), mac: [0; 6], bare }
    }

    fn told(facts: &Facts) -> String {
        tell(facts).steps.iter().map(|s| format!("{}: {}\n", s.what, s.said)).collect()
    }

    #[test]
    fn which_program_was_asked_is_said() {
        let same = facts(device(false));
        assert!(told(&same).contains("node_in_l2 (tag 11) on eth0: the very one"));
        let other = Facts { running_tag: "22".into(), ..facts(device(false)) };
        assert!(told(&other).contains("on eth0 runs one of ANOTHER BUILD (tag 22)"));
        let filter = Facts { running_tag: String::new(), ..facts(device(false)) };
        assert!(told(&filter).contains("does not tell its tag"));
        let bare = facts(device(true));
        assert!(told(&bare).contains("node_in_l3 on eth0, tried as node_in_l2"));
        assert_eq!(tell(&bare).program, program::NODE_IN_L3);
    }

    #[test]
    fn what_is_not_switched_on_decides_nothing() {
        let off = Facts { enabled: false, ..facts(device(false)) };
        let told = told(&off);
        assert!(told.contains("not yet switched on") && !told.contains("published"), "{told}");
        assert!(told.ends_with("verdict: left to the node's own stack, as it is\n"), "{told}");
    }

    #[test]
    fn a_record_is_told_with_its_age() {
        let record = Record {
            kind: Kind::Forward,
            state: Some("established"),
            idle_ms: 61_234,
            over: false,
            backend: "web.1 (t)".into(),
            lives: true,
        };
        assert_eq!(state(&record), "established, last packet 1m 1s ago");
        assert_eq!(
            state(&Record { over: true, ..record.clone() }),
            "established, last packet 1m 1s ago, run out"
        );
        assert_eq!(
            state(&Record { state: None, ..record.clone() }),
            "the half that names the backend is left"
        );
        let port = Port {
            name: "*:80/tcp of service web".into(),
            sources: None,
            backends: vec![("web.1 (t)".into(), "up")],
            limit: Default::default(),
            limited: false,
            paced: false,
        };
        let gone = Facts {
            port: Some(port),
            record: Some(Record { lives: false, ..record }),
            question: Question { flags: ACK, ..facts(device(false)).question },
            ..facts(device(false))
        };
        assert!(told(&gone).contains("flow: known, but its backend is gone (web.1 (t))"));
    }

    #[test]
    fn rates_are_told_as_they_were_asked_for() {
        assert_eq!(rate(10_000_000, 200, "packets"), "100 packets a second, 200 at once");
        assert_eq!(rate(1_000_000_000, 1, "new flows"), "1 new flows a second, 1 at once");
    }
}
