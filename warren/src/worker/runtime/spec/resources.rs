//! What a container may use, as cgroups keep it. The words are those of version 1; runc writes
//! them as version 2 has them where that is what the node uses.

use oci_spec::runtime as oci;

use super::{Host, SpecError};
use crate::model::Resources;

/// The period in which processor time is counted, microseconds; Docker's.
const PERIOD: u64 = 100_000;

fn refused<T>(why: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError::Refused(why.into()))
}

/// An option can be kept only by a controller that is there.
fn need(host: &Host, option: &str, controller: &str) -> Result<(), SpecError> {
    if host.cgroups.controllers.contains(controller) {
        return Ok(());
    }
    refused(format!(
        "{option} cannot be kept: this node's kernel has no cgroup controller \"{controller}\", or it is not mounted"
    ))
}

fn bytes(option: &str, n: u64) -> Result<i64, SpecError> {
    i64::try_from(n).or_else(|_| refused(format!("{option} {n} is more than there can be")))
}

/// Limits of memory: `None` when nothing is asked.
fn memory(r: &Resources, host: &Host) -> Result<Option<oci::LinuxMemory>, SpecError> {
    if r.memory.is_none() && r.memory_reservation.is_none() && r.memory_swap.is_none() {
        return Ok(None);
    }
    need(host, "a memory limit", "memory")?;
    let mut limits = oci::LinuxMemory::default();
    if let Some(limit) = r.memory {
        limits.set_limit(Some(bytes("--memory", limit)?));
    }
    if let Some(reservation) = r.memory_reservation {
        limits.set_reservation(Some(bytes("--memory-reservation", reservation)?));
    }
    match (r.memory_swap, r.memory) {
        (Some(_), _) if !host.cgroups.swap => {
            return refused(
                "--memory-swap cannot be kept: this node's kernel does not count swap (see swapaccount= of its command line)",
            );
        }
        (Some(swap), _) => _ = limits.set_swap(Some(swap)),
        // As much swap as memory, where swap is counted.
        (None, Some(limit)) if host.cgroups.swap => {
            limits.set_swap(Some(bytes("--memory", limit)?.saturating_mul(2)));
        }
        (None, _) => {}
    }
    Ok(Some(limits))
}

/// The limits; devices are told by `devices`.
pub(super) fn resources(
    r: &Resources,
    devices: Vec<oci::LinuxDeviceCgroup>,
    host: &Host,
) -> Result<oci::LinuxResources, SpecError> {
    let mut resources = oci::LinuxResourcesBuilder::default().devices(devices).build()?;
    if let Some(memory) = memory(r, host)? {
        resources.set_memory(Some(memory));
    }
    if let Some(nano) = r.nano_cpus {
        need(host, "--cpus", "cpu")?;
        let quota = i64::try_from(u128::from(nano) * u128::from(PERIOD) / 1_000_000_000).unwrap_or(i64::MAX);
        // The kernel's least.
        let cpu = oci::LinuxCpuBuilder::default().period(PERIOD).quota(quota.max(1000)).build()?;
        resources.set_cpu(Some(cpu));
    }
    if let Some(most) = r.pids {
        need(host, "--pids-limit", "pids")?;
        let pids = oci::LinuxPidsBuilder::default().limit(bytes("--pids-limit", most)?).build()?;
        resources.set_pids(Some(pids));
    }
    Ok(resources)
}

/// `oom_score_adj` of the container's processes.
pub(super) fn oom_score_adj(r: &Resources, host: &Host) -> Result<i32, SpecError> {
    match r.oom_score_adj {
        None => Ok(host.oom_score_adj.max(0)),
        Some(asked) if asked < host.oom_score_adj && !host.may_raise_limits() => refused(format!(
            "--oom-score-adj {asked} cannot be kept: this node may not go below {}, its own (it lacks CAP_SYS_RESOURCE)",
            host.oom_score_adj
        )),
        Some(asked) => Ok(asked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::runtime::spec::tests::host;

    const MIB: u64 = 1 << 20;

    fn json(r: &Resources, host: &Host) -> Result<serde_json::Value, SpecError> {
        Ok(serde_json::to_value(resources(r, Vec::new(), host)?).unwrap())
    }

    #[test]
    fn limits_follow_docker() {
        let none = Resources::default();
        for (r, want) in [
            (none.clone(), serde_json::json!({"devices": []})),
            (
                Resources { nano_cpus: Some(1_500_000_000), ..none.clone() },
                serde_json::json!({"devices": [], "cpu": {"period": 100_000, "quota": 150_000}}),
            ),
            (
                Resources { memory: Some(64 * MIB), ..none.clone() },
                serde_json::json!({"devices": [], "memory": {"limit": 64 * MIB, "swap": 128 * MIB}}),
            ),
            (
                Resources { memory: Some(64 * MIB), memory_swap: Some(64 << 20), ..none.clone() },
                serde_json::json!({"devices": [], "memory": {"limit": 64 * MIB, "swap": 64 * MIB}}),
            ),
            (
                Resources {
                    memory: Some(64 * MIB),
                    memory_swap: Some(-1),
                    memory_reservation: Some(MIB),
                    ..none.clone()
                },
                serde_json::json!({"devices": [],
                    "memory": {"limit": 64 * MIB, "swap": -1, "reservation": MIB}}),
            ),
            (Resources { pids: Some(50), ..none }, serde_json::json!({"devices": [], "pids": {"limit": 50}})),
        ] {
            assert_eq!(json(&r, &host()), Ok(want), "{r:?}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused_by_name() {
        let mut poor = host();
        poor.cgroups.controllers.clear();
        let mut swapless = host();
        swapless.cgroups.swap = false;
        let none = Resources::default();
        for (r, host, names) in [
            (Resources { nano_cpus: Some(1), ..none.clone() }, &poor, "--cpus"),
            (Resources { pids: Some(1), ..none.clone() }, &poor, "--pids-limit"),
            (Resources { memory: Some(MIB), ..none.clone() }, &poor, "\"memory\""),
            (
                Resources { memory: Some(MIB), memory_swap: Some(-1), ..none.clone() },
                &swapless,
                "--memory-swap cannot be kept",
            ),
        ] {
            let why = json(&r, host).unwrap_err().to_string();
            assert!(why.contains(names), "{why}");
        }
        // Swap is not asked for: memory alone is limited.
        let memory = json(&Resources { memory: Some(MIB), ..none }, &swapless).unwrap();
        assert_eq!(memory["memory"], serde_json::json!({"limit": MIB}));
    }

    #[test]
    fn oom_scores_go_no_lower_than_the_node_may() {
        let asked = |n| Resources { oom_score_adj: n, ..Resources::default() };
        let bound = Host { oom_score_adj: 100, capabilities: 0, ..host() };
        assert_eq!(oom_score_adj(&asked(None), &bound), Ok(100));
        assert_eq!(oom_score_adj(&asked(Some(500)), &bound), Ok(500));
        assert!(
            oom_score_adj(&asked(Some(-5)), &bound).unwrap_err().to_string().contains("--oom-score-adj -5")
        );
        assert_eq!(oom_score_adj(&asked(Some(-5)), &host()), Ok(-5));
        assert_eq!(oom_score_adj(&asked(None), &Host { oom_score_adj: -900, ..host() }), Ok(0));
    }
}
