//! Options that are seen in what happens, not in a look: restarts, stopping, labels, ends.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use warren_tests::{Node, eventually, leaks};

use super::rows::node;

const SOON: Duration = Duration::from_secs(30);

fn create(node: &Node, flags: &[&str], name: &str, args: &[&str]) -> Result<()> {
    let mut words = vec!["service", "create", "--detach", "--image", "look:1"];
    words.extend(flags);
    words.push(name);
    words.extend(args);
    node.ok(&words).map(drop)
}

fn tasks(node: &Node, service: &str) -> Result<Vec<Value>> {
    let shown = node.json(&["service", "ps", service])?;
    shown.as_array().cloned().context("service ps prints an array")
}

/// Waits until a service has so many tasks of a state, then that it stays so.
fn settles(node: &Node, service: &str, state: &str, count: usize, for_: Duration) -> Result<Vec<Value>> {
    let look = || -> Result<Vec<Value>> {
        let all = tasks(node, service)?;
        let of = all.iter().filter(|t| t["state"] == state).count();
        ensure!(of == count && all.len() == count, "{service}: {of} {state} of {}: {all:?}", all.len());
        Ok(all)
    };
    eventually(&format!("{service}: {count} {state}"), SOON, look)?;
    std::thread::sleep(for_);
    look()
}

