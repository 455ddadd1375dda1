//! What a container needs of its node: looked up, made, and put into its specification. Blocking.
//!
//! May be repeated: what is there already is used.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use containerd_client::types::Mount as SnapshotMount;
use sha2::{Digest as _, Sha256};

use super::{
    RuntimeConfig,
    failure::one_line,
    files::{STOP_SIGNAL, TERMINAL, TaskFiles},
    host, rootfs,
    spec::{
        HostDevice, HostMount, HostSource, ImageConfig, SpecError, SpecInput, UserError, clean, host_name,
        resolve_user, runtime_spec,
    },
};
use crate::{
    clock,
    model::{Device, Mount, MountSource, Propagation, Task},
    worker::{
        executor::RuntimeError,
        volumes::{self, VolumeError, Volumes, fill},
    },
};

/// Where a task's own volumes are among its files.
const OWN_VOLUMES: &str = "volumes";
/// Longest label that containerd keeps, name and value together.
const LABEL: usize = 4096;
/// Put before the names of the service's labels, so that ours are never theirs.
const LABEL_PREFIX: &str = "warren.label.";

/// A task to make a container of.
pub(super) struct Bundle {
    pub(super) config: RuntimeConfig,
    pub(super) volumes: Volumes,
    pub(super) task: Task,
    pub(super) image: ImageConfig,
    /// Mounts of its fresh snapshot.
    pub(super) snapshot: Vec<SnapshotMount>,
    /// The network namespace to join.
    pub(super) network: PathBuf,
}

