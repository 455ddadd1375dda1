//! Devices of the node in a container.

use std::path::PathBuf;

use oci_spec::runtime as oci;

use super::SpecError;

/// A device as it was found on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// In the container.
    pub path: PathBuf,
    /// Block device, or character device.
    pub block: bool,
    /// Its numbers.
    pub major: u64,
    /// Its numbers.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Some of `r`, `w` and `m`.
    pub access: String,
}

impl HostDevice {
    fn kind(&self) -> oci::LinuxDeviceType {
        if self.block { oci::LinuxDeviceType::B } else { oci::LinuxDeviceType::C }
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// The nodes to make.
pub(super) fn nodes(devices: &[HostDevice]) -> Result<Vec<oci::LinuxDevice>, SpecError> {
    let node = |d: &HostDevice| {
        Ok(oci::LinuxDeviceBuilder::default()
            .path(d.path.clone())
            .typ(d.kind())
            .major(signed(d.major))
            .minor(signed(d.minor))
            .file_mode(d.mode)
            .uid(d.uid)
            .gid(d.gid)
            .build()?)
    };
    devices.iter().map(node).collect()
}

/// What may be opened: nothing but these. runc adds what every container may use (null, zero,
/// tty, …). A privileged one may open everything.
pub(super) fn rules(
    devices: &[HostDevice],
    privileged: bool,
) -> Result<Vec<oci::LinuxDeviceCgroup>, SpecError> {
    let all = oci::LinuxDeviceCgroupBuilder::default().allow(privileged).access("rwm").build()?;
    if privileged {
        return Ok(vec![all]);
    }
    let rule = |d: &HostDevice| {
        Ok(oci::LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(d.kind())
            .major(signed(d.major))
            .minor(signed(d.minor))
            .access(d.access.clone())
            .build()?)
    };
    std::iter::once(Ok(all)).chain(devices.iter().map(rule)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_made_and_allowed() {
        let fuse = HostDevice {
            path: "/dev/fuse".into(),
            block: false,
            major: 10,
            minor: 229,
            mode: 0o666,
            uid: 0,
            gid: 7,
            access: "rw".to_owned(),
        };
        let json = |v| serde_json::to_value::<Vec<oci::LinuxDeviceCgroup>>(v).unwrap();
        assert_eq!(
            serde_json::to_value(nodes(std::slice::from_ref(&fuse)).unwrap()).unwrap(),
            serde_json::json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229,
                "fileMode": 0o666, "uid": 0, "gid": 7}])
        );
        assert_eq!(
            json(rules(std::slice::from_ref(&fuse), false).unwrap()),
            serde_json::json!([{"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}])
        );
        assert_eq!(
            json(rules(&[fuse], true).unwrap()),
            serde_json::json!([{"allow": true, "access": "rwm"}])
        );
    }
}
