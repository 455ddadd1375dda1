//! Numbered files, begun anew when full, and what happens when the disk is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{
    record::{FRAME, HEAD, RECORD, Sink, TIME},
    sys,
};

/// Bytes collected before they are written; at least one record.
const COLLECTED: usize = 64 * 1024;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file. A single record may be longer.
    pub max_size: u64,
    /// Files, the one being written among them; at least 1.
    pub max_files: u64,
}

/// Name of the file with this number. They sort as their numbers do.
#[must_use]
pub fn name(number: u64) -> String {
    format!("{number:08}.log")
}

/// Number of the file with this name, if it is one of ours.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Numbers of the files in a directory, in order; none when it is not there.
///
/// # Errors
/// It cannot be read.
pub fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(entry?.file_name().to_str().and_then(number));
    }
    found.sort_unstable();
    Ok(found)
}

/// The files of one container, as its writer sees them. Nothing here fails: what cannot be written
/// is counted, and told in the log as soon as it can be.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    limits: Limits,
    /// Of the newest file.
    number: u64,
    /// Lowest that may be there.
    oldest: u64,
    /// The newest, open; `None` when one has to be begun.
    file: Option<File>,
    /// Bytes in it.
    size: u64,
    /// Whole records, not yet written.
    collected: Vec<u8>,
    /// Records that could not be written and have not been told of.
    lost: u64,
    /// Why.
    reason: Option<io::Error>,
    /// Open, and marked as used, as long as this lives.
    _mark: Option<File>,
}

impl Files {
    /// Files in `dir`, which is made if need be. Begins after whatever is there: a file is only
    /// ever written by one process.
    #[must_use]
    pub fn new(dir: &Path, limits: Limits) -> Self {
        let _ = fs::create_dir_all(dir);
        let mark = File::open(dir).ok();
        if let Some(mark) = &mark {
            sys::mark_used(mark.as_raw_fd());
        }
        let there = numbers(dir).unwrap_or_default();
        let mut files = Self {
            dir: dir.to_owned(),
            limits: Limits { max_files: limits.max_files.max(1), ..limits },
            number: there.last().copied().unwrap_or(0),
            oldest: there.first().copied().unwrap_or(1),
            file: None,
            size: 0,
            collected: Vec::with_capacity(COLLECTED),
            lost: 0,
            reason: None,
            _mark: mark,
        };
        if let Err(e) = files.begin() {
            files.reason = Some(e);
        }
        files
    }

    /// Begins the next file and removes what there is then too much of. Removes first: on a full
    /// disk that makes the room.
    fn begin(&mut self) -> io::Result<()> {
        self.file = None;
        let next = self.number + 1;
        while self.oldest + self.limits.max_files <= next {
            let _ = fs::remove_file(self.dir.join(name(self.oldest)));
            self.oldest += 1;
        }
        let path = self.dir.join(name(next));
        let opened = OpenOptions::new().append(true).create_new(true).mode(0o640).open(path);
        // Another one's: the next number is tried the next time.
        if opened.as_ref().is_ok() || opened.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists)
        {
            self.number = next;
        }
        self.file = Some(opened?);
        self.size = 0;
        Ok(())
    }

    /// Writes what was collected.
    pub fn flush(&mut self) {
        if self.collected.is_empty() {
            return;
        }
        if self.file.is_none()
            && let Err(e) = self.begin()
        {
            self.reason = Some(e);
        }
        // The buffer goes and comes back: it is made once.
        let mut collected = std::mem::take(&mut self.collected);
        let lost = if self.lost == 0 {
            let written = self.append(&collected);
            lines(&collected[written..])
        } else {
            self.write_after_loss(&collected)
        };
        self.lost = lost;
        collected.clear();
        self.collected = collected;
    }

    /// Writes how much was lost before, and these records; how many are lost now.
    fn write_after_loss(&mut self, records: &[u8]) -> u64 {
        let why = self.reason.as_ref().map_or_else(String::new, ToString::to_string);
        let mut all = records[..TIME].to_vec();
        let _ = writeln!(all, " stderr F warren: {} lines of output were lost: {why}", self.lost);
        let note = all.len();
        all.extend_from_slice(records);
        let before = self.size;
        let written = self.append(&all);
        if written > note {
            return lines(&all[written..]);
        }
        // Room for no line: the note would only take it from the next one.
        if let Some(file) = &self.file
            && written > 0
            && file.set_len(before).is_ok()
        {
            self.size = before;
        }
        self.lost + lines(records)
    }

    /// Appends whole records, as many as there is room for; how many bytes they are. Leaves no
    /// half one behind, and the reason when not all were written.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let Some(file) = &mut self.file else { return 0 };
        let mut written = 0;
        while written < bytes.len() {
            match file.write(&bytes[written..]) {
                Ok(n) if n > 0 => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    self.reason = other.err();
                    let whole = bytes[..written].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
                    // Should even this fail, a reader passes over the half one, and it is counted.
                    let _ = file.set_len(self.size + whole as u64);
                    written = whole;
                    break;
                }
            }
        }
        self.size += written as u64;
        written
    }
}

