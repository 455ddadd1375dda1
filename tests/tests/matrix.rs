//! Published ports from every place a client can be in: {IPv4, IPv6} × {TCP, UDP with a connected
//! socket and without} × places × {one, several backends} × {small, fragmented, big, bundled}. In
//! each cell the answer is right, the container sees the right client, and a raw socket at either
//! end finds every checksum right; bundles are seen to arrive as bundles. TCP is also cut into pieces
//! by a router on the way. One node serves them all.

#[path = "matrix/ask.rs"]
mod ask;
#[path = "matrix/errors.rs"]
mod errors;
#[path = "matrix/place.rs"]
mod place;
#[path = "matrix/tun.rs"]
mod tun;
#[path = "matrix/wire.rs"]
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ask::{Load, Means, Seen};
use place::{Behind, Device, Peer, Row};
use warren_tests::{eventually, scenario::OneNode};
use wire::Wire;

/// Services and the ports they are published on, TCP and UDP.
const SERVICES: [(&str, u16); 3] = [("one", 7000), ("many", 7001), ("four", 7002)];
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a service of several backends is asked with a new socket.
const TRIES: usize = 6;

struct Matrix {
    site: OneNode,
    /// The containers' namespaces by service.
    containers: BTreeMap<&'static str, Vec<PathBuf>>,
    /// What arrives in each of them.
    inside: Vec<Wire>,
    cells: usize,
    bad: Vec<String>,
}

impl Matrix {
    fn new() -> Result<Self> {
        let site = OneNode::new()?;
        for (name, port) in SERVICES {
            let (tcp, udp) = (format!("{port}:7000/tcp"), format!("{port}:7000/udp"));
            let replicas = if name == "many" { "3" } else { "1" };
            let words: &[&str] = if name == "four" { &["mirror", "7000", "v4"] } else { &["mirror", "7000"] };
            site.create(name, &["--replicas", replicas, "-p", &tcp, "-p", &udp], words)?;
        }
        site.create("asker", &[], &["sleep"])?;
        let mut containers = BTreeMap::new();
        for name in ["one", "many", "four", "asker"] {
            let running = site.node.running(name)?;
            let of: Result<Vec<_>> = running.iter().map(|(_, pid)| wire::of_process(*pid)).collect();
            containers.insert(name, of?);
        }
        let inside: Result<_> = containers.values().flatten().map(|ns| Wire::tap(ns)).collect();
        Ok(Self { site, containers, inside: inside?, cells: 0, bad: Vec::new() })
    }

    /// Every cell of these rows, one line of the table for each row and service.
    fn run(&mut self, rows: Vec<Row>) -> Result<()> {
        for row in rows {
            let outside = Wire::tap(&row.from)?;
            let right = |m: &Self| -> (u64, u64) {
                m.inside.iter().map(Wire::right).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
            };
            let before = right(self);
            let _ = self.largest();
            for &service in row.services {
                self.line(&row, service, &outside)?;
            }
            let after = right(self);
            let (whole, begun) = (after.0 - before.0, after.1 - before.1);
            let (here, unfinished) = outside.right();
            let way = format!("{} → {}", row.place, row.to.ip());
            if whole + begun == 0 || here + unfinished == 0 {
                self.bad.push(format!("{way}: the raw sockets saw no packet of it"));
            }
            let largest = self.largest();
            for (kind, largest) in ["TCP", "UDP"].iter().zip(largest) {
                // No link here takes more than 1500 bytes at once.
                let one = largest <= 1500;
                if row.bundles.map_or((*kind == "TCP") != one, |bundles| bundles == one) {
                    self.bad.push(format!("{way}: the largest packet of {kind} had {largest} bytes"));
                }
            }
            if row.plain && begun + unfinished > 0 {
                self.bad.push(format!("{way}: {begun} + {unfinished} checksums were left to a device"));
            }
        }
        Ok(())
    }

    /// The largest packets of TCP and UDP that have come to a container.
    fn largest(&self) -> [u64; 2] {
        let all = self.inside.iter().map(Wire::largest);
        all.fold([0, 0], |[a, b], [c, d]| [a.max(c), b.max(d)])
    }

