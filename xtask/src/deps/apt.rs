//! Installing Debian packages without disturbing what runs.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Once};

use anyhow::{Context, Result, bail};

use crate::process::{command, find, output, run, say};

/// Whether packages come from apt here.
pub fn here() -> bool {
    find("apt-get").is_some() && find("dpkg-query").is_some()
}

/// Whether a package is installed.
pub fn installed(package: &str) -> bool {
    output(&mut command("dpkg-query", &["-W", "-f=${db:Status-Status}", package]))
        .is_ok_and(|s| s == "installed")
}

/// Whether the archive has a package.
pub fn available(package: &str) -> bool {
    refresh();
    output(&mut command("apt-cache", &["policy", package])).is_ok_and(|text| has_candidate(&text))
}

fn has_candidate(policy: &str) -> bool {
    policy
        .lines()
        .find_map(|l| l.trim().strip_prefix("Candidate: "))
        .is_some_and(|version| version != "(none)")
}

/// Fetches the lists once. A mirror that is away is no error yet: the lists may be fresh enough.
fn refresh() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(e) = run(command("apt-get", &["update", "-q"]).env("LC_ALL", "C")) {
            say(&format!("{e}: going on with the package lists there are"));
        }
    });
}

/// Installs the first available package of each list; services that come with them are neither
/// started nor enabled.
///
/// # Errors
/// A package is in no archive; installing would remove one that is there; apt fails.
pub fn install(wanted: &[&[&str]]) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    for alternatives in wanted {
        let Some(name) = alternatives.iter().find(|p| available(p)) else {
            bail!(
                "no package {} in this machine's archives: see /etc/apt/sources.list.d",
                alternatives.join(" or ")
            );
        };
        names.push(name);
    }
    names.sort_unstable();
    names.dedup();
    let removed = removed_by(&names)?;
    if !removed.is_empty() {
        bail!(
            "installing {} would remove {}: decide by hand with `apt-get install {}`",
            names.join(" "),
            removed.join(" "),
            names.join(" ")
        );
    }
    let _quiet = NoServices::begin()?;
    let new_containerd = names.contains(&"containerd");
    run(&mut apt(&["-q"], &names))?;
    if new_containerd && find("systemctl").is_some() {
        // Warren runs its own containerd; the package's unit would come up at the next boot.
        run(&mut command("systemctl", &["disable", "containerd.service"]))?;
    }
    Ok(())
}

/// What installing packages would remove.
///
/// # Errors
/// apt fails.
pub fn removed_by(names: &[&str]) -> Result<Vec<String>> {
    refresh();
    let simulated = output(apt(&["-s"], names).env("LC_ALL", "C"))?;
    Ok(removals(&simulated).map(str::to_owned).collect())
}

/// Unpacks packages, and what they need that is not installed, into `to`, unless that is there already.
/// Nothing is installed.
///
/// # Errors
/// apt or dpkg fails.
pub fn unpack(names: &[&str], to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    refresh();
    let (debs, aside) = (to.with_extension("debs"), to.with_extension("unpacking"));
    for dir in [&debs, &aside] {
        let _ = fs::remove_dir_all(dir);
    }
    fs::create_dir_all(debs.join("partial"))?;
    let archives = format!("Dir::Cache::archives={}", debs.display());
    // The unprivileged user of apt cannot write into our directory.
    run(&mut apt(&["-q", "--download-only", "-o", &archives, "-o", "APT::Sandbox::User=root"], names))?;
    for deb in fs::read_dir(&debs)? {
        let deb = deb?.path();
        if deb.extension().is_some_and(|e| e == "deb") {
            run(command("dpkg-deb", &["-x"]).arg(deb).arg(&aside))?;
        }
    }
    fs::rename(&aside, to).with_context(|| format!("{}", to.display()))?;
    fs::remove_dir_all(&debs)?;
    Ok(())
}

fn apt(flags: &[&str], names: &[&str]) -> std::process::Command {
    let mut c = command("apt-get", &["install", "-y", "--no-install-recommends"]);
    c.args(flags).args(names);
    // needrestart (Ubuntu) would restart running services.
    c.env("DEBIAN_FRONTEND", "noninteractive").env("NEEDRESTART_SUSPEND", "1");
    c
}

fn removals(simulated: &str) -> impl Iterator<Item = &str> {
    simulated.lines().filter_map(|l| l.strip_prefix("Remv ")?.split(' ').next())
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// While it lives, packages may not start services. A policy that is already there stays.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\n# For the time of `cargo xtask deps`: start nothing.\nexit 101\n")
            .context(POLICY)?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)).context(POLICY)?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_a_candidate_is_not_available() {
        assert!(has_candidate("runc:\n  Installed: (none)\n  Candidate: 1.1.5\n"));
        assert!(!has_candidate("runc:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!has_candidate(""));
    }

    #[test]
    fn removals_are_seen_in_a_simulation() {
        let text = "Inst rustc-web (1.96 Debian)\nRemv rustc [1.63]\nConf rustc-web (1.96 Debian)\n";
        assert_eq!(removals(text).collect::<Vec<_>>(), ["rustc"]);
    }
}
