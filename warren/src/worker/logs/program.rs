//! The log writer on disk, and how containerd is told to start it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};

use crate::model::LogLimits;

/// The program, as `build.rs` built it.
const BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/log-writer"));
/// What its file's name begins with; a digest follows.
const NAME: &str = "log-writer-";

/// The log writer, ready to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(PathBuf);

impl Program {
    /// Puts it into `dir` unless it is there, and removes those of other versions: a process that
    /// runs keeps its own. The file of a version never changes, so that it does not matter how the
    /// one binary itself is replaced.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn install(dir: &Path) -> io::Result<Self> {
        // Two at once would write the same file.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(dir)?;
        static FILE: LazyLock<String> =
            LazyLock::new(|| format!("{NAME}{}", &hex::encode(Sha256::digest(BYTES))[..16]));
        let path = dir.join(&*FILE);
        if fs::read(&path).ok().as_deref() != Some(BYTES) {
            let aside = dir.join(format!("{NAME}new"));
            let _ = fs::remove_file(&aside);
            fs::write(&aside, BYTES)?;
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o755))?;
            fs::rename(&aside, &path)?;
        }
        for entry in fs::read_dir(dir)?.flatten() {
            let ours = entry.file_name().to_str().is_some_and(|n| n.starts_with(NAME));
            if ours && entry.path() != path {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(Self(path))
    }

    /// The address of a container's output for containerd: its shim starts the program with the
    /// words of the query, in pairs and any order.
    #[must_use]
    pub fn uri(&self, dir: &Path, limits: LogLimits) -> String {
        format!(
            "binary://{}?dir={}&max-files={}&max-size={}",
            escaped(&self.0),
            escaped(dir),
            limits.max_files,
            limits.max_size
        )
    }
}

/// A path as a URI takes it.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for &b in path.as_os_str().as_encoded_bytes() {
        match b {
            b'/' | b'-' | b'_' | b'.' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => text.push(b.into()),
            _ => text.push_str(&format!("%{b:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::Write as _,
        process::{Child, Command},
        time::{Duration, Instant},
    };

    use nix::{
        sys::{
            signal::{Signal, kill},
            stat::Mode,
        },
        unistd::{Pid, mkfifo},
    };

    use super::*;
    use crate::worker::logs::{Query, Reader, Step, is_written};

    /// The program at work, as a shim starts it.
    struct Running {
        dir: tempfile::TempDir,
        child: Child,
        pipes: Option<[File; 2]>,
    }

    impl Running {
        fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let program = Program::install(dir.path()).unwrap();
            let place = dir.path().join("task");
            let fifos = ["out", "err"].map(|name| dir.path().join(name));
            for fifo in &fifos {
                mkfifo(fifo, Mode::from_bits_truncate(0o600)).unwrap();
            }
            // Words in another order than they are told in.
            let line = r#"exec "$0" max-size 1000000 dir "$1" max-files 2 3<"$2" 4<"$3" 5>/dev/null"#;
            let mut shell = Command::new("sh");
            shell.args(["-c", line]).arg(&program.0).arg(place).args(&fifos);
            let child = shell.spawn().unwrap();
            // Opening waits for the other end.
            let pipes = Some(fifos.map(|fifo| File::options().write(true).open(fifo).unwrap()));
            Self { dir, child, pipes }
        }

        fn write(&mut self, pipe: usize, text: &str) {
            self.pipes.as_mut().unwrap()[pipe].write_all(text.as_bytes()).unwrap();
        }

        fn place(&self) -> PathBuf {
            self.dir.path().join("task")
        }

        fn files(&self) -> String {
            fs::read_to_string(self.place().join("00000001.log")).unwrap_or_default()
        }

        fn wait_for(&self, what: &str) -> String {
            let begun = Instant::now();
            while !self.files().contains(what) {
                assert!(begun.elapsed() < Duration::from_secs(10), "no {what:?} in {:?}", self.files());
                std::thread::sleep(Duration::from_millis(5));
            }
            self.files()
        }

        fn ended(&mut self) -> Duration {
            let begun = Instant::now();
            assert!(self.child.wait().unwrap().success());
            begun.elapsed()
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn both_streams_are_written_to_their_ends() {
        let mut running = Running::start();
        running.write(0, "one\ntwo");
        running.write(1, "three\n");
        let soon = running.wait_for("stdout P two\n");
        assert!(soon.contains("stdout F one\n") && soon.contains("stderr F three\n"), "{soon}");
        assert!(is_written(&running.place()));
        running.write(0, " and more\nfour");
        drop(running.pipes.take());
        running.ended();
        assert!(!is_written(&running.place()));
        let (mut lines, place) = (Vec::new(), running.place());
        let mut reader = Reader::open(&place, Query::default(), false).unwrap();
        while reader.step(&mut lines).unwrap() == Step::More {}
        reader.finish(&mut lines);
        let mut texts: Vec<_> = lines.iter().map(|l| String::from_utf8_lossy(&l.data)).collect();
        texts.sort();
        assert_eq!(texts, ["four", "one\n", "three\n", "two and more\n"]);
    }

    #[test]
    fn told_to_end_it_writes_what_still_comes() {
        let mut running = Running::start();
        running.write(0, "one\n");
        running.wait_for("one");
        kill(Pid::from_raw(running.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        running.write(1, "two\n");
        running.wait_for("two");
        // Somebody still holds the pipes, but nothing comes.
        let took = running.ended();
        assert!(took > Duration::from_millis(500) && took < Duration::from_secs(8), "{took:?}");
    }

    #[test]
    fn an_address_survives_any_path() {
        let program = Program("/var/lib/war ren/log-writer-1".into());
        assert_eq!(
            program.uri(Path::new("/data/a&b=c?ü"), LogLimits { max_size: 7, max_files: 2 }),
            "binary:///var/lib/war%20ren/log-writer-1?dir=/data/a%26b%3Dc%3F%C3%BC&max-files=2&max-size=7"
        );
    }

    #[test]
    fn only_this_version_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log-writer-0123"), b"old").unwrap();
        fs::write(dir.path().join("other"), b"not ours").unwrap();
        let program = Program::install(dir.path()).unwrap();
        fs::write(&program.0, b"half").unwrap();
        assert_eq!(Program::install(dir.path()).unwrap(), program);
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 2, "{names:?}");
        // It runs, and says what it is.
        let ended = Command::new(&program.0).output().unwrap();
        assert_eq!(ended.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&ended.stderr).contains("not by hand"));
    }
}
