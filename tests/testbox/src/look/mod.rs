//! What a process sees from inside a container, as `key: value` lines, each key once: everything
//! that an option of `service create` can change.
//!
//! | keys | value |
//! |---|---|
//! | `arg.N` `env.NAME` `cwd` `umask` | the process's own |
//! | `uid` `gid` `groups` | numbers, groups sorted and joined by commas |
//! | `hostname` `file.PATH` | a file's text, line ends written `\n` |
//! | `cap.{inh,prm,eff,bnd,amb}` `no_new_privs` `seccomp` | as /proc/self/status has them |
//! | `rlimit.NAME` | `SOFT:HARD` |
//! | `mount.TARGET` | `FSTYPE OPTIONS PROPAGATION SUPER-OPTIONS`, `-` where there is none |
//! | `entries.DIR` `masked.PATH` | how many; `absent`, `empty`, `full` |
//! | `tty.{stdin,stdout,stderr}` `tty.size` | `true` or `false`; `ROWSxCOLUMNS` |
//! | `pid` `pid1` `children` | own number, first process's name, whether orphans vanish |
//! | `sysctl.NAME` `oom_score_adj` `shm.bytes` `interfaces` `cgroup.N` `limit.NAME` | |
//! | `dev.PATH` | `c MAJOR:MINOR MODE OPENED`, the last `ok` or an error's name |
//! | `call.NAME` | `ok`, or the name of the error |
//! | `write.PATH` | `ok`, or the name of the error |

mod calls;
mod machine;

use std::{collections::BTreeMap, env, fmt::Display, fs, path::Path};

use crate::{Outcome, sys};

/// Where the look is put for whoever can see into the container: memory, so that it works with a
/// root that cannot be written to.
const OUT: &str = "/dev/shm/look";

/// What has been seen.
#[derive(Default)]
pub struct Look(BTreeMap<String, String>);

impl Look {
    fn put(&mut self, key: impl Into<String>, value: impl Display) {
        self.0.insert(key.into(), value.to_string().trim_end().replace('\n', "\\n"));
    }

    fn file(&mut self, key: impl Into<String>, path: impl AsRef<Path>) {
        if let Ok(text) = fs::read_to_string(path) {
            self.put(key, text);
        }
    }

    fn text(&self) -> String {
        self.0.iter().map(|(k, v)| format!("{k}: {v}\n")).collect()
    }
}

/// The name of an error, as errno(3) has it, where it is one we expect; else its number.
fn errno(e: &std::io::Error) -> String {
    match e.raw_os_error().unwrap_or(0) {
        libc::EPERM => "EPERM".into(),
        libc::EACCES => "EACCES".into(),
        libc::EROFS => "EROFS".into(),
        libc::ENOSYS => "ENOSYS".into(),
        libc::ENOENT => "ENOENT".into(),
        libc::EINVAL => "EINVAL".into(),
        libc::ENXIO => "ENXIO".into(),
        libc::EAGAIN => "EAGAIN".into(),
        libc::EBUSY => "EBUSY".into(),
        libc::ENODEV => "ENODEV".into(),
        libc::EADDRINUSE => "EADDRINUSE".into(),
        n => format!("errno {n}"),
    }
}

fn outcome<T>(done: std::io::Result<T>) -> String {
    done.map_or_else(|e| errno(&e), |_| "ok".into())
}

/// Looks; `write=PATH` among the words tries to write there, `read=PATH` shows a file, `entries=DIR`
/// counts what lies in a directory; other words only show up as arguments. Prints what it saw, puts
/// it into /dev/shm/look, and stays until a signal comes.
pub fn stay(words: &[&str]) -> Outcome {
    // Before anything that takes time: no signal must be lost.
    let waiting = sys::Signals::block();
    let look = look(words);
    print!("{}", look.text());
    publish(&look)?;
    let (signal, name) = waiting.wait();
    // Where a directory of the node is mounted, the signal outlives the container.
    let _ = fs::write("/out/signal", name);
    Ok(signal)
}

/// Puts the answer of a behaviour where the look goes.
pub fn answer(key: &str, value: impl Display) -> Result<(), String> {
    let mut look = Look::default();
    look.put(key, value);
    print!("{}", look.text());
    publish(&look)
}

/// The same of several, and nothing on standard output.
pub fn answer_quietly(pairs: &[(&str, String)]) -> Result<(), String> {
    let mut look = Look::default();
    for (key, value) in pairs {
        look.put(*key, value);
    }
    publish(&look)
}

fn publish(look: &Look) -> Result<(), String> {
    let whole = || -> std::io::Result<()> {
        fs::write(format!("{OUT}.part"), look.text())?;
        fs::rename(format!("{OUT}.part"), OUT)
    };
    whole().map_err(|e| format!("{OUT}: {e}"))
}

fn look(words: &[&str]) -> Look {
    let mut l = Look::default();
    for (n, arg) in env::args_os().enumerate() {
        l.put(format!("arg.{n}"), arg.display());
    }
    for (name, value) in env::vars_os() {
        l.put(format!("env.{}", name.display()), value.display());
    }
    l.put("cwd", env::current_dir().map_or_else(|e| errno(&e), |d| d.display().to_string()));
    let (uid, gid, groups) = sys::ids();
    let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
    l.put("uid", uid);
    l.put("gid", gid);
    l.put("groups", groups.join(","));
    for file in ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"] {
        l.file(format!("file.{file}"), file);
    }
    l.file("hostname", "/proc/sys/kernel/hostname");
    machine::process(&mut l);
    machine::mounts(&mut l);
    machine::devices(&mut l);
    machine::kernel(&mut l);
    calls::all(&mut l);
    for word in words {
        match word.split_once('=') {
            Some(("write", path)) => l.put(format!("write.{path}"), outcome(fs::write(path, "written\n"))),
            Some(("read", path)) => {
                let read = fs::read_to_string(path).unwrap_or_else(|e| errno(&e));
                l.put(format!("file.{path}"), read);
            }
            Some(("entries", dir)) => {
                let counted = fs::read_dir(dir).map_or_else(|e| errno(&e), |d| d.count().to_string());
                l.put(format!("entries.{dir}"), counted);
            }
            _ => {}
        }
    }
    l
}
