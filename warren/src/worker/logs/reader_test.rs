use std::{fs, io::Write as _};

use proptest::prelude::*;

use super::*;
use crate::worker::logs::writer::{
    files::{Files, Limits},
    record::{Head, records},
};

const FOREVER: Limits = Limits { max_size: 500, max_files: 1_000_000 };

fn all(dir: &Path, query: Query) -> Vec<Line> {
    let mut reader = Reader::open(dir, query, false).unwrap();
    let mut lines = Vec::new();
    while reader.step(&mut lines).unwrap() == Step::More {}
    reader.finish(&mut lines);
    lines
}

fn texts(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|l| String::from_utf8_lossy(&l.data).into_owned()).collect()
}

/// Writes pieces as the writer does: each at the next nanosecond, unfinished lines now and then.
fn write(dir: &Path, limits: Limits, pieces: &[(Stream, Vec<u8>, bool)]) {
    let mut files = Files::new(dir, limits);
    let mut held = [Vec::new(), Vec::new()];
    let mut at = 0;
    for (stream, piece, flush) in pieces {
        at += 1;
        let held = &mut held[*stream as usize];
        held.extend_from_slice(piece);
        let done = records(held, &mut Head::new(at, *stream), *flush, &mut files);
        held.drain(..done);
        files.flush();
    }
    for (stream, held) in [Stream::Stdout, Stream::Stderr].into_iter().zip(held) {
        at += 1;
        records(&held, &mut Head::new(at, stream), true, &mut files);
    }
    files.flush();
}

fn line(stream: Stream, text: &str) -> (Stream, Vec<u8>, bool) {
    (stream, text.as_bytes().to_vec(), false)
}

#[test]
fn each_part_of_a_query_has_its_effect() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(all(dir.path(), Query::default()), [], "nothing was written");
    use Stream::{Stderr, Stdout};
    write(
        dir.path(),
        FOREVER,
        &[line(Stdout, "one\n"), line(Stderr, "two\n"), line(Stdout, "three\nfo"), line(Stdout, "ur\nfive")],
    );
    let ask = |query: Query| texts(&all(dir.path(), query));
    assert_eq!(ask(Query::default()), ["one\n", "two\n", "three\n", "four\n", "five"]);
    assert_eq!(ask(Query { tail: Some(2), ..Query::default() }), ["four\n", "five"]);
    assert_eq!(ask(Query { tail: Some(0), ..Query::default() }), [""; 0]);
    assert_eq!(ask(Query { stream: Some(Stderr), ..Query::default() }), ["two\n"]);
    assert_eq!(ask(Query { since_ns: Some(2), until_ns: Some(4), ..Query::default() }), ["two\n", "three\n"]);
    let pattern = Some(Regex::new("^f.*r$").unwrap());
    assert_eq!(ask(Query { pattern: pattern.clone(), ..Query::default() }), ["four\n"]);
    assert_eq!(ask(Query { pattern, tail: Some(7), ..Query::default() }), ["four\n"]);
    let pattern = Some(Regex::new("^f").unwrap());
    assert_eq!(ask(Query { pattern: pattern.clone(), tail: Some(1), ..Query::default() }), ["five"]);
    assert_eq!(ask(Query { pattern, tail: Some(2), ..Query::default() }), ["four\n", "five"]);
}

/// A line is of the moment in which it was begun, whenever it ends.
#[test]
fn the_last_lines_since_a_moment_are_those_begun_since() {
    use Stream::{Stderr, Stdout};
    let dir = tempfile::tempdir().unwrap();
    let begun = (Stderr, b"be".to_vec(), true);
    let pieces = [begun, line(Stdout, "one\n"), line(Stdout, "two\n"), line(Stderr, "gun\n")];
    write(dir.path(), FOREVER, &pieces);
    let ask = |query| texts(&all(dir.path(), query));
    let last = |n| Query { tail: Some(n), ..Query::default() };
    assert_eq!(ask(Query { since_ns: Some(2), ..last(2) }), ["one\n", "two\n"]);
    assert_eq!(ask(Query { until_ns: Some(3), ..last(2) }), ["one\n", "begun\n"]);
    assert_eq!(ask(last(2)), ["two\n", "begun\n"]);
    // One that never ends, and is told last wherever it is: no reason to tell more than was asked for.
    let dir = tempfile::tempdir().unwrap();
    let pieces = [(Stderr, b"be".to_vec(), true), line(Stdout, "one\ntwo\nthree\n")];
    write(dir.path(), FOREVER, &pieces);
    let told = texts(&all(dir.path(), Query { since_ns: Some(1), ..last(2) }));
    assert_eq!(told, ["two\n", "three\n"]);
}

