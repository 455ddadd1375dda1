//! Everything that happens to a node while it is in use, under one load: 10,000 numbered datagrams a
//! second and 500 new connections a second, and connections that stay, to the node and out of a container,
//! over both families. Nobody may notice.

use std::{
    collections::BTreeMap,
    env, fs,
    path::PathBuf,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use warren_tests::{Host, eventually, image, load::Load, node::warren, process, scenario::OneNode};

const SOON: Duration = Duration::from_secs(20);

/// Addresses of the node's uplink that no fault takes away: where the load goes.
const STAYS: [&str; 2] = ["198.18.1.11", "fd18:1::11"];
/// Those of the client on the same networks.
const OUTSIDE: [&str; 2] = ["198.18.1.10", "fd18:1::10"];

/// No answer takes longer: TCP sends a SYN again after a second, and what was lost of a connection earlier.
const NOTICED_MS: u64 = 900;

/// What can happen, with the seconds that it is given.
const FAULTS: [(&str, u64, Fault); 8] = [
    ("agent kill -9", 11, kill),
    ("agent restart", 9, restart),
    ("upgrade", 12, rebuilt),
    ("scale up and down", 14, scale),
    ("redeploy", 20, redeploy),
    ("health flip", 45, health),
    ("address change", 10, addresses),
    // The last one: there is no way back to a build that does not know the other's tables.
    ("upgrade, tables laid out in another way", 10, laid_out_anew),
];

type Fault = fn(&mut OneNode) -> Result<()>;

fn pause(seconds: f64) {
    thread::sleep(Duration::from_secs_f64(seconds));
}

fn kill(site: &mut OneNode) -> Result<()> {
    for _ in 0..2 {
        site.node.kill_agent()?;
        pause(1.0);
        site.node.start_agent()?;
    }
    Ok(())
}

fn restart(site: &mut OneNode) -> Result<()> {
    for _ in 0..2 {
        site.node.stop_agent()?;
        site.node.start_agent()?;
    }
    Ok(())
}

/// To another binary.
fn upgrade(site: &mut OneNode, binary: PathBuf) -> Result<()> {
    site.node.stop_agent()?;
    site.node.set_binary(binary);
    site.node.start_agent()?;
    both(site)?;
    site.node.ok(&["net", "check"]).map(drop)
}

fn rebuilt(site: &mut OneNode) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("wtx-").tempdir()?;
    let copy = dir.path().join("warren");
    fs::copy(warren()?, &copy)?;
    upgrade(site, copy)?;
    upgrade(site, warren()?)
}

/// To one whose every table of flows, and that of services, is another than before.
fn laid_out_anew(site: &mut OneNode) -> Result<()> {
    let binary = env::var_os("WARREN_BIN_OTHER_ABI");
    upgrade(site, binary.context("WARREN_BIN_OTHER_ABI names no binary: run `cargo xtask test`")?.into())
}

fn scale(site: &mut OneNode) -> Result<()> {
    for replicas in ["4", "1", "2"] {
        for service in SERVICES {
            site.node.ok(&["service", "scale", &format!("{service}={replicas}")])?;
        }
    }
    Ok(())
}

fn redeploy(site: &mut OneNode) -> Result<()> {
    for service in SERVICES {
        let before = site.node.running(service)?;
        site.node.ok(&["service", "update", "--force", service])?;
        both(site)?;
        let after = site.node.running(service)?;
        ensure!(after.iter().all(|t| !before.contains(t)), "{after:?} after {before:?}");
    }
    Ok(())
}

/// One replica after the other says that it is not well, and is well again; or is replaced meanwhile. Of two
/// one has the stream of datagrams.
fn health(site: &mut OneNode) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("wtx-").tempdir()?;
    let file = dir.path().join("state");
    let mut replicas = Vec::new();
    for service in SERVICES {
        let tasks = site.node.json(&["service", "ps", service])?;
        let running = |t: &&Value| t["state"] == "running";
        let running = tasks.as_array().context("no list")?.iter().filter(running).cloned();
        replicas.extend(running.map(|task| (service, task)));
    }
    ensure!(replicas.len() == 4, "{replicas:?}");
    for (service, one) in replicas {
        let (id, address) = (one["id"].as_str().context("no id")?, one["address"].as_str());
        let say = |what: &str| -> Result<()> {
            if service == "web" {
                let address = address.context("it has no address")?;
                return site.node.host.curl(&format!("http://{address}/{what}")).map(drop);
            }
            fs::write(&file, what)?;
            let file = file.to_str().context("a path")?;
            site.node.ok(&["cp", file, &format!("{id}:/state")]).map(drop)
        };
        say("sicken")?;
        eventually("it is unhealthy", SOON, || {
            let now = site.node.json(&["service", "ps", service])?;
            let task = now.as_array().and_then(|t| t.iter().find(|t| t["id"] == one["id"])).cloned();
            if task.is_some_and(|t| t["health"] == "healthy") { bail!("{now}") } else { Ok(()) }
        })?;
        // It may have been ended by now.
        let _ = say("cure");
        both(site)?;
    }
    Ok(())
}

