//! Network namespaces that go when they go out of scope.

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::{process, program, sweep};

/// Everything the harness makes begins so, followed by the test process's id and a dash.
pub const PREFIX: &str = "wt";

/// A name nobody else has: `wt<pid>-<n>-<role>`.
#[must_use]
pub fn unique(role: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Relaxed))
}

/// A network namespace under `/run/netns`, with its loopback up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one.
    ///
    /// # Errors
    /// Not root, or `ip` fails.
    pub fn create(role: &str) -> Result<Self> {
        sweep::once();
        if !nix::unistd::geteuid().is_root() {
            bail!("needs root: run `cargo xtask test`, or cargo test as root");
        }
        let made = Self { name: unique(role) };
        program::host("ip", &["netns", "add", &made.name])?;
        made.ip(&["link", "set", "lo", "up"])?;
        Ok(made)
    }

    /// Its name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A command that will run inside. Only the network differs: `/sys` and every mount are ours.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let file = File::open(self.path()).with_context(|| format!("{}", self.path().display()))?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only setns(2) is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
            });
        }
        Ok(command)
    }

    /// Runs a program inside to its end; its standard output.
    ///
    /// # Errors
    /// It fails.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        program::run(self.command(program)?.args(args), Duration::from_secs(60))?.ok()
    }

    /// `ip` inside.
    ///
    /// # Errors
    /// It fails.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        self.run("ip", args)
    }

    /// Calls a function on a thread inside: sockets it makes are inside.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("{}", self.path().display()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
                anyhow::Ok(f())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A kernel setting of the namespace, `net/…` below `/proc/sys`.
    ///
    /// # Errors
    /// There is no such setting.
    pub fn sysctl(&self, name: &str) -> Result<String> {
        let file = Path::new("/proc/sys").join(name);
        let text = self.enter(|| fs::read_to_string(&file))?;
        Ok(text.with_context(|| format!("{}", file.display()))?.trim().to_owned())
    }

    /// Sets one.
    ///
    /// # Errors
    /// There is no such setting, or the value is refused.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(name);
        self.enter(|| fs::write(&file, value))?.with_context(|| format!("{}", file.display()))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Ends what runs inside and removes it; nothing there is fine.
pub fn remove(name: &str) {
    let path = Path::new("/run/netns").join(name);
    // With all below them: containers, which have namespaces of their own.
    let inside: Vec<i32> = process::in_netns(&path).iter().flat_map(|p| process::tree(p.pid)).collect();
    process::end(&inside);
    if path.exists()
        && let Err(e) = program::host("ip", &["netns", "del", name])
    {
        eprintln!("harness: {e:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn a_namespace_is_apart_and_goes_with_what_runs_inside() {
        let ns = Netns::create("self").unwrap();
        ns.ip(&["link", "add", "only-here", "type", "veth", "peer", "name", "b"]).unwrap();
        assert!(ns.ip(&["-o", "link"]).unwrap().contains("only-here"));
        assert!(!program::host("ip", &["-o", "link"]).unwrap().contains("only-here"));
        ns.set_sysctl("net/ipv4/ip_forward", "1").unwrap();
        assert_eq!(ns.sysctl("net/ipv4/ip_forward").unwrap(), "1");
        let mut inside = ns.command("sleep").unwrap().arg("600").spawn().unwrap();
        let path = ns.path();
        drop(ns);
        assert!(!path.exists());
        assert!(!inside.wait().unwrap().success());
    }
}
