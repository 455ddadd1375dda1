//! Who uses how much is shown, and is what others count: the kernel on the container's device, and the
//! client that keeps to a rate.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use warren_tests::{Host, eventually, image, load::Load, program, scenario::OneNode};

const SOON: Duration = Duration::from_secs(10);

/// What a container's device has carried, as `ip` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Carried {
    received: u64,
    received_packets: u64,
    sent: u64,
    sent_packets: u64,
    /// Messages of ICMPv6, which the kernel sends by itself now and then (router solicitations, reports of
    /// groups): they are no flow's.
    messages: u64,
}

fn messages(pid: i64) -> Result<u64> {
    let snmp = std::fs::read_to_string(format!("/proc/{pid}/net/snmp6"))?;
    let counts = snmp.lines().filter_map(|line| {
        let (name, count) = line.split_once(char::is_whitespace)?;
        ["Icmp6InMsgs", "Icmp6OutMsgs"].contains(&name).then(|| count.trim().parse::<u64>().ok())?
    });
    Ok(counts.sum())
}

fn carried(pid: i64) -> Result<Carried> {
    let words = ["-t", &pid.to_string(), "-n", "ip", "-s", "-j", "link", "show", "dev", "eth0"];
    loop {
        let before = messages(pid)?;
        let json: Value = serde_json::from_str(&program::host("nsenter", &words)?)?;
        if messages(pid)? != before {
            continue;
        }
        let of = |way: &str, what: &str| {
            json[0]["stats64"][way][what].as_u64().with_context(|| format!("no {way} {what} in {json}"))
        };
        return Ok(Carried {
            received: of("rx", "bytes")?,
            received_packets: of("rx", "packets")?,
            sent: of("tx", "bytes")?,
            sent_packets: of("tx", "packets")?,
            messages: before,
        });
    }
}

/// The flow of a client's socket, as `net flows` says.
fn flow(site: &OneNode, protocol: &str, client: SocketAddr) -> Result<Value> {
    let flows = site.node.json(&["net", "flows"])?;
    let ours = |f: &&Value| f["protocol"] == protocol && f["client"] == client.to_string();
    flows.as_array().into_iter().flatten().find(ours).cloned().with_context(|| format!("{client}: {flows}"))
}

fn number(json: &Value, name: &str) -> Result<u64> {
    json[name].as_u64().with_context(|| format!("no number {name} in {json}"))
}

/// Bytes to an echo server and back; the socket stays open.
fn bulk(host: &Host, to: SocketAddr, bytes: usize) -> Result<TcpStream> {
    let stream = eventually("a connection", SOON, || Ok(host.ns.enter(|| TcpStream::connect(to))??))?;
    stream.set_read_timeout(Some(SOON))?;
    let (mut there, mut back) = (stream.try_clone()?, stream.try_clone()?);
    let writer = thread::spawn(move || there.write_all(&vec![7; bytes]));
    back.read_exact(&mut vec![0; bytes])?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    Ok(stream)
}

/// So many datagrams to an echo server and back, one after the other; where they came from.
fn datagrams(host: &Host, to: SocketAddr, count: u32, bytes: usize) -> Result<SocketAddr> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = host.ns.enter(|| UdpSocket::bind(any))??;
    // A link that was just made may lose what is sent first.
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(to)?;
    for _ in 0..count {
        socket.send(&vec![7; bytes])?;
        ensure!(socket.recv(&mut [0; 2048])? == bytes, "another datagram came back");
    }
    Ok(socket.local_addr()?)
}

const BULK: usize = 8 << 20;

