//! Attaching programs so that they stay: to devices by TCX where the kernel has it, by a clsact
//! filter otherwise; to cgroup2 by links. A program that is there is replaced in its place: every
//! packet meets the old or the new one.

use std::{
    fs::File,
    io, mem,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    programs::{
        SchedClassifier, TcAttachType,
        links::Link as _,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
    },
    util::KernelVersion,
};

use futures::TryStreamExt;

use super::{
    super::{
        NetError,
        netlink::{Netlink, is_errno},
    },
    bpffs,
    sys::{AttachType, Link, LinkTarget},
};

/// How programs get to see a device's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// BPF links (Linux ≥ 6.6).
    Tcx,
    /// Filters of the clsact queueing discipline.
    Clsact,
}

impl Hook {
    /// What this kernel has. `WARREN_NO_TCX=1` asks for clsact in any case.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        let refused = std::env::var_os("WARREN_NO_TCX").is_some_and(|v| v == "1");
        let recent = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0));
        if recent && !refused { Self::Tcx } else { Self::Clsact }
    }
}

/// Filters have no descriptor and outlive us by themselves; these two numbers are how we find ours
/// again. Unlikely ones, since whatever sits there is replaced.
const PRIORITY: u16 = 0x5752;
const HANDLE: TcHandle = TcHandle::new(0, 0x5752);

/// What pins of devices' programs begin with.
const DEVICE: &str = "dev-";
/// What pins of guards begin with.
const GUARD: &str = "xdp-";

/// The device that a pin is for, if it is for one.
#[must_use]
pub fn device_of(pin: &str) -> Option<u32> {
    pin.strip_prefix(DEVICE).or_else(|| pin.strip_prefix(GUARD))?.parse().ok()
}

/// Where the links of one node are pinned.
#[derive(Debug, Clone)]
pub struct Links {
    dir: PathBuf,
}

impl Links {
    /// Links pinned in `dir`, which exists.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn device_pin(&self, index: u32) -> PathBuf {
        self.dir.join(format!("{DEVICE}{index}"))
    }

    /// Runs `program` for what comes in by a device, in the place of what we ran there before.
    pub fn device(
        &self,
        hook: Hook,
        index: u32,
        name: &str,
        program: &mut SchedClassifier,
    ) -> Result<(), NetError> {
        let pin = self.device_pin(index);
        match hook {
            Hook::Tcx => {
                let fd = program.fd().map_err(|e| NetError::program(name, e))?;
                self.put(&pin, fd.as_fd(), LinkTarget::Device(index), AttachType::TcxIngress)?;
                // Left by a start without TCX. After the new one: never a packet without any.
                remove_filter(name);
            }
            Hook::Clsact => {
                put_filter(name, program)?;
                remove_pin(&pin)?;
            }
        }
        Ok(())
    }

    /// Ends what we run on a device, whichever way.
    pub fn remove_device(&self, index: u32, name: &str) -> Result<(), NetError> {
        remove_filter(name);
        remove_pin(&self.device_pin(index))
    }

    fn guard_pin(&self, index: u32) -> PathBuf {
        self.dir.join(format!("{GUARD}{index}"))
    }

    /// Runs the guard in a device's driver, in the place of what guarded it before.
    pub fn guard(&self, index: u32, program: BorrowedFd<'_>) -> Result<(), NetError> {
        self.put(&self.guard_pin(index), program, LinkTarget::Device(index), AttachType::Xdp)
    }

    /// Whether a guard is there.
    #[must_use]
    pub fn is_guarded(&self, index: u32) -> bool {
        Link::from_pin(&self.guard_pin(index)).and_then(|l| l.info()).is_ok_and(|i| i.ifindex == index)
    }

    /// Ends the guards of all devices but those for which `stays` says otherwise.
    pub fn remove_guards(&self, stays: impl Fn(u32) -> bool) -> Result<(), NetError> {
        for (name, path) in self.pins()? {
            let index = name.strip_prefix(GUARD).and_then(|n| n.parse().ok());
            if index.is_some_and(|i| !stays(i)) {
                remove_pin(&path)?;
            }
        }
        Ok(())
    }

    /// Runs `program` for all sockets of the machine; it looks itself whose they are.
    pub fn cgroup(
        &self,
        program: BorrowedFd<'_>,
        name: &str,
        cgroup: &File,
        kind: AttachType,
    ) -> Result<(), NetError> {
        self.put(&self.dir.join(format!("cg-{name}")), program, LinkTarget::Cgroup(cgroup.as_fd()), kind)
    }

    fn put(
        &self,
        pin: &Path,
        program: BorrowedFd<'_>,
        target: LinkTarget<'_>,
        kind: AttachType,
    ) -> Result<(), NetError> {
        if let Ok(link) = Link::from_pin(pin) {
            let gone = match target {
                // Numbers of devices are used again: the pin may be of one that is gone.
                LinkTarget::Device(index) => link.info().is_ok_and(|i| i.ifindex != index),
                LinkTarget::Cgroup(_) => false,
            };
            match link.replace(program) {
                Ok(()) if !gone => return Ok(()),
                Ok(()) => {}
                Err(e) if gone || e.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(e) => return Err(NetError::system("replace a BPF program", e)),
            }
            remove_pin(pin)?;
        }
        let link =
            Link::create(program, target, kind).map_err(|e| NetError::system("attach a BPF program", e))?;
        link.pin(pin).map_err(|e| NetError::system("pin a BPF link", e))
    }

    /// Pins there are: name and file.
    pub fn pins(&self) -> Result<Vec<(String, PathBuf)>, NetError> {
        bpffs::files(&self.dir).map_err(|e| NetError::system("list the pinned links", e))
    }

    /// Whether a device, of whichever network namespace, runs one of our programs.
    #[must_use]
    pub fn on_devices(&self) -> bool {
        let device = |name: &str, path: &Path| {
            device_of(name).is_some()
                && Link::from_pin(path).and_then(|l| l.info()).is_ok_and(|i| i.ifindex != 0)
        };
        self.pins().is_ok_and(|pins| pins.iter().any(|(name, path)| device(name, path)))
    }

    /// Removes the pins of devices that are gone.
    pub fn sweep(&self) -> Result<(), NetError> {
        for (name, path) in self.pins()? {
            let dead = device_of(&name).is_some()
                && Link::from_pin(&path).and_then(|l| l.info()).is_ok_and(|i| i.ifindex == 0);
            if dead {
                remove_pin(&path)?;
            }
        }
        Ok(())
    }

    /// The programs that run, by pin: name of the pin and number of the program.
    pub fn running(&self) -> Result<Vec<(String, u32)>, NetError> {
        let pins = self.pins()?;
        Ok(pins
            .into_iter()
            .filter_map(|(n, p)| Some((n, Link::from_pin(&p).ok()?.info().ok()?.program)))
            .collect())
    }
}

