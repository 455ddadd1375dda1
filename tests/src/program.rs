//! Running other programs to their end.

use std::{
    ffi::OsStr,
    io::Read,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit status; `None` after a signal.
    pub status: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// The command, for messages.
    pub shown: String,
}

impl Ended {
    /// Whether the status was 0.
    #[must_use]
    pub fn good(&self) -> bool {
        self.status == Some(0)
    }

    /// The standard output of a program that ended well.
    ///
    /// # Errors
    /// It did not: status and standard error.
    pub fn ok(self) -> Result<String> {
        if self.good() {
            return Ok(self.stdout);
        }
        bail!(
            "`{}` ended with {:?}: {}{}",
            self.shown,
            self.status,
            self.stderr.trim(),
            if self.stdout.is_empty() { String::new() } else { format!(" (said: {})", self.stdout.trim()) }
        )
    }
}

/// Runs a program to its end, or kills it after `within`.
///
/// # Errors
/// It cannot be started or does not end in time.
pub fn run(command: &mut Command, within: Duration) -> Result<Ended> {
    let shown = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{shown}`"))?;
    let mut out = child.stdout.take().context("stdout is a pipe")?;
    let mut err = child.stderr.take().context("stderr is a pipe")?;
    // Read on threads: a full pipe must not stop the program.
    let out = thread::spawn(move || text(&mut out));
    let err = thread::spawn(move || text(&mut err));
    let deadline = Instant::now() + within;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("`{shown}` did not end within {within:?}");
        }
        thread::sleep(Duration::from_millis(2));
    };
    let join = |t: thread::JoinHandle<String>| t.join().unwrap_or_default();
    Ok(Ended { status: status.code(), stdout: join(out), stderr: join(err), shown })
}

fn text(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a program of this machine, in our own namespaces; its standard output.
///
/// # Errors
/// As [`run`], and when it fails.
pub fn host(program: &str, args: &[&str]) -> Result<String> {
    run(Command::new(program).args(args), Duration::from_secs(30))?.ok()
}