/// How many lines.
fn lines(records: &[u8]) -> u64 {
    records.iter().filter(|&&b| b == b'\n').count() as u64
}

impl Sink for Files {
    fn record(&mut self, head: &[u8; HEAD], output: &[u8], _whole: bool) {
        const { assert!(RECORD + FRAME <= COLLECTED) };
        let length = output.len() + FRAME;
        let there = self.size + self.collected.len() as u64;
        if there > 0 && there + length as u64 > self.limits.max_size {
            self.flush();
            if let Err(e) = self.begin() {
                self.reason = Some(e);
            }
        } else if self.collected.len() + length > COLLECTED {
            self.flush();
        }
        self.collected.extend_from_slice(head);
        self.collected.extend_from_slice(output);
        self.collected.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::record::{Head, Stream, records},
        *,
    };

    fn text(dir: &Path) -> String {
        let all = numbers(dir).unwrap();
        all.into_iter().map(|n| fs::read_to_string(dir.join(name(n))).unwrap()).collect()
    }

    fn write(files: &mut Files, text: &str) {
        records(text.as_bytes(), &mut Head::new(0, Stream::Stdout), true, files);
        files.flush();
    }

    #[test]
    fn names_and_numbers_are_each_others() {
        for n in [0, 1, 12_345_678, 123_456_789] {
            assert_eq!(number(&name(n)), Some(n));
        }
        for bad in ["1.log", "00000001.txt", "0000000x.log", "+0000001.log", ".log"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn full_files_are_left_and_the_oldest_removed() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { max_size: 3 * (FRAME as u64 + 4), max_files: 2 };
        let mut files = Files::new(dir.path(), limits);
        for n in 0..10 {
            write(&mut files, &format!("{n:04}\n"));
        }
        assert_eq!(numbers(dir.path()).unwrap(), [3, 4]);
        let kept: Vec<_> = text(dir.path()).lines().map(|l| l[HEAD..].to_owned()).collect();
        assert_eq!(kept, ["0006", "0007", "0008", "0009"]);
        for n in [3, 4] {
            assert!(fs::metadata(dir.path().join(name(n))).unwrap().len() <= limits.max_size);
        }
        // Whoever comes next leaves these alone.
        drop(files);
        let mut files = Files::new(dir.path(), limits);
        write(&mut files, "next\n");
        assert_eq!(numbers(dir.path()).unwrap(), [4, 5]);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("task");
        // A file where the directory should be, as good as a full disk.
        fs::write(&place, b"").unwrap();
        let mut files = Files::new(&place, Limits { max_size: 1000, max_files: 2 });
        write(&mut files, "one\ntwo\n");
        write(&mut files, "three\n");
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        write(&mut files, "four\n");
        write(&mut files, "five\n");
        let text = text(&place);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[0].contains(" stderr F warren: 3 lines of output were lost: Not a directory"),
            "{text}"
        );
        assert!(lines[1].ends_with(" stdout F four") && lines[2].ends_with(" stdout F five"), "{text}");
    }

    #[test]
    #[ignore = "needs root"]
    fn a_full_disk_costs_whole_lines_and_says_how_many() {
        use nix::mount::{MntFlags, MsFlags, mount, umount2};
        let dir = tempfile::tempdir().unwrap();
        let small = Some("size=128k");
        mount(Some("logs-test"), dir.path(), Some("tmpfs"), MsFlags::empty(), small).unwrap();
        let filler = dir.path().join("filler");
        fs::write(&filler, vec![0; 64 * 1024]).unwrap();
        let place = dir.path().join("task");
        let mut files = Files::new(&place, Limits { max_size: 1 << 20, max_files: 2 });
        let line = |n: u32| format!("{n:08} {}\n", "x".repeat(700));
        for n in 0..150 {
            write(&mut files, &line(n));
        }
        fs::remove_file(&filler).unwrap();
        for n in 150..160 {
            write(&mut files, &line(n));
        }
        let text = text(&place);
        umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
        let (notes, lines): (Vec<_>, Vec<_>) = text.lines().partition(|l| l[HEAD..].starts_with("warren: "));
        let numbers: Vec<u32> = lines.iter().map(|l| l[HEAD..HEAD + 8].parse().unwrap()).collect();
        assert!(lines.iter().all(|l| l.len() == HEAD + line(0).len() - 1), "a line is not whole");
        assert!(numbers.len() > 50 && numbers.is_sorted() && numbers.last() == Some(&159), "{numbers:?}");
        let lost = 160 - numbers.len();
        assert!(lost > 0 && notes.len() == 1, "{notes:?}");
        let said = format!("warren: {lost} lines of output were lost: No space left on device");
        assert!(notes[0][HEAD..].starts_with(&said), "{said}: {notes:?}");
    }
}
