//! Mounts.

use std::path::{Path, PathBuf};

use super::{Invalid, absolute, no, process};
use crate::model::{MountSource, TaskSpec};

/// A volume's name is Docker's: letters, digits, `_`, `.` and `-`, beginning with a letter or
/// digit; up to 255.
///
/// # Errors
/// Says what a name may be.
pub fn volume_name(name: &str) -> Result<(), Invalid> {
    let bytes = name.as_bytes();
    let valid = (1..=255).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if valid {
        return Ok(());
    }
    no(format!(
        "bad volume name \"{name}\": use letters, digits, _ . and -, beginning with a letter or digit; a path of the node needs type=bind"
    ))
}

pub(super) fn task(task: &TaskSpec) -> Result<(), Invalid> {
    let mut targets: Vec<PathBuf> = Vec::new();
    for mount in &task.mounts {
        absolute("--mount target", &mount.target)?;
        // `/data`, `/data/` and `/./data` are one place.
        let target: PathBuf = mount.target.components().collect();
        let shown = mount.target.display();
        if target == Path::new("/") {
            return no("bad --mount target \"/\": the image's root cannot be mounted over");
        }
        if target.starts_with("/proc") {
            return no(format!("bad --mount target \"{shown}\": nothing can be mounted in /proc"));
        }
        if targets.contains(&target) {
            return no(format!("--mount target {shown} is given twice: choose another place for one"));
        }
        targets.push(target);
        match &mount.source {
            MountSource::Bind { path, .. } => absolute("--mount source", path)?,
            MountSource::Volume { name, labels, .. } => {
                if let Some(name) = name {
                    volume_name(name)?;
                }
                process::labels("volume-label", labels)?;
            }
            MountSource::Tmpfs { size, mode } => {
                if *size == Some(0) {
                    return no(format!(
                        "bad tmpfs-size of --mount {shown}: write more than 0 or leave it away"
                    ));
                }
                if mode.is_some_and(|m| m > 0o7777) {
                    return no(format!("bad tmpfs-mode of --mount {shown}: permission bits are up to 7777"));
                }
            }
        }
    }
    Ok(())
}
