//! A line as it is shown: which task wrote it, when, and to which of our two outputs it goes.

use std::io::{self, IsTerminal as _, Write};

use crate::{
    model::Task,
    proto::v1::{LogRecord, read_log_request::Stream as WireStream},
};

/// What is shown beside a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) names: bool,
    pub(super) timestamps: bool,
    pub(super) colour: bool,
}

/// Whether colours are wanted: only on a terminal, and not when the user says no.
pub(super) fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// A task as lines name it.
pub(super) struct Label {
    text: String,
    colour: u8,
}

impl Label {
    pub(super) fn of(task: &Task) -> Self {
        const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];
        // A slot keeps its colour when its task is replaced.
        let colour = COLOURS[task.slot as usize % COLOURS.len()];
        Self { text: format!("{}.{}.{}", task.service_name, task.slot, &task.id.as_str()[..5]), colour }
    }
}

/// Prints lines.
pub(super) struct Printer<O: Write, E: Write> {
    style: Style,
    out: io::BufWriter<O>,
    err: io::BufWriter<E>,
    /// Whose line was begun and not ended: the next part of it follows it, anything else begins a
    /// new one.
    begun: Option<(usize, i32)>,
}

impl<O: Write, E: Write> Printer<O, E> {
    pub(super) fn new(style: Style, out: O, err: E) -> Self {
        let (out, err) = (io::BufWriter::with_capacity(64 * 1024, out), io::BufWriter::new(err));
        Self { style, out, err, begun: None }
    }

    /// Prints a line, or a part of one, of the task with this number.
    pub(super) fn line(&mut self, number: usize, label: &Label, record: &LogRecord) -> io::Result<()> {
        let is_err = record.stream == i32::from(WireStream::Stderr);
        // In the order in which they were written, when both go to one place.
        if is_err {
            self.out.flush()?;
        } else {
            self.err.flush()?;
        }
        let to: &mut dyn Write = if is_err { &mut self.err } else { &mut self.out };
        let now = (number, record.stream);
        let goes_on = self.begun == Some(now);
        if self.begun.is_some() && !goes_on {
            to.write_all(b"\n")?;
        }
        if !goes_on {
            if self.style.names {
                match self.style.colour {
                    true => write!(to, "\u{1b}[{}m{} |\u{1b}[0m ", label.colour, label.text)?,
                    false => write!(to, "{} | ", label.text)?,
                }
            }
            if self.style.timestamps {
                let at = std::time::Duration::from_nanos(record.at_ns.max(0).unsigned_abs());
                write!(to, "{} ", humantime::format_rfc3339_nanos(std::time::UNIX_EPOCH + at))?;
            }
        }
        to.write_all(&record.data)?;
        self.begun = (record.data.last() != Some(&b'\n')).then_some(now);
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.err.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::a_task, *};

    fn printed(style: Style, lines: &[(usize, WireStream, &str)]) -> (String, String) {
        let labels = [a_task("web", 1, 1), a_task("web", 2, 2)].map(|t| Label::of(&t));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(style, &mut out, &mut err);
        for (number, stream, text) in lines {
            let record = LogRecord {
                at_ns: 1_475_713_029_669_794_202,
                stream: (*stream).into(),
                data: text.as_bytes().to_vec(),
            };
            printer.line(*number, &labels[*number], &record).unwrap();
        }
        printer.flush().unwrap();
        drop(printer);
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    const BARE: Style = Style { names: false, timestamps: false, colour: false };

    #[test]
    fn each_stream_goes_to_its_own() {
        let lines = [(0, WireStream::Stdout, "one\n"), (0, WireStream::Stderr, "two\n")];
        assert_eq!(printed(BARE, &lines), ("one\n".to_owned(), "two\n".to_owned()));
    }

    #[test]
    fn lines_say_who_and_when() {
        let lines = [(1, WireStream::Stdout, "one\n")];
        let all = Style { names: true, timestamps: true, colour: false };
        assert_eq!(printed(all, &lines).0, "web.2.20000 | 2016-10-06T00:17:09.669794202Z one\n");
        let coloured = Style { colour: true, timestamps: false, names: true };
        assert_eq!(printed(coloured, &lines).0, "\u{1b}[32mweb.2.20000 |\u{1b}[0m one\n");
    }

    #[test]
    fn parts_of_a_line_stay_together() {
        let names = Style { names: true, ..BARE };
        let (one, other) = ((0, WireStream::Stdout), (1, WireStream::Stdout));
        let lines =
            [(one.0, one.1, "a"), (one.0, one.1, "b\n"), (one.0, one.1, "c"), (other.0, other.1, "d\n")];
        assert_eq!(printed(names, &lines).0, "web.1.10000 | ab\nweb.1.10000 | c\nweb.2.20000 | d\n");
    }
}
