//! A task's output in order: records of one file after the other, put together to lines.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use regex::bytes::Regex;

use super::{
    format::{Record, parse},
    tail,
    writer::{
        files::{name, numbers},
        record::{FRAME, RECORD, Stream},
    },
};

/// Bytes read at once; several records.
const BLOCK: usize = 128 * 1024;
/// Longest line that is put together; what is longer comes in parts.
const LINE: usize = 64 * 1024;

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only the last ones, after all else was applied.
    pub tail: Option<u64>,
    /// From this moment on.
    pub since_ns: Option<i64>,
    /// Before this moment.
    pub until_ns: Option<i64>,
    /// Of one stream.
    pub stream: Option<Stream>,
    /// In which this matches; the newline is not part of a line.
    pub pattern: Option<Regex>,
}

impl Query {
    pub(super) fn wants_stream(&self, stream: Stream) -> bool {
        self.stream.is_none_or(|s| s == stream)
    }

    pub(super) fn wants_time(&self, at_ns: i64) -> bool {
        self.since_ns.is_none_or(|since| at_ns >= since) && self.until_ns.is_none_or(|until| at_ns < until)
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When its beginning was read from the container, in nanoseconds since 1970.
    pub at_ns: i64,
    /// Where it was written.
    pub stream: Stream,
    /// The line with its newline; without one when it is not finished, or only a part because it
    /// is very long.
    pub data: Vec<u8>,
}

/// Where a record of a task's output begins.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The file's.
    pub number: u64,
    /// In the file.
    pub offset: u64,
}

impl Position {
    pub(super) const START: Self = Self { number: 0, offset: 0 };
}

/// How far a reader is: all that another one needs to go on behind the last line it told.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where the next record begins.
    pub at: Position,
    /// When the last one was written.
    pub last_ns: i64,
    /// The unfinished line of each stream, stdout's first.
    pub begun: [Option<Begun>; 2],
    /// Lines that end before are none of those asked for.
    pub first: Position,
}

/// A line whose end has not been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Where what was not told of it begins.
    pub from: Position,
    /// When it was begun.
    pub at_ns: i64,
    /// Whether something of it was told.
    pub told: bool,
}

/// The beginning of a line whose end has not been read.
#[derive(Debug, Default)]
struct Unfinished {
    at_ns: i64,
    data: Vec<u8>,
    /// Where `data` begins.
    begin: Position,
    /// Its beginning was told already.
    told: bool,
    /// Its last record so far.
    place: Position,
}

/// Reads a task's output. Needs a bounded amount of memory, whatever was written.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    query: Query,
    /// Lines that end before are passed over.
    from: Position,
    /// Records of each stream that begin before are passed over.
    told: [Position; 2],
    /// The file being read, held open: it may be removed meanwhile.
    file: Option<File>,
    /// Where the next record begins.
    at: Position,
    /// Where to stop, unless what is written meanwhile is wanted, too.
    end: Option<Position>,
    unfinished: [Unfinished; 2],
    /// When the last record was written.
    last_ns: i64,
    block: Vec<u8>,
}

/// What a step has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There may be more.
    More,
    /// All that is there was read.
    End,
}