/// Compares a TCP flow with the device of the one container that it goes to.
fn compare(site: &OneNode, pid: i64, to: SocketAddr) -> Result<()> {
    let header = if to.is_ipv4() { 20 } else { 40 };
    for _ in 0..10 {
        // What closes the last connection is not of the next.
        thread::sleep(Duration::from_millis(500));
        let before = carried(pid)?;
        let stream = bulk(&site.client, to, BULK)?;
        // The last acknowledgement may be on its way.
        thread::sleep(Duration::from_millis(500));
        let flow = flow(site, "tcp", stream.local_addr()?)?;
        let after = carried(pid)?;
        if after.messages != before.messages {
            continue;
        }
        println!("{to}: {before:?}, {after:?}, {flow}");
        let ways = [
            ("received", after.received - before.received, after.received_packets - before.received_packets),
            ("sent", after.sent - before.sent, after.sent_packets - before.sent_packets),
        ];
        for (way, bytes, merged) in ways {
            // An Ethernet header each, and nothing else.
            ensure!(number(&flow, way)? == bytes - 14 * merged, "{way}: {bytes} in {merged}, {flow}");
            // Segments of 1500 bytes with time stamps, and acknowledgements of what came the other way;
            // the device saw most of them merged.
            let packets = number(&flow, &format!("{way}_packets"))?;
            let segments = BULK as u64 / (1500 - header - 32);
            ensure!(packets >= segments && packets >= merged, "{way}: {packets} of {segments}, {merged}");
            ensure!(packets <= segments + segments / 10 + merged, "{way}: {packets} of {segments}, {merged}");
        }
        ensure!(flow["state"] == "established" && flow["service"] == "tcp" && flow["slot"] == 1, "{flow}");
        ensure!(number(&flow, "age_ms")? < 60_000, "{flow}");
        return Ok(());
    }
    bail!("the container's kernel always had something to say")
}

#[test]
#[ignore = "needs root"]
fn flows_show_what_the_containers_device_has_carried() -> Result<()> {
    let site = OneNode::new()?;
    site.create("tcp", &["-p", "7000:7"], &["tcp-echo"])?;
    site.create("udp", &["-p", "7000:7/udp"], &["udp-echo"])?;
    let pid = site.node.running("tcp")?.first().context("a task")?.1;
    for address in [IpAddr::from(site.node.host.v4), IpAddr::from(site.node.host.v6)] {
        let to = SocketAddr::new(address, 7000);
        compare(&site, pid, to)?;
        // Of datagrams it is known what they are.
        eventually("it answers", SOON, || datagrams(&site.client, to, 1, 1))?;
        let own = datagrams(&site.client, to, 100, 500)?;
        let flow = flow(&site, "udp", own)?;
        let bytes = 100 * (508 + if to.is_ipv4() { 20 } else { 40 });
        for way in ["received", "sent"] {
            ensure!(number(&flow, way)? == bytes, "{way}: {flow}");
            ensure!(number(&flow, &format!("{way}_packets"))? == 100, "{way}: {flow}");
        }
        ensure!(flow["service"] == "udp", "{flow}");
    }
    let table = site.node.ok(&["net", "flows"])?;
    ensure!(table.contains("BACKEND") && table.contains("tcp.1") && table.contains("8.4"), "{table}");
    Ok(())
}

/// One sample of `net top`.
fn top(site: &OneNode, flags: &[&str]) -> Result<Value> {
    site.node.json(&[&["net", "top", "--no-stream"], flags].concat())
}

