//! Bytes to records: `2016-10-06T00:17:09.669794202Z stdout F text\n`.

use super::sys;

/// Most bytes of output in one record. What is longer, and what is not finished in time, is told
/// in several: all but the last are tagged `P`.
pub const RECORD: usize = 16 * 1024;
/// Bytes of a record that are not output: time, stream, tag, newline.
pub const FRAME: usize = HEAD + 1;
/// Bytes before the output.
pub const HEAD: usize = TIME + 10;
/// Bytes of a timestamp.
pub const TIME: usize = 30;

/// Where a container wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Its word in a record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The first bytes of each record of one moment and stream.
#[derive(Debug, Clone)]
pub struct Head([u8; HEAD]);

impl Head {
    /// Of a moment, in nanoseconds since 1970, and a stream.
    #[must_use]
    pub fn new(at_ns: i64, stream: Stream) -> Self {
        let mut head = [b' '; HEAD];
        head[..TIME].copy_from_slice(&time(at_ns));
        head[TIME + 1..TIME + 7].copy_from_slice(stream.name().as_bytes());
        Self(head)
    }

    fn tagged(&mut self, whole: bool) -> &[u8; HEAD] {
        self.0[HEAD - 2] = if whole { b'F' } else { b'P' };
        &self.0
    }
}

/// RFC 3339 in UTC with nanoseconds, always of the same length. Years 1970 to 2262.
#[must_use]
pub fn time(at_ns: i64) -> [u8; TIME] {
    let at = at_ns.max(0);
    let (seconds, nanos) = (at / 1_000_000_000, at % 1_000_000_000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's days-to-civil, for days since 1970: years begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    let mut put = |at: usize, width: usize, mut n: i64| {
        for i in (at..at + width).rev() {
            text[i] = b'0' + (n % 10) as u8;
            n /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, of_day / 3600);
    put(14, 2, of_day / 60 % 60);
    put(17, 2, of_day % 60);
    put(20, 9, nanos);
    text
}

/// What takes records.
pub trait Sink {
    /// Takes one: what it begins with, its output, and after it a newline.
    fn record(&mut self, head: &[u8; HEAD], output: &[u8], whole: bool);
}

/// Makes records of what a stream has brought so far; how many bytes of it are done with. The rest
/// is the beginning of an unfinished line, no longer than a record; with `flush` nothing is left.
pub fn records(input: &[u8], head: &mut Head, flush: bool, sink: &mut impl Sink) -> usize {
    let mut done = 0;
    loop {
        let rest = &input[done..];
        let window = &rest[..rest.len().min(RECORD + 1)];
        if let Some(end) = sys::newline(window) {
            sink.record(head.tagged(true), &window[..end], true);
            done += end + 1;
        } else if rest.len() > RECORD {
            sink.record(head.tagged(false), &rest[..RECORD], false);
            done += RECORD;
        } else {
            if flush && !rest.is_empty() {
                sink.record(head.tagged(false), rest, false);
                done = input.len();
            }
            return done;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Kept(Vec<(String, Vec<u8>, bool)>);

    impl Sink for Kept {
        fn record(&mut self, head: &[u8; HEAD], output: &[u8], whole: bool) {
            self.0.push((String::from_utf8(head.to_vec()).unwrap(), output.to_vec(), whole));
        }
    }

    #[test]
    fn a_record_is_as_kubernetes_says() {
        let mut kept = Kept::default();
        let mut head = Head::new(1_475_713_029_669_794_202, Stream::Stdout);
        assert_eq!(records(b"text\nmore", &mut head, false, &mut kept), 5);
        assert_eq!(kept.0, [("2016-10-06T00:17:09.669794202Z stdout F ".to_owned(), b"text".to_vec(), true)]);
        let mut head = Head::new(0, Stream::Stderr);
        assert_eq!(records(b"more", &mut head, true, &mut kept), 4);
        assert_eq!(kept.0[1].0, "1970-01-01T00:00:00.000000000Z stderr P ");
    }

    #[test]
    fn a_line_of_just_a_records_length_is_whole() {
        let mut kept = Kept::default();
        let mut line = vec![b'x'; RECORD];
        assert_eq!(records(&line, &mut Head::new(0, Stream::Stdout), false, &mut kept), 0);
        line.push(b'\n');
        records(&line, &mut Head::new(0, Stream::Stdout), false, &mut kept);
        assert_eq!((kept.0.len(), kept.0[0].1.len(), kept.0[0].2), (1, RECORD, true));
    }

    proptest! {
        #[test]
        fn times_are_those_of_another_writer(at in 0..i64::MAX) {
            let text = String::from_utf8(time(at).to_vec()).unwrap();
            let then = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(at.unsigned_abs());
            prop_assert_eq!(text, humantime::format_rfc3339_nanos(then).to_string());
        }

        #[test]
        fn any_bytes_in_any_pieces_come_back(
            pieces in prop::collection::vec(
                (prop::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n')], 0..80), prop_oneof![9 => 1..3usize, 1 => Just(700)], any::<bool>()),
                0..20,
            ),
        ) {
            let (mut kept, mut all, mut waiting) = (Kept::default(), Vec::new(), Vec::new());
            for (piece, times, flush) in pieces {
                let piece = piece.repeat(times);
                all.extend_from_slice(&piece);
                waiting.extend_from_slice(&piece);
                let done = records(&waiting, &mut Head::new(1, Stream::Stdout), flush, &mut kept);
                waiting.drain(..done);
                prop_assert!(waiting.len() <= RECORD);
            }
            records(&waiting, &mut Head::new(1, Stream::Stdout), true, &mut kept);
            let mut back = Vec::new();
            for (_, output, whole) in kept.0 {
                prop_assert!(output.len() <= RECORD && !output.contains(&b'\n'));
                back.extend_from_slice(&output);
                back.extend(whole.then_some(b'\n'));
            }
            prop_assert_eq!(back, all);
        }
    }
}
