//! Faults, done the way they happen.

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::{Cluster, Host, Node, process};

impl Node {
    /// SIGKILL to the agent. Everything else of the node goes on.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill_agent(&mut self) -> Result<()> {
        let mut agent = self.take_agent().context("the agent is not running")?;
        agent.kill()?;
        agent.wait()?;
        Ok(())
    }

    /// SIGKILL to the node's containerd.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill_containerd(&self) -> Result<i32> {
        let pid = self.containerd()?;
        process::signal(pid, Signal::SIGKILL);
        Ok(pid)
    }
}

impl Cluster {
    /// Pulls a host's cable.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn cut(&self, host: &Host) -> Result<()> {
        self.switch().ip(&["link", "set", &host.port, "down"]).map(drop)
    }

    /// Plugs it in again.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn heal(&self, host: &Host) -> Result<()> {
        self.switch().ip(&["link", "set", &host.port, "up"]).map(drop)
    }
}
