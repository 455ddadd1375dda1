//! Which system calls a container may make: Docker's profiles, resolved for one container.
//!
//! A profile is Docker's JSON: the document of the OCI with conditions on its rules (capabilities
//! of the container, architecture, kernel) that decide whether a rule is taken.

mod default;

use oci_spec::runtime as oci;
use serde::Deserialize;

use super::{Host, SpecError};
use crate::model::{Seccomp, Security};

/// A profile as Docker's users write it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: oci::LinuxSeccompAction,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<oci::Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<Family>>,
    #[serde(default)]
    flags: Option<Vec<oci::LinuxSeccompFilterFlag>>,
    #[serde(default)]
    listener_path: Option<std::path::PathBuf>,
    #[serde(default)]
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

/// An architecture and those whose programs it can run too.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Family {
    architecture: oci::Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<oci::Arch>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: oci::LinuxSeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<oci::LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// What conditions are asked of.
struct Facts<'a> {
    /// As Docker's profiles name it.
    architecture: &'a str,
    capabilities: Vec<String>,
    kernel: (u32, u32),
}

fn refused(why: impl std::fmt::Display) -> SpecError {
    SpecError::Refused(format!("--security-opt seccomp: {why}"))
}

impl Condition {
    fn kernel(&self) -> Result<Option<(u32, u32)>, SpecError> {
        let Some(text) = &self.min_kernel else { return Ok(None) };
        let parsed = text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        parsed.map(Some).ok_or_else(|| refused(format!("\"{text}\" is no kernel version such as 4.8")))
    }

    /// Whether every part of it holds: what a rule must meet to be taken.
    fn holds(&self, facts: &Facts<'_>) -> Result<bool, SpecError> {
        let some = |l: &Option<Vec<String>>| l.as_ref().filter(|l| !l.is_empty()).cloned();
        let arches = some(&self.arches).is_none_or(|a| a.iter().any(|a| a == facts.architecture));
        let caps = some(&self.caps).is_none_or(|c| c.iter().all(|c| facts.capabilities.contains(c)));
        Ok(arches && caps && self.kernel()?.is_none_or(|k| facts.kernel >= k))
    }

    /// Whether any part of it holds: what keeps a rule out.
    fn touches(&self, facts: &Facts<'_>) -> Result<bool, SpecError> {
        let arches = self.arches.iter().flatten().any(|a| a == facts.architecture);
        let caps = self.caps.iter().flatten().any(|c| facts.capabilities.contains(c));
        Ok(arches || caps || self.kernel()?.is_some_and(|k| facts.kernel >= k))
    }
}

/// This machine's architecture: as profiles name it in conditions, and as they list it.
fn architecture() -> (&'static str, Option<oci::Arch>) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", Some(oci::Arch::ScmpArchX86_64)),
        "aarch64" => ("arm64", Some(oci::Arch::ScmpArchAarch64)),
        "arm" => ("arm", Some(oci::Arch::ScmpArchArm)),
        "x86" => ("x86", Some(oci::Arch::ScmpArchX86)),
        "riscv64" => ("riscv64", Some(oci::Arch::ScmpArchRiscv64)),
        "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", Some(oci::Arch::ScmpArchPpc64le)),
        "s390x" => ("s390x", Some(oci::Arch::ScmpArchS390x)),
        other => (other, None),
    }
}

/// Resolves a profile.
fn resolve(
    profile: Profile,
    facts: &Facts<'_>,
    own: Option<oci::Arch>,
) -> Result<oci::LinuxSeccomp, SpecError> {
    let mut architectures = profile.architectures.unwrap_or_default();
    let families = profile.arch_map.unwrap_or_default();
    if !architectures.is_empty() && !families.is_empty() {
        return Err(refused("the profile has both \"architectures\" and \"archMap\"; leave one away"));
    }
    for family in families.into_iter().filter(|f| Some(f.architecture) == own).take(1) {
        architectures.push(family.architecture);
        architectures.extend(family.sub_architectures.unwrap_or_default());
    }
    let mut syscalls = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        let names = match (rule.name.filter(|n| !n.is_empty()), rule.names.unwrap_or_default()) {
            (Some(name), names) if names.is_empty() => vec![name],
            (Some(name), _) => {
                return Err(refused(format!(
                    "the rule of {name} has both \"name\" and \"names\"; leave one away"
                )));
            }
            (None, names) => names,
        };
        let kept_out = rule.excludes.map_or(Ok(false), |c| c.touches(facts))?;
        if kept_out || !rule.includes.map_or(Ok(true), |c| c.holds(facts))? {
            continue;
        }
        let mut call = oci::LinuxSyscallBuilder::default().names(names).action(rule.action).build()?;
        call.set_errno_ret(rule.errno_ret);
        call.set_args(rule.args.filter(|a| !a.is_empty()));
        syscalls.push(call);
    }
    let mut filter = oci::LinuxSeccomp::default();
    filter.set_default_action(profile.default_action);
    filter.set_default_errno_ret(profile.default_errno_ret);
    filter.set_architectures(Some(architectures).filter(|a| !a.is_empty()));
    filter.set_flags(profile.flags);
    filter.set_listener_path(profile.listener_path);
    filter.set_listener_metadata(profile.listener_metadata);
    filter.set_syscalls(Some(syscalls));
    Ok(filter)
}

/// The filter of a container; `None` when it may make every call.
pub(super) fn filter(
    security: &Security,
    process: &oci::Process,
    host: &Host,
) -> Result<Option<oci::LinuxSeccomp>, SpecError> {
    let profile = match &security.seccomp {
        // Privileged is everything, whatever profile is named: as with Docker.
        _ if security.privileged => return Ok(None),
        Seccomp::Unconfined => return Ok(None),
        Seccomp::Default => default::profile(),
        Seccomp::Profile(json) => {
            serde_json::from_str(json).map_err(|e| refused(format!("the profile cannot be read: {e}")))?
        }
    };
    if !host.seccomp {
        return match security.seccomp {
            // As with Docker: there is nothing to be had.
            Seccomp::Default => Ok(None),
            _ => Err(refused("this node's kernel has no seccomp filters")),
        };
    }
    let bounding = process.capabilities().as_ref().and_then(|c| c.bounding().clone()).unwrap_or_default();
    let (name, own) = architecture();
    let facts = Facts {
        architecture: name,
        capabilities: bounding.iter().map(|c| format!("CAP_{c}")).collect(),
        kernel: host.kernel,
    };
    resolve(profile, &facts, own).map(Some)
}

#[cfg(test)]
mod tests;
