//! `cargo xtask bench containers`, once everything is built.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use warren_tests::{Cluster, Node, bench::measure::machine, image::Image, leaks, sweep};

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<()> {
    sweep::once();
    println!("machine: {}", machine()?);
    let mut cluster = Cluster::new()?;
    let mut node = Node::new(cluster.host("node")?, &[])?;
    if let Ok(level) = std::env::var("BENCH_LOG") {
        node.set_flags(&["--log-level", &level]);
    }
    node.start_agent()?;
    node.import(&Image::web("web:1"))?;
    for n in [1usize, 20, 20, 100] {
        let at = node.log_text().len();
        let begun = Instant::now();
        node.ok(&["service", "create", "--image", "web:1", "--replicas", &n.to_string(), "s"])?;
        println!("warren {n}: {:.3}", begun.elapsed().as_secs_f64());
        std::fs::write(format!("/tmp/harness-log-{n}"), &node.log_text()[at..])?;
        let ps = node.json(&["service", "ps", "s"])?;
        std::fs::write(format!("/tmp/harness-ps-{n}.json"), ps.to_string())?;
        let begun = Instant::now();
        node.ok(&["service", "rm", "s"])?;
        println!("   rm {n}: {:.3}", begun.elapsed().as_secs_f64());
        let socket = leaks::containerd_socket(&node)?;
        let begun = Instant::now();
        let run = |i: usize| {
            node.host.ns.run(
                "ctr",
                &[
                    "-a",
                    &socket,
                    "-n",
                    "bench",
                    "run",
                    "-d",
                    "--cgroup",
                    &format!("/harness/x{i}"),
                    "docker.io/library/web:1",
                    &format!("c{i}"),
                ],
            )
        };
        if n == 1 {
            let tar = node.dir().join("image.tar");
            node.host
                .ns
                .run("ctr", &["-a", &socket, "-n", "bench", "image", "import", &tar.display().to_string()])?;
        }
        let begun = {
            let _ = begun;
            Instant::now()
        };
        std::thread::scope(|s| {
            let all: Vec<_> = (0..n).map(|i| s.spawn(move || run(i).map(drop))).collect();
            for a in all {
                a.join().unwrap().unwrap();
            }
        });
        println!("ctr run {n}: {:.3}", begun.elapsed().as_secs_f64());
        for i in 0..n {
            node.host.ns.run("ctr", &["-a", &socket, "-n", "bench", "task", "rm", "-f", &format!("c{i}")])?;
            node.host.ns.run("ctr", &["-a", &socket, "-n", "bench", "c", "rm", &format!("c{i}")])?;
        }
    }
    Ok(())
}
