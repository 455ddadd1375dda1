//! Warren's side.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use warren_tests::{Host, Node, eventually, image::Image, leaks, process};

use crate::sides::{Side, Started, side_by_side};

/// Images of another containerd namespace, for `ctr run`.
const BARE: &str = "bench";

/// A node.
pub struct Warren {
    node: Node,
    agent: i32,
    socket: String,
}

impl Warren {
    /// A node with the image `web:1`.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn start(host: Host) -> Result<Self> {
        let mut node = Node::start(host)?;
        node.import(&Image::web("web:1"))?;
        let (agent, socket) = (node.agent()?, leaks::containerd_socket(&node)?);
        let warren = Self { node, agent, socket };
        let archive = warren.node.dir().join("image.tar").display().to_string();
        warren.ctr(&["images", "import", &archive])?;
        Ok(warren)
    }

    fn ctr(&self, words: &[&str]) -> Result<String> {
        let all = [&["-a", &self.socket, "-n", BARE], words].concat();
        self.node.host.ns.run("ctr", &all)
    }

    /// The same containers without Warren: seconds until `ctr run -d` has returned for all.
    ///
    /// # Errors
    /// One does not start.
    pub fn bare(&self, count: usize) -> Result<f64> {
        let took = side_by_side(count, |n| {
            let (group, name) = (format!("/warren-bench/{n}"), format!("bare{n}"));
            let image = "docker.io/library/web:1";
            self.ctr(&["run", "-d", "--cgroup", &group, image, &name]).map(drop)
        })?;
        for n in 0..count {
            let name = format!("bare{n}");
            self.ctr(&["tasks", "rm", "-f", &name])?;
            self.ctr(&["containers", "rm", &name])?;
        }
        // What the groups lay in; there is one in each hierarchy of the first version.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join("warren-bench"));
        }
        let _ = std::fs::remove_dir("/sys/fs/cgroup/warren-bench");
        Ok(took)
    }
}

impl Side for Warren {
    fn start_one(&mut self, args: &[&str]) -> Result<i64> {
        let words = ["service", "create", "--detach", "--image", "web:1", "one"];
        self.node.ok(&[&words[..], args].concat())?;
        eventually("it runs", Duration::from_secs(30), || self.node.pid("one"))
    }

    fn start_many(&mut self, count: usize) -> Result<Started> {
        let replicas = count.to_string();
        let at = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let begun = Instant::now();
        self.node.ok(&["service", "create", "--image", "web:1", "--replicas", &replicas, "many"])?;
        let command = begun.elapsed().as_secs_f64();
        // When each got to run, by the worker's own clock, which is this machine's.
        let tasks = self.node.json(&["service", "ps", "many"])?;
        let last = tasks.as_array().into_iter().flatten().filter(|t| t["state"] == "running");
        let last = last.filter_map(|t| t["since_ms"].as_u64()).max().context("none runs")?;
        let running = Duration::from_millis(last).saturating_sub(at).as_secs_f64();
        Ok(Started { running, command })
    }

    fn remove_all(&mut self) -> Result<()> {
        let services = self.node.json(&["service", "ls"])?;
        for service in services.as_array().into_iter().flatten() {
            let name = service["name"].as_str().context("a service has a name")?;
            self.node.ok(&["service", "rm", name])?;
        }
        thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    fn processes(&mut self) -> Result<Vec<i32>> {
        // Everything of the host's network but its containers, which have networks of their own.
        let inside = process::in_netns(&self.node.host.ns.path()).into_iter().map(|p| p.pid);
        let mut found: Vec<i32> = inside.collect();
        if !found.contains(&self.agent) {
            found.push(self.agent);
        }
        Ok(found)
    }
}
