//! Facts in words: one sentence for each thing that is decided, in the order of the programs. Pure.

mod inward;
mod outward;

use std::{fmt::Write as _, time::Duration};

use warren_ebpf::{
    abi::{Reason, program},
    packet::{ACK, FIN, RST, SYN},
};

use self::{
    inward::inward,
    outward::{outward, socket},
};
use super::{
    super::drops::meaning,
    End, Protocol, Step, Trace,
    facts::{Done, Facts, Port, Record},
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
    conclusion(facts, done, &device, &mut story);
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

fn conclusion(facts: &Facts, done: &Done, device: &str, story: &mut Story) {
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
    if done.early {
        story.say("guard", format!("dropped early, in the driver of {device}"));
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
    use warren_ebpf::abi::Limit;

    use super::{
        super::{Question, facts::Kind},
        *,
    };

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
                early: false,
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

    fn port() -> Port {
        Port {
            name: "*:80/tcp of service web".into(),
            id: 3,
            sources: None,
            backends: vec![("web.1 (t)".into(), "up")],
            limit: Default::default(),
            limited: false,
            paced: false,
            seated: false,
            seats: 0,
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
        let gone = Facts {
            port: Some(port()),
            record: Some(Record { lives: false, ..record }),
            question: Question { flags: ACK, ..facts(device(false)).question },
            ..facts(device(false))
        };
        assert!(told(&gone).contains("flow: known, but its backend is gone (web.1 (t))"));
    }

    #[test]
    fn how_many_flows_a_client_has_is_told() {
        let with = |taken, reason| {
            let limit = Limit { connections: 2, ..Limit::default() };
            let mut facts = facts(device(false));
            facts.port = Some(Port { limit, seated: true, seats: taken, ..port() });
            let done = facts.done.as_mut().unwrap();
            done.chosen = Some("web.1 (t)".into());
            (done.end, done.reason) =
                if reason { (End::Dropped, Some(Reason::Connections)) } else { (End::Container, None) };
            told(&facts)
        };
        for (taken, refused, said) in [
            (0, false, "0 of 2 are taken, this one gets another\n"),
            (1, false, "1 of 2 are taken, this one gets another\n"),
            (2, false, "all are taken, one of them by a flow whose place this one takes\n"),
            (2, true, "all are taken\n"),
            (1, true, "all were taken when it was looked at last, a moment ago; by now 1 of 2 are\n"),
        ] {
            let told = with(taken, refused);
            let step = format!("seats: a client may have 2 flows at a time: {said}");
            assert!(told.contains(&step), "{told}");
            assert!(told.contains("backend: web.1 (t), the only one"), "{told}");
            assert_eq!(told.contains("verdict: dropped: conns"), refused, "{told}");
        }
    }

    #[test]
    fn what_the_guard_drops_is_told_with_its_device() {
        let mut facts = facts(device(false));
        facts.port = Some(port());
        facts.denied = Some(vec!["192.0.2.0/24".parse().unwrap()]);
        let done = facts.done.as_mut().unwrap();
        (done.end, done.reason) = (End::Dropped, Some(Reason::Denied));
        assert!(!told(&facts).contains("guard"));
        facts.done.as_mut().unwrap().early = true;
        let told = told(&facts);
        assert!(
            told.contains("guard: dropped early, in the driver of eth0\nverdict: dropped: denied"),
            "{told}"
        );
    }

    #[test]
    fn rates_are_told_as_they_were_asked_for() {
        assert_eq!(rate(10_000_000, 200, "packets"), "100 packets a second, 200 at once");
        assert_eq!(rate(1_000_000_000, 1, "new flows"), "1 new flows a second, 1 at once");
    }
}
