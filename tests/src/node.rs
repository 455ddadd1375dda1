//! A node: the real binary in a host of its own.

use std::{
    env,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    Host,
    eventually::eventually,
    image::{self, Image},
    netns::unique,
    process,
    program::{self, Ended},
    sweep,
};

/// Longest wait for a command; commands wait for their result.
const PATIENCE: Duration = Duration::from_secs(150);
/// What the agent says when it serves.
const READY: &str = "ready: API on";

/// A node, its agent running or not. Goes with every trace when it goes out of scope.
#[derive(Debug)]
pub struct Node {
    /// The machine it runs on.
    pub host: Host,
    dir: PathBuf,
    binary: PathBuf,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    agent: Option<Child>,
    /// Where in the log the current agent begins.
    log_start: u64,
}

/// The binary: `WARREN_BIN`, else what `cargo xtask test` builds.
///
/// # Errors
/// It has not been built.
pub fn warren() -> Result<PathBuf> {
    let file = match env::var_os("WARREN_BIN") {
        Some(file) => file.into(),
        None => image::target_dir()?.join("debug/warren"),
    };
    if !file.is_file() {
        bail!("{} is missing: run `cargo xtask test`, which builds it", file.display());
    }
    Ok(file)
}

/// In a node's directory: the name of its network namespace.
const NAMESPACE: &str = "netns";

/// `warren node reset` for a node of the harness, given by its directory.
///
/// # Errors
/// It fails: what it said.
pub fn reset(dir: &Path) -> Result<String> {
    // A node is reset where it lives; where that is gone, anywhere.
    let namespace = fs::read_to_string(dir.join(NAMESPACE)).unwrap_or_default();
    let namespace = Path::new("/run/netns").join(namespace);
    let mut c = if namespace.is_file() {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net={}", namespace.display())).arg(warren()?);
        c
    } else {
        Command::new(warren()?)
    };
    c.args(["node", "reset", "--data-dir"]).arg(dir.join("data")).env("WARREN_SOCKET", dir.join("s"));
    program::run(&mut c, PATIENCE)?.ok()
}

impl Node {
    /// A node whose agent has not been started. The host's name is its name.
    ///
    /// # Errors
    /// The binary is missing or the directory cannot be made.
    pub fn new(host: Host, flags: &[&str]) -> Result<Self> {
        let binary = warren()?;
        let dir = env::temp_dir().join(unique("node"));
        fs::create_dir(&dir).with_context(|| format!("{}", dir.display()))?;
        fs::write(dir.join(NAMESPACE), host.ns.name())?;
        let flags = flags.iter().map(|&f| f.to_owned()).collect();
        Ok(Self { host, dir, binary, flags, environment: Vec::new(), agent: None, log_start: 0 })
    }

