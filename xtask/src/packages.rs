//! Packages of other Debian suites, through apt with lists and settings of its own: nothing of it is
//! installed, and the machine's own package lists do not change.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::process::{command, output, run};

/// What leads to a suite's kernel, whatever its version.
const META: &str = "linux-image-cloud-amd64";
/// Packages that hold parts of a kernel.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel, unpacked.
pub struct Kernel {
    /// The bootable image.
    pub image: PathBuf,
    files: Vec<PathBuf>,
    /// Name of the package.
    pub version: String,
}

/// Downloads and unpacks a suite's kernel below `dir`, unless it is there already.
///
/// # Errors
/// No apt, no Debian key, no mirror, or a package of another shape.
pub fn fetch(suite: &str, dir: &Path) -> Result<Kernel> {
    let state = lists(suite, dir)?;
    let names = parts(&state)?;
    let version = names
        .iter()
        .find(|n| n.starts_with("linux-image-") && *n != META)
        .or(names.first())
        .context("no kernel")?
        .clone();
    let unpacked = dir.join(&version);
    let names: Vec<&str> = names.iter().map(String::as_str).filter(|n| *n != META).collect();
    unpack(&state, dir, &names, &unpacked)?;
    let mut files = Vec::new();
    walk(&unpacked, &mut files)?;
    let image = files
        .iter()
        .find(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz")))
        .with_context(|| format!("{version} holds no vmlinuz"))?
        .clone();
    Ok(Kernel { image, files, version })
}

impl Kernel {
    /// Modules of these names, in their order; what is built in is left out.
    pub fn modules(&self, names: &[&str]) -> Vec<PathBuf> {
        let module = |name: &&str| {
            let is = |f: &&PathBuf| {
                let file = f.file_name().unwrap_or_default().to_string_lossy();
                file.strip_suffix(".xz").unwrap_or(&file).strip_suffix(".ko") == Some(*name)
            };
            self.files.iter().find(is).cloned()
        };
        names.iter().filter_map(module).collect()
    }
}

/// Downloads and unpacks the newest version a suite has of a package; where it lies, and its version.
///
/// # Errors
/// As [`fetch`].
pub fn package(suite: &str, name: &str, dir: &Path) -> Result<(PathBuf, String)> {
    let state = lists(suite, dir)?;
    let shown = output(&mut apt(&state, "apt-cache", &["policy", name]))?;
    let version = shown.lines().find_map(|l| l.trim().strip_prefix("Candidate: "));
    let version = version.filter(|v| *v != "(none)").with_context(|| format!("{suite} has no {name}"))?;
    // An epoch's colon has no place in a file's name.
    let unpacked = dir.join(format!("{name}-{}", version.replace(':', "_")));
    unpack(&state, dir, &[name], &unpacked)?;
    Ok((unpacked, version.to_owned()))
}

/// Fetches a suite's lists into a directory of our own; apt's state.
fn lists(suite: &str, dir: &Path) -> Result<PathBuf> {
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing: install debian-archive-keyring");
    }
    let state = dir.join("apt");
    for sub in ["lists/partial", "cache/archives/partial", "etc"] {
        fs::create_dir_all(state.join(sub))?;
    }
    let source = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
    fs::write(state.join("etc/sources.list"), source)?;
    fs::write(state.join("status"), "")?;
    run(&mut apt(&state, "apt-get", &["update", "-q"]))?;
    Ok(state)
}

/// Downloads packages and unpacks them into one directory, unless that is there already.
fn unpack(state: &Path, dir: &Path, names: &[&str], to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    let debs = dir.join("debs");
    let _ = fs::remove_dir_all(&debs);
    fs::create_dir_all(&debs)?;
    run(apt(state, "apt-get", &["download", "-q"]).args(names).current_dir(&debs))?;
    let aside = dir.join("unpacking");
    let _ = fs::remove_dir_all(&aside);
    for deb in fs::read_dir(&debs)? {
        run(command("dpkg-deb", &["-x"]).arg(deb?.path()).arg(&aside))?;
    }
    fs::rename(&aside, to)?;
    Ok(())
}

/// The Debian mirror that this machine's own apt uses.
fn mirror() -> Result<String> {
    let targets = output(&mut command("apt-get", &["indextargets", "--format", "$(REPO_URI)"]))?;
    targets
        .lines()
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
        .context("this machine's apt uses no Debian mirror")
}

/// The packages that the suite's kernel is made of.
fn parts(state: &Path) -> Result<Vec<String>> {
    let mut found = vec![META.to_owned()];
    let mut i = 0;
    while i < found.len() {
        let text = output(&mut apt(state, "apt-cache", &["depends", "--important", &found[i]]))?;
        for name in depends(&text) {
            if !found.contains(&name) {
                found.push(name);
            }
        }
        i += 1;
    }
    if found.len() == 1 {
        bail!("{META} leads to no kernel");
    }
    Ok(found)
}

fn depends(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|l| l.trim().strip_prefix("Depends: "))
        .filter(|n| PARTS.iter().any(|p| n.starts_with(p)))
        .map(str::to_owned)
        .collect()
}

fn apt(state: &Path, program: &str, words: &[&str]) -> Command {
    let mut c = command(program, &[]);
    let set = |name: &str, value: String| format!("{name}={value}");
    for option in [
        set("Dir::State", state.display().to_string()),
        set("Dir::State::lists", state.join("lists").display().to_string()),
        set("Dir::State::status", state.join("status").display().to_string()),
        set("Dir::Cache", state.join("cache").display().to_string()),
        set("Dir::Etc::sourcelist", state.join("etc/sources.list").display().to_string()),
        set("Dir::Etc::sourceparts", "-".into()),
        // A mirror may lag behind: what was signed once will do for a test.
        set("Acquire::Check-Valid-Until", "false".into()),
        // The unprivileged user of apt cannot write into our directory.
        set("APT::Sandbox::User", "root".into()),
    ] {
        c.args(["-o", &option]);
    }
    c.args(words).env("LC_ALL", "C");
    c
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_a_kernel_are_followed() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-50-cloud-amd64\n";
        assert_eq!(depends(text), ["linux-image-6.1.0-50-cloud-amd64"]);
        let text = "linux-image-x\n  PreDepends: dpkg\n  Depends: kmod\n |Depends: linux-initramfs-tool\n  Depends: linux-modules-7.2\n";
        assert_eq!(depends(text), ["linux-modules-7.2"]);
    }
}
