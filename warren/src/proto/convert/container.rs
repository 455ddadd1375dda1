//! How containers are made: the parts of a task's spec.

use std::time::Duration;

use super::{ConvertError, milliseconds, narrow, parse_net};
use crate::{
    model::{
        Device, HealthCheck, HttpProbe, LogLimits, Mount, MountSource, Names, NetworkMode, Probe,
        Propagation, PullPolicy, RegistryAuth, Resources, Seccomp, Security, Ulimit,
    },
    proto::v1::{self, health_check, mount, task_spec},
};

fn unknown(field: &'static str, what: impl std::fmt::Display) -> ConvertError {
    ConvertError::new(field, format_args!("{what} is not known here; update this node"))
}

impl From<PullPolicy> for task_spec::PullPolicy {
    fn from(p: PullPolicy) -> Self {
        match p {
            PullPolicy::Always => Self::Always,
            PullPolicy::Missing => Self::Missing,
            PullPolicy::Never => Self::Never,
        }
    }
}

pub(super) fn pull_policy(number: i32) -> Result<PullPolicy, ConvertError> {
    match task_spec::PullPolicy::try_from(number).map_err(|_| unknown("task.pull", number))? {
        task_spec::PullPolicy::Always => Ok(PullPolicy::Always),
        task_spec::PullPolicy::Missing => Ok(PullPolicy::Missing),
        task_spec::PullPolicy::Never => Ok(PullPolicy::Never),
    }
}

impl From<NetworkMode> for task_spec::NetworkMode {
    fn from(n: NetworkMode) -> Self {
        match n {
            NetworkMode::Cluster => Self::Cluster,
            NetworkMode::Host => Self::Host,
            NetworkMode::None => Self::None,
        }
    }
}

pub(super) fn network_mode(number: i32) -> Result<NetworkMode, ConvertError> {
    match task_spec::NetworkMode::try_from(number).map_err(|_| unknown("task.network", number))? {
        task_spec::NetworkMode::Cluster => Ok(NetworkMode::Cluster),
        task_spec::NetworkMode::Host => Ok(NetworkMode::Host),
        task_spec::NetworkMode::None => Ok(NetworkMode::None),
    }
}

impl From<&Names> for v1::Names {
    fn from(n: &Names) -> Self {
        let host = |(name, a): &(String, _)| v1::names::Host { name: name.clone(), address: format!("{a}") };
        Self {
            hosts: n.hosts.iter().map(host).collect(),
            dns: n.dns.iter().map(ToString::to_string).collect(),
            dns_search: n.dns_search.clone(),
            dns_options: n.dns_options.clone(),
        }
    }
}

impl TryFrom<v1::Names> for Names {
    type Error = ConvertError;

    fn try_from(n: v1::Names) -> Result<Self, ConvertError> {
        let host = |h: v1::names::Host| Ok((h.name, parse_net("names.host", &h.address)?));
        Ok(Self {
            hosts: n.hosts.into_iter().map(host).collect::<Result<_, ConvertError>>()?,
            dns: n.dns.iter().map(|a| parse_net("names.dns", a)).collect::<Result<_, _>>()?,
            dns_search: n.dns_search,
            dns_options: n.dns_options,
        })
    }
}

impl From<&Mount> for v1::Mount {
    fn from(m: &Mount) -> Self {
        let source = match &m.source {
            MountSource::Bind { path, propagation, non_recursive, create } => {
                mount::Source::Bind(mount::Bind {
                    path: path.display().to_string(),
                    propagation: propagation.name().to_owned(),
                    non_recursive: *non_recursive,
                    create: *create,
                })
            }
            MountSource::Volume { name, no_copy, labels } => mount::Source::Volume(mount::Volume {
                name: name.clone().unwrap_or_default(),
                no_copy: *no_copy,
                labels: labels.clone().into_iter().collect(),
            }),
            MountSource::Tmpfs { size, mode } => {
                mount::Source::Tmpfs(mount::Tmpfs { size: *size, mode: *mode })
            }
        };
        Self { source: Some(source), target: m.target.display().to_string(), read_only: m.read_only }
    }
}

