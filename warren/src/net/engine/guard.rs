//! Where limits and deny lists take effect before the node's program sees a packet: on devices whose
//! driver can do so, if that was asked for.

use std::collections::BTreeMap;

use super::super::{
    NetError,
    datapath::loader::Loaded,
    netlink::host::{Device, Layer},
};

/// Where what limits and deny lists refuse is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// Where everything is decided.
    #[default]
    Tc,
    /// What is sure to be refused in the device's driver, too.
    Xdp,
}

/// Guards of devices.
#[derive(Debug, Default)]
pub(in crate::net) struct Guards {
    wanted: Guard,
    /// Devices that cannot have one, by number: one sentence for each, told already.
    without: BTreeMap<u32, String>,
}

impl Guards {
    pub(super) fn new(wanted: Guard) -> Self {
        Self { wanted, without: BTreeMap::new() }
    }

    /// Puts a guard on each of these devices that can have one, and takes all others away. `anew`: in the
    /// place of an earlier agent's, too.
    pub(super) fn put(
        &mut self,
        loaded: &mut Loaded,
        devices: &[Device],
        anew: bool,
    ) -> Result<(), NetError> {
        let wanted = self.wanted == Guard::Xdp;
        loaded.links().remove_guards(|index| wanted && devices.iter().any(|d| d.index == index))?;
        if !wanted {
            return Ok(());
        }
        self.without.retain(|index, _| devices.iter().any(|d| d.index == *index));
        for d in devices {
            if !anew && loaded.links().is_guarded(d.index) {
                continue;
            }
            let done = match d.layer {
                Layer::Ethernet => loaded.attach_guard(d.index).map_err(|e| reason(&e)),
                _ => Err("it has no Ethernet headers".to_owned()),
            };
            let Err(reason) = done else {
                self.without.remove(&d.index);
                continue;
            };
            let sentence = format!(
                "device {} has no guard in XDP ({reason}): limits and deny lists are applied there in TC",
                d.name
            );
            if self.without.get(&d.index) != Some(&sentence) {
                tracing::warn!("{sentence}");
                self.without.insert(d.index, sentence);
            }
        }
        Ok(())
    }

    /// One sentence for each device that cannot have a guard.
    pub(in crate::net) fn notes(&self) -> Vec<String> {
        self.without.values().cloned().collect()
    }

    /// Whether a device should have a guard and has none.
    pub(in crate::net) fn is_missing(&self, loaded: &Loaded, device: &Device) -> bool {
        self.wanted == Guard::Xdp
            && !self.without.contains_key(&device.index)
            && !loaded.links().is_guarded(device.index)
    }
}

/// Why a device takes no guard.
fn reason(e: &NetError) -> String {
    let NetError::System { source, .. } = e else { return e.to_string() };
    match source.raw_os_error() {
        // The second one is the kernel's own ENOTSUPP, which some drivers let slip.
        Some(libc::EOPNOTSUPP | 524) => "its driver has no native XDP".to_owned(),
        Some(libc::EBUSY | libc::EEXIST) => "another XDP program is attached to it".to_owned(),
        Some(libc::EINVAL | libc::ERANGE) => {
            format!("its driver refuses XDP as it is set up, for its MTU or its queues: {source}")
        }
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn why_is_said_in_words() {
        let said =
            |errno| reason(&NetError::system("attach a BPF program", io::Error::from_raw_os_error(errno)));
        assert_eq!(said(libc::EOPNOTSUPP), "its driver has no native XDP");
        assert_eq!(said(libc::EBUSY), "another XDP program is attached to it");
        assert!(said(libc::EINVAL).contains("MTU"));
        assert!(said(libc::ENOMEM).contains("attach a BPF program"));
    }
}