    /// A node that is ready.
    ///
    /// # Errors
    /// As [`Node::new`] and [`Node::start_agent`].
    pub fn start(host: Host) -> Result<Self> {
        let mut node = Self::new(host, &[])?;
        node.start_agent()?;
        Ok(node)
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Its API socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// The directory of everything the harness keeps of it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Another binary for the next start of the agent, and for commands.
    pub fn set_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// A `warren` command in the node's host.
    ///
    /// # Errors
    /// The host is gone.
    pub fn command(&self) -> Result<Command> {
        let mut c = self.host.ns.command(&self.binary)?;
        c.env("WARREN_SOCKET", self.socket());
        Ok(c)
    }

    /// The `node start` command with the flags every node of the harness has.
    ///
    /// # Errors
    /// The host is gone.
    pub fn start_command(&self) -> Result<Command> {
        let mut c = self.command()?;
        c.args([
            "node",
            "start",
            "--containerd",
            "embedded",
            "--pool",
            "10.88.0.0/16",
            "--pool6",
            "fd88::/48",
        ]);
        c.arg("--name").arg(self.host.ns.name());
        c.arg("--data-dir").arg(self.data_dir()).arg("--socket").arg(self.socket());
        c.args(&self.flags).envs(self.environment.iter().cloned());
        Ok(c)
    }

    /// Starts the agent and waits until it serves.
    ///
    /// # Errors
    /// It ends or does not get ready: the end of its log.
    pub fn start_agent(&mut self) -> Result<()> {
        let mut agent = self.launch()?;
        let ready = eventually("the agent gets ready", Duration::from_secs(60), || {
            if self.log_text().lines().any(|l| l.contains(READY)) {
                return Ok(None);
            }
            match agent.try_wait()? {
                Some(status) => Ok(Some(status)),
                None => bail!("no line \"{READY} …\" yet"),
            }
        });
        match ready {
            Ok(None) => {
                self.agent = Some(agent);
                Ok(())
            }
            Ok(Some(status)) => bail!("the agent ended ({status})\n{}", self.log_tail()),
            Err(e) => {
                self.agent = Some(agent);
                Err(e).with_context(|| self.log_tail())
            }
        }
    }

    /// Starts the agent; how long it took until it served, to a millisecond.
    ///
    /// # Errors
    /// As [`Node::start_agent`].
    pub fn start_agent_timed(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.agent = Some(self.launch()?);
        while !self.log_text().contains(READY) {
            self.agent()?;
            if begun.elapsed() > Duration::from_secs(60) {
                bail!("the agent does not get ready\n{}", self.log_tail());
            }
            thread::sleep(Duration::from_micros(500));
        }
        Ok(begun.elapsed())
    }

    fn launch(&mut self) -> Result<Child> {
        if self.agent.is_some() {
            bail!("the agent is running already");
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        self.log_start = log.metadata()?.len();
        let mut c = self.start_command()?;
        c.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).env_remove("NOTIFY_SOCKET");
        c.spawn().context("cannot start the agent")
    }

    /// Other flags for the next start of the agent.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|&f| f.to_owned()).collect();
    }

    /// Variables of the agent's environment from its next start on.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.environment = variables.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    }