impl TryFrom<v1::Mount> for Mount {
    type Error = ConvertError;

    fn try_from(m: v1::Mount) -> Result<Self, ConvertError> {
        let source = match super::required("mount.source", m.source)? {
            mount::Source::Bind(b) => MountSource::Bind {
                path: b.path.into(),
                propagation: Propagation::ALL
                    .into_iter()
                    .find(|p| p.name() == b.propagation)
                    .ok_or_else(|| unknown("mount.propagation", &b.propagation))?,
                non_recursive: b.non_recursive,
                create: b.create,
            },
            mount::Source::Volume(v) => MountSource::Volume {
                name: (!v.name.is_empty()).then_some(v.name),
                no_copy: v.no_copy,
                labels: v.labels.into_iter().collect(),
            },
            mount::Source::Tmpfs(t) => MountSource::Tmpfs { size: t.size, mode: t.mode },
        };
        Ok(Self { source, target: m.target.into(), read_only: m.read_only })
    }
}

impl From<&Security> for v1::Security {
    fn from(s: &Security) -> Self {
        let device = |d: &Device| v1::Device {
            host: d.host.display().to_string(),
            container: d.container.display().to_string(),
            access: d.access.clone(),
        };
        Self {
            cap_add: s.cap_add.clone(),
            cap_drop: s.cap_drop.clone(),
            privileged: s.privileged,
            devices: s.devices.iter().map(device).collect(),
            sysctls: s.sysctls.clone().into_iter().collect(),
            seccomp: match &s.seccomp {
                Seccomp::Default => String::new(),
                Seccomp::Unconfined => UNCONFINED.to_owned(),
                Seccomp::Profile(json) => json.clone(),
            },
            no_new_privileges: s.no_new_privileges,
            unmasked_paths: s.unmasked_paths,
            apparmor: s.apparmor.clone(),
        }
    }
}

const UNCONFINED: &str = "unconfined";

impl From<v1::Security> for Security {
    fn from(s: v1::Security) -> Self {
        let device =
            |d: v1::Device| Device { host: d.host.into(), container: d.container.into(), access: d.access };
        Self {
            cap_add: s.cap_add,
            cap_drop: s.cap_drop,
            privileged: s.privileged,
            devices: s.devices.into_iter().map(device).collect(),
            sysctls: s.sysctls.into_iter().collect(),
            seccomp: match s.seccomp.as_str() {
                "" => Seccomp::Default,
                UNCONFINED => Seccomp::Unconfined,
                _ => Seccomp::Profile(s.seccomp),
            },
            no_new_privileges: s.no_new_privileges,
            unmasked_paths: s.unmasked_paths,
            apparmor: s.apparmor,
        }
    }
}

impl From<&Ulimit> for v1::Ulimit {
    fn from(u: &Ulimit) -> Self {
        Self { name: u.name.clone(), soft: u.soft, hard: u.hard }
    }
}

impl From<v1::Ulimit> for Ulimit {
    fn from(u: v1::Ulimit) -> Self {
        Self { name: u.name, soft: u.soft, hard: u.hard }
    }
}

impl From<&Resources> for v1::Resources {
    fn from(r: &Resources) -> Self {
        Self {
            nano_cpus: r.nano_cpus,
            memory: r.memory,
            memory_reservation: r.memory_reservation,
            memory_swap: r.memory_swap,
            pids: r.pids,
            oom_score_adj: r.oom_score_adj,
        }
    }
}

impl From<v1::Resources> for Resources {
    fn from(r: v1::Resources) -> Self {
        Self {
            nano_cpus: r.nano_cpus,
            memory: r.memory,
            memory_reservation: r.memory_reservation,
            memory_swap: r.memory_swap,
            pids: r.pids,
            oom_score_adj: r.oom_score_adj,
        }
    }
}

impl From<&LogLimits> for v1::LogLimits {
    fn from(l: &LogLimits) -> Self {
        Self { max_size: l.max_size, max_files: l.max_files }
    }
}

