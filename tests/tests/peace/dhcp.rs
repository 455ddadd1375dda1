//! Addresses that come and go by DHCP: busybox' client on the node, its server elsewhere, and the
//! other way round.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use warren_tests::{Cluster, Host, Node, eventually, image::Image, process, scenario::OneNode};

use crate::{
    SOON,
    talk::{Listener, Talk, ask},
};

/// What the client does with a lease, as Debian's own script does it, and a line of what happened.
const SCRIPT: &str = r#"#!/bin/sh
case $1 in
deconfig) ip -4 addr flush dev $interface; ip link set $interface up ;;
bound | renew)
    for old in $(ip -4 -o addr show dev $interface | while read a b c d e; do echo $d; done); do
        [ $old = $ip/$mask ] || ip addr del $old dev $interface
    done
    ip addr replace $ip/$mask dev $interface
    ip route replace default via $router ;;
esac
echo $1 $ip >> EVENTS
"#;

/// A program that goes with us.
struct Program(Child);

impl Program {
    fn start(host: &Host, dir: &Path, words: &[&str]) -> Result<Self> {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log"))?;
        let mut c = host.ns.command("busybox")?;
        c.args(words).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(c.spawn().context("busybox: run `cargo xtask deps`")?))
    }

    fn signal(&self, signal: Signal) {
        process::signal(self.0.id().cast_signed(), signal);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that gives one address to whoever asks.
fn server(host: &Host, dir: &Path, address: Ipv4Addr) -> Result<Program> {
    let file = dir.join(format!("{address}.conf"));
    let (leases, pid) = (dir.join(format!("{address}.leases")), dir.join(format!("{address}.pid")));
    fs::write(&leases, "")?;
    fs::write(
        &file,
        format!(
            "start {address}\nend {address}\ninterface eth0\nlease_file {}\npidfile {}\nmin_lease 10\n\
             option subnet 255.255.255.0\noption router 198.18.0.10\noption lease 600\n",
            leases.display(),
            pid.display()
        ),
    )?;
    Program::start(host, dir, &["udhcpd", "-f", &file.display().to_string()])
}

/// A client, and the file in which it tells what happened.
fn client(host: &Host, dir: &Path, name: &str) -> Result<(Program, std::path::PathBuf)> {
    let (script, events) = (dir.join(format!("{name}.sh")), dir.join(format!("{name}.events")));
    fs::write(&script, SCRIPT.replace("EVENTS", &events.display().to_string()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    fs::write(&events, "")?;
    let script = script.display().to_string();
    let words = ["udhcpc", "-f", "-i", "eth0", "-s", &script, "-t", "20", "-T", "1", "-A", "1"];
    Ok((Program::start(host, dir, &words)?, events))
}

fn happened(events: &Path, what: &str, dir: &Path) -> Result<()> {
    eventually(what, Duration::from_secs(15), || {
        let told = fs::read_to_string(events)?;
        let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
        ensure!(told.lines().last() == Some(what), "told {told:?}\n{}", log());
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn addresses_follow_dhcp() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("wtx-").tempdir()?;
    let dir = dir.path();
    let mut cluster = Cluster::new()?;
    let (other, mut host) = (cluster.host("client")?, cluster.host("node")?);
    let (first, second) = (Ipv4Addr::new(198, 18, 0, 101), Ipv4Addr::new(198, 18, 0, 102));
    host.ns.ip(&["-4", "addr", "flush", "dev", "eth0"])?;
    let serving = server(&other, dir, first)?;
    let (program, events) = client(&host, dir, "node")?;
    happened(&events, &format!("bound {first}"), dir)?;
    host.v4 = first;
    let node = Node::start(host)?;
    node.import(&Image::web("web:1"))?;
    let mut site = OneNode { node, client: other, cluster };
    let [tcp, udp] = ["8080:7000/tcp", "8080:7000/udp"];
    site.create("mirror", &["-p", tcp, "-p", udp], &["mirror", "7000"])?;
    site.create("web", &["-p", "8081:80"], &[])?;
    let at = |ip: IpAddr| SocketAddr::from((ip, 8080));
    let answers = |site: &OneNode, ip: IpAddr| -> Result<()> {
        ensure!(ask(&site.client, "tcp", at(ip))?.starts_with("client="));
        ensure!(ask(&site.client, "udp", at(ip))? == "?");
        site.ask(8081, "/").map(drop)
    };
    eventually("the ports answer", SOON, || answers(&site, first.into()))?;
    let _far = Listener::on(&site.client, ([0u16; 8], 9200).into(), "far")?;
    let out = |site: &OneNode| site.ask(8081, &format!("/udp?to={}:9200", site.client.v4)).map(drop);
    out(&site)?;

    // The same address again: what is open goes on.
    let (v4, v6) = (at(first.into()), at(site.node.host.v6.into()));
    let talks = [("tcp", v4), ("connected udp", v4), ("tcp", v6), ("connected udp", v6)];
    let mut open: Vec<(SocketAddr, Talk)> = talks
        .iter()
        .map(|&(way, to)| Ok((to, Talk::begin(&site.client, way, 0, to)?)))
        .collect::<Result<_>>()?;
    for (to, talk) in &mut open {
        talk.ask().with_context(|| format!("{to}"))?;
    }
    fs::write(&events, "")?;
    program.signal(Signal::SIGUSR1);
    happened(&events, &format!("renew {first}"), dir)?;
    for (to, talk) in &mut open {
        talk.ask().with_context(|| format!("{to} after a renewal"))?;
    }

    // Another one: the server says no to the old, and the client begins from nothing.
    drop(serving);
    let serving = server(&site.client, dir, second)?;
    fs::write(&events, "")?;
    program.signal(Signal::SIGUSR1);
    happened(&events, &format!("bound {second}"), dir)?;
    let told = fs::read_to_string(&events)?;
    ensure!(told.contains("deconfig"), "the old address was never given up: {told}");
    site.node.host.v4 = second;
    let begun = Instant::now();
    eventually("the new address answers", SOON, || answers(&site, second.into()))?;
    let took = begun.elapsed();
    println!("the new address answers after {} ms", took.as_millis());
    ensure!(took < Duration::from_secs(2), "the new address answers after {took:?} only");
    eventually("containers leave with the new address", SOON, || out(&site))?;
    for (to, talk) in open.iter_mut().filter(|(to, _)| to.is_ipv6()) {
        talk.ask().with_context(|| format!("{to}, an address that stayed"))?;
    }
    // The old one is nobody's, also for who still sends to this machine.
    let link = site.node.host.ns.ip(&["-o", "link", "show", "eth0"])?;
    let mac = link.split_whitespace().skip_while(|w| *w != "link/ether").nth(1).context("no MAC")?;
    site.client.ns.ip(&[
        "neigh",
        "replace",
        &first.to_string(),
        "lladdr",
        mac,
        "nud",
        "permanent",
        "dev",
        "eth0",
    ])?;
    for way in ["tcp", "udp"] {
        ensure!(ask(&site.client, way, at(first.into())).is_err(), "the old address still answers {way}");
    }
    site.node.ok(&["net", "check"])?;

    // The node as a server: broadcasts come in to its own port 67.
    drop(serving);
    let _serving = server(&site.node.host, dir, Ipv4Addr::new(198, 18, 0, 103))?;
    let guest = site.cluster.host("guest")?;
    guest.ns.ip(&["-4", "addr", "flush", "dev", "eth0"])?;
    let (_guest, told) = client(&guest, dir, "guest")?;
    happened(&told, "bound 198.18.0.103", dir)
}
