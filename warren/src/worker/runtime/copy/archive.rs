//! Trees of files as tar archives, and back. Sockets, devices and named pipes are left out.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use tar::{Builder, EntryType, Header};

/// Who owns what is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Those of the archive.
    Archived,
    /// Whoever unpacks it.
    Own,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpacked {
    /// Files, directories and links.
    pub entries: u64,
    /// Devices, sockets, named pipes, and names that lead out of the directory.
    pub left_out: u64,
}

/// Packs what is at `path` as `name`; as what is in it when that is `.`. With `follow`, a link
/// there is followed; links below it never are.
///
/// # Errors
/// What the kernel says of `path` or something below it, or `out` of its writing.
pub fn pack(path: &Path, name: &Path, follow: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut packer = Packer { out: Builder::new(out), known: HashMap::new() };
    let name = name.components().filter(|c| matches!(c, Component::Normal(_))).collect::<PathBuf>();
    let found = if follow { fs::metadata(path)? } else { fs::symlink_metadata(path)? };
    if found.is_dir() {
        packer.directory(path, &found, &name)?;
    } else {
        packer.entry(path, &found, &name)?;
    }
    packer.out.finish()
}

struct Packer<'a> {
    out: Builder<&'a mut dyn Write>,
    /// Where a file of several names was packed first, by device and inode.
    known: HashMap<(u64, u64), PathBuf>,
}

impl Packer<'_> {
    fn directory(&mut self, path: &Path, found: &Metadata, name: &Path) -> io::Result<()> {
        if name != Path::new("") {
            let mut h = header(found, EntryType::Directory);
            self.out.append_data(&mut h, name.join(""), io::empty())?;
        }
        let mut entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => self.directory(&path, &found, &name)?,
                Ok(found) => self.entry(&path, &found, &name)?,
                // Gone while we looked: then it is not part of the copy.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(at(&path, e)),
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, found: &Metadata, name: &Path) -> io::Result<()> {
        if found.is_symlink() {
            let to = fs::read_link(path).map_err(|e| at(path, e))?;
            let mut h = header(found, EntryType::Symlink);
            return self.out.append_link(&mut h, name, to);
        }
        if !found.is_file() {
            return Ok(());
        }
        if found.nlink() > 1 {
            let id = (found.dev(), found.ino());
            if let Some(first) = self.known.get(&id) {
                let mut h = header(found, EntryType::Link);
                return self.out.append_link(&mut h, name, first);
            }
            self.known.insert(id, name.to_owned());
        }
        // What it is may have changed since: neither follow a link nor wait for a pipe.
        let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|e| at(path, e))?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Ok(());
        }
        let mut h = header(&found, EntryType::Regular);
        h.set_size(found.len());
        // Exactly as many bytes as were promised, whatever becomes of the file meanwhile.
        let exact = file.chain(io::repeat(0)).take(found.len());
        self.out.append_data(&mut h, name, exact).map_err(|e| at(path, e))
    }
}