/// As DHCP does: first gone, then another; and another before the old one goes.
fn addresses(site: &mut OneNode) -> Result<()> {
    let (first, first6) = (site.node.host.v4.to_string(), site.node.host.v6.to_string());
    let ns = &site.node.host.ns;
    let change = |what: &str, v4: &str, v6: &str| -> Result<()> {
        ns.ip(&["addr", what, &format!("{v4}/24"), "dev", "eth0"])?;
        let v6 = format!("{v6}/64");
        let mut words = vec!["addr", what, &v6, "dev", "eth0"];
        words.extend((what == "add").then_some("nodad"));
        ns.ip(&words).map(drop)
    };
    let way_out = || ns.ip(&["route", "replace", "default", "via", "198.18.0.10"]).map(drop);
    let answers = |at: &str| eventually(at, SOON, || site.client.curl(&format!("http://{at}:8080/")));
    change("del", &first, &first6)?;
    pause(0.5);
    change("add", "198.18.0.77", "fd18::77")?;
    way_out()?;
    answers("198.18.0.77")?;
    answers("[fd18::77]")?;
    change("add", "198.18.2.78", "fd18:2::78")?;
    change("del", "198.18.0.77", "fd18::77")?;
    pause(0.5);
    change("add", &first, &first6)?;
    way_out()?;
    change("del", "198.18.2.78", "fd18:2::78")?;
    answers(&first)?;
    answers(&format!("[{first6}]")).map(drop)
}

const SERVICES: [&str; 2] = ["web", "echo"];

/// Waits until both services have their two replicas, well.
fn both(site: &OneNode) -> Result<()> {
    for service in SERVICES {
        eventually("two healthy replicas", SOON, || {
            let now = site.node.json(&["service", "ps", service])?;
            let well = |t: &&Value| t["state"] == "running" && t["health"] == "healthy";
            let found = now.as_array().map_or(0, |t| t.iter().filter(well).count());
            if found == 2 { Ok(()) } else { bail!("{now}") }
        })?;
    }
    Ok(())
}

