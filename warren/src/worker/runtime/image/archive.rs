//! An archive on its way in: put into an unnamed file, and its members found there.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{
    ImageError,
    read::{self, ImageDocument},
};

const CHUNK: usize = 1 << 20;
/// Longest JSON document in an archive.
const DOCUMENT: u64 = 8 << 20;
/// Most members; an image has a few dozen.
const MEMBERS: usize = 100_000;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Where a member's bytes are in the spooled file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// A spooled archive. Its file has no name: it goes when this does, whatever happens.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    file: Arc<File>,
    members: Arc<HashMap<PathBuf, Span>>,
}

impl Archive {
    /// Takes all of `source` in and finds its members.
    pub(super) async fn receive(mut source: impl AsyncRead + Unpin, dir: &Path) -> Result<Self, ImageError> {
        let dir = dir.to_owned();
        let file = spawn(move || unnamed(&dir)).await?;
        let (send, mut chunks) = tokio::sync::mpsc::channel::<Vec<u8>>(2);
        let writer = spawn(move || {
            let mut out: Sink = Sink::Unknown(file);
            while let Some(chunk) = chunks.blocking_recv() {
                out = out.take(&chunk)?;
            }
            out.finish()
        });
        let feed = async move {
            loop {
                let mut chunk = Vec::with_capacity(CHUNK);
                while chunk.len() < CHUNK && source.read_buf(&mut chunk).await? != 0 {}
                // A closed channel: the writer failed and says why.
                if chunk.is_empty() || send.send(chunk).await.is_err() {
                    return Ok::<_, ImageError>(());
                }
            }
        };
        let (fed, written) = tokio::join!(feed, writer);
        fed?;
        let file = written?;
        spawn(move || Self::index(file)).await
    }

    fn index(mut file: File) -> Result<Self, ImageError> {
        let size = file.seek(SeekFrom::End(0))?;
        if size == 0 {
            return Err(ImageError::NotAnArchive("it is empty".to_owned()));
        }
        file.rewind()?;
        // What the tar reader says quotes the file, which need not be one its sender meant to show.
        let not = |e: io::Error| match e.raw_os_error() {
            Some(_) => e.into(),
            None => ImageError::NotAnArchive("it is not a tar file".to_owned()),
        };
        let mut members = HashMap::new();
        let mut links = Vec::new();
        let mut tar = tar::Archive::new(&file);
        for entry in tar.entries_with_seek().map_err(not)? {
            // Only the first header tells a tar from something else; a bad later one is a cut.
            let entry = match entry {
                Ok(e) => e,
                Err(e) if members.is_empty() && links.is_empty() => return Err(not(e)),
                Err(e) if e.raw_os_error().is_some() => return Err(e.into()),
                Err(_) => {
                    let n = members.len() + links.len();
                    return Err(ImageError::Incomplete(format!(
                        "what follows its first {n} files is no tar"
                    )));
                }
            };
            let path = normal(&entry.path().map_err(not)?);
            let kind = entry.header().entry_type();
            if kind.is_symlink() || kind.is_hard_link() {
                if let Some(to) = entry.link_name().map_err(not)? {
                    let from = if kind.is_symlink() { path.parent() } else { None };
                    links.push((normal(&from.unwrap_or(Path::new("")).join(to)), path));
                }
                continue;
            }
            if !kind.is_file() {
                continue;
            }
            let span = Span { offset: entry.raw_file_position(), len: entry.size() };
            if span.offset.checked_add(span.len).is_none_or(|end| end > size) {
                return Err(ImageError::Incomplete(format!("it ends within {}", path.display())));
            }
            members.insert(path, span);
            if members.len() + links.len() > MEMBERS {
                return Err(ImageError::NotAnArchive("it has too many files".to_owned()));
            }
        }
        for (to, path) in links {
            if let Some(&span) = members.get(&to) {
                members.insert(path, span);
            }
        }
        Ok(Self { file: Arc::new(file), members: Arc::new(members) })
    }

    /// The images in it that this node can run, verified to the last byte.
    pub(super) async fn images(&self) -> Result<Vec<ImageDocument>, ImageError> {
        let own = self.clone();
        spawn(move || read::images(&own)).await
    }

    /// Finds a member.
    pub(super) fn member(&self, path: &str) -> Option<Span> {
        self.members.get(&normal(Path::new(path))).copied()
    }

