//! Samples, what processes cost, and how it is printed.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::{Host, process};
use anyhow::{Context, Result, bail};

/// Timings of one thing.
#[derive(Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// One more.
    pub fn add(&mut self, sample: Duration) {
        self.0.push(sample);
        self.0.sort();
    }

    /// The middle one.
    pub fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// `median [min–max] s, n = …`.
    pub fn shown(&self) -> String {
        let s = |d: Option<&Duration>| d.map_or(0.0, Duration::as_secs_f64);
        format!(
            "{:.3} s [{:.3}–{:.3}], n = {}",
            self.median().as_secs_f64(),
            s(self.0.first()),
            s(self.0.last()),
            self.0.len()
        )
    }
}

/// Bytes of memory of processes.
#[derive(Debug, Default, Clone, Copy)]
pub struct Memory {
    /// Resident, shared pages counted in full.
    pub rss: u64,
    /// Resident, shared pages divided among those who share them.
    pub pss: u64,
    /// Resident and of nobody else: not backed by a file.
    pub anonymous: u64,
}

impl Memory {
    /// Of one process.
    ///
    /// # Errors
    /// It is gone.
    pub fn of(pid: i32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .with_context(|| format!("process {pid}"))?;
        let field = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            let kb = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
            Ok(kb.with_context(|| format!("{name} of process {pid}"))? << 10)
        };
        Ok(Self { rss: field("Rss")?, pss: field("Pss")?, anonymous: field("Anonymous")? })
    }

    fn plus(self, o: Self) -> Self {
        Self { rss: self.rss + o.rss, pss: self.pss + o.pss, anonymous: self.anonymous + o.anonymous }
    }
}

/// What processes of one name cost while nothing happens.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cost {
    /// How many they are.
    pub count: usize,
    /// Together.
    pub memory: Memory,
    /// Of one processor, in percent.
    pub cpu: Cpu,
}

/// Time on a processor, in percent of one, or in seconds.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cpu {
    /// In the program.
    pub user: f64,
    /// In the kernel.
    pub system: f64,
    /// How often its threads went to sleep of their own accord: so often were they woken. A second,
    /// or at all.
    pub wakes: f64,
}

impl Cpu {
    /// All of it.
    pub fn all(self) -> f64 {
        self.user + self.system
    }

    /// With each figure made of those of both.
    fn with(self, o: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self { user: f(self.user, o.user), system: f(self.system, o.system), wakes: f(self.wakes, o.wakes) }
    }

    /// Of a process so far, of all threads there are and (but for the wakes) were.
    fn of(pid: i32) -> Result<Self> {
        let text =
            fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
        let fields: Vec<&str> =
            text.rsplit_once(") ").map(|(_, f)| f.split(' ').collect()).context("a stat line has a name")?;
        // SAFETY: no pointer; the kernel says how many ticks a second has.
        let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        let field =
            |i: usize| fields.get(i).and_then(|f| f.parse::<u32>().ok()).context("ticks in a stat line");
        #[allow(clippy::cast_precision_loss)] // a hundred
        let seconds = |i| Ok::<_, anyhow::Error>(f64::from(field(i)?) / a_second as f64);
        let mut wakes = 0.0;
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // It may end meanwhile.
            let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            wakes += line.and_then(|l| l.trim().parse::<f64>().ok()).unwrap_or_default();
        }
        Ok(Self { user: seconds(11)?, system: seconds(12)?, wakes })
    }
}

/// Watches processes for a while: by name, and all together last (under "all").
///
/// # Errors
/// One ends meanwhile.
pub fn idle(pids: &[i32], for_: Duration) -> Result<Vec<(String, Cost)>> {
    let before: Vec<Cpu> = pids.iter().map(|p| Cpu::of(*p)).collect::<Result<_>>()?;
    let begun = Instant::now();
    thread::sleep(for_);
    let watched = begun.elapsed().as_secs_f64();
    let (mut named, mut all) = (BTreeMap::<String, Cost>::new(), Cost::default());
    for (pid, before) in pids.iter().zip(before) {
        let name = process::one(*pid).with_context(|| format!("process {pid} has ended"))?.name;
        let memory = Memory::of(*pid)?;
        let spent = Cpu::of(*pid)?.with(before, |now, before| (now - before).max(0.0) / watched);
        let cpu = Cpu { user: spent.user * 100.0, system: spent.system * 100.0, wakes: spent.wakes };
        for cost in [named.entry(name).or_default(), &mut all] {
            *cost = Cost {
                count: cost.count + 1,
                memory: cost.memory.plus(memory),
                cpu: cost.cpu.with(cpu, |a, b| a + b),
            };
        }
    }
    Ok(named.into_iter().chain([("all".to_owned(), all)]).collect())
}

/// Seconds on a processor so far, of all threads there are and were.
///
/// # Errors
/// It is gone.
pub fn cpu_seconds(pid: i32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let fields: Vec<&str> =
        text.rsplit_once(") ").map(|(_, f)| f.split(' ').collect()).context("a stat line has a name")?;
    let ticks: u64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum();
    // SAFETY: no pointer; the kernel says how many ticks a second has.
    let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    #[allow(clippy::cast_precision_loss)] // ticks of a benchmark
    Ok(ticks as f64 / a_second as f64)
}

/// Megabytes (2^20).
#[allow(clippy::cast_precision_loss)] // two digits are shown
pub fn mb(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Runs `action` and meanwhile asks `to` from `client`, a millisecond between two attempts: from the
/// beginning of the action to the first byte of an answer.
///
/// # Errors
/// The action fails, or no byte comes within half a minute.
pub fn first_byte(
    client: &Host,
    to: SocketAddr,
    action: impl FnOnce() -> Result<()> + Send,
) -> Result<Duration> {
    client.ns.enter(|| {
        thread::scope(|scope| {
            let begun = Instant::now();
            // The asking thread is a child of this one and so in the client's network.
            let asked = scope.spawn(move || {
                while begun.elapsed() < Duration::from_secs(30) {
                    if one_byte(to).is_some() {
                        return Ok(begun.elapsed());
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                bail!("{to} did not answer within half a minute")
            });
            action()?;
            asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?
}

fn one_byte(to: SocketAddr) -> Option<u8> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(50)).ok()?;
    // Short: a proxy may take the connection before there is anybody to hand it to.
    stream.set_read_timeout(Some(Duration::from_millis(50))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").ok()?;
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    Some(byte[0])
}

/// Kernel, processors, memory, and how busy it is.
///
/// # Errors
/// `/proc` says nothing.
pub fn machine() -> Result<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = thread::available_parallelism()?;
    let model = fs::read_to_string("/proc/cpuinfo")?;
    let model = model
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("", |l| l.trim_start_matches([' ', '\t', ':']));
    let memory = fs::read_to_string("/proc/meminfo")?;
    let memory: u64 = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .context("/proc/meminfo names MemTotal")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "Linux {}, {cpus} × {model}, {:.1} GB, load at the start {}",
        kernel.trim(),
        mb(memory),
        load.split(' ').next().unwrap_or_default()
    ))
}