impl Reader {
    /// A reader of the files in `dir`, which need not be there yet. Reads what is there now, and
    /// what is written later only if it is to `follow`.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn open(dir: &Path, query: Query, follow: bool) -> io::Result<Self> {
        let end = if follow { None } else { tail::end(dir)? };
        let (begin, from) = tail::begin(dir, &query)?;
        let reader = Self::at(dir, query, begin, from);
        Ok(if follow { reader } else { reader.up_to(end) })
    }

    /// A reader that goes on where another one was.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn resume(dir: &Path, query: Query, place: Place, follow: bool) -> io::Result<Self> {
        let end = if follow { None } else { tail::end(dir)? };
        let told = place.begun.map(|begun| begun.map_or(place.at, |b| b.from));
        let begin = told.into_iter().fold(place.at, Position::min);
        let mut reader = Self { told, ..Self::at(dir, query, begin, place.first) };
        reader.last_ns = place.last_ns;
        for (unfinished, begun) in reader.unfinished.iter_mut().zip(place.begun) {
            if let Some(Begun { at_ns, told, .. }) = begun {
                (unfinished.at_ns, unfinished.told) = (at_ns, told);
            }
        }
        Ok(if follow { reader } else { reader.up_to(end) })
    }

    /// How far it is.
    #[must_use]
    pub fn place(&self) -> Place {
        let begun = |stream: Stream| {
            let u = &self.unfinished[stream as usize];
            // One that is still on its way through what was told before is as far as that.
            let next = self.at.max(self.told[stream as usize]);
            let from = if u.data.is_empty() { next } else { u.begin };
            (u.told || from != self.at).then_some(Begun { from, at_ns: u.at_ns, told: u.told })
        };
        Place {
            at: self.at,
            last_ns: self.last_ns,
            begun: [Stream::Stdout, Stream::Stderr].map(begun),
            first: self.from,
        }
    }

    /// Reads no further than `end`; nothing when there is none.
    pub(super) fn up_to(self, end: Option<Position>) -> Self {
        Self { end: Some(end.unwrap_or(Position::START)), ..self }
    }

    /// Begins to read at `begin`, a record's beginning, and tells lines that end at or after
    /// `from`.
    pub(super) fn at(dir: &Path, query: Query, begin: Position, from: Position) -> Self {
        Self {
            dir: dir.to_owned(),
            query,
            from,
            told: [Position::START; 2],
            file: None,
            at: begin,
            end: None,
            unfinished: Default::default(),
            last_ns: 0,
            block: vec![0; BLOCK],
        }
    }

    /// Reads at most one block; lines are added to `lines`.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn step(&mut self, lines: &mut Vec<Line>) -> io::Result<Step> {
        self.advance(&mut |line, _| lines.push(line))
    }

    /// The same; each line comes with the place of its last record.
    pub(super) fn advance(&mut self, take: &mut dyn FnMut(Line, Position)) -> io::Result<Step> {
        if self.end.is_some_and(|end| self.at >= end) {
            return Ok(Step::End);
        }
        if self.file.is_none() {
            let there = numbers(&self.dir)?;
            let Some(&number) = there.iter().find(|n| **n >= self.at.number) else { return Ok(Step::End) };
            if number > self.at.number && self.at != Position::START {
                self.tell_removed(take);
            }
            return self.enter(number);
        }
        if self.read(take)? {
            return Ok(Step::More);
        }
        let there = numbers(&self.dir)?;
        let Some(&next) = there.iter().find(|n| **n > self.at.number) else { return Ok(Step::End) };
        // The writer began another: this one will not grow any more, but may have until just now.
        if self.read(take)? {
            return Ok(Step::More);
        }
        if next > self.at.number + 1 {
            self.tell_removed(take);
        }
        self.enter(next)
    }

    fn tell_removed(&self, take: &mut dyn FnMut(Line, Position)) {
        let data = b"warren: what was written next was removed before it could be read\n".to_vec();
        take(Line { at_ns: self.last_ns, stream: Stream::Stderr, data }, self.at);
    }

    fn enter(&mut self, number: u64) -> io::Result<Step> {
        match File::open(self.dir.join(name(number))) {
            Ok(file) => self.file = Some(file),
            // Removed just now: there is a higher one, or will be.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Step::More),
            Err(e) => return Err(e),
        }
        if number != self.at.number {
            self.at = Position { number, offset: 0 };
        }
        Ok(Step::More)
    }

    /// Reads a block of one file; whether there was anything.
    fn read(&mut self, take: &mut dyn FnMut(Line, Position)) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let mut length = 0;
        while length < BLOCK {
            match file.read_at(&mut self.block[length..], self.at.offset + length as u64) {
                Ok(0) => break,
                Ok(n) => length += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let block = std::mem::take(&mut self.block);
        let mut done = 0;
        for line in block[..length].split_inclusive(|&b| b == b'\n') {
            let Some(record) = line.strip_suffix(b"\n") else { break };
            let place = Position { offset: self.at.offset + done as u64, ..self.at };
            if let Some(record) = parse(record) {
                self.record(record, place, take);
            }
            done += line.len();
        }
        self.block = block;
        const { assert!(BLOCK > RECORD + FRAME) };
        if done == 0 && length == BLOCK {
            // No record is as long: damage.
            done = length;
        }
        self.at.offset += done as u64;
        Ok(done > 0)
    }

    fn record(&mut self, record: Record<'_>, place: Position, take: &mut dyn FnMut(Line, Position)) {
        self.last_ns = record.at_ns;
        if !self.query.wants_stream(record.stream) || place < self.told[record.stream as usize] {
            return;
        }
        let wanted = place >= self.from;
        let unfinished = &mut self.unfinished[record.stream as usize];
        if unfinished.data.is_empty() {
            unfinished.begin = place;
            if !unfinished.told {
                unfinished.at_ns = record.at_ns;
            }
        }
        unfinished.place = place;
        unfinished.data.extend_from_slice(record.output);
        if record.whole {
            unfinished.data.push(b'\n');
        } else if unfinished.data.len() < LINE {
            return;
        }
        unfinished.told = !record.whole;
        let data = std::mem::take(&mut unfinished.data);
        let line = Line { at_ns: unfinished.at_ns, stream: record.stream, data };
        if wanted && wants(&self.query, &line) {
            take(line, place);
        }
    }

    /// What was written of lines that are not finished: for when nothing more will come.
    pub fn finish(&mut self, lines: &mut Vec<Line>) {
        self.give_up(&mut |line, _| lines.push(line));
    }

    /// The same; each line comes with the place of its last record.
    pub(super) fn give_up(&mut self, take: &mut dyn FnMut(Line, Position)) {
        for (stream, unfinished) in [Stream::Stdout, Stream::Stderr].into_iter().zip(&mut self.unfinished) {
            let data = std::mem::take(&mut unfinished.data);
            let line = Line { at_ns: unfinished.at_ns, stream, data };
            if !line.data.is_empty() && unfinished.place >= self.from && wants(&self.query, &line) {
                unfinished.told = true;
                take(line, unfinished.place);
            }
        }
    }
}

fn wants(query: &Query, line: &Line) -> bool {
    let text = line.data.strip_suffix(b"\n").unwrap_or(&line.data);
    query.wants_time(line.at_ns) && query.pattern.as_ref().is_none_or(|p| p.is_match(text))
}

#[cfg(test)]
#[path = "reader_test.rs"]
mod tests;