#[test]
#[ignore = "needs root"]
fn a_task_is_replaced_when_its_policy_says_so() -> Result<()> {
    let (_cluster, node) = node()?;
    let quick = ["--restart-delay", "200ms"];
    let with = |rest: &[&'static str]| quick.iter().copied().chain(rest.iter().copied()).collect::<Vec<_>>();
    create(&node, &with(&["--restart-condition", "none"]), "never", &["exit", "3"])?;
    create(&node, &with(&["--restart-condition", "on-failure"]), "good", &["exit", "0"])?;
    create(
        &node,
        &with(&["--restart-condition", "any", "--restart-max-attempts", "2"]),
        "twice",
        &["exit", "4"],
    )?;
    create(
        &node,
        &with(&["--restart-condition", "on-failure", "--restart-max-attempts", "1"]),
        "once",
        &["die", "9"],
    )?;
    let never = settles(&node, "never", "failed", 1, Duration::from_secs(1))?;
    ensure!(never[0]["exit_code"] == 3, "{never:?}");
    settles(&node, "good", "complete", 1, Duration::ZERO)?;
    let twice = settles(&node, "twice", "failed", 3, Duration::from_secs(1))?;
    ensure!(twice.iter().all(|t| t["exit_code"] == 4), "{twice:?}");
    ensure!(twice.iter().all(|t| t.to_string().contains('4')), "{twice:?}");
    tasks(&node, "once")?;
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_replacement_waits_as_long_as_was_said() -> Result<()> {
    let (_cluster, node) = node()?;
    create(&node, &["--restart-delay", "3s"], "late", &["exit", "1"])?;
    let ended = |n: usize| {
        eventually("a task ended", SOON, || {
            let failed: Vec<Value> =
                tasks(&node, "late")?.into_iter().filter(|t| t["state"] == "failed").collect();
            ensure!(failed.len() >= n, "{failed:?}");
            failed.iter().filter_map(|t| t["since_ms"].as_u64()).max().context("a task says since when")
        })
    };
    let (first, second) = (ended(1)?, ended(2)?);
    ensure!((2900..8000).contains(&(second - first)), "{} ms between two ends", second - first);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn ends_are_named() -> Result<()> {
    let (_cluster, node) = node()?;
    let never = ["--restart-condition", "none"];
    let memory = ["--restart-condition", "none", "--memory", "32m", "--memory-swap", "32m"];
    create(&node, &never, "status", &["exit", "7"])?;
    // Not the first process, which no signal of its own ends.
    create(&node, &["--restart-condition", "none", "--init"], "signal", &["die", "11"])?;
    create(&node, &memory, "hungry", &["allocate", "256"])?;
    let end = |service: &str| {
        eventually(&format!("{service} ended"), SOON, || {
            let all = tasks(&node, service)?;
            match &all[..] {
                [one] if one["state"] == "failed" => Ok(one.clone()),
                _ => bail!("{all:?}"),
            }
        })
    };
    let status = end("status")?;
    ensure!(status["exit_code"] == 7, "{status}");
    let signal = end("signal")?;
    ensure!(signal["exit_code"] == 128 + 11, "{signal}");
    ensure!(signal["message"].to_string().contains("SIGSEGV"), "{signal}");
    let hungry = end("hungry")?;
    ensure!(hungry["exit_code"] == 137, "{hungry}");
    let said = hungry["message"].to_string().to_lowercase();
    ensure!(said.contains("memory"), "{hungry}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_stop_sends_the_signal_and_waits_as_long_as_said() -> Result<()> {
    let (_cluster, node) = node()?;
    fs::create_dir(node.dir().join("out"))?;
    let out = node.dir().join("out").display().to_string();
    let mount = format!("type=bind,source={out},target=/out");
    for (name, flags, number) in [
        ("plain", vec![], "15"),
        ("usr1", vec!["--stop-signal", "SIGUSR1"], "10"),
        ("int", vec!["--stop-signal", "int"], "2"),
        ("number", vec!["--stop-signal", "3"], "3"),
        ("through-init", vec!["--stop-signal", "SIGUSR2", "--init"], "12"),
    ] {
        let flags: Vec<&str> = ["--mount", &mount].into_iter().chain(flags).collect();
        create(&node, &flags, name, &["look"])?;
        node.look(name)?;
        node.ok(&["service", "rm", name])?;
        let came = fs::read_to_string(node.dir().join("out/signal")).context(name)?;
        ensure!(came == number, "{name}: signal {came} came");
        fs::remove_file(node.dir().join("out/signal"))?;
    }
    create(&node, &["--stop-timeout", "2"], "deaf", &["ignore-term"])?;
    eventually("deaf runs", SOON, || node.pid("deaf"))?;
    // Until it has told the kernel that it does not listen.
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    node.ok(&["service", "rm", "deaf"])?;
    let took = begun.elapsed().as_secs_f64();
    ensure!((1.9..7.0).contains(&took), "stopping took {took:.1} s");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn orphans_are_reaped_by_an_init_only() -> Result<()> {
    let (_cluster, node) = node()?;
    create(&node, &[], "without", &["orphan"])?;
    create(&node, &["--init"], "with", &["orphan"])?;
    let (without, with) = (node.look("without")?, node.look("with")?);
    ensure!(without.get("zombies") == Some("1"), "{without:?}");
    ensure!(with.get("zombies") == Some("0"), "{with:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn labels_are_where_they_belong() -> Result<()> {
    let (_cluster, node) = node()?;
    create(&node, &["--label", "tier=front", "--container-label", "com.example.kind=a b"], "labelled", &[])?;
    node.look("labelled")?;
    let service = node.json(&["service", "inspect", "labelled"])?.to_string();
    ensure!(service.contains("\"tier\"") && service.contains("front"), "{service}");
    let socket = leaks::containerd_socket(&node)?;
    let ctr = |words: &[&str]| {
        let all: Vec<&str> = ["--address", &socket].into_iter().chain(words.iter().copied()).collect();
        node.host.ns.run("ctr", &all)
    };
    let (task, _) = node.running("labelled")?.pop().context("it runs")?;
    let mut infos = Vec::new();
    for namespace in ctr(&["namespaces", "ls", "-q"])?.lines() {
        if let Ok(info) = ctr(&["-n", namespace, "containers", "info", &task]) {
            infos.push(info);
        }
    }
    let [info] = &infos[..] else { bail!("one container was expected: {infos:?}") };
    let info: Value = serde_json::from_str(info)?;
    ensure!(info["Labels"]["warren.label.com.example.kind"] == "a b", "{}", info["Labels"]);
    ensure!(!info["Labels"].to_string().contains("tier"), "{}", info["Labels"]);
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn an_update_replaces_and_a_rollback_returns() -> Result<()> {
    let (_cluster, node) = node()?;
    create(&node, &["--env", "COLOUR=red", "--replicas", "2"], "web", &[])?;
    let colours = |want: &str| {
        eventually(&format!("two {want} ones"), SOON, || {
            let running = node.running("web")?;
            ensure!(running.len() == 2, "{running:?}");
            for (task, pid) in &running {
                let look = warren_tests::look::Look::of(*pid)?;
                ensure!(look.get("env.COLOUR") == Some(want), "{task}: {:?}", look.get("env.COLOUR"));
            }
            Ok(running)
        })
    };
    let first = colours("red")?;
    node.ok(&["service", "update", "--env", "COLOUR=blue", "web"])?;
    let second = colours("blue")?;
    ensure!(first.iter().all(|t| !second.contains(t)), "{first:?}, {second:?}");
    // What stays the same replaces nothing.
    node.ok(&["service", "update", "--env", "COLOUR=blue", "web"])?;
    ensure!(colours("blue")? == second, "an update of nothing replaced tasks");
    node.ok(&["service", "rollback", "web"])?;
    colours("red").map(drop)
}
