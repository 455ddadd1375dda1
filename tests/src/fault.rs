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

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// The agent; it is started again at once.
    Agent,
    /// The node's containerd.
    Containerd,
    /// Every shim there is at that moment.
    Shims,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Containerd, Self::Shims];
}

impl Node {
    /// The node's shims.
    #[must_use]
    pub fn shims(&self) -> Vec<i32> {
        let inside = process::in_netns(&self.host.ns.path()).into_iter();
        inside.filter(|p| p.name.starts_with("containerd-shim")).map(|p| p.pid).collect()
    }

    /// SIGKILL to one of them, and the agent back when it was the agent.
    ///
    /// # Errors
    /// It is not there, or the agent does not get ready again.
    pub fn strike(&mut self, victim: Victim) -> Result<()> {
        match victim {
            Victim::Agent => {
                self.kill_agent()?;
                self.start_agent()
            }
            Victim::Containerd => self.kill_containerd().map(drop),
            Victim::Shims => {
                // None may be there yet, or any more.
                self.shims().into_iter().for_each(|pid| process::signal(pid, Signal::SIGKILL));
                Ok(())
            }
        }
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