fn remove_pin(path: &Path) -> Result<(), NetError> {
    bpffs::remove_file(path).map_err(|e| NetError::system("remove a pinned link", e))
}

fn our_filter(device: &str) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(device, TcAttachType::Ingress, PRIORITY, HANDLE, None)
}

fn put_filter(device: &str, program: &mut SchedClassifier) -> Result<(), NetError> {
    let error = |e| NetError::program(device, e);
    let present = our_filter(device).map_err(|e| NetError::system("look for a device", e))?;
    let id = match program.attach_to_link(present) {
        Ok(id) => id,
        // Nothing of ours there yet.
        Err(_) => {
            // It may be there, ours or another's; if it cannot be, attaching says why.
            let _ = qdisc_add_clsact(device);
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            program
                .attach_with_options(device, TcAttachType::Ingress, TcAttachOptions::Netlink(options))
                .map_err(error)?
        }
    };
    // Dropping it would detach.
    mem::forget(program.take_link(id).map_err(error)?);
    Ok(())
}

/// Removes our clsact filter from a device; says whether it had one.
pub fn remove_filter(device: &str) -> bool {
    our_filter(device).is_ok_and(|link| link.detach().is_ok())
}

/// Removes a device's clsact discipline when no filter is left in it.
pub async fn remove_empty_clsact(netlink: &Netlink, index: u32) -> Result<(), NetError> {
    let Ok(ifindex) = i32::try_from(index) else { return Ok(()) };
    let get = || netlink.handle.traffic_filter(ifindex).get();
    for request in [get().ingress(), get().egress()] {
        let filters: Vec<_> = request.execute().try_collect().await.unwrap_or_default();
        if !filters.is_empty() {
            return Ok(());
        }
    }
    let mut request = netlink.handle.qdisc().del(ifindex);
    request.message_mut().header.parent = CLSACT.into();
    match request.execute().await {
        Err(e) if !is_errno(&e, libc::ENOENT) && !is_errno(&e, libc::EINVAL) => {
            Err(super::super::netlink::request("remove a clsact discipline")(e))
        }
        _ => Ok(()),
    }
}

const CLSACT: u32 = 0xffff_fff1;

/// The root of cgroup2, wherever it is mounted.
pub fn cgroup_root() -> Result<PathBuf, NetError> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")
        .map_err(|e| NetError::system("read /proc/self/mounts", e))?;
    find_cgroup2(&mounts).ok_or(NetError::NoCgroup2)
}

fn find_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(at.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_devices_are_told_from_others() {
        assert_eq!((device_of("dev-7"), device_of("xdp-12")), (Some(7), Some(12)));
        assert_eq!((device_of("cg-sock_connect4"), device_of("dev-")), (None, None));
    }

    #[test]
    fn cgroup2_is_found_wherever_it_is() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(find_cgroup2(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_cgroup2("none /my\\040groups cgroup2 rw 0 0\n"), Some("/my groups".into()));
        assert_eq!(find_cgroup2("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"), None);
    }
}
