use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::Signal,
        termios::{LocalFlags, tcgetattr},
    },
};
use warren_tests::{Node, eventually, process};

use super::{SOON, programs::running, site};

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// A terminal with `warren` on it.
struct Terminal {
    master: File,
    slave: OwnedFd,
    client: Child,
    output: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn start(node: &Node, words: &[&str]) -> Result<Self> {
        let pty = openpty(&size(20, 70), None)?;
        let mut c = node.command()?;
        let stdio = || Ok::<_, std::io::Error>(Stdio::from(pty.slave.try_clone()?));
        c.args(words).stdin(stdio()?).stdout(stdio()?).stderr(stdio()?);
        // SAFETY: setsid and ioctl may be called between fork and exec; TIOCSCTTY takes a number.
        unsafe {
            c.pre_exec(|| {
                nix::unistd::setsid()?;
                match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let client = c.spawn()?;
        let (master, (sender, output)) = (File::from(pty.master), mpsc::channel());
        let mut reader = master.try_clone()?;
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { master, slave: pty.slave, client, output, seen: String::new() })
    }

    fn expect(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + SOON;
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            let more = self.output.recv_timeout(left);
            let more = more.with_context(|| format!("no {text:?} in {:?}", self.seen))?;
            self.seen.push_str(&String::from_utf8_lossy(&more));
        }
        Ok(())
    }

    fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = size(rows, columns);
        // SAFETY: TIOCSWINSZ reads one winsize from the address, which lives through the call.
        let done = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        ensure!(done == 0, "{}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Whether lines are edited and keys echoed, as before `warren` had it.
    fn is_as_before(&self) -> Result<bool> {
        let modes = tcgetattr(&self.slave)?.local_flags;
        Ok(modes.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG))
    }

    fn code(&mut self) -> Result<i32> {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.client.try_wait()? {
                return status.code().context("it was ended by a signal");
            }
            if Instant::now() > deadline {
                self.client.kill()?;
                self.client.wait()?;
                bail!("it does not end; it said {:?}", self.seen);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_program_has_the_terminals_size_and_every_change_of_it() -> Result<()> {
    let (site, _) = site()?;
    let mut t = Terminal::start(&site.node, &["exec", "-it", "web", "/testbox", "size", "3"])?;
    t.expect("20 70\r\n")?;
    ensure!(!t.is_as_before()?, "keys are not passed on");
    t.resize(33, 111)?;
    t.expect("33 111\r\n")?;
    t.resize(5, 9)?;
    t.expect("5 9\r\n")?;
    ensure!(t.code()? == 0);
    // No size but the right ones was ever seen.
    ensure!(t.seen == "20 70\r\n33 111\r\n5 9\r\n", "{:?}", t.seen);
    ensure!(t.is_as_before()?, "the terminal was not restored");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn keys_are_the_programs_and_the_terminal_is_restored_however_it_ends() -> Result<()> {
    let (site, task) = site()?;
    let sleep = ["exec", "-it", "web", "/testbox", "sleep"];
    // Ctrl-C goes through the container's terminal.
    let mut t = Terminal::start(&site.node, &sleep)?;
    running(&task, "/testbox sleep")?;
    eventually("the terminal is raw", SOON, || if t.is_as_before()? { bail!("not yet") } else { Ok(()) })?;
    t.master.write_all(b"\x03")?;
    ensure!(t.code()? == 130);
    ensure!(t.is_as_before()?, "the terminal was not restored");
    // What is typed is echoed by the container's terminal, and ^D is an end.
    let mut t = Terminal::start(&site.node, &["exec", "-it", "web", "/testbox", "echo"])?;
    running(&task, "/testbox echo")?;
    t.master.write_all(b"typed\r")?;
    t.expect("typed\r\ntyped\r\n")?;
    t.master.write_all(b"\x04")?;
    ensure!(t.code()? == 0);
    // A signal from outside.
    let mut t = Terminal::start(&site.node, &sleep)?;
    running(&task, "/testbox sleep")?;
    eventually("the terminal is raw", SOON, || if t.is_as_before()? { bail!("not yet") } else { Ok(()) })?;
    process::signal(t.client.id().cast_signed(), Signal::SIGTERM);
    ensure!(t.code()? == 143);
    ensure!(t.is_as_before()?, "the terminal was not restored");
    // The program's own end, and one that is not there.
    let mut t = Terminal::start(&site.node, &["exec", "-it", "web", "/testbox", "exit", "9"])?;
    ensure!(t.code()? == 9 && t.is_as_before()?);
    let mut t = Terminal::start(&site.node, &["exec", "-it", "web", "nope"])?;
    t.expect("is not in the container")?;
    ensure!(t.code()? == 127 && t.is_as_before()?);
    eventually("nothing is left in the container", SOON, || {
        if task.others().is_empty() { Ok(()) } else { bail!("{:?}", task.others()) }
    })
}
