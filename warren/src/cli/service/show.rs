//! Services and their specs as JSON: every field, in the words and units of the flags that set
//! them. Credentials are only said to be there.

use std::time::Duration;

use serde_json::{Value, json};

use crate::model::{
    HealthCheck, Mount, MountSource, NetworkMode, Probe, PullPolicy, Rate, RestartCondition, Seccomp,
    Service, ServiceSpec, TaskSpec, parse,
};

pub(super) fn service(s: &Service) -> Value {
    let mut json = spec(&s.spec);
    json["id"] = s.id.to_string().into();
    json["version"] = s.version.into();
    json["removing"] = s.removing.into();
    json["created_at_ms"] = s.created_at.0.into();
    json
}

/// What a user asked for.
pub(super) fn spec(s: &ServiceSpec) -> Value {
    let mut json = task(&s.task);
    json["name"] = s.name.clone().into();
    json["labels"] = json!(s.labels);
    json["replicas"] = s.replicas.into();
    json["ports"] = s.publish.iter().map(ToString::to_string).collect();
    let rate = |r: Rate| json!({ "per_second": r.per_second, "burst": r.burst });
    json["limits"] = json!({
        "conn_rate": s.limits.conn_rate.map(rate),
        "packet_rate": s.limits.packet_rate.map(rate),
        "conns": s.limits.conns,
    });
    json
}

fn task(t: &TaskSpec) -> Value {
    let r = &t.resources;
    json!({
        "image": t.image.to_string(),
        "pull": match t.pull {
            PullPolicy::Always => "always",
            PullPolicy::Missing => "missing",
            PullPolicy::Never => "never",
        },
        "registry_auth": t.registry_auth.is_some(),
        "entrypoint": t.entrypoint,
        "args": t.args,
        "env": t.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(),
        "workdir": t.workdir,
        "user": t.user,
        "groups": t.groups,
        "hostname": t.hostname,
        "container_labels": t.labels,
        "init": t.init,
        "tty": t.tty,
        "network": match t.network {
            NetworkMode::Cluster => "cluster",
            NetworkMode::Host => "host",
            NetworkMode::None => "none",
        },
        "hosts": t.names.hosts.iter().map(|(n, ip)| format!("{n}:{ip}")).collect::<Vec<_>>(),
        "dns": t.names.dns,
        "dns_search": t.names.dns_search,
        "dns_options": t.names.dns_options,
        "mounts": t.mounts.iter().map(mount).collect::<Vec<_>>(),
        "read_only": t.read_only,
        "shm_size": t.shm_size,
        "security": security(t),
        "ulimits": t.ulimits.iter().map(|u| {
            let number = |n: u64| if n == u64::MAX { json!(-1) } else { n.into() };
            json!({ "name": u.name, "soft": number(u.soft), "hard": number(u.hard) })
        }).collect::<Vec<_>>(),
        "resources": {
            "nano_cpus": r.nano_cpus,
            "memory": r.memory,
            "memory_reservation": r.memory_reservation,
            "memory_swap": r.memory_swap,
            "pids": r.pids,
            "oom_score_adj": r.oom_score_adj,
        },
        "health": health(&t.health),
        "log": { "max_size": t.log.max_size, "max_files": t.log.max_files },
        "stop_signal": t.stop_signal.map(parse::signal_name),
        "stop_grace_ms": ms(t.stop_grace),
        "restart": {
            "condition": match t.restart.condition {
                RestartCondition::None => "none",
                RestartCondition::OnFailure => "on-failure",
                RestartCondition::Any => "any",
            },
            "delay_ms": ms(t.restart.delay),
            "max_attempts": t.restart.max_attempts,
            "window_ms": ms(t.restart.window),
        },
        "force_update": t.force_update,
    })
}

fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn mount(m: &Mount) -> Value {
    let mut json = match &m.source {
        MountSource::Bind { path, propagation, non_recursive, create } => json!({
            "type": "bind",
            "source": path,
            "propagation": propagation.name(),
            "non_recursive": non_recursive,
            "create": create,
        }),
        MountSource::Volume { name, no_copy, labels } => {
            json!({ "type": "volume", "source": name, "no_copy": no_copy, "labels": labels })
        }
        MountSource::Tmpfs { size, mode } => {
            json!({ "type": "tmpfs", "size": size, "mode": mode.map(|m| format!("{m:o}")) })
        }
    };
    json["target"] = json!(m.target);
    json["read_only"] = m.read_only.into();
    json
}

fn security(t: &TaskSpec) -> Value {
    let s = &t.security;
    json!({
        "cap_add": s.cap_add,
        "cap_drop": s.cap_drop,
        "privileged": s.privileged,
        "devices": s.devices.iter().map(|d| {
            json!({ "host": d.host, "container": d.container, "access": d.access })
        }).collect::<Vec<_>>(),
        "sysctls": s.sysctls,
        "seccomp": match &s.seccomp {
            Seccomp::Default => json!("builtin"),
            Seccomp::Unconfined => json!("unconfined"),
            Seccomp::Profile(profile) => {
                serde_json::from_str(profile).unwrap_or_else(|_| profile.clone().into())
            }
        },
        "no_new_privileges": s.no_new_privileges,
        "systempaths": if s.unmasked_paths { "unconfined" } else { "confined" },
        "apparmor": s.apparmor,
    })
}

fn health(h: &HealthCheck) -> Value {
    let probe = match &h.probe {
        None => json!("image"),
        Some(Probe::Disabled) => json!("none"),
        Some(Probe::Command(words)) => json!({ "command": words }),
        Some(Probe::Shell(line)) => json!({ "shell": line }),
        Some(Probe::Tcp(port)) => json!({ "tcp": port }),
        Some(Probe::Http(http)) => json!({ "http": {
            "url": format!(
                "{}://:{}{}", if http.https { "https" } else { "http" }, http.port, http.path
            ),
            "method": http.method,
            "headers": http.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect::<Vec<_>>(),
            "statuses": http.statuses.iter().map(|(a, b)| {
                if a == b { a.to_string() } else { format!("{a}-{b}") }
            }).collect::<Vec<_>>(),
        } }),
    };
    json!({
        "probe": probe,
        "interval_ms": h.interval.map(ms),
        "timeout_ms": h.timeout.map(ms),
        "retries": h.retries,
        "start_period_ms": h.start_period.map(ms),
        "start_interval_ms": h.start_interval.map(ms),
    })
}
