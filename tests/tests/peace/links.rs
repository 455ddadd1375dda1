//! Who touches links: systemd-networkd with a setting that takes every device there is, and what
//! networkd, udev and people do, one by one.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use warren_tests::{Host, eventually, process, scenario::OneNode};

use crate::{SOON, whole};

const NETWORKD: &str = "/lib/systemd/systemd-networkd";
/// What is shipped to keep networkd away.
const OURS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/10-warren.network");

/// systemd-networkd in a host, with settings of its own; without systemd and udev, which it does
/// without where `/sys` cannot be written.
struct Networkd {
    child: Child,
    log: std::path::PathBuf,
}

impl Networkd {
    fn start(host: &Host, dir: &Path) -> Result<Self> {
        let (run, log) = (dir.join("run"), dir.join("networkd.log"));
        fs::create_dir_all(&run)?;
        let script = format!(
            "mount --make-rprivate / && mkdir -p /run/systemd && mount --bind {} /run/systemd || exit 1
             mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
             chown -R systemd-network /run/systemd/netif
             mount -t tmpfs none /etc/systemd && mount -t sysfs -o ro sysfs /sys || exit 1
             exec env SYSTEMD_LOG_LEVEL=debug {NETWORKD}",
            run.display()
        );
        let file = fs::File::create(&log)?;
        let mut c = host.ns.command("unshare")?;
        c.args(["-m", "sh", "-c", &script]).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { child: c.spawn().context("systemd-networkd: run `cargo xtask deps`")?, log })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn says(&self, what: &str) -> Result<()> {
        eventually(what, SOON, || {
            let said = self.said();
            let last: Vec<&str> = said.lines().rev().take(30).collect();
            ensure!(said.contains(what), "networkd does not say {what:?}, but (last first): {last:#?}");
            Ok(())
        })
    }
}