#[test]
fn damage_costs_no_more_than_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), FOREVER, &[line(Stream::Stdout, "one\n")]);
    let first = dir.path().join(name(1));
    let mut file = File::options().append(true).open(&first).unwrap();
    file.write_all(&vec![0; 300_000]).unwrap();
    file.write_all(b"\n2016-10-06T00:17:09.669794202Z stdout F lost and found\n2016-10-06T00:17:0").unwrap();
    write(dir.path(), FOREVER, &[line(Stream::Stdout, "two\n")]);
    fs::write(dir.path().join("limits"), b"1 2\n").unwrap();
    assert_eq!(texts(&all(dir.path(), Query::default())), ["one\n", "lost and found\n", "two\n"]);
    for (tail, text) in [(1, "two\n"), (2, "lost and found\n"), (3, "one\n")] {
        assert_eq!(texts(&all(dir.path(), Query { tail: Some(tail), ..Query::default() }))[0], text);
    }
}

#[test]
fn a_very_long_line_comes_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(3 * LINE / 2);
    write(dir.path(), FOREVER, &[line(Stream::Stderr, &format!("{long}\nshort\n"))]);
    let lines = all(dir.path(), Query::default());
    assert!(lines.len() == 3 && lines.iter().all(|l| l.data.len() <= LINE + RECORD));
    assert_eq!(texts(&lines).concat(), format!("{long}\nshort\n"));
    assert_eq!(texts(&all(dir.path(), Query { tail: Some(1), ..Query::default() })), ["short\n"]);
}

#[test]
fn a_reader_outlives_the_file_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { max_size: 60, max_files: 2 };
    let mut files = Files::new(dir.path(), limits);
    let mut put = |text: &str| {
        records(text.as_bytes(), &mut Head::new(1, Stream::Stdout), false, &mut files);
        files.flush();
    };
    put("one\n");
    let mut reader = Reader::open(dir.path(), Query::default(), true).unwrap();
    let mut lines = Vec::new();
    let mut read = |lines: &mut Vec<Line>| {
        while reader.step(lines).unwrap() == Step::More {}
        texts(&std::mem::take(lines))
    };
    assert_eq!(read(&mut lines), ["one\n"]);
    put("two\n");
    put("three\n"); // the first is removed
    assert_eq!(read(&mut lines), ["two\n", "three\n"]);
    put("four\n");
    put("five\n");
    put("six\n"); // the one being read and the one after it
    let late = read(&mut lines);
    assert!(late[0].contains("removed before it could be read"), "{late:?}");
    assert_eq!(late[1..], ["five\n", "six\n"]);
}

#[test]
fn who_comes_back_late_is_told_that_something_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let put = |text| write(dir.path(), Limits { max_size: 60, max_files: 2 }, &[line(Stream::Stdout, text)]);
    put("one\n");
    let mut reader = Reader::open(dir.path(), Query::default(), true).unwrap();
    let mut lines = Vec::new();
    while reader.step(&mut lines).unwrap() == Step::More {}
    for text in ["two\n", "three\n", "four\n"] {
        put(text);
    }
    let mut later = Reader::resume(dir.path(), Query::default(), reader.place(), true).unwrap();
    while later.step(&mut lines).unwrap() == Step::More {}
    let lines = texts(&lines);
    assert_eq!(lines[0], "one\n");
    assert!(lines[1].contains("removed before it could be read"), "{lines:?}");
    assert_eq!(lines[2..], ["three\n", "four\n"]);
}