impl From<v1::LogLimits> for LogLimits {
    fn from(l: v1::LogLimits) -> Self {
        Self { max_size: l.max_size, max_files: l.max_files }
    }
}

impl From<&HttpProbe> for v1::HttpProbe {
    fn from(p: &HttpProbe) -> Self {
        let header = |(name, value): &(String, String)| v1::http_probe::Header {
            name: name.clone(),
            value: value.clone(),
        };
        let statuses =
            |&(first, last): &(u16, u16)| v1::http_probe::Statuses { first: first.into(), last: last.into() };
        Self {
            https: p.https,
            port: p.port.into(),
            path: p.path.clone(),
            method: p.method.clone(),
            headers: p.headers.iter().map(header).collect(),
            statuses: p.statuses.iter().map(statuses).collect(),
        }
    }
}

impl TryFrom<v1::HttpProbe> for HttpProbe {
    type Error = ConvertError;

    fn try_from(p: v1::HttpProbe) -> Result<Self, ConvertError> {
        let statuses = |s: v1::http_probe::Statuses| {
            Ok((narrow("probe.statuses", s.first)?, narrow("probe.statuses", s.last)?))
        };
        Ok(Self {
            https: p.https,
            port: narrow("probe.port", p.port)?,
            path: p.path,
            method: p.method,
            headers: p.headers.into_iter().map(|h| (h.name, h.value)).collect(),
            statuses: p.statuses.into_iter().map(statuses).collect::<Result<_, ConvertError>>()?,
        })
    }
}

impl From<&HealthCheck> for v1::HealthCheck {
    fn from(h: &HealthCheck) -> Self {
        let probe = |p: &Probe| match p {
            Probe::Disabled => health_check::Probe::Disabled(true),
            Probe::Command(argv) => health_check::Probe::Command(v1::StringList { items: argv.clone() }),
            Probe::Shell(line) => health_check::Probe::Shell(line.clone()),
            Probe::Http(http) => health_check::Probe::Http(http.into()),
            Probe::Tcp(port) => health_check::Probe::Tcp((*port).into()),
        };
        Self {
            probe: h.probe.as_ref().map(probe),
            interval_ms: h.interval.map(milliseconds),
            timeout_ms: h.timeout.map(milliseconds),
            retries: h.retries,
            start_period_ms: h.start_period.map(milliseconds),
            start_interval_ms: h.start_interval.map(milliseconds),
        }
    }
}

impl TryFrom<v1::HealthCheck> for HealthCheck {
    type Error = ConvertError;

    fn try_from(h: v1::HealthCheck) -> Result<Self, ConvertError> {
        let probe = |p: health_check::Probe| {
            Ok(match p {
                health_check::Probe::Disabled(_) => Probe::Disabled,
                health_check::Probe::Command(argv) => Probe::Command(argv.items),
                health_check::Probe::Shell(line) => Probe::Shell(line),
                health_check::Probe::Http(http) => Probe::Http(http.try_into()?),
                health_check::Probe::Tcp(port) => Probe::Tcp(narrow("probe.tcp", port)?),
            })
        };
        Ok(Self {
            probe: h.probe.map(probe).transpose()?,
            interval: h.interval_ms.map(Duration::from_millis),
            timeout: h.timeout_ms.map(Duration::from_millis),
            retries: h.retries,
            start_period: h.start_period_ms.map(Duration::from_millis),
            start_interval: h.start_interval_ms.map(Duration::from_millis),
        })
    }
}

impl From<&RegistryAuth> for v1::RegistryAuth {
    fn from(a: &RegistryAuth) -> Self {
        Self {
            server: a.server.clone(),
            username: a.username.clone(),
            password: a.password.clone(),
            identity_token: a.identity_token.clone(),
        }
    }
}

impl From<v1::RegistryAuth> for RegistryAuth {
    fn from(a: v1::RegistryAuth) -> Self {
        Self {
            server: a.server,
            username: a.username,
            password: a.password,
            identity_token: a.identity_token,
        }
    }
}
