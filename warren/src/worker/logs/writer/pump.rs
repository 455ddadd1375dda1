//! The loop over the pipes.

use std::{
    os::fd::RawFd,
    path::Path,
    process::exit,
    time::{Duration, Instant, SystemTime},
};

use super::{
    files::{Files, Limits},
    record::{Head, RECORD, Stream, records},
    sys::{self, POLLIN, PollFd},
};

/// Bytes of output held for one stream: what one read may bring after an unfinished line.
const HELD: usize = 64 * 1024 + RECORD;
/// What a pipe is to hold: what an app may write while the disk is busy.
const PIPE: i32 = 256 * 1024;
/// After this time an unfinished line is written as it is: whoever kills this process takes no
/// more than that with him.
const UNFINISHED: Duration = Duration::from_millis(100);
/// Once told to end, for how long nothing more must come, and how long it may take at most. Who
/// starts us kills us after 12 s.
const SILENCE: Duration = Duration::from_secs(2);
const LAST: Duration = Duration::from_secs(10);

/// One of the container's pipes.
struct Source<'a> {
    fd: RawFd,
    stream: Stream,
    held: &'a mut [u8],
    /// Bytes in `held`.
    length: usize,
    /// When an unfinished line is to be written as it is.
    due: Option<Instant>,
    ended: bool,
}

impl<'a> Source<'a> {
    fn new(fd: RawFd, stream: Stream, held: &'a mut [u8]) -> Self {
        sys::never_block(fd);
        sys::widen(fd, PIPE);
        Self { fd, stream, held, length: 0, due: None, ended: false }
    }

    /// Reads once, and makes records of it.
    fn read(&mut self, clock: &mut Clock, files: &mut Files) {
        match sys::read_into(self.fd, &mut self.held[self.length..]) {
            Ok(0) => self.ended = true,
            Ok(n) => self.length += n,
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) =>
            {
                return;
            }
            Err(_) => self.ended = true,
        }
        self.write(clock, files, self.ended);
    }

    /// Makes records of what is held; with `flush` of an unfinished line, too.
    fn write(&mut self, clock: &mut Clock, files: &mut Files, flush: bool) {
        let held = &self.held[..self.length];
        let done = records(held, &mut Head::new(clock.now(), self.stream), flush, files);
        self.held.copy_within(done..self.length, 0);
        self.length -= done;
        if self.length == 0 {
            self.due = None;
        } else if done > 0 || self.due.is_none() {
            self.due = Some(Instant::now() + UNFINISHED);
        }
    }
}

/// The time of day; never goes back.
struct Clock(i64);

impl Clock {
    fn now(&mut self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0 = self.0.max(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX));
        self.0
    }
}

/// Writes what `stdout` and `stderr` bring until both have ended, or `terminate` is readable and
/// nothing more comes.
fn pump(stdout: RawFd, stderr: RawFd, terminate: RawFd, files: &mut Files) {
    // In one piece it is large enough to be mapped: what is never used takes no memory.
    let mut held = vec![0; 2 * HELD];
    let (one, other) = held.split_at_mut(HELD);
    let mut sources = [Source::new(stdout, Stream::Stdout, one), Source::new(stderr, Stream::Stderr, other)];
    let mut clock = Clock(0);
    let mut last: Option<Instant> = None;
    let mut quiet = Instant::now();
    loop {
        let [out, err] = &sources;
        let fd = |s: &Source<'_>| PollFd { fd: if s.ended { -1 } else { s.fd }, events: POLLIN, happened: 0 };
        let term = PollFd { fd: if last.is_some() { -1 } else { terminate }, events: POLLIN, happened: 0 };
        let mut fds = [fd(out), fd(err), term];
        if out.ended && err.ended {
            return;
        }
        let now = Instant::now();
        if last.is_some_and(|last| now >= last || now.duration_since(quiet) >= SILENCE) {
            for s in &mut sources {
                s.write(&mut clock, files, true);
            }
            files.flush();
            return;
        }
        let due = sources.iter().filter_map(|s| s.due).chain(last).chain(last.map(|_| quiet + SILENCE)).min();
        // Rounded up, so that it is over when we wake.
        let timeout = due.map(|due| due.saturating_duration_since(now) + Duration::from_millis(1));
        sys::wait(&mut fds, timeout);
        for (source, fd) in sources.iter_mut().zip(&fds) {
            if fd.happened != 0 {
                quiet = Instant::now();
                source.read(&mut clock, files);
            } else if source.due.is_some_and(|due| Instant::now() >= due) {
                source.write(&mut clock, files, true);
            }
        }
        files.flush();
        if fds[2].happened != 0 {
            quiet = Instant::now();
            last = Some(quiet + LAST);
        }
    }
}

/// What the program was told, as words in pairs and any order.
fn told(words: &[String]) -> Option<(&str, Limits)> {
    let value = |name: &str| words.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
    let limits =
        Limits { max_size: value("max-size")?.parse().ok()?, max_files: value("max-files")?.parse().ok()? };
    Some((value("dir")?, limits))
}

/// The program: words from the address containerd was given, the pipes as descriptors 3 and 4, and
/// 5 to be closed when ready.
pub fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((dir, limits)) = told(&words) else {
        eprintln!("writes a container's output to disk; started by containerd's shim, not by hand");
        exit(2);
    };
    // The place the shim works in is nothing to hold on to.
    let _ = std::env::set_current_dir("/");
    let terminate = sys::hold_sigterm();
    let mut files = Files::new(Path::new(dir), limits);
    sys::close_fd(5);
    pump(3, 4, terminate, &mut files);
}
