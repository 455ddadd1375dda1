//! Load that runs beside a test: the `testbox` clients, inside a host.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{Host, eventually::eventually, image, netns::unique};

/// A running load client.
#[derive(Debug)]
pub struct Load {
    child: Child,
    out: PathBuf,
    seconds: u64,
}

impl Load {
    /// New connections, `rate` a second, one request each.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn connections(host: &Host, to: &str, rate: u32, seconds: u64) -> Result<Self> {
        Self::start(host, "cps", to, rate, seconds, &[])
    }

    /// One stream of numbered records to an echo server, `rate` a second.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn stream(host: &Host, to: &str, rate: u32, seconds: u64) -> Result<Self> {
        Self::start(host, "stream", to, rate, seconds, &[])
    }

    /// Numbered datagrams from one socket to an echo server, `rate` a second.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn datagrams(host: &Host, to: &str, rate: u32, seconds: u64) -> Result<Self> {
        Self::start(host, "datagrams", to, rate, seconds, &[])
    }

    /// The same from a connected socket, which connects again when the kernel ends it.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn connected_datagrams(host: &Host, to: &str, rate: u32, seconds: u64) -> Result<Self> {
        Self::start(host, "datagrams", to, rate, seconds, &["connected"])
    }

    /// As [`stream`](Self::stream), in the network of a process: what a container sends out.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn stream_of(pid: i64, to: &str, rate: u32, seconds: u64) -> Result<Self> {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/proc/{pid}/ns/net")).arg(image::testbox()?);
        Self::run(inside, "stream", to, rate, seconds, &[])
    }

    fn start(host: &Host, kind: &str, to: &str, rate: u32, seconds: u64, more: &[&str]) -> Result<Self> {
        Self::run(host.ns.command(image::testbox()?)?, kind, to, rate, seconds, more)
    }

    fn run(
        mut testbox: Command,
        kind: &str,
        to: &str,
        rate: u32,
        seconds: u64,
        more: &[&str],
    ) -> Result<Self> {
        let out = std::env::temp_dir().join(unique(kind));
        let file = File::create(&out)?;
        let child = testbox
            .args([kind, to, &rate.to_string(), &seconds.to_string()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(file)
            .spawn()
            .context("cannot start testbox")?;
        Ok(Self { child, out, seconds })
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end; the result it printed.
    ///
    /// # Errors
    /// It does not end, or prints no result.
    pub fn finish(mut self) -> Result<Value> {
        eventually("the load client ends", Duration::from_secs(self.seconds + 30), || {
            self.child.try_wait()?.context("it still runs")
        })?;
        let text = fs::read_to_string(&self.out)?;
        serde_json::from_str(&text).with_context(|| format!("the load client said: {text}"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.out);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::Cluster;

    fn serve(host: &Host, words: &[&str]) -> Child {
        let mut c: Command = host.ns.command(image::testbox().unwrap()).unwrap();
        let child = c.args(words).stdin(Stdio::null()).spawn().unwrap();
        let port: u16 = words[1].parse().unwrap();
        eventually("it listens", Duration::from_secs(5), || {
            let found = host.ns.run("ss", &["-tulnH", &format!("sport = :{port}")])?;
            if found.is_empty() { anyhow::bail!("not yet") } else { Ok(()) }
        })
        .unwrap();
        child
    }

    #[test]
    #[ignore = "needs root"]
    fn a_good_server_has_no_failures_and_a_dead_one_only_failures() {
        let mut cluster = Cluster::new().unwrap();
        let (server, client) = (cluster.host("server").unwrap(), cluster.host("client").unwrap());
        let mut web = serve(&server, &["http", "80"]);
        let to = format!("{}:80", server.v4);
        let good = Load::connections(&client, &to, 500, 2).unwrap().finish().unwrap();
        assert_eq!((good["ok"].as_u64(), good["failed"].as_u64()), (Some(1000), Some(0)), "{good}");
        let killed = Load::connections(&client, &to, 100, 2).unwrap();
        thread::sleep(Duration::from_secs(1));
        web.kill().unwrap();
        web.wait().unwrap();
        let bad = killed.finish().unwrap();
        assert!(bad["failed"].as_u64().unwrap() > 50, "{bad}");
        assert!(bad["failures"]["refused"].as_u64().unwrap() > 50, "{bad}");
    }

    #[test]
    #[ignore = "needs root"]
    fn a_stream_shows_an_outage_as_a_gap_and_a_dead_peer_as_an_error() {
        let mut cluster = Cluster::new().unwrap();
        let (server, client) = (cluster.host("server").unwrap(), cluster.host("client").unwrap());
        let mut echo = serve(&server, &["tcp-echo", "7"]);
        let to = format!("{}:7", server.v4);
        let stream = Load::stream(&client, &to, 200, 3).unwrap();
        thread::sleep(Duration::from_millis(500));
        cluster.cut(&server).unwrap();
        thread::sleep(Duration::from_millis(700));
        cluster.heal(&server).unwrap();
        let gap = stream.finish().unwrap();
        assert_eq!((gap["sent"].as_u64(), gap["received"].as_u64()), (Some(600), Some(600)), "{gap}");
        assert!(gap["longest_gap_ms"].as_u64().unwrap() >= 600, "{gap}");
        let broken = Load::stream(&client, &to, 200, 3).unwrap();
        thread::sleep(Duration::from_millis(500));
        echo.kill().unwrap();
        echo.wait().unwrap();
        let broken = broken.finish().unwrap();
        assert_ne!(broken["error"], "", "{broken}");
    }

    #[test]
    #[ignore = "needs root"]
    fn numbered_datagrams_show_what_was_lost_and_when() {
        let mut cluster = Cluster::new().unwrap();
        let (server, client) = (cluster.host("server").unwrap(), cluster.host("client").unwrap());
        let mut echo = serve(&server, &["udp-echo", "7"]);
        let to = format!("{}:7", server.v4);
        for whole in [Load::datagrams, Load::connected_datagrams] {
            let whole = whole(&client, &to, 500, 1).unwrap().finish().unwrap();
            assert_eq!((whole["received"].as_u64(), whole["lost"].as_u64()), (Some(500), Some(0)), "{whole}");
        }
        let broken = Load::datagrams(&client, &to, 200, 2).unwrap();
        thread::sleep(Duration::from_millis(500));
        cluster.cut(&server).unwrap();
        thread::sleep(Duration::from_millis(500));
        cluster.heal(&server).unwrap();
        let broken = broken.finish().unwrap();
        let lost = broken["lost"].as_u64().unwrap();
        assert!((50..200).contains(&lost) && broken["wrong"] == 0, "{broken}");
        assert!(broken["gaps"][0][0].as_u64().unwrap() >= 300, "{broken}");
        assert!(broken["longest_gap_ms"].as_u64().unwrap() >= 400, "{broken}");
        echo.kill().unwrap();
        echo.wait().unwrap();
    }
}
