//! A published port leads into a container, from wherever it is asked, and the container out.

use std::{
    collections::BTreeSet,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use warren_tests::{
    eventually,
    image::{self, Image},
    leaks,
    netns::Netns,
    process,
    scenario::{OneNode, field},
};

const SOON: Duration = Duration::from_secs(10);

#[test]
#[ignore = "needs root"]
fn another_host_reaches_every_replica_and_is_seen_as_itself() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["--replicas", "3", "-p", "8080:80"], &[])?;
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let answer = site.ask(8080, "/")?;
        let client = field(&answer, "client")?;
        ensure!(client.starts_with(&format!("{}:", site.client.v4)), "the container saw {client}");
        seen.insert(field(&answer, "host")?.to_owned());
    }
    ensure!(seen.len() == 3, "60 connections reached {seen:?} of 3 replicas");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_node_itself_reaches_it_on_loopback_and_on_its_own_addresses() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["--replicas", "2", "-p", "8080:80"], &[])?;
    for host in ["127.0.0.1".to_owned(), site.node.host.v4.to_string()] {
        for _ in 0..10 {
            let answer = site.node.host.curl(&format!("http://{host}:8080/"))?;
            ensure!(answer.contains("path=/"), "{host}: {answer}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_port_published_on_one_address_answers_only_there() -> Result<()> {
    let site = OneNode::new()?;
    site.create("inside", &["-p", "127.0.0.1:8081:80"], &[])?;
    site.create("outside", &["-p", &format!("{}:8082:80", site.node.host.v4)], &[])?;
    site.node.host.curl("http://127.0.0.1:8081/")?;
    site.ask(8082, "/")?;
    let refused = site.ask(8081, "/").err().context("a loopback port answered another host")?;
    ensure!(refused.to_string().contains("(7)"), "should be refused at once: {refused:#}");
    ensure!(site.node.host.curl("http://127.0.0.1:8082/").is_err(), "a port of eth0 answered on loopback");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn without_a_replica_a_connection_is_refused_at_once() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["-p", "8080:80"], &[])?;
    site.ask(8080, "/")?;
    for _ in 0..3 {
        site.node.ok(&["service", "scale", "web=0"])?;
        let begun = Instant::now();
        let refused = site.ask(8080, "/").err().context("nobody is there, and an answer came")?;
        // curl's number for it.
        ensure!(refused.to_string().contains("(7)"), "should be refused: {refused:#}");
        ensure!(begun.elapsed() < Duration::from_millis(900), "refused after {:?} only", begun.elapsed());
        site.node.ok(&["service", "scale", "web=1"])?;
        site.ask(8080, "/").context("back again")?;
    }
    Ok(())
}

/// A second uplink has a way out of its own, which is the worse one. Who comes in by it gets answers by it:
/// nothing else leads to them.
#[test]
#[ignore = "needs root"]
fn a_client_behind_a_router_of_the_second_uplink_is_answered_by_it() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["-p", "8080:80"], &[])?;
    let node = &site.node.host.ns;
    let (router, client) = (Netns::create("router")?, Netns::create("behind")?);
    for (end, device, far) in [(node, "wwan0", "near"), (&client, "eth0", "far")] {
        end.ip(&["link", "add", device, "type", "veth", "peer", "name", far, "netns", router.name()])?;
    }
    for (place, device, v4, v6) in [
        (node, "wwan0", "198.19.1.1/24", "fd19:1::1/64"),
        (&router, "near", "198.19.1.2/24", "fd19:1::2/64"),
        (&router, "far", "198.19.2.1/24", "fd19:2::1/64"),
        (&client, "eth0", "198.19.2.2/24", "fd19:2::2/64"),
    ] {
        place.ip(&["addr", "add", v4, "dev", device])?;
        place.ip(&["addr", "add", v6, "dev", device, "nodad"])?;
        place.ip(&["link", "set", device, "up"])?;
    }
    router.set_sysctl("net/ipv4/ip_forward", "1")?;
    router.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
    for gateway in ["198.19.2.1", "fd19:2::1"] {
        client.ip(&["route", "add", "default", "via", gateway])?;
    }
    node.ip(&["-6", "route", "add", "default", "via", &site.client.v6.to_string(), "metric", "100"])?;
    // As routers announce themselves.
    router.ip(&["addr", "add", "fe80::1/64", "dev", "near", "nodad"])?;
    for gateway in ["198.19.1.2", "fe80::1"] {
        node.ip(&["route", "add", "default", "via", gateway, "dev", "wwan0", "metric", "700"])?;
    }
    for to in ["198.19.2.2", "fd19:2::2"] {
        let way = node.ip(&["route", "get", to])?;
        ensure!(way.contains("dev eth0 "), "the better way out is the other one: {way}");
    }
    let served = || -> Result<()> {
        for (url, seen) in
            [("http://198.19.1.1:8080/", "198.19.2.2:"), ("http://[fd19:1::1]:8080/", "[fd19:2::2]:")]
        {
            let answer = eventually(url, SOON, || {
                client.run("curl", &["-sS", "--fail-with-body", "--noproxy", "*", "--max-time", "3", url])
            })?;
            ensure!(field(&answer, "client")?.starts_with(seen), "{url}: {answer}");
        }
        Ok(())
    };
    served()?;
    // Who is on the links is reached as ever, by both.
    let near = |ns: &Netns, url: &str| ns.run("curl", &["-sS", "--noproxy", "*", "--max-time", "3", url]);
    near(&router, "http://[fd19:1::1]:8080/")?;
    node.ip(&["addr", "add", "fe80::77/64", "dev", "wwan0", "nodad"])?;
    eventually("its link-local address", SOON, || near(&router, "http://[fe80::77%25near]:8080/"))?;
    near(&site.client.ns, &format!("http://[{}]:8080/", site.node.host.v6))?;
    site.node.ok(&["net", "check"])?;
    // The same where the device's way out is in a table of its own, for which there is a rule.
    for (family, router, subnet) in [("-4", "198.19.1.2", "198.19.1.0/24"), ("-6", "fe80::1", "fd19:1::/64")]
    {
        node.ip(&[family, "route", "del", "default", "via", router, "dev", "wwan0", "metric", "700"])?;
        node.ip(&[family, "route", "add", "default", "via", router, "dev", "wwan0", "table", "700"])?;
        node.ip(&[family, "rule", "add", "from", subnet, "table", "700"])?;
    }
    // Let the agent see it: what it said of routers before leads nowhere now.
    thread::sleep(Duration::from_secs(1));
    served()
}

