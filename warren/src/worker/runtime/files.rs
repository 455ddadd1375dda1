//! The three files every container finds in /etc, written from data.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use crate::model::{Attachment, Names, Task};

use super::spec::uses_node_files;

/// Where a task's files are on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFiles {
    /// Bound to /etc/hosts.
    pub hosts: PathBuf,
    /// Bound to /etc/hostname.
    pub hostname: PathBuf,
    /// Bound to /etc/resolv.conf.
    pub resolv_conf: PathBuf,
}

/// There when the container's process was about to be let go.
pub(super) const STARTING: &str = "starting";
/// There when it was.
pub(super) const STARTED: &str = "started";
/// There when the process is to have a terminal.
pub(super) const TERMINAL: &str = "terminal";
/// The number of the signal that asks it to end, when it is not SIGTERM.
pub(super) const STOP_SIGNAL: &str = "stop-signal";

impl TaskFiles {
    /// The files below a task's directory.
    #[must_use]
    pub fn below(dir: &Path) -> Self {
        Self {
            hosts: dir.join("hosts"),
            hostname: dir.join("hostname"),
            resolv_conf: dir.join("resolv.conf"),
        }
    }

    /// Writes all three. Each is replaced in place, never truncated to nothing first.
    pub(super) fn write(&self, task: &Task, hostname: &str) -> io::Result<()> {
        if let Some(dir) = self.hosts.parent() {
            fs::create_dir_all(dir)?;
        }
        let node = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let (names, host) = (&task.spec.names, node("/etc/resolv.conf"));
        let (hosts, resolver) = if uses_node_files(task.spec.network) {
            (node("/etc/hosts"), host)
        } else {
            // systemd-resolved's stub listens on the host's loopback only; it lists its upstreams
            // beside.
            let upstreams = node("/run/systemd/resolve/resolv.conf");
            (hosts(hostname, task.attachment.as_ref()), resolv_conf(&host, &upstreams))
        };
        replace(&self.hosts, &with_added(hosts, names))?;
        replace(&self.hostname, &format!("{hostname}\n"))?;
        replace(&self.resolv_conf, &with_replaced(resolver, names))
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let aside = path.with_extension("new");
    fs::write(&aside, text)?;
    fs::rename(aside, path)
}

/// /etc/hosts, as Docker writes it.
fn hosts(hostname: &str, attachment: Option<&Attachment>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n"
        .to_owned();
    if let Some(a) = attachment {
        let addresses = [
            (a.address != Ipv4Addr::UNSPECIFIED).then_some(IpAddr::V4(a.address)),
            (a.address6 != Ipv6Addr::UNSPECIFIED).then_some(IpAddr::V6(a.address6)),
        ];
        for address in addresses.into_iter().flatten() {
            // A name with dots is also known by its first part.
            let short = hostname.split_once('.').map(|(short, _)| format!(" {short}")).unwrap_or_default();
            text.push_str(&format!("{address}\t{hostname}{short}\n"));
        }
    }
    text
}

/// A host table with the service's lines at its end.
fn with_added(mut hosts: String, names: &Names) -> String {
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    for (name, address) in &names.hosts {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    hosts
}

/// A resolver's file in which what the service says takes the place of the node's lines of that
/// kind.
fn with_replaced(text: String, names: &Names) -> String {
    let servers: Vec<String> = names.dns.iter().map(|a| format!("nameserver {a}\n")).collect();
    let list = |word: &str, items: &[String]| match items {
        [] => None,
        // A single dot: none at all.
        [one] if one == "." => Some(String::new()),
        items => Some(format!("{word} {}\n", items.join(" "))),
    };
    let search = list("search", &names.dns_search);
    let options =
        (!names.dns_options.is_empty()).then(|| format!("options {}\n", names.dns_options.join(" ")));
    if servers.is_empty() && search.is_none() && options.is_none() {
        return text;
    }
    let mut out = String::new();
    for line in text.lines() {
        let replaced = match line.split_whitespace().next() {
            Some("nameserver") => !servers.is_empty(),
            Some("search" | "domain") => search.is_some(),
            Some("options") => options.is_some(),
            Some(comment) => comment.starts_with('#') && !servers.is_empty(),
            None => true,
        };
        if !replaced {
            out.push_str(line);
            out.push('\n');
        }
    }
    out.extend(servers);
    out.extend(search);
    out.extend(options);
    out
}

/// Keeps what a container can use of the host's resolv.conf. Name servers on the host's loopback
/// are not reachable from a container; when the only one is systemd-resolved's stub, `resolved`
/// (its list of upstreams) is taken instead.
fn resolv_conf(host: &str, resolved: &str) -> String {
    let stub = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
    let servers: Vec<IpAddr> = host.lines().filter_map(nameserver).collect();
    let text = if servers == [stub] && !resolved.is_empty() { resolved } else { host };
    let mut out = String::new();
    let mut any = false;
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        match nameserver(line) {
            Some(a) if a.is_loopback() || a.is_unspecified() => continue,
            Some(_) => any = true,
            // A scope ("fe80::1%eth0") names a link of the host.
            None if line.starts_with("nameserver") => continue,
            None => {}
        }
        out.push_str(line);
        out.push('\n');
    }
    if !any {
        out.insert_str(0, "# this node has no name server that a container could reach\n");
    }
    out
}

fn nameserver(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    (words.next()? == "nameserver").then_some(())?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_kept_and_loopback_is_not() {
        let host = "# made by a tool\nsearch example.org\nnameserver 127.0.0.1\nnameserver 9.9.9.9\nnameserver ::1\nnameserver 2620:fe::fe\nnameserver fe80::1%eth0\noptions edns0\n";
        assert_eq!(
            resolv_conf(host, ""),
            "search example.org\nnameserver 9.9.9.9\nnameserver 2620:fe::fe\noptions edns0\n"
        );
    }

    #[test]
    fn the_stub_of_resolved_is_looked_through() {
        let resolved = "nameserver 192.0.2.1\nsearch lan\n";
        assert_eq!(resolv_conf("nameserver 127.0.0.53\n", resolved), resolved);
        assert!(resolv_conf("nameserver 127.0.0.53\n", "").starts_with("# this node has no"));
        // One real server beside the stub: the file is the administrator's.
        assert_eq!(
            resolv_conf("nameserver 127.0.0.53\nnameserver 9.9.9.9\n", resolved),
            "nameserver 9.9.9.9\n"
        );
    }

    #[test]
    fn a_container_finds_itself() {
        let a = Attachment {
            address: Ipv4Addr::new(10, 1, 2, 3),
            address6: "fd00::3".parse().unwrap(),
            backend: 1,
            generation: 1,
        };
        let text = hosts("web-1", Some(&a));
        assert!(text.contains("10.1.2.3\tweb-1\n") && text.contains("fd00::3\tweb-1\n"));
        assert!(!hosts("web-1", None).contains("web-1"));
    }

    #[test]
    fn the_services_names_are_added_and_take_the_place_of_the_nodes() {
        let names = Names {
            hosts: vec![
                ("db".to_owned(), "10.0.0.9".parse().unwrap()),
                ("db6".to_owned(), "fd00::9".parse().unwrap()),
            ],
            dns: vec!["9.9.9.9".parse().unwrap(), "2620:fe::fe".parse().unwrap()],
            dns_search: vec!["a.example".to_owned(), "b.example".to_owned()],
            dns_options: vec!["ndots:2".to_owned(), "rotate".to_owned()],
        };
        assert_eq!(with_added("127.0.0.1 x".to_owned(), &names), "127.0.0.1 x\n10.0.0.9\tdb\nfd00::9\tdb6\n");
        let host = "# none\nnameserver 192.0.2.1\nsearch lan\nsortlist 1.2.3.0\noptions edns0\n".to_owned();
        assert_eq!(
            with_replaced(host.clone(), &names),
            "sortlist 1.2.3.0\nnameserver 9.9.9.9\nnameserver 2620:fe::fe\nsearch a.example b.example\noptions ndots:2 rotate\n"
        );
        assert_eq!(with_replaced(host.clone(), &Names::default()), host);
        let only = |names| with_replaced("nameserver 192.0.2.1\nsearch lan\n".to_owned(), &names);
        assert_eq!(
            only(Names { dns_search: vec![".".to_owned()], ..Names::default() }),
            "nameserver 192.0.2.1\n"
        );
        assert_eq!(
            only(Names { dns: vec!["9.9.9.9".parse().unwrap()], ..Names::default() }),
            "search lan\nnameserver 9.9.9.9\n"
        );
    }

    #[test]
    fn a_name_with_dots_has_a_short_form() {
        let a = Attachment {
            address: Ipv4Addr::new(10, 1, 2, 3),
            address6: Ipv6Addr::UNSPECIFIED,
            backend: 1,
            generation: 1,
        };
        assert!(hosts("web.example.org", Some(&a)).ends_with("10.1.2.3\tweb.example.org web\n"));
    }
}