    /// Reads a whole small member.
    pub(super) fn document(&self, name: &str, span: Span) -> Result<Vec<u8>, ImageError> {
        if span.len > DOCUMENT {
            return Err(ImageError::Malformed(format!("{name} is too long")));
        }
        let mut bytes = vec![0; usize::try_from(span.len).unwrap_or_default()];
        self.file.read_exact_at(&mut bytes, span.offset)?;
        Ok(bytes)
    }

    /// Reads part of a member into `buffer`, as far as both go.
    pub(super) fn read_at(&self, span: Span, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(span.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let n = left.min(buffer.len());
        self.file.read_exact_at(&mut buffer[..n], span.offset + at)?;
        Ok(n)
    }

    /// The digest of a member.
    pub(super) fn digest(&self, span: Span) -> io::Result<String> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < span.len {
            let n = self.read_at(span, at, &mut buffer)?;
            hash.update(&buffer[..n]);
            at += n as u64;
        }
        Ok(format!("sha256:{}", hex::encode(hash.finalize())))
    }
}

/// Runs file work off the async threads.
async fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ImageError::Io(e.to_string()))?
}

fn unnamed(dir: &Path) -> Result<File, ImageError> {
    fs::create_dir_all(dir)?;
    let path = dir.join(format!("{:016x}", rand::random::<u64>()));
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// The path without `.` and with `..` taken back; archives name members both ways.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for c in path.components() {
        match c {
            Component::Normal(n) => out.push(n),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// Writes what comes, unpacking gzip.
enum Sink {
    Unknown(File),
    Plain(File),
    Gzip(Box<flate2::write::MultiGzDecoder<File>>),
}

impl Sink {
    fn take(self, chunk: &[u8]) -> Result<Self, ImageError> {
        let mut own = match self {
            Self::Unknown(f) if chunk.starts_with(&GZIP) => {
                Self::Gzip(Box::new(flate2::write::MultiGzDecoder::new(f)))
            }
            Self::Unknown(f) => {
                for (magic, name) in [
                    (&b"\xfd7zXZ"[..], "xz"),
                    (b"\x28\xb5\x2f\xfd", "zstd"),
                    (b"BZh", "bzip2"),
                    (b"PK\x03\x04", "zip"),
                ] {
                    if chunk.starts_with(magic) {
                        return Err(ImageError::NotAnArchive(format!(
                            "it is packed with {name}; unpack it first"
                        )));
                    }
                }
                Self::Plain(f)
            }
            other => other,
        };
        match &mut own {
            Self::Plain(f) | Self::Unknown(f) => f.write_all(chunk)?,
            Self::Gzip(z) => z.write_all(chunk).map_err(gzip)?,
        }
        Ok(own)
    }

    fn finish(self) -> Result<File, ImageError> {
        match self {
            Self::Plain(f) | Self::Unknown(f) => Ok(f),
            Self::Gzip(mut z) => {
                z.try_finish().map_err(gzip)?;
                z.flush().map_err(gzip)?;
                Ok(z.finish().map_err(gzip)?)
            }
        }
    }
}

fn gzip(e: io::Error) -> ImageError {
    match e.kind() {
        io::ErrorKind::StorageFull => e.into(),
        _ => ImageError::Incomplete(format!("its gzip stream breaks off ({e})")),
    }
}

/// Whether a member starts as gzip or zstd data do.
pub(super) fn compression(archive: &Archive, span: Span) -> io::Result<&'static str> {
    let mut bytes = [0; 4];
    archive.read_at(span, 0, &mut bytes)?;
    Ok(match bytes {
        [0x1f, 0x8b, ..] => "+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "+zstd",
        _ => "",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn error(bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        Archive::receive(bytes, dir.path()).await.expect_err("it is no archive").to_string()
    }

    #[tokio::test]
    async fn a_file_that_is_no_archive_is_not_shown_to_whoever_reads_the_error() {
        let secret = "root:x:0:0:root:/root:/bin/bash\nsecret\n".repeat(100);
        let e = error(secret.as_bytes()).await;
        assert!(e.starts_with("this is not an image archive (it is not a tar file); "), "{e}");
        assert!(!e.contains("root") && !e.contains('\n'), "{e}");

        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        tar.append_data(&mut header, "a\u{1b}[31m\nb", &b"abc"[..]).unwrap();
        let whole = tar.into_inner().unwrap();
        let mut spoiled = whole[..1024].to_vec();
        spoiled.extend_from_slice(secret.as_bytes());
        let e = error(&spoiled).await;
        assert!(e.contains("what follows its first 1 files is no tar") && !e.contains("root"), "{e}");
        let e = error(&whole[..513]).await;
        assert!(e.contains("it ends within a [31m b;"), "{e}");
    }
}
