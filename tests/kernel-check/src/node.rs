//! A whole node in a kernel whose only control groups are cgroup2: limits of containers, seen from
//! inside and in what happens; or, where the machine has `ip`, its network ([`network`](super::network)).

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    unistd::{chdir, chroot},
};
use serde_json::Value;
use warren_tests::{
    eventually,
    image::{self, Image},
    look::{Look, Want},
    program,
};

const WARREN: &str = "/usr/bin/warren";
const LOG: &str = "/var/agent.log";
/// Everything is slow here.
pub const SOON: Duration = Duration::from_secs(100);

/// Whether this initramfs is one of a node.
pub fn is_here() -> bool {
    Path::new(WARREN).exists()
}

/// Sets the machine up, starts a node, looks at containers.
pub fn check() -> Result<()> {
    real_root()?;
    let none = MsFlags::empty();
    for (kind, dir) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("devpts", "/dev/pts"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        fs::create_dir_all(dir)?;
        mount(Some(kind), dir, Some(kind), none, None::<&str>).with_context(|| format!("mount {dir}"))?;
    }
    for dir in ["/tmp", "/run", "/var", "/etc"] {
        fs::create_dir_all(dir)?;
    }
    println!("kernel-check: {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    super::modules()?;
    super::up("lo")?;
    // SAFETY: nothing else runs in this process yet.
    unsafe {
        std::env::set_var("PATH", "/usr/bin");
        std::env::set_var("WARREN_SOCKET", "/run/w");
        std::env::set_var("WARREN_TESTBOX", "/usr/bin/testbox");
    }
    let agent = start()?;
    let looked = if super::network::is_wanted() { super::network::check() } else { containers() };
    let found = looked.with_context(|| {
        let log = fs::read_to_string(LOG).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("the agent said:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"))
    });
    drop(agent);
    found
}

/// The file system a kernel starts from cannot be left with pivot_root, which runc does: another one
/// takes its place.
fn real_root() -> Result<()> {
    let new = Path::new("/new");
    fs::create_dir_all(new)?;
    let none = MsFlags::empty();
    mount(Some("tmpfs"), new, Some("tmpfs"), none, Some("size=80%,mode=755")).context("a new root")?;
    for dir in ["usr", "lib", "lib64", "modules"] {
        if Path::new("/").join(dir).exists() {
            copy(&Path::new("/").join(dir), &new.join(dir))?;
            fs::remove_dir_all(Path::new("/").join(dir))?;
        }
    }
    chdir(new)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("move the new root")?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        fs::copy(from, to).with_context(|| format!("{}", from.display()))?;
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn start() -> Result<Child> {
    let log = File::create(LOG)?;
    let mut agent = Command::new(WARREN)
        .args(["node", "start", "--containerd", "embedded", "--name", "vm", "--data-dir", "/var/warren"])
        .args(["--socket", "/run/w"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    eventually("the agent gets ready", SOON * 2, || {
        let said = fs::read_to_string(LOG)?;
        if said.contains("ready: API on") {
            return Ok(true);
        }
        match agent.try_wait()? {
            Some(_) => Ok(false),
            None => bail!("not yet: {said}"),
        }
    })
    .and_then(|up| {
        let said = || fs::read_to_string(LOG).unwrap_or_default();
        ensure!(up, "the agent ended: {}", said());
        Ok(agent)
    })
}

pub fn warren(words: &[&str]) -> Result<String> {
    program::run(Command::new(WARREN).args(words), SOON * 2)?.ok()
}

fn tasks(service: &str) -> Result<Vec<Value>> {
    // To ask costs the one emulated processor much of what containers need to come up.
    std::thread::sleep(Duration::from_secs(1));
    let text = warren(&["service", "ps", service, "--format", "json"])?;
    serde_json::from_str(&text).with_context(|| text)
}

/// A service of one container that is not started again.
pub fn create(name: &str, flags: &str, args: &str) -> Result<()> {
    let words = ["service", "create", "--detach", "--restart-condition", "none", "--image", "look:1"];
    let mut words = words.to_vec();
    words.extend(flags.split(' '));
    words.push(name);
    words.extend(args.split(' '));
    warren(&words).map(drop)
}

/// The image `look:1`.
pub fn import() -> Result<()> {
    let archive = Path::new("/tmp/image.tar");
    image::write_oci(&Image { cmd: vec!["look".into()], ..Image::web("look:1") }, archive)?;
    warren(&["image", "import", "/tmp/image.tar"]).map(drop)
}

fn containers() -> Result<()> {
    import()?;
    let is = |key: &str, value: &str| (key.to_owned(), Want::Is(value.to_owned()));
    let has = |key: &str, value: &str| (key.to_owned(), Want::Has(value.to_owned()));
    let rows = [
        (
            "limited",
            "--memory 64m --memory-reservation 32m --cpus 0.5 --pids-limit 10",
            "look",
            vec![
                is("limit.memory", "67108864"),
                is("limit.memory_reservation", "33554432"),
                is("limit.cpu", "50000 100000"),
                is("limit.pids", "10"),
                has("mount./sys/fs/cgroup", "cgroup2 ro"),
                is("seccomp", "2"),
            ],
        ),
        ("swapping", "--memory 64m --memory-swap 96m", "look", vec![is("limit.memory_swap", "33554432")]),
        ("forking", "--pids-limit 10", "fork 30", vec![has("forked", "9 ")]),
        // Without a limit it gets a whole one; emulated time is coarse.
        ("burning", "--cpus 0.3", "burn 3 1", vec![("processors".to_owned(), Want::AtMost(0.6))]),
    ];
    let mut wrong = Vec::new();
    for (name, flags, args, _) in &rows {
        create(name, flags, args)?;
    }
    create("hungry", "--memory 32m --memory-swap 32m", "allocate 256")?;
    for (name, flags, _, wants) in rows {
        let look = eventually(&format!("{name} looks around"), SOON, || {
            let tasks = tasks(name)?;
            let pid = tasks.first().and_then(|t| t["pid"].as_i64()).with_context(|| format!("{tasks:?}"))?;
            Look::of(pid).with_context(|| format!("{tasks:?}"))
        })?;
        let found: Vec<String> = wants.iter().filter_map(|(key, want)| want.wrong(key, &look)).collect();
        println!("kernel-check: {name} ({flags}): {}", if found.is_empty() { "ok" } else { "wrong" });
        wrong.extend(found.into_iter().map(|w| format!("{name}: {w}")));
    }
    let hungry = eventually("hungry ends", SOON, || {
        let tasks = tasks("hungry")?;
        let ended = tasks.iter().find(|t| t["state"] == "failed").cloned();
        ended.with_context(|| format!("{tasks:?}"))
    })?;
    println!("kernel-check: hungry: {} {}", hungry["exit_code"], hungry["message"]);
    if hungry["exit_code"] != 137 || !hungry["message"].to_string().to_lowercase().contains("memory") {
        wrong.push(format!("hungry: {hungry}"));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
