//! Where to begin: the last lines, or those since a moment, without reading all that is before.

use std::{collections::BTreeSet, fs::File, io, os::unix::fs::FileExt as _, path::Path};

use super::{
    format::{Record, parse},
    reader::{Position, Query, Reader, Step},
    writer::{
        files::{name, numbers},
        record::Stream,
    },
};

/// Bytes read at once.
const BLOCK: usize = 64 * 1024;
/// How far back the beginning of a line is looked for that ends where reading begins.
const LOOK_BACK: u64 = 256 * 1024;

/// Where to begin to read, and the place of the last record of the first line to tell.
pub(super) fn begin(dir: &Path, query: &Query) -> io::Result<(Position, Position)> {
    let numbers = numbers(dir)?;
    // What is asked of a line as a whole: its text, and when it was begun.
    let whole = query.pattern.is_some() || query.since_ns.is_some() || query.until_ns.is_some();
    let from = match query.tail {
        None => return Ok((since(dir, query, &numbers)?, Position::START)),
        // Only what is written from now on.
        Some(0) => end(dir)?,
        Some(wanted) if whole => last_matching(dir, query, &numbers, wanted)?,
        Some(wanted) => last(dir, query, &numbers, wanted)?,
    };
    let Some(from) = from else { return Ok((since(dir, query, &numbers)?, Position::START)) };
    Ok((beginning(dir, query, &numbers, from)?, from))
}

/// The end of the newest file.
pub(super) fn end(dir: &Path) -> io::Result<Option<Position>> {
    let Some(&number) = numbers(dir)?.last() else { return Ok(None) };
    let Some(file) = open(dir, number)? else { return Ok(None) };
    Ok(Some(Position { number, offset: file.metadata()?.len() }))
}

/// The newest file that begins before the moment asked for.
fn since(dir: &Path, query: &Query, numbers: &[u64]) -> io::Result<Position> {
    let Some(since) = query.since_ns else { return Ok(Position::START) };
    for &number in numbers.iter().rev() {
        let Some(file) = open(dir, number)? else { break };
        let mut block = vec![0; BLOCK];
        let length = file.read_at(&mut block, 0)?;
        let first = block[..length].split(|&b| b == b'\n').find_map(parse);
        if first.is_some_and(|r| r.at_ns < since) {
            return beginning(dir, query, numbers, Position { number, offset: 0 });
        }
    }
    Ok(Position::START)
}

/// The place of the last record of the last-but-`wanted` line; `None` when there are fewer.
fn last(dir: &Path, query: &Query, numbers: &[u64], wanted: u64) -> io::Result<Option<Position>> {
    let mut found = 0;
    // A line without an end is one, too.
    let mut seen = [false; 2];
    let mut place = None;
    backwards(dir, numbers, None, &mut |record, at| {
        if !query.wants_stream(record.stream) {
            return true;
        }
        let newest = !std::mem::replace(&mut seen[record.stream as usize], true);
        if record.whole || newest {
            found += 1;
            if found == wanted {
                place = Some(at);
            }
        }
        place.is_none()
    })?;
    Ok(place)
}

/// The same where lines have to be put together to be looked at: reads all that may be wanted once, and
/// remembers places only.
fn last_matching(dir: &Path, query: &Query, numbers: &[u64], wanted: u64) -> io::Result<Option<Position>> {
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    // By place: a line without an end is told last, wherever it is.
    let mut places = BTreeSet::new();
    let mut take = |_, place| {
        places.insert(place);
        if places.len() > wanted {
            places.pop_first();
        }
    };
    let begin = since(dir, query, numbers)?;
    let mut reader = Reader::at(dir, query.clone(), begin, Position::START).up_to(end(dir)?);
    while reader.advance(&mut take)? == Step::More {}
    reader.give_up(&mut take);
    Ok(if places.len() < wanted { None } else { places.first().copied() })
}

/// Where the line begins that ends at `from`, and any other that is written at the same time.
fn beginning(dir: &Path, query: &Query, numbers: &[u64], from: Position) -> io::Result<Position> {
    let mut open = [Stream::Stdout, Stream::Stderr].map(|s| query.wants_stream(s));
    let mut begin = from;
    let mut looked = 0;
    backwards(dir, numbers, Some(from), &mut |record, at| {
        if record.whole {
            open[record.stream as usize] = false;
        }
        looked += record.output.len() as u64;
        if open == [false; 2] || looked > LOOK_BACK {
            return false;
        }
        begin = at;
        true
    })?;
    Ok(begin)
}

fn open(dir: &Path, number: u64) -> io::Result<Option<File>> {
    match File::open(dir.join(name(number))) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Shows records from the newest, or the one before `from`, back to the oldest, until `look` has
/// seen enough.
fn backwards(
    dir: &Path,
    numbers: &[u64],
    from: Option<Position>,
    look: &mut dyn FnMut(Record<'_>, Position) -> bool,
) -> io::Result<()> {
    let below = |n: &&u64| from.is_none_or(|from| **n <= from.number);
    for &number in numbers.iter().rev().filter(below) {
        let Some(file) = open(dir, number)? else { return Ok(()) };
        let mut end = match from {
            Some(from) if from.number == number => from.offset,
            _ => file.metadata()?.len(),
        };
        // The bytes from `end` on that belong to a record begun before it.
        let mut carried: Vec<u8> = Vec::new();
        while end > 0 {
            let start = end.saturating_sub(BLOCK as u64);
            let mut block = vec![0; usize::try_from(end - start).unwrap_or(BLOCK)];
            match file.read_exact_at(&mut block, start) {
                // Shorter than a moment ago: the writer took back half a record.
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                other => other?,
            }
            block.extend_from_slice(&carried);
            // In the first block the record begins at 0, in others somewhere before `start`.
            let first = match (start, block.iter().position(|&b| b == b'\n')) {
                (0, _) => 0,
                (_, Some(at)) => at + 1,
                // Longer than any record: damage.
                (_, None) => {
                    carried.clear();
                    end = start;
                    continue;
                }
            };
            // After the last newline comes half a record, in the last block, or nothing.
            let mut stop = block[first..].iter().rposition(|&b| b == b'\n').map(|at| first + at);
            while let Some(newline) = stop {
                stop = block[first..newline].iter().rposition(|&b| b == b'\n').map(|at| first + at);
                let begin = stop.map_or(first, |before| before + 1);
                let place = Position { number, offset: start + begin as u64 };
                if parse(&block[begin..newline]).is_some_and(|record| !look(record, place)) {
                    return Ok(());
                }
            }
            carried = block[..first].to_vec();
            end = start;
        }
    }
    Ok(())
}
