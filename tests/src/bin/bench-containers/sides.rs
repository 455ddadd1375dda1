//! What is measured on each side, the same way.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use warren_tests::{
    bench::measure::{Memory, cpu_seconds, mb},
    eventually,
    look::Look,
};

/// How long starting took, in seconds.
pub struct Started {
    /// Until the last container ran.
    pub running: f64,
    /// Until the command returned, which waits for more.
    pub command: f64,
}

/// What it took to write lines.
pub struct Output {
    /// From the first line to the last one having been taken.
    pub seconds: f64,
    /// Processor time of everything that serves containers, in seconds.
    pub keepers: f64,
    /// Of the whole machine.
    pub machine: f64,
}

/// An engine.
pub trait Side {
    /// Starts one container with these arguments; its process.
    fn start_one(&mut self, args: &[&str]) -> Result<i64>;

    /// Starts so many that do nothing.
    fn start_many(&mut self, count: usize) -> Result<Started>;

    /// Removes every container.
    fn remove_all(&mut self) -> Result<()>;

    /// Everything that is the engine's and no container's.
    fn processes(&mut self) -> Result<Vec<i32>>;

    /// Lets a container write as fast as it can.
    fn output(&mut self, lines: u64, width: u64) -> Result<Output> {
        let machine = busy_seconds()?;
        let pid = self.start_one(&["lines", &lines.to_string(), "0", &width.to_string()])?;
        let pids = self.processes()?;
        let before: Vec<f64> = pids.iter().map(|p| cpu_seconds(*p)).collect::<Result<_>>()?;
        let seconds = eventually("all is written", Duration::from_secs(120), || {
            Look::of(pid)?.get("seconds").context("not yet")?.parse::<f64>().context("a number")
        })?;
        // What still lies in pipes is part of the work.
        std::thread::sleep(Duration::from_millis(300));
        let after: Vec<f64> = pids.iter().map(|p| cpu_seconds(*p)).collect::<Result<_>>()?;
        let keepers = after.iter().sum::<f64>() - before.iter().sum::<f64>();
        Ok(Output { seconds, keepers, machine: busy_seconds()? - machine })
    }

    /// Megabytes of Pss each of `count` idle containers costs beside itself.
    fn memory(&mut self, count: usize) -> Result<f64> {
        let pss = |pids: &[i32]| -> Result<u64> { pids.iter().map(|p| Ok(Memory::of(*p)?.pss)).sum() };
        self.start_many(1)?;
        self.remove_all()?;
        std::thread::sleep(Duration::from_secs(2));
        let pids = self.processes()?;
        let before = pss(&pids)?;
        self.start_many(count)?;
        std::thread::sleep(Duration::from_secs(2));
        let pids = self.processes()?;
        ensure!(pids.len() > count, "{count} containers, yet only {} processes", pids.len());
        let after = pss(&pids)?;
        self.remove_all()?;
        #[allow(clippy::cast_precision_loss)] // two digits are shown
        Ok((mb(after) - mb(before)) / count as f64)
    }
}

/// How many commands run side by side. With a hundred, Docker's engine (20.10) did not come to an
/// end within five minutes, whether all began at once or twenty: processes of its own that switch
/// IPv6 off in a new namespace (`set-ipv6`) kept both processors busy.
pub const AT_ONCE: usize = 20;

/// Runs the same thing so many times, [`AT_ONCE`] side by side; seconds until all are done.
pub fn side_by_side(count: usize, one: impl Fn(usize) -> Result<()> + Sync) -> Result<f64> {
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok(());
                }
                one(n)?;
            }
        };
        let all: Vec<_> = (0..count.min(AT_ONCE)).map(|_| scope.spawn(work)).collect();
        all.into_iter().try_for_each(|t| t.join().expect("a start does not panic"))
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Seconds the machine's processors have worked so far: steal and idle left out.
fn busy_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat has a line")?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    ensure!(fields.len() >= 8, "{line}");
    // user, nice, system, irq, softirq; a hundred ticks a second.
    #[allow(clippy::cast_precision_loss)]
    Ok((fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) as f64 / 100.0)
}
