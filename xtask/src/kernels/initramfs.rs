//! The file system a test kernel starts from: a cpio archive ("newc") of a few files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::process::{command, output_bytes};

/// A file of it: its path there, its permissions, and where it is here.
pub struct File {
    /// Without a leading slash.
    pub name: String,
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub from: PathBuf,
}

impl File {
    /// A program.
    pub fn program(name: &str, from: &Path) -> Self {
        Self { name: name.into(), mode: 0o755, from: from.into() }
    }
}

/// Writes files, and modules in loading order.
///
/// # Errors
/// A file cannot be read, unpacked or written.
pub fn write(to: &Path, files: &[File], modules: &[PathBuf]) -> Result<()> {
    let read = |file: &Path| fs::read(file).with_context(|| format!("{}", file.display()));
    let mut archive = Archive::default();
    for dir in ["modules", "dev"] {
        archive.directory(dir);
    }
    let mut made = BTreeSet::new();
    for file in files {
        // Every directory above it, once, the uppermost first.
        let above: Vec<&Path> = Path::new(&file.name).ancestors().skip(1).collect();
        for dir in above.into_iter().rev().filter(|d| *d != Path::new("")) {
            if made.insert(dir.to_owned()) {
                archive.directory(&dir.display().to_string());
            }
        }
        archive.file(&file.name, file.mode, &read(&file.from)?);
    }
    for (i, module) in modules.iter().enumerate() {
        let packed = module.extension().is_some_and(|e| e == "xz");
        let image = if packed { output_bytes(command("xz", &["-dc"]).arg(module))? } else { read(module)? };
        let name = module.file_name().context("a module has a name")?.to_string_lossy();
        archive.file(&format!("modules/{i:02}-{}", name.trim_end_matches(".xz")), 0o644, &image);
    }
    fs::write(to, archive.end()).with_context(|| format!("{}", to.display()))
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn directory(&mut self, name: &str) {
        self.entry(name, 0o40755, &[]);
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | mode, content);
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        // magic, then inode, mode, uid, gid, links, mtime, size, device (2), rdev (2), length of
        // the name with its end, checksum; each as eight hexadecimal digits.
        let size = u32::try_from(content.len()).expect("a file of an initramfs is small");
        let length = u32::try_from(name.len() + 1).expect("names are short");
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        self.bytes.extend(b"070701");
        self.bytes.extend(fields.iter().flat_map(|f| format!("{f:08X}").into_bytes()));
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_archive_has_an_end() {
        let mut a = Archive::default();
        a.file("init", 0o755, b"12345");
        let bytes = a.end();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000081ED"), "{text}");
        assert_eq!(bytes.len() % 4, 0);
        // 110 bytes of header and "init\0", padded to 116; 5 bytes of content, padded to 8.
        assert_eq!(text.find("070701").unwrap(), 0);
        assert_eq!(text[6..].find("070701").unwrap() + 6, 124);
        assert!(text.contains("TRAILER!!!"));
    }
}