    /// Packets that the containers have put together from pieces.
    fn put_together(&self) -> Result<u64> {
        let of = |ns: &PathBuf| -> Result<u64> {
            let text = ask::enter(ns, || std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
            let mut ip = text.lines().filter_map(|l| l.strip_prefix("Ip: "));
            let (names, values) = (ip.next().context("no Ip")?, ip.next().context("no Ip")?);
            let mut found = names.split(' ').zip(values.split(' ')).filter(|(n, _)| *n == "ReasmOKs");
            Ok(found.next().context("no ReasmOKs")?.1.parse()?)
        };
        self.containers.values().flatten().map(of).sum()
    }

    fn line(&mut self, row: &Row, service: &'static str, outside: &Wire) -> Result<()> {
        let port = SERVICES.iter().find(|(name, _)| *name == service).context("a service")?.1;
        let mut to = row.to;
        to.set_port(port);
        // A device that has just come is the agent's to find; whatever else is wrong, the cells show.
        let there = |what: Means| ask::enter(&row.from, || ask::ask(to, what, Load::Small)).flatten();
        let _ = eventually("the place is reached", PATIENCE, || there(row.means[0]).map(|_| ()));
        let mut shown = String::new();
        let mut hosts = BTreeSet::new();
        for &means in row.means {
            for load in place::loads(row, means) {
                let tries = if service == "many" && load == Load::Small { TRIES } else { 1 };
                let begun = Instant::now();
                let wrong = self.cell(row, to, (means, load), tries, &mut hosts, outside);
                self.cells += 1;
                shown += if wrong.is_ok() { "  ok" } else { " BAD" };
                if let Err(e) = wrong {
                    self.bad.push(format!(
                        "{} → {} ({service}), {means:?} {load:?}, {} ms: {e:#}",
                        row.place,
                        row.to.ip(),
                        begun.elapsed().as_millis()
                    ));
                }
            }
            shown += "  |";
        }
        let wanted = if service == "many" { 2 } else { 1 };
        if hosts.len() < wanted {
            self.bad.push(format!("{} → {} ({service}): answers of {hosts:?}", row.place, row.to.ip()));
        }
        println!("{:16} {:28} {service:5} {shown}", row.place, row.to.ip().to_string());
        Ok(())
    }

    fn cell(
        &self,
        row: &Row,
        to: SocketAddr,
        (means, load): (Means, Load),
        tries: usize,
        hosts: &mut BTreeSet<String>,
        outside: &Wire,
    ) -> Result<()> {
        for _ in 0..tries {
            let Seen { client, host } = ask::enter(&row.from, || ask::ask(to, means, load)).flatten()?;
            ensure!(row.seen.contains(&client), "the container saw {client}, not {:?}", row.seen);
            hosts.insert(host);
        }
        // What has arrived is read by threads of their own.
        thread::sleep(Duration::from_millis(2));
        for (place, wire) in self.inside.iter().map(|w| ("a container", w)).chain([("the client", outside)]) {
            let wrong = wire.wrong();
            ensure!(wrong.is_empty(), "arrived at {place}: {}", wrong.join("; "));
        }
        Ok(())
    }

    /// What a container tells a client elsewhere, whose own link takes 1500 bytes: the most that its packets
    /// may carry where the smallest of the node's links takes `mtu`.
    fn says_its_mss(&self, mtu: u32) -> Result<()> {
        for (to, headers) in [(IpAddr::from(self.site.node.host.v4), 40), (self.site.node.host.v6.into(), 60)]
        {
            let mss = ask::enter(&self.site.client.ns.path(), || -> Result<u32> {
                let stream = TcpStream::connect_timeout(&(to, SERVICES[0].1).into(), PATIENCE)?;
                Ok(nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::TcpMaxSeg)?)
            })
            .flatten()?;
            // With time stamps, which both sides have.
            let wanted = mtu - headers - 12;
            ensure!(mss == wanted, "{to} with an MTU of {mtu}: an MSS of {mss}, not {wanted}");
        }
        Ok(())
    }

    /// Whom the containers of a service share their first network namespace with.
    fn namespace(&self, service: &str) -> Result<PathBuf> {
        Ok(self.containers[service].first().context("no container")?.clone())
    }
}