/// Why it cannot be made.
#[derive(Debug)]
enum Trouble {
    /// The task is to be rejected.
    Fatal(String),
    /// The disk.
    Io(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl From<SpecError> for Trouble {
    fn from(e: SpecError) -> Self {
        Self::Fatal(e.to_string())
    }
}

impl From<UserError> for Trouble {
    fn from(e: UserError) -> Self {
        Self::Fatal(e.to_string())
    }
}

impl From<VolumeError> for Trouble {
    fn from(e: VolumeError) -> Self {
        match e {
            VolumeError::Io { .. } | VolumeError::Saved(_) => Self::Io(io::Error::other(e)),
            _ => refused(e),
        }
    }
}

fn refused(why: impl std::fmt::Display) -> Trouble {
    Trouble::Fatal(format!("cannot start: {why}"))
}

impl Bundle {
    /// Makes everything; the specification, as runc reads it.
    pub(super) fn make(&self) -> Result<Vec<u8>, RuntimeError> {
        self.specification().map_err(|e| match e {
            Trouble::Fatal(why) => RuntimeError::Fatal(one_line(&why)),
            Trouble::Io(e) => RuntimeError::Temporary(format!("the container's files: {e}")),
        })
    }

    fn specification(&self) -> Result<Vec<u8>, Trouble> {
        let spec = &self.task.spec;
        let host = host::look();
        self.check_labels()?;
        let accounts = rootfs::accounts(&self.snapshot)?;
        let user = spec.user.as_deref().or(self.image.user.as_deref()).unwrap_or_default();
        let user = resolve_user(user, &spec.groups, &accounts)?;
        let files = TaskFiles::below(&self.dir());
        files.write(&self.task, &host_name(&self.task, &host.name))?;
        self.remember()?;
        let input = SpecInput {
            task: &self.task,
            image: &self.image,
            user: &user,
            network: &self.network,
            cgroup: &self.config.cgroup(self.task.id),
            files: &files,
            mounts: &self.mounts()?,
            devices: &self.devices()?,
            host: &host,
        };
        serde_json::to_vec(&runtime_spec(&input)?).map_err(|e| Trouble::Fatal(e.to_string()))
    }

    fn dir(&self) -> PathBuf {
        self.config.task_dir(self.task.id)
    }

    /// What is needed when the task itself is not at hand.
    fn remember(&self) -> io::Result<()> {
        let note = |file: &str, text: Option<String>| match text {
            Some(text) => fs::write(self.dir().join(file), text),
            None => match fs::remove_file(self.dir().join(file)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            },
        };
        let signal = self.task.spec.stop_signal.or_else(|| self.image.stop_signal());
        note(STOP_SIGNAL, signal.map(|s| s.to_string()))?;
        note(TERMINAL, self.task.spec.tty.then(String::new))
    }

    fn check_labels(&self) -> Result<(), Trouble> {
        let long = self.task.spec.labels.iter().find(|(k, v)| LABEL_PREFIX.len() + k.len() + v.len() > LABEL);
        match long {
            Some((name, _)) => Err(refused(format!(
                "--container-label {name} is too long: containerd keeps up to {} bytes of name and value",
                LABEL - LABEL_PREFIX.len()
            ))),
            None => Ok(()),
        }
    }

    /// The service's mounts, then the image's volumes where the service mounts nothing.
    fn mounts(&self) -> Result<Vec<HostMount>, Trouble> {
        let asked = &self.task.spec.mounts;
        let mut all = Vec::new();
        for m in asked {
            all.push(HostMount { target: m.target.clone(), source: self.source(m)?, read_only: m.read_only });
        }
        for path in &self.image.volumes {
            let target = clean(Path::new(path));
            if target != Path::new("/") && asked.iter().all(|m| clean(&m.target) != target) {
                let source = bind(self.own_volume(&target, true)?);
                all.push(HostMount { target, source, read_only: false });
            }
        }
        Ok(all)
    }

    fn source(&self, mount: &Mount) -> Result<HostSource, Trouble> {
        Ok(match &mount.source {
            MountSource::Tmpfs { size, mode } => HostSource::Tmpfs { size: *size, mode: *mode },
            MountSource::Bind { path, propagation, non_recursive, create } => {
                node_path(path, *create)?;
                check_propagation(path, *propagation)?;
                HostSource::Bind {
                    path: path.clone(),
                    propagation: *propagation,
                    non_recursive: *non_recursive,
                }
            }
            MountSource::Volume { name: Some(name), no_copy, labels } => {
                let fill = |volume: &Path| self.fill(volume, &mount.target, !no_copy);
                bind(self.volumes.mounted(name, labels, clock::now(), fill)?)
            }
            MountSource::Volume { name: None, no_copy, .. } => {
                bind(self.own_volume(&mount.target, !no_copy)?)
            }
        })
    }

    /// A volume of the task's own. It lies among its files, and goes with them.
    fn own_volume(&self, target: &Path, copy: bool) -> Result<PathBuf, Trouble> {
        let target = clean(target);
        let name = hex::encode(&Sha256::digest(target.as_os_str().as_encoded_bytes())[..8]);
        let volume = self.dir().join(OWN_VOLUMES).join(name);
        let data = volume.join(volumes::DATA);
        fs::create_dir_all(&data)?;
        self.fill(&volume, &target, copy)?;
        Ok(data)
    }

    /// Fills a volume that is empty with what the image has at the place where it is mounted.
    fn fill(&self, volume: &Path, target: &Path, copy: bool) -> io::Result<()> {
        if copy && fill::is_empty(volume)? {
            rootfs::within(&self.snapshot, &clean(target), || fill::copy_into(volume, Path::new(".")))?;
        }
        fill::finish(volume)
    }

    fn devices(&self) -> Result<Vec<HostDevice>, Trouble> {
        let mut all = Vec::new();
        if self.task.spec.security.privileged {
            for path in below(Path::new("/dev")) {
                all.extend(device(&path, path.clone(), "rwm")?);
            }
        }
        for asked in &self.task.spec.security.devices {
            let found = asked_devices(asked)?;
            all.retain(|d: &HostDevice| found.iter().all(|f| f.path != d.path));
            all.extend(found);
        }
        Ok(all)
    }
}

/// The labels of the container's record: ours, and the service's under a name of their own.
pub(super) fn labels(task: &Task, digest: &str) -> std::collections::HashMap<String, String> {
    let own = task.spec.labels.iter().map(|(k, v)| (format!("{LABEL_PREFIX}{k}"), v.clone()));
    own.chain([
        ("warren.service".to_owned(), task.service_name.clone()),
        ("warren.image.digest".to_owned(), digest.to_owned()),
    ])
    .collect()
}

fn bind(path: PathBuf) -> HostSource {
    HostSource::Bind { path, propagation: Propagation::RPrivate, non_recursive: false }
}

/// A bind's source must be there, or be made.
fn node_path(path: &Path, create: bool) -> Result<(), Trouble> {
    match fs::metadata(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && create => Ok(fs::create_dir_all(path)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(refused(format!(
            "the bind source {} does not exist on this node; make it there, or add bind-create to the mount",
            path.display()
        ))),
        Err(e) => Err(refused(format!("the bind source {} cannot be used: {e}", path.display()))),
    }
}

/// Mounts can only be passed on from a place that passes them on.
fn check_propagation(path: &Path, propagation: Propagation) -> Result<(), Trouble> {
    let wanted: &[&str] = match propagation {
        Propagation::Shared | Propagation::RShared => &["shared:"],
        Propagation::Slave | Propagation::RSlave => &["shared:", "master:"],
        Propagation::Private | Propagation::RPrivate => return Ok(()),
    };
    let info = fs::read_to_string("/proc/self/mountinfo")?;
    if passes_on(&info, &fs::canonicalize(path)?, wanted) {
        return Ok(());
    }
    Err(refused(format!(
        "bind-propagation={}: {} is on a mount of this node that passes nothing on; make it shared (`mount --make-shared`)",
        propagation.name(),
        path.display()
    )))
}

/// Whether the mount that a path is on has one of these marks.
fn passes_on(mountinfo: &str, path: &Path, marks: &[&str]) -> bool {
    let mut best: Option<(usize, bool)> = None;
    for line in mountinfo.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let Some(point) = words.get(4).map(|p| PathBuf::from(p.replace("\\040", " "))) else { continue };
        let depth = point.components().count();
        // A later mount at the same place hides the earlier one.
        if path.starts_with(&point) && best.is_none_or(|(b, _)| depth >= b) {
            let tags = words.iter().skip(6).take_while(|w| **w != "-");
            best = Some((depth, tags.into_iter().any(|t| marks.iter().any(|m| t.starts_with(m)))));
        }
    }
    best.is_some_and(|(_, has)| has)
}

/// What a path of the node is, when it is a device.
fn device(host: &Path, container: PathBuf, access: &str) -> io::Result<Option<HostDevice>> {
    let meta = match fs::metadata(host) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta?,
    };
    let kind = meta.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return Ok(None);
    }
    Ok(Some(HostDevice {
        path: container,
        block: kind.is_block_device(),
        major: nix::sys::stat::major(meta.rdev()),
        minor: nix::sys::stat::minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.to_owned(),
    }))
}

