//! Published ports in `net.ipv4.ip_local_reserved_ports`: so that no outgoing connection of the
//! host itself is given one as its source port. What an administrator has put there stays, and is
//! what is there again once a port is no longer published.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use crate::model::Assignment;

const SYSCTL: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// Beside the namespaces: like the sysctl, it is gone after a restart of the machine.
const FILE: &str = "reserved-ports";

/// The ports that we have added, remembered in a file so that another agent can take them back.
#[derive(Debug)]
pub(super) struct Reserved {
    file: PathBuf,
    sysctl: PathBuf,
    set: Option<BTreeSet<u16>>,
    /// Told already that the sysctl cannot be written.
    told: bool,
}

impl Reserved {
    pub(super) fn new(dir: &Path) -> Self {
        Self { file: dir.join(FILE), sysctl: SYSCTL.into(), set: None, told: false }
    }

    /// Reserves what is published and nothing else. A sysctl that cannot be written costs a
    /// warning, and is tried again: ports work, only an outgoing connection might collide.
    pub(super) fn set(&mut self, assignment: &Assignment) {
        let ports: BTreeSet<u16> =
            assignment.services.iter().flat_map(|s| &s.ports).map(|p| p.published).collect();
        if self.set.as_ref() == Some(&ports) {
            return;
        }
        match self.write(&ports) {
            Ok(()) => (self.set, self.told) = (Some(ports), false),
            Err(e) => {
                // Half of it may be done: what is set now is not known.
                self.set = None;
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!("cannot reserve published ports in {}: {e}", self.sysctl.display());
                }
            }
        }
    }

    /// Takes back what was added.
    pub(super) fn restore(&self) -> io::Result<()> {
        if self.file.exists() {
            self.write(&BTreeSet::new())?;
        }
        self.forget()
    }

    /// Forgets what was added, without taking it back: the namespace in which it was is gone.
    pub(super) fn forget(&self) -> io::Result<()> {
        for file in [self.aside(), self.file.clone()] {
            match fs::remove_file(file) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    fn write(&self, ports: &BTreeSet<u16>) -> io::Result<()> {
        let ours = match fs::read_to_string(&self.file) {
            Ok(text) => parse(&text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(e) => return Err(e),
        };
        let there = parse(&fs::read_to_string(&self.sysctl)?);
        if let Some(dir) = self.file.parent() {
            fs::create_dir_all(dir)?;
        }
        steps(&there, &ours, ports).iter().try_for_each(|s| self.step(s))
    }

    fn step(&self, step: &Step) -> io::Result<()> {
        match step {
            Step::Remember(ports) => {
                fs::write(self.aside(), format(ports))?;
                fs::rename(self.aside(), &self.file)
            }
            Step::Reserve(ports) => fs::write(&self.sysctl, format(ports) + "\n"),
        }
    }

    /// Where the file is written before it takes its place: a kill must not leave half of one.
    fn aside(&self) -> PathBuf {
        self.file.with_extension("new")
    }
}

/// What is done, one after the other; after each the agent may be killed.
#[derive(Debug)]
enum Step {
    /// Remember these as ours.
    Remember(BTreeSet<u16>),
    /// Write these into the sysctl.
    Reserve(BTreeSet<u16>),
}

/// From what the sysctl holds, what we remember as ours and what is wanted. What is remembered
/// names at every moment all that is ours: naming a port that is not there does no harm, it is at
/// worst taken back once more; but one of ours not named would be the administrator's for ever.
fn steps(there: &BTreeSet<u16>, ours: &BTreeSet<u16>, wanted: &BTreeSet<u16>) -> Vec<Step> {
    let merged = merge(there, ours, wanted);
    let mut steps = Vec::new();
    let both: BTreeSet<u16> = ours.union(&merged.ours).copied().collect();
    if both != *ours {
        steps.push(Step::Remember(both.clone()));
    }
    if merged.all != *there {
        steps.push(Step::Reserve(merged.all));
    }
    if merged.ours != both {
        steps.push(Step::Remember(merged.ours));
    }
    steps
}

struct Merged {
    all: BTreeSet<u16>,
    ours: BTreeSet<u16>,
}

/// What is to be reserved, and which of it is ours: a port that somebody else has reserved is not.
fn merge(there: &BTreeSet<u16>, ours: &BTreeSet<u16>, wanted: &BTreeSet<u16>) -> Merged {
    let others: BTreeSet<u16> = there.difference(ours).copied().collect();
    Merged {
        all: others.union(wanted).copied().collect(),
        ours: wanted.difference(&others).copied().collect(),
    }
}

/// `80,443,8000-8100`.
fn parse(text: &str) -> BTreeSet<u16> {
    let mut ports = BTreeSet::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            ports.extend(first..=last);
        }
    }
    ports
}

