//! Only what works gets traffic, and what stays broken is replaced.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use warren_tests::{
    eventually,
    image::Image,
    load::Load,
    scenario::{OneNode, field},
};

const SOON: Duration = Duration::from_secs(30);

/// The tasks of a service, as `service ps` has them.
fn tasks(site: &OneNode, service: &str) -> Result<Vec<Value>> {
    let all = site.node.json(&["service", "ps", service])?;
    Ok(all.as_array().context("service ps prints an array")?.clone())
}

fn task(site: &OneNode, service: &str, id: &str) -> Result<Value> {
    let found = tasks(site, service)?.into_iter().find(|t| t["id"] == id);
    found.with_context(|| format!("no task {id}"))
}

/// The id and address of the task that answers on a port.
fn who(site: &OneNode, port: u16) -> Result<String> {
    let answer = site.ask(port, "/")?;
    Ok(field(&answer, "host")?.to_owned())
}

/// What comes on a connection, up to `end`.
fn answer_on(stream: &mut TcpStream, end: &str) -> Result<String> {
    let (mut said, mut buffer) = (String::new(), [0; 4096]);
    while !said.contains(end) {
        match stream.read(&mut buffer)? {
            0 => bail!("the connection was cut after: {said}"),
            n => said.push_str(&String::from_utf8_lossy(&buffer[..n])),
        }
    }
    Ok(said)
}

/// A connection through a port that this server has.
fn connection_to(site: &OneNode, port: u16, name: &str) -> Result<TcpStream> {
    for _ in 0..100 {
        let to = (site.node.host.v4, port);
        let mut stream = site.client.ns.enter(move || TcpStream::connect(to))??;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET / HTTP/1.1\r\n\r\n")?;
        if field(&answer_on(&mut stream, "path=/\n")?, "host")? == name {
            return Ok(stream);
        }
    }
    bail!("{name} never got a connection")
}

/// What a command says that waits for what does not come.
fn fails(site: &OneNode, words: &[&str]) -> Result<String> {
    let ended = site.node.cli(words)?;
    ensure!(!ended.good(), "{words:?} should fail: {}", ended.stdout);
    Ok(ended.stderr)
}

/// Who answers, asked often.
fn answering(site: &OneNode, port: u16) -> Result<BTreeSet<String>> {
    (0..60).map(|_| who(site, port)).collect()
}

#[test]
#[ignore = "needs root"]
fn one_that_gets_sick_gets_no_traffic_and_is_replaced_and_nothing_in_flight_is_cut() -> Result<()> {
    let site = OneNode::new()?;
    let begun = Instant::now();
    site.create(
        "web",
        &[
            "--replicas",
            "2",
            "-p",
            "8080:80",
            "--health-http",
            "http://:80/health",
            "--health-interval",
            "2s",
            "--health-retries",
            "3",
        ],
        &[],
    )?;
    ensure!(begun.elapsed() > Duration::from_secs(2), "the command waits until they are healthy");
    let before = tasks(&site, "web")?;
    ensure!(before.iter().all(|t| t["health"] == "healthy" && t["state"] == "running"), "{before:?}");
    ensure!(answering(&site, 8080)?.len() == 2, "both serve");
    let table = site.node.ok(&["service", "ps", "web"])?;
    ensure!(table.contains("HEALTH") && table.contains("healthy"), "{table}");

    // One gets sick; from inside the node, since the port leads to either.
    let sick = before[0].clone();
    let (id, address) = (sick["id"].as_str().context("id")?, sick["address"].as_str().context("address")?);
    let other = before[1]["address"].as_str().context("address")?.to_owned();
    let host = |a: &str| -> Result<String> {
        let answer = site.node.host.curl(&format!("http://{a}/"))?;
        Ok(field(&answer, "host")?.to_owned())
    };
    let (name, other_name) = (host(address)?, host(&other)?);
    // A request that goes on all the while, through the port, to the one that gets sick.
    let mut slow = connection_to(&site, 8080, &name)?;
    write!(slow, "GET /slow?ms=8000 HTTP/1.1\r\n\r\n")?;
    site.node.host.curl(&format!("http://{address}/sicken"))?;
    let unhealthy = eventually("it is unhealthy", SOON, || {
        let now = task(&site, "web", id)?;
        if now["health"] == "unhealthy" { Ok(now) } else { bail!("{now}") }
    })?;
    // From here on nobody reaches it, although it runs and answers.
    let served = answering(&site, 8080)?;
    ensure!(served == BTreeSet::from([other_name.clone()]), "{served:?}, sick is {name}");
    ensure!(site.node.host.curl(&format!("http://{address}/")).is_ok(), "it answers if asked directly");
    ensure!(unhealthy["message"].as_str().is_some_and(|m| m.starts_with("unhealthy: 503")), "{unhealthy}");
    let last = unhealthy["probes"].as_array().and_then(|p| p.last()).cloned().unwrap_or_default();
    ensure!(last["good"] == false && last["code"] == 503, "{unhealthy}");
    ensure!(last["output"].as_str().is_some_and(|o| o.contains("not well")), "{last}");
    let tries = site.node.ok(&["service", "ps", "web", "--probes"])?;
    ensure!(tries.contains("bad") && tries.contains("503") && tries.contains("good"), "{tries}");

    let said = answer_on(&mut slow, "at last")?;
    ensure!(said.starts_with("HTTP/1.1 200 "), "a request in flight was cut: {said}");

    // It stays sick: ended and replaced.
    eventually("it has failed", SOON, || {
        let now = task(&site, "web", id)?;
        if now["state"] == "failed" { Ok(()) } else { bail!("{now}") }
    })?;
    let message = task(&site, "web", id)?["message"].clone();
    ensure!(message.as_str().is_some_and(|m| m.starts_with("unhealthy: 503")), "{message}");
    eventually("another runs and both serve", Duration::from_secs(60), || {
        // The new one has the slot, and so the host name, of the one that is gone.
        let running = site.node.running("web")?;
        ensure!(running.len() == 2 && running.iter().all(|(task, _)| task != id), "{running:?}");
        let served = answering(&site, 8080)?;
        if served.len() == 2 { Ok(()) } else { bail!("{served:?}") }
    })
}

