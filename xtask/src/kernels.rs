//! `cargo xtask test --kernels`: the object under the kernels people run, in QEMU.
//!
//! Kernels come from Debian's archive, through the mirror this machine's apt already uses, with
//! package lists of our own (the machine's apt is not touched). QEMU emulates in software: it needs
//! no virtualisation, and a whole run takes seconds. What a kernel is asked is
//! `tests/kernel-check`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    process::{cargo, command, find, output, run as execute, say},
    workspace,
};

/// Debian's releases whose kernels are tested: the oldest we support (clsact), the first long-term
/// one with TCX, and the newest there is.
const SUITES: [&str; 3] = ["bookworm", "trixie", "forky"];

/// Modules the check needs where the kernel does not have them built in, in load order.
const MODULES: [&str; 3] = ["sch_ingress", "cls_bpf", "veth"];

/// A machine that has not reported by then has hung.
const PATIENCE: Duration = Duration::from_secs(180);

/// Tests the object under every kernel the mirror has.
///
/// # Errors
/// A kernel refused the object, or the machine lacks what a test machine needs. A mirror without a
/// kernel is a visible notice, not an error.
pub fn run(object: &Path) -> Result<()> {
    let qemu = find("qemu-system-x86_64")
        .ok_or_else(|| anyhow!("qemu-system-x86_64 is missing: run `cargo xtask deps`"))?;
    let dir = workspace::target()?.join("kernels");
    execute(&mut cargo(&[
        "rustc",
        "-p",
        "kernel-check",
        "--release",
        "--",
        "-C",
        "target-feature=+crt-static",
    ]))?;
    let init = workspace::target()?.join("release/kernel-check");
    let mut failed = Vec::new();
    for suite in SUITES {
        let dir = dir.join(suite);
        let kernel = match fetch(suite, &dir) {
            Ok(kernel) => kernel,
            Err(e) => {
                say(&format!("NOT TESTED: Debian {suite}'s kernel: the mirror does not have it ({e:#})"));
                continue;
            }
        };
        let begun = Instant::now();
        let initramfs = initramfs(&kernel, &dir, &init, object)?;
        // QEMU's emulation panics once in a while where the kernel is not at fault: a machine that
        // did not report gets a second chance, one that reported a failure does not.
        let mut outcome = boot(&qemu, &kernel.image, &initramfs, &dir)?;
        if outcome.passed.is_none() {
            say(&format!("Debian {suite}: the machine did not report; once more"));
            outcome = boot(&qemu, &kernel.image, &initramfs, &dir)?;
        }
        for line in &outcome.lines {
            eprintln!("    {suite}: {line}");
        }
        if outcome.passed == Some(true) {
            eprintln!("    {suite}: passed in {:.1} s", begun.elapsed().as_secs_f64());
        } else {
            eprintln!("    {suite}: see {}", dir.join("console").display());
            failed.push(suite);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("refused by the kernels of Debian {}", failed.join(", ")) }
}

struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

/// A private apt for one suite, over the mirror the machine's own apt uses.
fn apt(suite: &str, dir: &Path) -> Result<PathBuf> {
    let targets = output(&mut command("apt-get", &["indextargets", "--format", "$(REPO_URI)"]))?;
    let mirror = targets
        .lines()
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
        .ok_or_else(|| anyhow!("this machine's apt names no Debian mirror"))?;
    let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
    for sub in ["lists/partial", "cache/archives/partial", "packages"] {
        fs::create_dir_all(dir.join(sub))?;
    }
    let sources = dir.join("sources.list");
    fs::write(&sources, format!("deb [signed-by={key}] {mirror} {suite} main\n"))?;
    let config = dir.join("apt.conf");
    let d = dir.display();
    fs::write(
        &config,
        format!(
            "Dir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"-\";\nDir::State::lists \"{d}/lists\";\n\
             Dir::Cache \"{d}/cache\";\nAPT::Sandbox::User \"root\";\n",
            sources.display()
        ),
    )?;
    Ok(config)
}

fn with_apt(config: &Path, program: &str, args: &[&str]) -> Command {
    let mut c = command(program, args);
    c.env("APT_CONFIG", config);
    c
}

/// The newest cloud kernel of a suite, unpacked; fetched only when there is a newer one.
fn fetch(suite: &str, dir: &Path) -> Result<Kernel> {
    let config = apt(suite, dir)?;
    output(&mut with_apt(&config, "apt-get", &["update", "-qq"]))?;
    let image = depends(&config, "linux-image-cloud-amd64")?
        .into_iter()
        .find(|p| p.starts_with("linux-image-"))
        .ok_or_else(|| anyhow!("its linux-image-cloud-amd64 names no kernel"))?;
    let root = dir.join("root");
    let stamp = dir.join("stamp");
    if fs::read_to_string(&stamp).is_ok_and(|s| s == image) {
        return unpacked(&root);
    }
    // Newer releases keep image and modules in packages of their own.
    let mut packages = vec![image.clone()];
    packages.extend(
        depends(&config, &image)?
            .into_iter()
            .filter(|p| p.starts_with("linux-binary-") || p.starts_with("linux-modules-")),
    );
    let files = dir.join("packages");
    let _ = fs::remove_dir_all(&files);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&files)?;
    fs::create_dir_all(&root)?;
    let mut download = with_apt(&config, "apt-get", &["download", "-qq"]);
    output(download.args(&packages).current_dir(&files))?;
    for file in fs::read_dir(&files)? {
        output(command("dpkg-deb", &["-x"]).arg(file?.path()).arg(&root))?;
    }
    let kernel = unpacked(&root)?;
    fs::write(&stamp, image)?;
    Ok(kernel)
}

