//! Docker's side.

use std::{thread, time::Duration, time::Instant};

use anyhow::{Context, Result};
use warren_tests::{Host, bench::docker::Docker as Engine};

use crate::sides::{Side, Started, side_by_side};

/// What Warren keeps of a container's output by default.
const LOG: [&str; 4] = ["--log-opt", "max-size=10m", "--log-opt", "max-file=3"];

/// An engine.
pub struct Docker(Engine);

impl Docker {
    /// An engine with the image `web:1`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start(host: Host) -> Result<Self> {
        Ok(Self(Engine::start(host)?))
    }

    /// So many `docker run -d`, one after the other; seconds.
    ///
    /// # Errors
    /// One does not start.
    pub fn one_by_one(&self, count: usize) -> Result<f64> {
        let begun = Instant::now();
        for _ in 0..count {
            self.run(&[])?;
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    fn run(&self, args: &[&str]) -> Result<String> {
        self.0.run(&[&["run", "-d"], &LOG[..], &["web:1"], args].concat())
    }
}

impl Side for Docker {
    fn start_one(&mut self, args: &[&str]) -> Result<i64> {
        let id = self.run(args)?;
        let pid = self.0.run(&["inspect", "-f", "{{.State.Pid}}", id.trim()])?;
        let pid: i64 = pid.trim().parse().with_context(|| format!("a process: {pid}"))?;
        self.0.outside(pid).with_context(|| format!("process {pid} of the engine's is not to be seen"))
    }

    fn start_many(&mut self, count: usize) -> Result<Started> {
        let running = side_by_side(count, |_| self.run(&[]).map(drop))?;
        Ok(Started { running, command: running })
    }

    fn remove_all(&mut self) -> Result<()> {
        let all = self.0.run(&["ps", "-aq"])?;
        let ids: Vec<&str> = all.split_whitespace().collect();
        for some in ids.chunks(20) {
            self.0.run(&[&["rm", "-f"], some].concat())?;
        }
        thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    fn processes(&mut self) -> Result<Vec<i32>> {
        Ok(self.0.processes())
    }
}