/// The node with both services, reachable at addresses that stay.
fn site() -> Result<OneNode> {
    let site = OneNode::new()?;
    for (host, last) in [(&site.node.host, "11"), (&site.client, "10")] {
        host.ns.ip(&["addr", "add", &format!("198.18.1.{last}/24"), "dev", "eth0"])?;
        host.ns.ip(&["addr", "add", &format!("fd18:1::{last}/64"), "dev", "eth0", "nodad"])?;
    }
    let well = ["--replicas", "2", "--health-interval", "1s"];
    let web = ["-p", "8080:80", "--health-http", "http://:80/health"];
    site.create("web", &[&well[..], &web].concat(), &[])?;
    let echo = ["-p", "7000:7/udp", "--health-cmd", r#"["/testbox","well","/state","127.0.0.1:7"]"#];
    site.create("echo", &[&well[..], &echo].concat(), &["udp-echo"])?;
    // Whom connections that stay lead to, and who has some of its own.
    site.create("stream", &["-p", "7001:7"], &["tcp-echo"])?;
    both(&site)?;
    Ok(site)
}

/// A server elsewhere, for what a container sends out; it ends with this.
struct Outside(Child);

impl Outside {
    fn serve(client: &Host) -> Result<Self> {
        let mut c = client.ns.command(image::testbox()?)?;
        let server = Self(c.args(["tcp-echo", "7001"]).stdin(Stdio::null()).spawn()?);
        eventually("it listens", SOON, || {
            let found = client.ns.run("ss", &["-tlnH", "sport = :7001"])?;
            if found.is_empty() { bail!("not yet") } else { Ok(()) }
        })?;
        Ok(server)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What sockets had no room for, by network namespace: its number, and the shim of the container it is
/// of, since numbers are used again.
type Counts = BTreeMap<(PathBuf, i32), u64>;

/// Datagrams that came to a socket and found it full, in the namespaces of the node, the client and the
/// containers. Its reader did not run; the network has done its part.
fn overflows(places: &[PathBuf], counts: &mut Counts) {
    for inside in places.iter().map(|p| process::in_netns(p)) {
        if let Some(first) = inside.first() {
            look(first.pid, 0, counts);
        }
        for shim in inside.iter().filter(|p| p.name.starts_with("containerd-shim")) {
            let below = process::tree(shim.pid).into_iter().filter(|pid| *pid != shim.pid);
            below.for_each(|pid| look(pid, shim.pid, counts));
        }
    }
}

fn look(pid: i32, shim: i32, counts: &mut Counts) {
    let Ok(ns) = fs::read_link(format!("/proc/{pid}/ns/net")) else { return };
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/net/{file}"));
    let (Ok(v4), Ok(v6)) = (read("snmp"), read("snmp6")) else { return };
    let mut udp = v4.lines().filter_map(|l| l.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (udp.next(), udp.next()) else { return };
    let v4 = names.split(' ').zip(values.split(' ')).filter(|(n, _)| *n == "RcvbufErrors");
    let v6 = v6.lines().filter_map(|l| l.split_once(char::is_whitespace));
    let v6 = v6.filter(|(n, _)| *n == "Udp6RcvbufErrors");
    let sum = v4.chain(v6).filter_map(|(_, n)| n.trim().parse::<u64>().ok()).sum();
    counts.insert((ns, shim), sum);
}

/// One fault under load: its line, and what is wrong with it.
fn strike(site: &mut OneNode, seconds: u64, fault: Fault) -> Result<(String, bool)> {
    let places = [site.node.host.ns.path(), site.client.ns.path()];
    let ([v4, v6], [out4, out6]) = (STAYS, OUTSIDE);
    let pid = site.node.pid("stream")?;
    let loads = [
        Load::datagrams(&site.client, &format!("{v4}:7000"), 9000, seconds)?,
        Load::datagrams(&site.client, &format!("[{v6}]:7000"), 1000, seconds)?,
        Load::connections(&site.client, &format!("{v4}:8080"), 250, seconds)?,
        Load::connections(&site.client, &format!("[{v6}]:8080"), 250, seconds)?,
        Load::stream(&site.client, &format!("{v4}:7001"), 100, seconds)?,
        Load::stream(&site.client, &format!("[{v6}]:7001"), 100, seconds)?,
        Load::stream_of(pid, &format!("{out4}:7001"), 100, seconds)?,
        Load::stream_of(pid, &format!("[{out6}]:7001"), 100, seconds)?,
    ];
    let mut before = Counts::new();
    overflows(&places, &mut before);
    pause(1.0);
    let (over, mut after) = (AtomicBool::new(false), Counts::new());
    let results = thread::scope(|scope| -> Result<Vec<Value>> {
        // A replica that ends takes its counters along: they are read all the time.
        scope.spawn(|| {
            while !over.load(Relaxed) {
                overflows(&places, &mut after);
                pause(0.25);
            }
        });
        let struck = fault(site);
        let mut loads = loads;
        let early = loads.iter_mut().map(|l| Ok(!l.running()?)).collect::<Result<Vec<_>>>();
        let ended: Result<Vec<_>> = loads.into_iter().map(Load::finish).collect();
        over.store(true, Relaxed);
        struck?;
        ensure!(!early?.contains(&true), "the load ended before the fault did");
        ended
    })?;
    overflows(&places, &mut after);
    let full: u64 = after.iter().map(|(ns, n)| n.saturating_sub(*before.get(ns).unwrap_or(&0))).sum();
    let sum = |loads: &[Value], what: &str| loads.iter().filter_map(|l| l[what].as_u64()).sum::<u64>();
    let max = |loads: &[Value], what: &str| loads.iter().filter_map(|l| l[what].as_u64()).max().unwrap_or(0);
    let (datagrams, others) = results.split_at(2);
    let (connections, streams) = others.split_at(2);
    let (sent, lost, failed) = (sum(datagrams, "sent"), sum(datagrams, "lost"), sum(connections, "failed"));
    let odd = sum(datagrams, "wrong") + sum(datagrams, "doubled");
    let longest = max(connections, "max_us") / 1000;
    let pauses = [max(datagrams, "longest_gap_ms"), max(streams, "longest_gap_ms")];
    let line = format!(
        "{sent} datagrams sent, {} answered, {lost} lost ({full} in full sockets), {odd} wrong, longest pause {} ms; \
         {} connections, {failed} failed, longest {longest} ms; 4 that stay, {} records, longest pause {} ms",
        sum(datagrams, "received"),
        pauses[0],
        sum(connections, "ok") + failed,
        sum(streams, "received"),
        pauses[1],
    );
    // At the rate that is said, which a machine that is too busy does not keep.
    let on_time = |l: &Value| l["seconds"].as_f64().is_some_and(|s| s < seconds as f64 * 1.05 + 0.5);
    let enough = sent == 10_000 * seconds
        && sum(connections, "ok") == 500 * seconds
        && datagrams.iter().chain(connections).all(on_time);
    let stayed =
        streams.iter().all(|s| s["error"] == "" && s["wrong"] == 0 && s["received"] == 100 * seconds);
    let quick = longest < NOTICED_MS && pauses.iter().all(|p| *p < NOTICED_MS);
    let good = enough && lost <= full && odd == 0 && failed == 0 && stayed && quick;
    let more = if good { String::new() } else { format!("\n{results:?}") };
    Ok((line + &more, good))
}

#[test]
#[ignore = "needs root"]
fn nothing_that_happens_to_a_node_is_noticed() -> Result<()> {
    let mut site = site()?;
    let _outside = Outside::serve(&site.client)?;
    // Some of them by name, for who works on one.
    let only = env::var("WARREN_FAULTS").unwrap_or_default();
    let asked = |name: &str| only.split(',').any(|o| name.contains(o));
    let mut noticed = Vec::new();
    for (name, seconds, fault) in FAULTS.iter().filter(|(name, ..)| asked(name)) {
        let (line, good) = strike(&mut site, *seconds, *fault).with_context(|| (*name).to_owned())?;
        println!("{name}: {line}");
        if !good {
            noticed.push(format!("{name}: {line}"));
        }
        both(&site)?;
    }
    ensure!(noticed.is_empty(), "{}", noticed.join("\n"));
    Ok(())
}