    /// SIGTERM to the agent; containers and datapath stay.
    ///
    /// # Errors
    /// It is not running, or does not end well within 15 s.
    pub fn stop_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("the agent is not running")?;
        process::signal(agent.id().cast_signed(), Signal::SIGTERM);
        let ended = eventually("the agent ends on SIGTERM", Duration::from_secs(15), || {
            agent.try_wait()?.context("it still runs")
        });
        if ended.is_err() {
            agent.kill()?;
            agent.wait()?;
        }
        let status = ended?;
        if !status.success() {
            bail!("the agent ended with {status} after SIGTERM\n{}", self.log_tail());
        }
        Ok(())
    }

    /// The agent, which no longer counts as ours to stop.
    pub fn take_agent(&mut self) -> Option<Child> {
        self.agent.take()
    }

    /// The agent's process.
    ///
    /// # Errors
    /// It is not running.
    pub fn agent(&mut self) -> Result<i32> {
        let agent = self.agent.as_mut().context("the agent is not running")?;
        match agent.try_wait()? {
            None => Ok(agent.id().cast_signed()),
            Some(status) => bail!("the agent has ended ({status})\n{}", self.log_tail()),
        }
    }

    /// The containerd's process; it may come up a moment after the API.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn containerd(&self) -> Result<i32> {
        eventually("one containerd", Duration::from_secs(10), || self.containerd_now())
    }

    fn containerd_now(&self) -> Result<i32> {
        // Agent and containerd are in the host's network namespace; shims too.
        let inside = process::in_netns(&self.host.ns.path());
        let found: Vec<i32> = inside.iter().filter(|p| p.name == "containerd").map(|p| p.pid).collect();
        match found[..] {
            [pid] => Ok(pid),
            _ => bail!("{} containerds run in {}: {found:?}", found.len(), self.host.ns.name()),
        }
    }

    /// Runs `warren` with these words.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub fn cli(&self, words: &[&str]) -> Result<Ended> {
        program::run(self.command()?.args(words), PATIENCE)
    }

    /// Runs `warren`; what it printed.
    ///
    /// # Errors
    /// It fails: what it said, and the end of the agent's log.
    pub fn ok(&self, words: &[&str]) -> Result<String> {
        self.cli(words)?.ok().with_context(|| self.log_tail())
    }

    /// Runs `warren … --format json`; what it printed.
    ///
    /// # Errors
    /// It fails or prints no JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let words: Vec<&str> = words.iter().copied().chain(["--format", "json"]).collect();
        let text = self.ok(&words)?;
        serde_json::from_str(&text).with_context(|| format!("{words:?} printed no JSON: {text}"))
    }

    /// Runs `warren` and wants it to refuse: status not 0, nothing on standard output, one line on
    /// standard error, which is returned.
    ///
    /// # Errors
    /// It succeeds, or says it in another way.
    pub fn refused(&self, words: &[&str]) -> Result<String> {
        one_line(&self.cli(words)?)
    }

    /// Brings an image in.
    ///
    /// # Errors
    /// `warren image import` fails.
    pub fn import(&self, image: &Image) -> Result<String> {
        let file = self.dir.join("image.tar");
        image::write_oci(image, &file)?;
        self.ok(&["image", "import", &file.display().to_string()])
    }

    /// Running tasks of a service, as (task id, process), sorted.
    ///
    /// # Errors
    /// `warren service ps` fails.
    pub fn running(&self, service: &str) -> Result<Vec<(String, i64)>> {
        let tasks = self.json(&["service", "ps", service])?;
        let mut found: Vec<(String, i64)> = tasks
            .as_array()
            .context("service ps prints an array")?
            .iter()
            .filter(|t| t["state"] == "running")
            .map(|t| (t["id"].as_str().unwrap_or_default().to_owned(), t["pid"].as_i64().unwrap_or(0)))
            .collect();
        found.sort();
        Ok(found)
    }

    /// The node's id.
    ///
    /// # Errors
    /// `warren node ls` fails or shows another number of nodes than one.
    pub fn id(&self) -> Result<String> {
        let nodes = self.json(&["node", "ls"])?;
        match nodes.as_array().map(Vec::as_slice) {
            Some([node]) => Ok(node["id"].as_str().context("a node has an id")?.to_owned()),
            _ => bail!("one node was expected: {nodes}"),
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// What the current agent has said.
    #[must_use]
    pub fn log_text(&self) -> String {
        let bytes = fs::read(self.log()).unwrap_or_default();
        let start = usize::try_from(self.log_start).unwrap_or(0).min(bytes.len());
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }

    /// The last lines of it.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(60)..];
        format!("--- the agent's log ({}) ends with ---\n{}\n---", self.host.ns.name(), tail.join("\n"))
    }
}

/// The one line a refused command says.
///
/// # Errors
/// It did not refuse, or says it in another way.
pub fn one_line(ended: &Ended) -> Result<String> {
    let lines: Vec<&str> = ended.stderr.lines().filter(|l| !l.trim().is_empty()).collect();
    if ended.status == Some(0) {
        bail!("`{}` was not refused; it said: {}{}", ended.shown, ended.stdout, ended.stderr);
    }
    if ended.status.is_none() {
        bail!("`{}` was ended by a signal: {}", ended.shown, ended.stderr);
    }
    if !ended.stdout.trim().is_empty() {
        bail!("`{}` refused, yet printed: {}", ended.shown, ended.stdout);
    }
    match lines[..] {
        [line] => Ok(line.to_owned()),
        _ => bail!("`{}` should say one line; it said {}: {}", ended.shown, lines.len(), ended.stderr),
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if self.agent.is_some()
            && let Err(e) = self.stop_agent()
        {
            eprintln!("harness: {e:#}");
        }
        sweep::remove_node_dir(&self.dir);
    }
}