fn depends(config: &Path, package: &str) -> Result<Vec<String>> {
    let text = output(&mut with_apt(config, "apt-cache", &["depends", package]))?;
    Ok(text.lines().filter_map(|l| l.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
}

fn unpacked(root: &Path) -> Result<Kernel> {
    let find = |args: &[&str]| -> Result<Option<PathBuf>> {
        let text = output(command("find", &[]).arg(root).args(args))?;
        Ok(text.lines().next().map(PathBuf::from))
    };
    Ok(Kernel {
        image: find(&["-name", "vmlinuz*", "-type", "f"])?.context("the package has no kernel image")?,
        modules: find(&["-path", "*lib/modules/*", "-name", "kernel", "-type", "d"])?
            .context("the package has no modules")?,
    })
}

/// An initramfs with the check, the object and the modules.
fn initramfs(kernel: &Kernel, dir: &Path, init: &Path, object: &Path) -> Result<PathBuf> {
    let tree = dir.join("tree");
    let _ = fs::remove_dir_all(&tree);
    for sub in ["modules", "proc", "sys", "dev"] {
        fs::create_dir_all(tree.join(sub))?;
    }
    fs::copy(init, tree.join("init")).with_context(|| format!("{}", init.display()))?;
    fs::copy(object, tree.join("warren-ebpf.o")).with_context(|| format!("{}", object.display()))?;
    for (n, module) in MODULES.iter().enumerate() {
        let found =
            output(command("find", &[]).arg(&kernel.modules).args(["-name", &format!("{module}.ko*")]))?;
        // Not there means built in.
        let Some(file) = found.lines().next() else { continue };
        let to = tree.join(format!("modules/{n}-{module}.ko"));
        if file.ends_with(".xz") {
            let plain = command("xz", &["-dc", file]).output().context("xz")?;
            if !plain.status.success() {
                bail!("cannot unpack {file}");
            }
            fs::write(&to, plain.stdout)?;
        } else {
            fs::copy(file, &to)?;
        }
    }
    let archive = dir.join("initramfs.gz");
    let pack = "find . | cpio --quiet -o -H newc | gzip -1 > ../initramfs.gz";
    output(command("sh", &["-ec", pack]).current_dir(&tree))?;
    Ok(archive)
}

struct Outcome {
    /// What the machine reported; `None` when it did not.
    passed: Option<bool>,
    lines: Vec<String>,
}

fn boot(qemu: &Path, image: &Path, initramfs: &Path, dir: &Path) -> Result<Outcome> {
    let console = dir.join("console");
    let serial = format!("file:{}", console.display());
    let mut child = Command::new(qemu)
        .args(["-accel", "tcg,thread=multi", "-cpu", "Haswell-v4", "-m", "1024", "-smp", "1"])
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", &serial])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
        .args(["-append", "console=ttyS0 panic=-1 quiet mitigations=off"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("qemu-system-x86_64")?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let text = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).into_owned();
    let lines: Vec<_> =
        text.lines().filter_map(|l| l.trim().strip_prefix("check: ")).map(str::to_owned).collect();
    // isa-debug-exit makes 2n + 1 of what the guest writes: 0 for passed, 3 for failed.
    let passed = match status.and_then(|s| s.code()) {
        Some(1) => Some(true),
        Some(7) => Some(false),
        _ => None,
    };
    Ok(Outcome { passed, lines })
}