/// A device, or all those of a directory.
fn asked_devices(asked: &Device) -> Result<Vec<HostDevice>, Trouble> {
    let shown = asked.host.display();
    let meta = fs::metadata(&asked.host).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => refused(format!("--device {shown}: there is no such device on this node")),
        _ => refused(format!("--device {shown}: {e}")),
    })?;
    let mut found = Vec::new();
    if meta.is_dir() {
        for path in below(&asked.host) {
            let inside = path.strip_prefix(&asked.host).unwrap_or(&path).to_owned();
            found.extend(device(&path, asked.container.join(inside), &asked.access)?);
        }
    } else {
        found.extend(device(&asked.host, asked.container.clone(), &asked.access)?);
    }
    if found.is_empty() {
        return Err(refused(format!("--device {shown}: this is no device, nor a directory with one")));
    }
    Ok(found)
}

/// Device files below a directory, without those that every container has for itself.
fn below(dir: &Path) -> Vec<PathBuf> {
    const OWN: [&str; 5] = ["pts", "shm", "fd", "mqueue", "console"];
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        let own = dir == Path::new("/dev") && OWN.iter().any(|o| entry.file_name() == *o);
        match kind {
            Ok(kind) if kind.is_dir() && !own => found.extend(below(&path)),
            Ok(kind) if (kind.is_char_device() || kind.is_block_device()) && !own => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_decides_what_is_passed_on() {
        let info = "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n\
             2 1 0:5 / /srv rw - tmpfs tmpfs rw\n\
             3 2 0:6 / /srv/in\\040side rw master:4 - tmpfs tmpfs rw\n";
        let has = |path: &str, marks: &[&str]| passes_on(info, Path::new(path), marks);
        assert!(has("/home/x", &["shared:"]));
        assert!(!has("/srv/x", &["shared:", "master:"]));
        assert!(has("/srv/in side/x", &["shared:", "master:"]));
        assert!(!has("/srv/in side/x", &["shared:"]));
    }

    fn asked(host: &str, container: &str) -> Device {
        Device { host: host.into(), container: container.into(), access: "r".to_owned() }
    }

    #[test]
    fn devices_are_looked_up() {
        let [null] = asked_devices(&asked("/dev/null", "/dev/mine")).unwrap().try_into().unwrap();
        assert_eq!((null.major, null.minor, null.block), (1, 3, false));
        assert_eq!((null.path, null.access.as_str()), (PathBuf::from("/dev/mine"), "r"));
        for (path, says) in [("/dev/nope", "no such device"), ("/proc/version", "this is no device")] {
            match asked_devices(&asked(path, path)) {
                Err(Trouble::Fatal(why)) => assert!(why.contains(says) && why.contains(path), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_missing_source_is_named_or_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        match node_path(&path, false) {
            Err(Trouble::Fatal(why)) => assert!(why.contains(path.to_str().unwrap()), "{why}"),
            other => panic!("{other:?}"),
        }
        node_path(&path, true).unwrap();
        assert!(path.is_dir());
        node_path(&path, false).unwrap();
    }
}