#[test]
#[ignore = "needs root"]
fn containers_reach_the_outside_as_their_node() -> Result<()> {
    let mut site = OneNode::new()?;
    let server = site.cluster.host("server")?;
    let mut helpers = Vec::new();
    for (command, port) in [("http", "80"), ("udp-echo", "7")] {
        let mut c = server.ns.command(image::testbox()?)?;
        helpers.push(c.args([command, port]).stdin(Stdio::null()).spawn()?);
    }
    site.create("web", &["-p", "8080:80"], &[])?;
    let out = |path: String| eventually("a way out", SOON, || site.ask(8080, &path));

    // The server sees the node: masquerade.
    let seen = out(format!("/tcp?to={}:80", server.v4))?;
    ensure!(seen.trim() == site.node.host.v4.to_string(), "the server saw {seen}");
    // A datagram comes back from where it was sent.
    let from = out(format!("/udp?to={}:7", server.v4))?;
    ensure!(from.trim() == format!("{}:7", server.v4), "the datagram came back from {from}");
    out(format!("/ping?to={}", server.v4))?;
    // Nothing of it depends on the node forwarding for everybody.
    ensure!(site.node.host.ns.sysctl("net/ipv4/ip_forward")? == "0");
    drop(server);
    for mut helper in helpers {
        helper.wait()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn names_are_asked_of_the_hosts_upstreams() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["-p", "8080:80"], &[])?;
    let inside = site.ask(8080, "/files?path=/etc/resolv.conf")?;
    let servers = |text: &str| -> Vec<String> {
        text.lines().filter_map(|l| l.strip_prefix("nameserver ")).map(|s| s.trim().to_owned()).collect()
    };
    let host = std::fs::read_to_string("/etc/resolv.conf")?;
    for s in servers(&host).iter().filter(|s| !s.starts_with("127.") && *s != "::1") {
        ensure!(servers(&inside).contains(s), "the host asks {s}; the container: {inside}");
    }
    ensure!(servers(&inside).iter().all(|s| !s.starts_with("127.")), "nobody listens there: {inside}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_images_settings_reach_the_process_and_flags_replace_them() -> Result<()> {
    let site = OneNode::new()?;
    site.node.import(&Image {
        env: vec!["PATH=/".into(), "COLOUR=red".into(), "SHAPE=round".into()],
        workdir: "/home/app".into(),
        user: "app".into(),
        ..Image::web("settings:1")
    })?;
    let create = |name: &str, port: &str, flags: &[&str], args: &[&str]| {
        let mut words = vec!["service", "create", "--image", "settings:1", "-p", port];
        words.extend(flags);
        words.push(name);
        words.extend(args);
        site.node.ok(&words)
    };
    // Ports below 1024 need no privilege of a user in a namespace of its own only where the kernel
    // says so; 8000 never does.
    create("plain", "8080:8000", &[], &["http", "8000"])?;
    let env = site.ask(8080, "/env")?;
    ensure!(env.contains("COLOUR=red\n") && env.contains("SHAPE=round\n"), "{env}");
    ensure!(site.ask(8080, "/cwd")?.trim() == "/home/app");
    let id = site.ask(8080, "/id")?;
    ensure!(id.starts_with("uid=1000 gid=1000 "), "{id}");
    ensure!(id.contains("29"), "the group file makes app a member of audio: {id}");
    let name = site.ask(8080, "/hostname")?;
    let hosts = site.ask(8080, "/files?path=/etc/hosts")?;
    ensure!(hosts.contains(name.trim()) && hosts.contains("localhost"), "{name}: {hosts}");
    ensure!(site.ask(8080, "/files?path=/etc/hostname")? == name);

    create("flags", "8081:8000", &["--env", "COLOUR=blue", "--entrypoint", "/testbox"], &["http", "8000"])?;
    let env = site.ask(8081, "/env")?;
    ensure!(env.contains("COLOUR=blue\n") && env.contains("SHAPE=round\n") && !env.contains("red"), "{env}");
    let args = site.ask(8081, "/args")?;
    ensure!(args == "/testbox\nhttp\n8000\n", "{args}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_archive_of_docker_save_runs_too() -> Result<()> {
    let site = OneNode::new()?;
    let file = site.node.dir().join("docker.tar");
    image::write_docker(&Image::web("saved:2"), &file)?;
    let printed = site.node.ok(&["image", "import", &file.display().to_string()])?;
    ensure!(printed.contains("saved:2"), "{printed}");
    site.node.ok(&["service", "create", "--image", "saved:2", "-p", "8080:80", "web"])?;
    site.ask(8080, "/")?;
    let listed = site.node.json(&["image", "ls"])?;
    ensure!(listed.as_array().is_some_and(|l| l.len() == 2), "{listed}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn scaling_and_removing_do_what_they_say() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["-p", "8080:80"], &[])?;
    let first = site.node.running("web")?;
    site.node.ok(&["service", "scale", "web=4"])?;
    let four = site.node.running("web")?;
    ensure!(four.len() == 4 && four.contains(&first[0]), "{first:?} became {four:?}");
    site.node.ok(&["service", "scale", "web=1"])?;
    let one = site.node.running("web")?;
    ensure!(one.len() == 1 && four.contains(&one[0]), "{four:?} became {one:?}");
    for _ in 0..20 {
        site.ask(8080, "/")?;
    }
    site.node.ok(&["service", "rm", "web"])?;
    let refused = site.ask(8080, "/").err().context("a removed service answered")?;
    ensure!(refused.to_string().contains("(7)"), "should be refused at once: {refused:#}");
    ensure!(process::one(one[0].1 as i32).is_none(), "the container of a removed service runs");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_container_that_dies_is_replaced_and_nothing_else_is_touched() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["--replicas", "2", "-p", "8080:80"], &[])?;
    let before = site.node.running("web")?;
    process::end(&[before[0].1 as i32]);
    let after = eventually("two replicas again", SOON, || {
        let now = site.node.running("web")?;
        if now.len() == 2 && now != before { Ok(now) } else { bail!("{now:?}") }
    })?;
    ensure!(after.contains(&before[1]), "the other replica was touched: {before:?}, {after:?}");
    ensure!(before[0].0 != after[0].0 && before[0].0 != after[1].0, "a task ran twice");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_container_that_always_dies_is_no_success_and_is_tried_ever_more_slowly() -> Result<()> {
    let site = OneNode::new()?;
    let created = Instant::now();
    let ended =
        site.node.cli(&["service", "create", "--image", "web:1", "--timeout", "8s", "bad", "exit", "3"])?;
    eventually("a reason in ps", SOON, || {
        let tasks = site.node.json(&["service", "ps", "bad"])?;
        let because = |t: &serde_json::Value| t["message"].as_str().is_some_and(|m| m.contains('3'));
        if tasks.as_array().is_some_and(|t| t.iter().any(because)) { Ok(()) } else { bail!("{tasks}") }
    })?;
    // With delays of 1, 2, 4 s: a handful of tries, not dozens.
    thread::sleep(Duration::from_secs(8).saturating_sub(created.elapsed()));
    let tasks = site.node.json(&["service", "ps", "bad"])?;
    let tries = tasks.as_array().map_or(0, Vec::len);
    ensure!((2..=7).contains(&tries), "{tries} tries: {tasks}");
    site.node.ok(&["service", "rm", "bad"])?;
    ensure!(!ended.good(), "a service that cannot run was a success: {}{}", ended.stdout, ended.stderr);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_container_that_ignores_sigterm_is_killed() -> Result<()> {
    let site = OneNode::new()?;
    site.create("deaf", &[], &["ignore-term"])?;
    let pid = site.node.running("deaf")?[0].1 as i32;
    let start = Instant::now();
    site.node.ok(&["service", "rm", "deaf"])?;
    let took = start.elapsed().as_secs();
    ensure!((9..=20).contains(&took), "ten seconds of grace took {took} s");
    ensure!(process::one(pid).is_none(), "it runs still");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn the_network_shows_itself_in_the_cli_and_in_bpftool() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["--replicas", "2", "-p", "8080:80"], &[])?;
    site.ask(8080, "/")?;
    let ports = site.node.ok(&["net", "ls"])?;
    ensure!(ports.contains("8080"), "{ports}");
    let flows = site.node.ok(&["net", "flows"])?;
    ensure!(flows.contains(&site.client.v4.to_string()), "{flows}");
    site.node.ok(&["net", "check"])?;

    // Maps read like tables: named keys and values.
    let maps = leaks::pinned_maps(&site.node.id()?)?;
    ensure!(!maps.is_empty(), "no map is pinned for this node");
    let mut named = 0;
    for (name, pin) in maps {
        let pin = pin.display().to_string();
        let text = site.node.host.ns.run("bpftool", &["-j", "map", "dump", "pinned", &pin]);
        let Ok(text) = text else { continue };
        let entries: serde_json::Value = serde_json::from_str(&text)?;
        for entry in entries.as_array().into_iter().flatten() {
            ensure!(entry["formatted"].is_object(), "map {name} has no BTF: {entry}");
            named += usize::from(entry["formatted"]["value"].is_object());
        }
    }
    ensure!(named > 0, "no map shows a structure with named fields");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn what_was_dropped_is_shown_with_its_reason() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["-p", "8080:80"], &[])?;
    site.ask(8080, "/")?;
    ensure!(!site.node.ok(&["net", "drops"])?.contains("unpublished"));
    // Somebody who knows the way to a container's own address.
    let ports = site.node.json(&["net", "ls"])?;
    let inside = ports[0]["backends"][0]["address"].as_str().context("a backend has an address")?;
    let ns = &site.client.ns;
    ns.run("ip", &["route", "add", inside, "via", &site.node.host.v4.to_string()])?;
    ensure!(ns.run("curl", &["-sS", "--max-time", "1", &format!("http://{inside}/")]).is_err());
    let dropped = eventually("it is counted", Duration::from_secs(5), || {
        let drops = site.node.json(&["net", "drops"])?;
        let row = drops.as_array().into_iter().flatten().find(|d| d["reason"] == "unpublished");
        row.cloned().with_context(|| format!("{drops}"))
    })?;
    ensure!(dropped["packets"].as_u64() >= Some(1), "{dropped}");
    let last = &dropped["last"];
    ensure!(last["destination"] == format!("{inside}:80") && last["protocol"] == 6, "{dropped}");
    ensure!(
        last["source"].as_str().is_some_and(|s| s.starts_with(&format!("{}:", site.client.v4))),
        "{dropped}"
    );
    let text = site.node.ok(&["net", "drops"])?;
    ensure!(text.contains("only published ports lead in"), "{text}");
    // Every reason there is, when asked for.
    let all = site.node.ok(&["net", "drops", "--all"])?;
    ensure!(all.contains("spoofed") && all.contains("ports-exhausted"), "{all}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn lists_print_ids_and_json() -> Result<()> {
    let site = OneNode::new()?;
    site.create("web", &["--replicas", "2", "-p", "8080:80"], &[])?;
    let services = site.node.json(&["service", "ls"])?;
    ensure!(
        services[0]["name"] == "web" && services[0]["replicas"] == 2 && services[0]["running"] == 2,
        "{services}"
    );
    let id = site.node.ok(&["service", "ls", "-q"])?;
    ensure!(services[0]["id"] == id.trim(), "{id}");
    let tasks = site.node.ok(&["service", "ps", "web", "-q"])?;
    ensure!(tasks.lines().count() == 2, "{tasks}");
    let one: serde_json::Value = serde_json::from_str(&site.node.ok(&["service", "inspect", "web"])?)?;
    ensure!(one.is_object(), "{one}");
    for list in [["node", "ls"], ["image", "ls"], ["net", "ls"], ["net", "flows"]] {
        ensure!(site.node.json(&list)?.is_array(), "{list:?}");
    }
    Ok(())
}