fn pieces() -> impl Strategy<Value = Vec<(Stream, Vec<u8>, bool)>> {
    let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
    let bytes = prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')], 0..40);
    let piece = (stream, bytes, prop_oneof![9 => Just(1), 1 => Just(1000usize)], any::<bool>());
    // A long piece is a long line, not many short ones.
    let piece = piece.prop_map(|(stream, mut bytes, times, flush)| {
        bytes.retain(|&b| times == 1 || b != b'\n');
        (stream, bytes.repeat(times), flush)
    });
    prop::collection::vec(piece, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_written_is_read(pieces in pieces(), max_size in 1..3000u64) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), Limits { max_size, ..FOREVER }, &pieces);
        let lines = all(dir.path(), Query::default());
        for stream in [Stream::Stdout, Stream::Stderr] {
            let written: Vec<u8> = pieces.iter().filter(|p| p.0 == stream).flat_map(|p| p.1.clone()).collect();
            let read: Vec<u8> = lines.iter().filter(|l| l.stream == stream).flat_map(|l| l.data.clone()).collect();
            prop_assert_eq!(read, written);
        }
    }

    #[test]
    fn a_reader_goes_on_where_another_was(
        mut pieces in pieces(), max_size in 1..3000u64, tail in prop::option::of(0..30u64),
        stream in prop::option::of(prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]),
        handed_on in prop::collection::vec(any::<bool>(), 1..20), later in 0..60usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { max_size, ..FOREVER };
        let later = pieces.split_off(later.min(pieces.len()));
        write(dir.path(), limits, &pieces);
        let query = Query { tail, stream, ..Query::default() };
        let mut straight = Reader::open(dir.path(), query.clone(), true).unwrap();
        let mut broken = Reader::open(dir.path(), query.clone(), true).unwrap();
        let (mut expected, mut lines) = (Vec::new(), Vec::new());
        let mut handed_on = handed_on.into_iter().cycle();
        for more in [&later[..], &[]] {
            while straight.step(&mut expected).unwrap() == Step::More {}
            let mut told = lines.len();
            while broken.step(&mut lines).unwrap() == Step::More {
                // Who has got nothing new asks for the same again.
                if std::mem::replace(&mut told, lines.len()) < lines.len() && handed_on.next() == Some(true) {
                    broken = Reader::resume(dir.path(), query.clone(), broken.place(), true).unwrap();
                }
            }
            write(dir.path(), limits, more);
        }
        straight.finish(&mut expected);
        broken.finish(&mut lines);
        prop_assert_eq!(texts(&lines), texts(&expected));
        prop_assert_eq!(&lines, &expected);
        // Whoever asks again has heard all.
        let mut again = Reader::resume(dir.path(), query, broken.place(), false).unwrap();
        lines.clear();
        while again.step(&mut lines).unwrap() == Step::More {}
        again.finish(&mut lines);
        prop_assert_eq!(&lines, &[]);
    }

    #[test]
    fn a_query_is_a_filter(
        mut pieces in pieces(), max_size in 1..3000u64, tail in prop::option::of(0..30u64),
        stream in prop::option::of(prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)]),
        since_ns in prop::option::of(0..60i64), grep in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        // Lines without an end are told last, wherever they are.
        pieces.extend([line(Stream::Stdout, "\n"), line(Stream::Stderr, "\n")]);
        write(dir.path(), Limits { max_size, ..FOREVER }, &pieces);
        let pattern = grep.then(|| Regex::new("(?-u)[A-Z]").unwrap());
        let query = Query { tail, since_ns, stream, pattern, ..Query::default() };
        let mut expected = all(dir.path(), Query::default());
        expected.retain(|l| query.wants_stream(l.stream) && wants(&query, l));
        if let Some(tail) = tail {
            expected.drain(..expected.len().saturating_sub(usize::try_from(tail).unwrap()));
        }
        prop_assert_eq!(texts(&all(dir.path(), query)), texts(&expected));
    }
}
