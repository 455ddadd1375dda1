use std::{fs, path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use warren_tests::program;

use super::{programs::running, site, start};

/// A number in a file of the task's control group, where the machine has it.
fn cgroup(id: &str, node: &str, controller: &str, v1: &str, v2: &str) -> Result<u64> {
    let below = format!("warren/{node}/{id}");
    let files = [
        Path::new("/sys/fs/cgroup").join(controller).join(&below).join(v1),
        Path::new("/sys/fs/cgroup").join(&below).join(v2),
    ];
    let text = files.iter().find_map(|f| fs::read_to_string(f).ok());
    let text = text.with_context(|| format!("none of {files:?}"))?;
    let number = text.lines().next().and_then(|l| l.rsplit(' ').next()).context("an empty file")?;
    let number: u64 = number.parse()?;
    Ok(if v2 == "cpu.stat" && files[0].exists() == files[1].exists() { number * 1000 } else { number })
}

#[test]
#[ignore = "needs root"]
fn what_a_task_uses_is_what_the_kernel_says() -> Result<()> {
    let (site, task) = site()?;
    let node = &site.node;
    site.create("other", &["-p", "8080:80"], &[])?;
    let id = node.id()?;
    let mut busy = start(node, &["exec", "web", "/testbox", "busy", "30"], Stdio::null())?;
    running(&task, "/testbox busy 30")?;
    let cpu = || cgroup(&task.id, &id, "cpuacct", "cpuacct.usage", "cpu.stat");
    let (before, stats, after) = (cpu()?, node.json(&["stats", "--no-stream"])?, cpu()?);
    let of = |stats: &Value, name: &str| -> Result<Value> {
        let found = stats.as_array().context("an array")?.iter().find(|t| t["name"] == name);
        Ok(found.with_context(|| format!("no {name} in {stats}"))?.clone())
    };
    let web = of(&stats, "web.1")?;
    let number = |t: &Value, key: &str| t[key].as_u64().with_context(|| format!("no {key} in {t}"));
    ensure!((before..=after).contains(&number(&web, "cpu_ns")?), "{before} {web} {after}");
    let percent = web["cpu_percent"].as_f64().context("a number")?;
    ensure!((5.0..150.0).contains(&percent), "one busy processor is {percent} %");
    ensure!(
        web["id"] == *task.id
            && number(&web, "pids")? == cgroup(&task.id, &id, "pids", "pids.current", "pids.current")?
    );
    let used = cgroup(&task.id, &id, "memory", "memory.usage_in_bytes", "memory.current")?;
    let shown = number(&web, "memory")?;
    ensure!(shown > 0 && shown <= used + (4 << 20), "{shown} of {used}");
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let total = meminfo.split_whitespace().nth(1).context("MemTotal")?.parse::<u64>()? << 10;
    ensure!(number(&web, "memory_limit")? == total, "{web} of {total}");
    busy.kill()?;
    busy.wait()?;

    // The network as the container counts it: what it is sent it receives.
    for _ in 0..50 {
        site.ask(8080, "/")?;
    }
    let other = super::Task::of(node, "other")?;
    let link = program::host(
        "nsenter",
        &["-t", &other.pid.to_string(), "-n", "ip", "-j", "-s", "link", "show", "eth0"],
    )?;
    let link: Value = serde_json::from_str(&link)?;
    let stats = of(&node.json(&["stats", "--no-stream", "other"])?, "other.1")?;
    for (key, side) in [("received", "rx"), ("sent", "tx")] {
        let (shown, kernel) =
            (number(&stats, key)?, link[0]["stats64"][side]["bytes"].as_u64().context("bytes")?);
        ensure!(shown == kernel && shown > 5000, "{key}: {shown}, the kernel says {kernel}");
    }
    // A table; one task only; and refusals.
    let table = node.ok(&["stats", "--no-stream", &task.id])?;
    ensure!(table.starts_with("TASK ") && table.contains("web.1") && !table.contains("other"), "{table}");
    ensure!(node.refused(&["stats", "nobody"])?.contains("no task or service nobody"));
    // It ends when all that was asked for has ended.
    let live = start(node, &["stats", "--format", "json", "other"], Stdio::null())?;
    std::thread::sleep(std::time::Duration::from_millis(2500));
    node.ok(&["service", "rm", "other"])?;
    let out = live.wait_with_output()?;
    let lines = String::from_utf8(out.stdout)?;
    ensure!(out.status.success() && lines.lines().count() >= 1, "{lines}");
    for line in lines.lines() {
        ensure!(serde_json::from_str::<Value>(line)?[0]["name"] == "other.1", "{line}");
    }
    Ok(())
}