#[test]
#[ignore = "needs root"]
fn every_client_is_answered_in_every_way_with_right_checksums() -> Result<()> {
    let begun = Instant::now();
    let mut matrix = Matrix::new()?;
    let node =
        |m: &Matrix, place, n, name: &str, device| Peer::join(&m.site.node.host.ns, place, n, name, device);
    println!(
        "{:51} tcp: small big bundled | connected udp, udp: small fragmented big bundled [unsummed]",
        ""
    );

    let rows = place::lan(&matrix.site, "LAN")?;
    matrix.run(rows)?;
    matrix.says_its_mss(1500)?;
    // All of them come after the services.
    let mut peers = Vec::new();
    for (place, n, name, device) in [
        ("late uplink", 1, "up1", Device::Veth(1500)),
        ("bridge", 2, "port2", Device::Bridge),
        ("VLAN-like veth", 3, "up1.3", Device::Veth(1496)),
        ("tap", 4, "tap4", Device::Tunnel { link: true }),
        ("tun", 5, "tun5", Device::Tunnel { link: false }),
    ] {
        let peer = node(&matrix, place, n, name, device)?;
        matrix.run(peer.rows())?;
        peers.push(peer);
    }
    // TCP in pieces.
    let behind = Behind::join(&matrix.site.node.host.ns, 8, "up8")?;
    let before = matrix.put_together()?;
    matrix.run(behind.rows())?;
    let pieces = matrix.put_together()? - before;
    println!("{pieces} packets of TCP were put together from pieces");
    ensure!(pieces > 1000, "only {pieces} packets of TCP came in pieces");
    drop(behind);
    let rows = place::node(&matrix.site)?;
    matrix.run(rows)?;
    let site = &matrix.site;
    let mut rows =
        place::container(site, "other container", &matrix.namespace("asker")?, &["one", "many"], None)?;
    rows.extend(place::container(site, "container itself", &matrix.namespace("one")?, &["one"], Some(true))?);
    rows.extend(place::container(
        site,
        "one of several",
        &matrix.namespace("many")?,
        &["many"],
        Some(false),
    )?);
    matrix.run(rows)?;

    // The agent again: what it finds at its start is what comes while it runs.
    matrix.site.node.stop_agent()?;
    matrix.site.node.start_agent()?;
    let mut rows = peers[0].rows();
    rows.iter_mut().for_each(|row| row.place = "second uplink".into());
    matrix.run(rows)?;

    // That of the VLAN-like veth.
    matrix.says_its_mss(1496)?;
    // The smallest MTU that IPv6 allows, and some between.
    for (n, name, mtu) in [(6, "up6", 1400), (7, "up7", 1280)] {
        let peer =
            node(&matrix, if mtu == 1280 { "MTU 1280" } else { "MTU 1400" }, n, name, Device::Veth(mtu))?;
        // What is on its way while the links follow is answered with "too big" (the docs say so).
        let end = format!("--net={}", matrix.namespace("one")?.display());
        eventually("the containers' links follow", PATIENCE, || {
            let link = warren_tests::program::host("nsenter", &[&end, "ip", "-o", "link", "show", "eth0"])?;
            ensure!(link.contains(&format!("mtu {mtu} ")), "{link}");
            Ok(())
        })?;
        matrix.run(peer.rows())?;
        peers.push(peer);
        matrix.says_its_mss(mtu.into())?;
    }
    let all: Vec<PathBuf> = matrix.containers.values().flatten().cloned().collect();
    let rows = place::plain(&matrix.site, &all)?;
    matrix.run(rows)?;
    // One thing off and others on: what is in bundles has its checksums written by devices.
    let rows = place::checksums_only(&matrix.site, &all)?;
    matrix.run(rows)?;

    for (program, words) in
        [("nft", &["list", "ruleset"][..]), ("iptables-legacy-save", &[]), ("ip6tables-legacy-save", &[])]
    {
        let rules = matrix.site.node.host.ns.run(program, words)?;
        ensure!(rules.trim().is_empty(), "{program} shows: {rules}");
    }
    matrix.site.node.ok(&["net", "check"])?;
    println!("{} cells, {} bad, {} s", matrix.cells, matrix.bad.len(), begun.elapsed().as_secs());
    ensure!(
        matrix.bad.is_empty(),
        "{} of {} cells:\n{}",
        matrix.bad.len(),
        matrix.cells,
        matrix.bad.join("\n")
    );
    Ok(())
}
