//! What a container's processes may do as root, by Docker's rules.

use std::collections::{BTreeSet, HashSet};

use oci_spec::runtime::{self as oci, Capability as C};

use super::{Host, SpecError};
use crate::model::Security;

/// All that there are, by their numbers in the kernel.
const ALL: [C; 41] = [
    C::Chown,
    C::DacOverride,
    C::DacReadSearch,
    C::Fowner,
    C::Fsetid,
    C::Kill,
    C::Setgid,
    C::Setuid,
    C::Setpcap,
    C::LinuxImmutable,
    C::NetBindService,
    C::NetBroadcast,
    C::NetAdmin,
    C::NetRaw,
    C::IpcLock,
    C::IpcOwner,
    C::SysModule,
    C::SysRawio,
    C::SysChroot,
    C::SysPtrace,
    C::SysPacct,
    C::SysAdmin,
    C::SysBoot,
    C::SysNice,
    C::SysResource,
    C::SysTime,
    C::SysTtyConfig,
    C::Mknod,
    C::Lease,
    C::AuditWrite,
    C::AuditControl,
    C::Setfcap,
    C::MacOverride,
    C::MacAdmin,
    C::Syslog,
    C::WakeAlarm,
    C::BlockSuspend,
    C::AuditRead,
    C::Perfmon,
    C::Bpf,
    C::CheckpointRestore,
];

/// Those a container has unless told otherwise, as Docker's do.
const DEFAULT: [C; 14] = [
    C::Chown,
    C::DacOverride,
    C::Fsetid,
    C::Fowner,
    C::Mknod,
    C::NetRaw,
    C::Setgid,
    C::Setuid,
    C::Setfcap,
    C::Setpcap,
    C::NetBindService,
    C::SysChroot,
    C::Kill,
    C::AuditWrite,
];

/// The names, as the runtime writes them, of the capabilities in a mask as the kernel shows it
/// (`CapBnd:` of /proc/self/status).
pub(in crate::worker::runtime) fn names(mask: u64) -> Vec<String> {
    let set = ALL.iter().enumerate().filter(|(bit, _)| mask & (1 << bit) != 0);
    set.map(|(_, c)| format!("CAP_{c}")).collect()
}

/// Capability numbers, so that they can be put in order.
type Set = BTreeSet<usize>;

fn number(name: &str) -> Result<usize, SpecError> {
    let known = ALL.iter().position(|c| c.to_string() == name);
    known.ok_or_else(|| SpecError::Refused(format!("there is no capability {name}")))
}

fn numbers<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<Set, SpecError> {
    names.into_iter().filter(|n| *n != "ALL").map(|n| number(n)).collect()
}

/// The bounding set of a container.
fn bounding(security: &Security, host: &Host) -> Result<Set, SpecError> {
    let has = |n: &usize| host.capabilities & (1 << n) != 0;
    let everything = || (0..ALL.len()).filter(has);
    if security.privileged {
        return Ok(everything().collect());
    }
    let (add, drop) = (numbers(&security.cap_add)?, numbers(&security.cap_drop)?);
    if let Some(lacking) = add.iter().find(|n| !has(n)) {
        return Err(SpecError::Refused(format!(
            "--cap-add {}: neither this node's kernel nor its service manager lets the node have it",
            ALL[*lacking]
        )));
    }
    let all = |list: &[String]| list.iter().any(|n| n == "ALL");
    Ok(if all(&security.cap_add) {
        everything().filter(|n| !drop.contains(n)).collect()
    } else if all(&security.cap_drop) {
        add
    } else {
        let kept = (0..ALL.len()).filter(|n| DEFAULT.contains(&ALL[*n]) && !drop.contains(n));
        kept.chain(add).collect()
    })
}

/// The sets of a process of this user. One that is not root has them in its bounding set only, as
/// after any other execve.
pub(super) fn capabilities(
    security: &Security,
    uid: u32,
    host: &Host,
) -> Result<oci::LinuxCapabilities, SpecError> {
    let set: HashSet<C> = bounding(security, host)?.into_iter().map(|n| ALL[n]).collect();
    let own = if uid == 0 { set.clone() } else { HashSet::new() };
    Ok(oci::LinuxCapabilitiesBuilder::default()
        .bounding(set)
        .effective(own.clone())
        .permitted(own)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::runtime::spec::tests::host;

    fn mask(add: &[&str], drop: &[&str], privileged: bool) -> Result<u64, SpecError> {
        let list = |l: &[&str]| l.iter().map(|&s| s.to_owned()).collect();
        let security =
            Security { cap_add: list(add), cap_drop: list(drop), privileged, ..Security::default() };
        // A node that lacks one, as in a container.
        let host = Host { capabilities: host().capabilities & !(1 << 24), ..host() };
        Ok(bounding(&security, &host)?.into_iter().map(|n| 1 << n).sum())
    }

    #[test]
    fn sets_follow_docker() {
        let default = 0xa804_25fb;
        let all = 0x1ff_feff_ffff;
        for (add, drop, privileged, want) in [
            (&[][..], &[][..], false, default),
            (&["NET_ADMIN"], &[], false, default | 1 << 12),
            (&["CHOWN"], &[], false, default),
            (&[], &["CHOWN", "NET_RAW"], false, default & !(1 | 1 << 13)),
            (&["CHOWN"], &["CHOWN"], false, default),
            (&[], &["SYS_TIME"], false, default),
            (&[], &["ALL"], false, 0),
            (&["NET_BIND_SERVICE"], &["ALL"], false, 1 << 10),
            (&["ALL"], &[], false, all),
            (&["ALL"], &["SYS_ADMIN"], false, all & !(1 << 21)),
            (&["ALL"], &["ALL"], false, all),
            (&[], &["ALL"], true, all),
        ] {
            assert_eq!(mask(add, drop, privileged), Ok(want), "+{add:?} -{drop:?} {privileged}");
        }
        assert!(
            mask(&["SYS_RESOURCE"], &[], false).unwrap_err().to_string().contains("--cap-add SYS_RESOURCE")
        );
        assert!(mask(&["NOPE"], &[], false).unwrap_err().to_string().contains("no capability NOPE"));
    }

    #[test]
    fn a_mask_is_named_bit_by_bit() {
        assert_eq!(names(1 << 21 | 1), ["CAP_CHOWN", "CAP_SYS_ADMIN"]);
        assert_eq!(names(u64::MAX).len(), 41);
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        assert_eq!(number("SYS_RAWIO"), Ok(17));
        assert_eq!(number("CHECKPOINT_RESTORE"), Ok(40));
        assert_eq!(number("SYS_TTY_CONFIG"), Ok(26));
    }
}