#[test]
#[ignore = "needs root"]
fn the_only_one_is_not_served_while_sick_and_served_again_when_well() -> Result<()> {
    let site = OneNode::new()?;
    let flags = ["-p", "8081:80", "--health-http", "http://:80/health", "--health-interval", "1s"];
    site.create("one", &[&flags[..], &["--health-retries", "3"]].concat(), &[])?;
    let one = tasks(&site, "one")?.remove(0);
    let (id, address) = (one["id"].as_str().context("id")?, one["address"].as_str().context("address")?);
    site.node.host.curl(&format!("http://{address}/sicken"))?;
    eventually("it is unhealthy", SOON, || match task(&site, "one", id)? {
        now if now["health"] == "unhealthy" => Ok(()),
        now => bail!("{now}"),
    })?;
    ensure!(site.ask(8081, "/").is_err(), "a sick one serves although it is the only one");
    site.node.host.curl(&format!("http://{address}/cure"))?;
    eventually("it serves again", SOON, || site.ask(8081, "/").map(drop))?;
    let now = task(&site, "one", id)?;
    ensure!(now["health"] == "healthy" && now["message"] == "", "{now}");
    ensure!(now["pid"] == one["pid"], "it is the same process");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn programs_and_ports_are_probes_and_the_image_may_name_one() -> Result<()> {
    let site = OneNode::new()?;
    // Its program works.
    let good = r#"["/testbox","get","127.0.0.1:80","/health"]"#;
    site.create("program", &["--health-cmd", good, "--health-interval", "1s"], &[])?;
    let results = &tasks(&site, "program")?[0]["probes"];
    ensure!(results[0]["good"] == true && results[0]["output"] == "well\n", "{results}");
    // Its program takes too long: it never gets traffic, and the command says why.
    let flags = ["--health-cmd", r#"["/testbox","sleep","100"]"#, "--health-interval", "1s"];
    let refused = fails(
        &site,
        &[
            &["service", "create", "--image", "web:1"][..],
            &flags,
            &["--health-timeout", "1s", "--health-retries", "1", "hangs"],
        ]
        .concat(),
    )?;
    ensure!(refused.contains("unhealthy: not done within 1s"), "{refused}");
    // A port that nobody listens on, and one that somebody does.
    let flags = ["--health-interval", "1s", "--health-retries", "1"];
    let refused = fails(
        &site,
        &[&["service", "create", "--image", "web:1", "--health-tcp", "81"][..], &flags, &["shut"]].concat(),
    )?;
    ensure!(refused.contains("connection refused"), "{refused}");
    site.create("open", &["--health-tcp", "80", "--health-interval", "1s"], &[])?;

    let healthcheck = json!({
        "Test": ["CMD", "/testbox", "get", "127.0.0.1:80", "/health"],
        "Interval": 1_000_000_000,
        "Retries": 2,
    });
    site.node.import(&Image { healthcheck, ..Image::web("healthy:1") })?;
    site.node.ok(&["service", "create", "--image", "healthy:1", "by-image"])?;
    let by_image = tasks(&site, "by-image")?.remove(0);
    ensure!(by_image["health"] == "healthy" && by_image["probes"][0]["good"] == true, "{by_image}");
    site.node.ok(&["service", "create", "--image", "healthy:1", "--no-healthcheck", "without"])?;
    let without = tasks(&site, "without")?.remove(0);
    ensure!(without["health"].is_null() && without["state"] == "running", "{without}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn killing_the_agent_keeps_healthy_tasks_served() -> Result<()> {
    let mut site = OneNode::new()?;
    let flags = ["--replicas", "2", "-p", "8082:80", "--health-interval", "1s", "--health-retries", "2"];
    site.create("web", &[&flags[..], &["--health-http", "http://:80/health"]].concat(), &[])?;
    let before = site.node.running("web")?;
    let load = Load::connections(&site.client, &format!("{}:8082", site.node.host.v4), 300, 20)?;
    for _ in 0..3 {
        thread::sleep(Duration::from_secs(2));
        site.node.kill_agent()?;
        thread::sleep(Duration::from_secs(1));
        site.node.start_agent()?;
    }
    eventually("probed by the new agent", SOON, || {
        let all = tasks(&site, "web")?;
        let probed =
            |t: &Value| t["health"] == "healthy" && t["probes"].as_array().is_some_and(|p| !p.is_empty());
        if all.iter().all(probed) { Ok(()) } else { bail!("{all:?}") }
    })?;
    ensure!(site.node.running("web")? == before, "the same containers");
    let result = load.finish()?;
    ensure!(result["failed"] == 0, "{result}");
    ensure!(result["ok"].as_u64().is_some_and(|n| n > 1000), "too little load: {result}");
    Ok(())
}
