//! Capabilities, devices, kernel parameters and what contradicts `--privileged`.

use super::{Invalid, absolute, no};
use crate::model::{NetworkMode, Seccomp, Security, TaskSpec};

/// What Linux has, without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// Parameters of an IPC or UTS namespace that have no prefix of their own.
const NAMESPACED: [&str; 9] = [
    "kernel.domainname",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

pub(super) fn task(task: &TaskSpec) -> Result<(), Invalid> {
    let s = &task.security;
    capabilities("--cap-add", &s.cap_add)?;
    capabilities("--cap-drop", &s.cap_drop)?;
    if let Some(both) = s.cap_add.iter().find(|c| s.cap_drop.contains(c)) {
        return no(format!("{both} is in --cap-add and in --cap-drop: leave one away"));
    }
    privileged(s)?;
    for (i, device) in s.devices.iter().enumerate() {
        absolute("--device", &device.host)?;
        absolute("--device", &device.container)?;
        let access = &device.access;
        if access.is_empty() || !access.bytes().all(|b| b"rwm".contains(&b)) {
            return no(format!("bad access \"{access}\" in --device: write some of r, w and m"));
        }
        if s.devices[..i].iter().any(|d| d.container == device.container) {
            return no(format!(
                "--device {} is given twice: choose another place in the container for one",
                device.container.display()
            ));
        }
    }
    for (name, value) in &s.sysctls {
        sysctl(name, task.network)?;
        if value.contains(['\0', '\n']) {
            return no(format!("bad value of --sysctl {name}: it must be one line"));
        }
    }
    if let Seccomp::Profile(json) = &s.seccomp {
        profile(json)?;
    }
    if let Some(profile) = &s.apparmor
        && (profile.is_empty() || profile.contains(|c: char| c.is_control()))
    {
        return no("bad --security-opt apparmor: write the name of a profile");
    }
    Ok(())
}

fn capabilities(flag: &str, list: &[String]) -> Result<(), Invalid> {
    for (i, name) in list.iter().enumerate() {
        if name != "ALL" && !CAPABILITIES.contains(&name.as_str()) {
            return no(format!(
                "bad capability \"{name}\" in {flag}: there is none of that name, see capabilities(7)"
            ));
        }
        if list[..i].contains(name) {
            return no(format!("{flag} {name} is given twice: leave one away"));
        }
    }
    Ok(())
}

/// All and less than all cannot both be meant.
fn privileged(s: &Security) -> Result<(), Invalid> {
    if !s.privileged {
        return Ok(());
    }
    let contradicts = if let Some(cap) = s.cap_drop.first() {
        format!("--cap-drop {cap}")
    } else if matches!(s.seccomp, Seccomp::Profile(_)) {
        "a seccomp profile".to_owned()
    } else {
        return Ok(());
    };
    no(format!("--privileged allows everything and {contradicts} does not: leave one of them away"))
}

fn sysctl(name: &str, network: NetworkMode) -> Result<(), Invalid> {
    if name == "kernel.hostname" {
        return no("--sysctl kernel.hostname is the container's host name: use --hostname");
    }
    let well_formed = !name.contains(|c: char| c.is_whitespace() || c.is_control()) && !name.contains("..");
    if well_formed && name.strip_prefix("net.").is_some_and(|rest| !rest.is_empty()) {
        if network == NetworkMode::Host {
            return no(format!(
                "--sysctl {name} would be the node's own with --network host: set it on the node"
            ));
        }
        return Ok(());
    }
    if NAMESPACED.contains(&name) || (well_formed && name.starts_with("fs.mqueue.")) {
        return Ok(());
    }
    no(format!(
        "--sysctl {name} is not a container's own: there are net.*, fs.mqueue.* and kernel.msg*, sem and shm*; set others on the node"
    ))
}

/// The form only: which names of calls there are, the node's library knows.
fn profile(json: &str) -> Result<(), Invalid> {
    match serde_json::from_str::<serde_json::Value>(json) {
        Ok(v) if v.get("defaultAction").is_some_and(serde_json::Value::is_string) => Ok(()),
        Ok(_) => no("bad profile in --security-opt seccomp: it has no \"defaultAction\""),
        Err(e) => no(format!("bad profile in --security-opt seccomp: it is no JSON ({e})")),
    }
}