/// Whether rates are of 200 datagrams of 64 bytes a second, there and back.
fn paced(row: &Value, header: f64) -> Result<()> {
    for (name, rate) in [("packets", 200.0), ("", 200.0 * (header + 8.0 + 64.0))] {
        for way in ["received", "sent"] {
            let name = if name.is_empty() { format!("{way}_per_s") } else { format!("{way}_{name}_per_s") };
            let got = row[&name].as_f64().with_context(|| format!("no {name} in {row}"))?;
            ensure!((0.8 * rate..=1.2 * rate).contains(&got), "{name}: {got}, sent were {rate}: {row}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn rates_are_those_that_clients_keep_to() -> Result<()> {
    let mut site = OneNode::new()?;
    let other = site.cluster.host("other")?;
    site.create("echo", &["-p", "7000:7/udp"], &["udp-echo"])?;
    site.create("web", &["-p", "8080:80"], &[])?;
    let to = SocketAddr::new(site.node.host.v4.into(), 7000);
    let to6 = SocketAddr::new(site.node.host.v6.into(), 7000);
    eventually("it answers", SOON, || datagrams(&site.client, to, 1, 1))?;
    eventually("the web answers", SOON, || site.ask(8080, "/"))?;
    // The one from the port's own address, the other over IPv6, and somebody who opens connections.
    let loads = [
        Load::datagrams(&site.client, &to.to_string(), 200, 20)?,
        Load::datagrams(&other, &to6.to_string(), 200, 20)?,
        Load::connections(&other, &format!("{}:8080", site.node.host.v4), 50, 20)?,
    ];
    thread::sleep(Duration::from_secs(2));
    let sample = top(&site, &[])?;
    println!("{sample:#}");
    let elapsed = number(&sample, "elapsed_ms")?;
    ensure!((900..3000).contains(&elapsed), "{sample}");
    let find = |list: &str, published: &str, client: Option<IpAddr>| {
        let rows = sample[list].as_array().into_iter().flatten();
        let is_it = |r: &&Value| {
            r["published"] == published && client.is_none_or(|c: IpAddr| r["client"] == c.to_string())
        };
        rows.clone().find(is_it).cloned().with_context(|| format!("no {published} in {list} of {sample}"))
    };
    for (to, client, header) in
        [(to, IpAddr::from(site.client.v4), 20.0), (to6, IpAddr::from(other.v6), 40.0)]
    {
        let port = find("ports", &to.to_string(), None)?;
        ensure!(port["service"] == "echo" && port["protocol"] == "udp", "{port}");
        paced(&port, header)?;
        paced(&find("clients", &to.to_string(), Some(client))?, header)?;
    }
    let web = format!("{}:8080", site.node.host.v4);
    for row in [find("ports", &web, None)?, find("clients", &web, Some(other.v4.into()))?] {
        let new = row["new_per_s"].as_f64().context("a rate")?;
        ensure!((40.0..=60.0).contains(&new), "fifty connections a second: {row}");
    }

    // One port, and the largest of its clients.
    let sample = top(&site, &["--port", "7000/udp", "--limit", "1", "--sort", "packets"])?;
    let count = |list: &str| sample[list].as_array().map_or(0, Vec::len);
    ensure!((count("ports"), count("clients"), count("out")) == (1, 1, 0), "{sample}");
    ensure!(sample["truncated"] == true, "{sample}");
    let table = site.node.ok(&["net", "top", "--no-stream"])?;
    ensure!(table.contains("CLIENT") && table.contains(&site.client.v4.to_string()), "{table}");
    let why = site.node.refused(&["net", "top", "--port", "web"])?;
    ensure!(why.contains("is no port"), "{why}");
    for load in loads {
        load.finish()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_containers_begin_is_theirs() -> Result<()> {
    let mut site = OneNode::new()?;
    let server = site.cluster.host("server")?;
    let mut echo = server.ns.command(image::testbox()?)?;
    let mut echo = echo.args(["udp-echo", "7"]).stdin(Stdio::null()).spawn()?;
    site.create("out", &[], &["datagrams", &format!("{}:7", server.v4), "200", "60"])?;
    thread::sleep(Duration::from_secs(2));
    let sample = top(&site, &[])?;
    let row = sample["out"].as_array().into_iter().flatten().find(|r| r["service"] == "out");
    let row = row.with_context(|| format!("{sample}"))?;
    ensure!(row["slot"] == 1 && row["flows"] == 1, "{row}");
    paced(row, 20.0)?;
    let table = site.node.ok(&["net", "top", "--no-stream"])?;
    ensure!(table.contains("out.1"), "{table}");
    drop(server);
    echo.wait()?;
    Ok(())
}
