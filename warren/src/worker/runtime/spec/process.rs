//! The first process of a container.

use oci_spec::runtime as oci;

use super::{Host, INIT, ImageConfig, SpecError, SpecInput, capabilities::capabilities, resources};
use crate::model::{NetworkMode, Task, Ulimit};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The host name in a container: what the service says, the node's own on the node's network, else
/// service and slot, within the 64 bytes the kernel allows.
#[must_use]
pub fn host_name(task: &Task, node: &str) -> String {
    if let Some(own) = &task.spec.hostname {
        return own.clone();
    }
    if task.spec.network == NetworkMode::Host {
        return node.to_owned();
    }
    let slot = format!("-{}", task.slot);
    let mut name = task.service_name.clone();
    name.truncate(63 - slot.len().min(63));
    format!("{}{slot}", name.trim_end_matches('-'))
}

/// What is executed. Naming an entrypoint also drops the image's command, as with Docker.
fn command(task: &Task, image: &ImageConfig) -> Vec<String> {
    let list = |l: &Option<Vec<String>>| l.clone().unwrap_or_default();
    let (mut argv, cmd) = match &task.spec.entrypoint {
        Some(own) => (own.iter().filter(|_| own != &[""]).cloned().collect(), Vec::new()),
        None => (list(&image.entrypoint), list(&image.cmd)),
    };
    if task.spec.args.is_empty() {
        argv.extend(cmd);
    } else {
        argv.extend(task.spec.args.iter().cloned());
    }
    argv
}

/// PATH and HOSTNAME, the image's variables, the service's; the later of a name wins.
fn environment(task: &Task, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut env: Vec<(String, String)> =
        vec![("PATH".to_owned(), PATH.to_owned()), ("HOSTNAME".to_owned(), hostname.to_owned())];
    if task.spec.tty {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let own = image.env.iter().flatten().map(|v| {
        let (name, value) = v.split_once('=').unwrap_or((v, ""));
        (name.to_owned(), value.to_owned())
    });
    for (name, value) in own.chain(task.spec.env.iter().cloned()) {
        match env.iter_mut().find(|(n, _)| *n == name) {
            Some(known) => known.1 = value,
            None => env.push((name, value)),
        }
    }
    env.into_iter().map(|(n, v)| format!("{n}={v}")).collect()
}

/// Where it starts; made in the root file system when it is not there.
fn directory(task: &Task, image: &ImageConfig) -> String {
    let own = task.spec.workdir.as_ref().map(|d| d.display().to_string());
    match own.as_deref().or(image.working_dir.as_deref()) {
        None | Some("") => "/".to_owned(),
        Some(dir) if dir.starts_with('/') => dir.to_owned(),
        Some(dir) => format!("/{dir}"),
    }
}

fn limit(ulimit: &Ulimit, host: &Host) -> Result<oci::PosixRlimit, SpecError> {
    use oci::PosixRlimitType as R;
    let kind = match ulimit.name.as_str() {
        "as" => R::RlimitAs,
        "core" => R::RlimitCore,
        "cpu" => R::RlimitCpu,
        "data" => R::RlimitData,
        "fsize" => R::RlimitFsize,
        "locks" => R::RlimitLocks,
        "memlock" => R::RlimitMemlock,
        "msgqueue" => R::RlimitMsgqueue,
        "nice" => R::RlimitNice,
        "nofile" => R::RlimitNofile,
        "nproc" => R::RlimitNproc,
        "rss" => R::RlimitRss,
        "rtprio" => R::RlimitRtprio,
        "rttime" => R::RlimitRttime,
        "sigpending" => R::RlimitSigpending,
        "stack" => R::RlimitStack,
        other => return Err(SpecError::Refused(format!("--ulimit {other}: there is no such limit"))),
    };
    if let Some(own) = host.hard_limits.get(&ulimit.name)
        && ulimit.hard > *own
        && !host.may_raise_limits()
    {
        return Err(SpecError::Refused(format!(
            "--ulimit {}={}: this node may not go above {own}, its own hard limit (it lacks CAP_SYS_RESOURCE)",
            ulimit.name, ulimit.hard
        )));
    }
    Ok(oci::PosixRlimitBuilder::default().typ(kind).soft(ulimit.soft).hard(ulimit.hard).build()?)
}

/// Docker's number of open files, and what the service says.
fn limits(task: &Task, host: &Host) -> Result<Vec<oci::PosixRlimit>, SpecError> {
    let files = Ulimit { name: "nofile".to_owned(), soft: host.open_files.min(1024), hard: host.open_files };
    let own = &task.spec.ulimits;
    let default = std::iter::once(&files).filter(|_| own.iter().all(|u| u.name != "nofile"));
    default.chain(own).map(|u| limit(u, host)).collect()
}

/// The process.
pub(super) fn process(input: &SpecInput<'_>, hostname: &str) -> Result<oci::Process, SpecError> {
    let (task, host) = (input.task, input.host);
    let mut args = command(task, input.image);
    if args.is_empty() {
        return Err(SpecError::NoCommand(task.spec.image.familiar()));
    }
    if task.spec.init {
        args.splice(0..0, [INIT.to_owned(), "--".to_owned()]);
    }
    let security = &task.spec.security;
    let user = oci::UserBuilder::default()
        .uid(input.user.uid)
        .gid(input.user.gid)
        .additional_gids(input.user.groups.clone())
        .build()?;
    let mut process = oci::ProcessBuilder::default()
        .terminal(task.spec.tty)
        .user(user)
        .args(args)
        .env(environment(task, input.image, hostname))
        .cwd(directory(task, input.image))
        .capabilities(capabilities(security, input.user.uid, host)?)
        .rlimits(limits(task, host)?)
        .oom_score_adj(resources::oom_score_adj(&task.spec.resources, host)?)
        .no_new_privileges(security.no_new_privileges)
        .build()?;
    match security.apparmor.as_deref() {
        None | Some("" | "unconfined") if !host.apparmor => {}
        None => {}
        Some(profile) if host.apparmor => _ = process.set_apparmor_profile(Some(profile.to_owned())),
        Some(profile) => {
            return Err(SpecError::Refused(format!(
                "--security-opt apparmor={profile}: this node's kernel does not run AppArmor"
            )));
        }
    }
    Ok(process)
}