fn format(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &p in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(p) => *last = p,
            _ => ranges.push((p, p)),
        }
    }
    let text = |(a, b): &(u16, u16)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(text: &str) -> BTreeSet<u16> {
        parse(text)
    }

    proptest! {
        #[test]
        fn text_round_trips(ports in proptest::collection::btree_set(any::<u16>(), 0..200)) {
            prop_assert_eq!(parse(&format(&ports)), ports);
        }

        #[test]
        fn the_administrators_ports_are_there_again_in_the_end(
            admin in proptest::collection::btree_set(1u16..50, 0..20),
            first in proptest::collection::btree_set(1u16..50, 0..20),
            second in proptest::collection::btree_set(1u16..50, 0..20),
        ) {
            let one = merge(&admin, &BTreeSet::new(), &first);
            prop_assert!(first.is_subset(&one.all) && admin.is_subset(&one.all));
            let two = merge(&one.all, &one.ours, &second);
            prop_assert!(second.is_subset(&two.all));
            prop_assert_eq!(merge(&two.all, &two.ours, &BTreeSet::new()).all, admin);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_kill_at_any_point_loses_nothing(
            admin in proptest::collection::btree_set(1u16..30, 0..15),
            lives in proptest::collection::vec(
                (proptest::collection::btree_set(1u16..30, 0..15), 0usize..4, any::<bool>()),
                1..6,
            ),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let sysctl = dir.path().join("sysctl");
            fs::write(&sysctl, format(&admin) + "\n").unwrap();
            let reserved = || Reserved { sysctl: sysctl.clone(), ..Reserved::new(dir.path()) };
            let now = || parse(&fs::read_to_string(&sysctl).unwrap());
            for (wanted, killed_after, in_the_middle) in lives {
                let agent = reserved();
                let ours = parse(&fs::read_to_string(&agent.file).unwrap_or_default());
                for step in steps(&now(), &ours, &wanted).iter().take(killed_after) {
                    agent.step(step).unwrap();
                    prop_assert!(admin.is_subset(&now()));
                }
                if in_the_middle {
                    // While the file was being written.
                    fs::write(agent.aside(), "").unwrap();
                }
                reserved().write(&wanted).unwrap();
                prop_assert_eq!(now(), admin.union(&wanted).copied().collect::<BTreeSet<_>>());
            }
            reserved().restore().unwrap();
            prop_assert_eq!(now(), admin);
            prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn what_could_not_be_reserved_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let sysctl = dir.path().join("sysctl");
        let mut reserved = Reserved { sysctl: sysctl.clone(), ..Reserved::new(&dir.path().join("run")) };
        let assignment = Assignment {
            generation: 1,
            node: crate::model::NodeId::from_random(1),
            subnet: None,
            ended: Vec::new(),
            tasks: Vec::new(),
            services: vec![crate::model::ServiceEndpoint {
                id: crate::model::ServiceId::from_random(1),
                name: "web".into(),
                datapath_id: 1,
                ports: vec!["8080:80".parse().unwrap()],
                limits: Default::default(),
                backends: Vec::new(),
            }],
        };
        reserved.set(&assignment);
        assert!(!sysctl.exists());
        fs::write(&sysctl, "\n").unwrap();
        reserved.set(&assignment);
        assert_eq!(fs::read_to_string(&sysctl).unwrap(), "8080\n");
    }

    #[test]
    fn ranges() {
        assert_eq!(set("\n"), BTreeSet::new());
        assert_eq!(format(&set("80,8000-8003,443")), "80,443,8000-8003");
        assert_eq!(set("65535").len(), 1);
    }
}
