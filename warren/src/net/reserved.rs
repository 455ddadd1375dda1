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
    set: Option<BTreeSet<u16>>,
}

impl Reserved {
    pub(super) fn new(dir: &Path) -> Self {
        Self { file: dir.join(FILE), set: None }
    }

    /// Reserves what is published and nothing else. A sysctl that cannot be written costs a
    /// warning: ports work, only an outgoing connection might collide.
    pub(super) fn set(&mut self, assignment: &Assignment) {
        let ports: BTreeSet<u16> =
            assignment.services.iter().flat_map(|s| &s.ports).map(|p| p.published).collect();
        if self.set.as_ref() == Some(&ports) {
            return;
        }
        if let Err(e) = self.write(&ports) {
            tracing::warn!("cannot reserve published ports in {SYSCTL}: {e}");
        }
        self.set = Some(ports);
    }

    /// Takes back what was added.
    pub(super) fn restore(&self) -> io::Result<()> {
        if !self.file.exists() {
            return Ok(());
        }
        self.write(&BTreeSet::new())?;
        fs::remove_file(&self.file)
    }

    fn write(&self, ports: &BTreeSet<u16>) -> io::Result<()> {
        let ours = match fs::read_to_string(&self.file) {
            Ok(text) => parse(&text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(e) => return Err(e),
        };
        let there = parse(&fs::read_to_string(SYSCTL)?);
        let merged = merge(&there, &ours, ports);
        // The file first: should we die in between, what it names too much is at worst taken back
        // once more.
        let remembered: BTreeSet<u16> = ours.union(&merged.ours).copied().collect();
        if let Some(dir) = self.file.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(&self.file, format(&remembered))?;
        if merged.all != there {
            fs::write(SYSCTL, format(&merged.all) + "\n")?;
        }
        fs::write(&self.file, format(&merged.ours))
    }
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

    #[test]
    fn ranges() {
        assert_eq!(set("\n"), BTreeSet::new());
        assert_eq!(format(&set("80,8000-8003,443")), "80,443,8000-8003");
        assert_eq!(set("65535").len(), 1);
    }
}
