//! Load that runs beside a test: the `testbox` clients, inside a host.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
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
        Self::start(host, "cps", to, rate, seconds)
    }

    /// One stream of numbered records to an echo server, `rate` a second.
    ///
    /// # Errors
    /// The client cannot be started.
    pub fn stream(host: &Host, to: &str, rate: u32, seconds: u64) -> Result<Self> {
        Self::start(host, "stream", to, rate, seconds)
    }

    fn start(host: &Host, kind: &str, to: &str, rate: u32, seconds: u64) -> Result<Self> {
        let out = std::env::temp_dir().join(unique(kind));
        let file = File::create(&out)?;
        let child = host
            .ns
            .command(image::testbox()?)?
            .args([kind, to, &rate.to_string(), &seconds.to_string()])
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