impl Drop for Networkd {
    fn drop(&mut self) {
        process::signal(self.child.id().cast_signed(), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// The host's ends of containers' links.
fn links(host: &Host) -> Result<Vec<String>> {
    let all = host.ns.ip(&["-o", "link"])?;
    let names = all.lines().filter_map(|l| l.split(": ").nth(1)?.split('@').next());
    Ok(names.filter(|n| n.starts_with("wr")).map(str::to_owned).collect())
}

/// What the kernel has of a link that we have put there, or others could.
fn state(host: &Host, link: &str) -> Result<String> {
    let mut all = String::new();
    for words in [
        &["-o", "addr", "show", "dev", link][..],
        &["route", "show", "dev", link],
        &["-6", "route", "show", "dev", link],
        &["neigh", "show", "dev", link, "nud", "permanent"],
    ] {
        all += &host.ns.ip(words)?;
    }
    let link = host.ns.ip(&["-o", "link", "show", link])?;
    Ok(all + link.split(" link/").last().unwrap_or_default())
}

fn site() -> Result<OneNode> {
    let site = OneNode::new()?;
    site.create("web", &["--replicas", "2", "-p", "8080:80"], &[])?;
    whole(&site, "at the beginning")?;
    Ok(site)
}

#[test]
#[ignore = "needs root"]
fn networkd_leaves_our_links_alone_when_told_and_breaks_nothing_otherwise() -> Result<()> {
    let site = site()?;
    let host = &site.node.host;
    let dir = tempfile::Builder::new().prefix("wtx-").tempdir()?;
    // Other users of the directory's machine are not ours, networkd's own user must get in.
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let settings = dir.path().join("run/network");
    fs::create_dir_all(&settings)?;
    let eth0 = format!(
        "[Match]\nName=eth0\n[Network]\nAddress={}/24\nAddress={}/64\nGateway=198.18.0.10\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
        host.v4, host.v6
    );
    fs::write(settings.join("20-eth0.network"), eth0)?;
    let every = "[Match]\nName=*\n[Network]\nDHCP=yes\nLinkLocalAddressing=yes\nIPv6AcceptRA=yes\n";
    fs::write(settings.join("99-all.network"), every)?;
    fs::copy(OURS, settings.join("10-warren.network"))?;
    let ours = links(host)?;
    ensure!(ours.len() == 2, "{ours:?}");
    let before: Vec<String> = ours.iter().map(|l| state(host, l)).collect::<Result<_>>()?;

    // udev changes no MAC address that was set (3), as opposed to made up by the kernel.
    for link in &ours {
        let file = format!("/sys/class/net/{link}/addr_assign_type");
        let script = format!("mount -t sysfs -o ro sysfs /sys && cat {file}");
        let set = host.ns.run("unshare", &["-m", "sh", "-c", &script])?;
        ensure!(set.trim() == "3", "{link}'s MAC address is of kind {set}");
    }
    // As after a boot: the uplink's addresses are networkd's to give.
    host.ns.ip(&["addr", "flush", "dev", "eth0"])?;
    // With what we ship: it does not touch them, also those that come later.
    let networkd = Networkd::start(host, dir.path())?;
    networkd.says("eth0: State changed: configuring -> configured")?;
    whole(&site, "with networkd")?;
    site.node.ok(&["service", "scale", "web=3"])?;
    whole(&site, "with networkd and one container more")?;
    let now: Vec<String> = ours.iter().map(|l| state(host, l)).collect::<Result<_>>()?;
    ensure!(now == before, "networkd has changed our links: {now:?}, not {before:?}");
    for link in links(host)? {
        let said = networkd.said();
        let touched: Vec<&str> = said
            .lines()
            .filter(|l| l.starts_with(&format!("{link}: ")))
            .filter(|l| ["DHCP", "NDISC", "Bringing", "Setting", "Removing"].iter().any(|w| l.contains(w)))
            .collect();
        ensure!(touched.is_empty(), "networkd has touched {link}: {touched:?}");
    }
    drop(networkd);
    whole(&site, "after networkd")?;

    // Without: it asks containers for addresses and routers, and takes away what it has not set. It
    // is mended.
    fs::remove_file(settings.join("10-warren.network"))?;
    let networkd = Networkd::start(host, dir.path())?;
    networkd.says(&format!("{}: DHCPv4 client: DISCOVER", ours[0]))?;
    whole(&site, "with networkd on our links")?;
    drop(networkd);
    whole(&site, "after it")
}

#[test]
#[ignore = "needs root"]
fn what_is_done_to_links_is_outlived() -> Result<()> {
    let site = site()?;
    let host = &site.node.host;
    let (v4, v6) = (format!("{}/24", host.v4), format!("{}/64", host.v6));
    let link = links(host)?.first().context("no link")?.clone();
    let addresses = |device: &str| {
        format!(
            "addr replace {v4} dev {device}; addr replace {v6} dev {device} nodad; \
             route replace default via 198.18.0.10"
        )
    };
    let back = addresses("eth0");
    let many = [
        ("the uplink down and up", format!("link set eth0 down; link set eth0 up; {back}")),
        ("its addresses gone and there again", format!("addr flush dev eth0; {back}")),
        (
            "its routes gone and there again",
            format!("route flush dev eth0; route replace 198.18.0.0/24 dev eth0; {back}"),
        ),
        ("a smaller MTU", "link set eth0 mtu 1400".into()),
        ("and back", "link set eth0 mtu 1500".into()),
        (
            "another name",
            format!("link set eth0 down; link set eth0 name lan0; link set lan0 up; {}", addresses("lan0")),
        ),
        ("its old name", format!("link set lan0 down; link set lan0 name eth0; link set eth0 up; {back}")),
        ("a queue on the uplink", "tc qdisc replace dev eth0 root pfifo limit 900".into()),
        ("another", "tc qdisc replace dev eth0 root tbf rate 1gbit burst 64kb latency 50ms".into()),
        ("none any more", "tc qdisc del dev eth0 root".into()),
        ("a clsact", "tc qdisc replace dev eth0 clsact".into()),
        ("no clsact", "tc qdisc del dev eth0 clsact".into()),
        (
            "the uplink in a bridge",
            format!(
                "link add peacebr type bridge; link set peacebr up; addr flush dev eth0; link set eth0 master peacebr; {}",
                addresses("peacebr")
            ),
        ),
        ("and out of it", format!("link set eth0 nomaster; link del peacebr; {back}")),
        ("a container's link down", format!("link set {link} down")),
        ("down and up", format!("link set {link} down; link set {link} up")),
        ("its routes gone", format!("route flush dev {link}; -6 route flush dev {link}")),
        ("its neighbours gone", format!("neigh flush dev {link} nud permanent")),
        ("an address on it", format!("addr add 169.254.7.7/16 dev {link}; addr flush dev {link}")),
        ("a smaller MTU on it", format!("link set {link} mtu 1300")),
        ("a queue on it", format!("tc qdisc replace dev {link} root pfifo limit 900")),
        ("none on it", format!("tc qdisc del dev {link} root")),
        ("a clsact on it", format!("tc qdisc replace dev {link} clsact")),
        ("no clsact on it", format!("tc qdisc del dev {link} clsact")),
        ("the link gone", format!("link del {link}")),
    ];
    let mended = || site.node.log_text().matches("is mended").count();
    for (what, done) in many {
        let before = mended();
        for one in done.split(';').map(str::trim) {
            let words: Vec<&str> = one.split(' ').collect();
            match words[0] {
                "tc" => host.ns.run("tc", &words[1..]),
                _ => host.ns.ip(&words),
            }
            .with_context(|| what.to_owned())?;
        }
        let begun = std::time::Instant::now();
        whole(&site, what)?;
        if ["a container's link down", "its routes gone", "the link gone"].contains(&what) {
            ensure!(mended() > before, "{what}: the agent does not say that it has mended it");
        }
        println!("{what}: whole again within {} ms", begun.elapsed().as_millis());
    }
    Ok(())
}