fn at(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

fn header(found: &Metadata, kind: EntryType) -> Header {
    let mut h = Header::new_gnu();
    h.set_entry_type(kind);
    h.set_size(0);
    h.set_mode(found.mode() & 0o7777);
    h.set_uid(found.uid().into());
    h.set_gid(found.gid().into());
    h.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    h
}

/// Unpacks an archive into a directory. What is there is replaced; a directory is never replaced
/// by something else nor the other way round. Names that lead out of the directory, links in it
/// included, are not written.
///
/// # Errors
/// What the kernel says, or that this is no archive.
pub fn unpack(archive: impl Read, directory: &Path, owners: Owners) -> io::Result<Unpacked> {
    let directory = &directory.canonicalize()?;
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_preserve_ownerships(owners == Owners::Archived);
    archive.set_overwrite(true);
    let mut done = Unpacked::default();
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        match entry.header().entry_type() {
            // Last, so that their modes and times hold; what is in them makes them meanwhile.
            EntryType::Directory => {
                directories.push(entry);
                continue;
            }
            EntryType::Regular
            | EntryType::Continuous
            | EntryType::GNUSparse
            | EntryType::Symlink
            | EntryType::Link => {}
            _ => {
                done.left_out += 1;
                continue;
            }
        }
        let mut unpacked = entry.unpack_in(directory);
        if let Err(e) = &unpacked
            && e.kind() == io::ErrorKind::AlreadyExists
            && entry.header().entry_type() == EntryType::Link
        {
            // It was found to be inside before it was found to be in the way.
            fs::remove_file(directory.join(relative(&entry.path()?)))?;
            unpacked = entry.unpack_in(directory);
        }
        count(&mut done, unpacked?);
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for mut entry in directories {
        let inside = entry.unpack_in(directory)?;
        count(&mut done, inside);
        let path = relative(&entry.path()?);
        if inside && path != Path::new("") {
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(entry.header().mtime().unwrap_or(0));
            let flags = libc::O_NOFOLLOW | libc::O_DIRECTORY | libc::O_NONBLOCK;
            let opened: io::Result<File> =
                OpenOptions::new().read(true).custom_flags(flags).open(directory.join(path));
            // A time that cannot be set spoils nothing.
            let _ = opened.and_then(|d| d.set_modified(modified));
        }
    }
    Ok(done)
}

fn count(done: &mut Unpacked, inside: bool) {
    if inside {
        done.entries += 1;
    } else {
        done.left_out += 1;
    }
}

/// The names of a path of an archive.
fn relative(path: &Path) -> PathBuf {
    path.components().filter(|c| matches!(c, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn tree(dir: &Path) {
        fs::create_dir_all(dir.join("a/empty")).unwrap();
        fs::write(dir.join("a/file"), "text").unwrap();
        fs::set_permissions(dir.join("a/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(dir.join("a/file"), dir.join("a/same")).unwrap();
        symlink("/etc/shadow", dir.join("a/link")).unwrap();
        symlink("nowhere", dir.join("a/dangling")).unwrap();
        fs::write(dir.join("a").join("n".repeat(180)), "long").unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        File::open(dir.join("a/empty")).unwrap().set_modified(old).unwrap();
        fs::set_permissions(dir.join("a/empty"), fs::Permissions::from_mode(0o700)).unwrap();
        nix::unistd::mkfifo(&dir.join("a/pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    }

    #[test]
    fn a_tree_comes_back_as_it_was_and_replaces_what_is_there() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        tree(from.path());
        let mut bytes = Vec::new();
        pack(&from.path().join("a"), Path::new("b"), false, &mut bytes).unwrap();
        for _ in 0..2 {
            let done = unpack(&bytes[..], to.path(), Owners::Own).unwrap();
            assert_eq!(done, Unpacked { entries: 7, left_out: 0 });
        }
        let b = to.path().join("b");
        let meta = |n: &str| fs::symlink_metadata(b.join(n)).unwrap();
        assert_eq!(fs::read_to_string(b.join("file")).unwrap(), "text");
        assert_eq!(meta("file").mode() & 0o7777, 0o4751);
        assert_eq!(meta("same").ino(), meta("file").ino());
        assert_eq!(fs::read_link(b.join("link")).unwrap(), Path::new("/etc/shadow"));
        assert!(meta("dangling").is_symlink());
        assert_eq!((meta("empty").mode() & 0o7777, meta("empty").mtime()), (0o700, 1_000_000_000));
        assert_eq!(fs::read_to_string(b.join("n".repeat(180))).unwrap(), "long");
        assert!(!b.join("pipe").exists());
    }

    #[test]
    fn only_what_is_in_a_directory() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        tree(from.path());
        let mut bytes = Vec::new();
        pack(&from.path().join("a"), Path::new("."), false, &mut bytes).unwrap();
        unpack(&bytes[..], to.path(), Owners::Own).unwrap();
        assert!(to.path().join("file").exists() && to.path().join("empty").is_dir());
    }

    #[test]
    fn links_are_followed_only_when_asked() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("f"), "text").unwrap();
        symlink("f", from.path().join("l")).unwrap();
        for (follow, is_link) in [(false, true), (true, false)] {
            let mut bytes = Vec::new();
            pack(&from.path().join("l"), Path::new("x"), follow, &mut bytes).unwrap();
            unpack(&bytes[..], to.path(), Owners::Own).unwrap();
            assert_eq!(fs::symlink_metadata(to.path().join("x")).unwrap().is_symlink(), is_link);
        }
    }

    #[test]
    fn nothing_is_written_outside() {
        let top = tempfile::tempdir().unwrap();
        let (inside, outside) = (top.path().join("in"), top.path().join("out"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        let mut b = Builder::new(Vec::new());
        let mut h = Header::new_gnu();
        h.set_entry_type(EntryType::Symlink);
        h.set_size(0);
        b.append_link(&mut h, "way", &outside).unwrap();
        let mut h = Header::new_gnu();
        h.set_size(1);
        h.set_mode(0o644);
        b.append_data(&mut h, "way/caught", &b"x"[..]).unwrap();
        assert!(unpack(&b.into_inner().unwrap()[..], &inside, Owners::Own).is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
