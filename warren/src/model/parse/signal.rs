//! Names of signals.

use super::bad;
use crate::model::validate::Invalid;

/// Names and numbers, without `SIG`, as Linux has them on x86 and ARM.
const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
    // Other names of the same.
    ("IOT", 6),
    ("CLD", 17),
    ("POLL", 29),
];

/// The first and the last real-time signal, as the C library counts them.
const REAL_TIME: (i32, i32) = (34, 64);

/// A signal by number, or by name with or without `SIG`, in any case; also `RTMIN+n`, `RTMAX-n`.
///
/// # Errors
/// Says how it is written.
pub fn signal(text: &str) -> Result<i32, Invalid> {
    if let Ok(number) = text.parse::<i32>() {
        if (1..=REAL_TIME.1).contains(&number) && !text.starts_with('+') {
            return Ok(number);
        }
        return bad("signal", text, "signals have the numbers 1 to 64");
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(n, _)| *n == name) {
        return Ok(*number);
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<u8>().ok().map(i32::from),
    };
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => offset(rest, '+').map(|n| REAL_TIME.0 + n),
        (_, Some(rest)) => offset(rest, '-').map(|n| REAL_TIME.1 - n),
        _ => None,
    };
    match real_time {
        Some(number) if (REAL_TIME.0..=REAL_TIME.1).contains(&number) => Ok(number),
        _ => bad("signal", text, "write a name such as SIGTERM or a number from 1 to 64"),
    }
}

/// How people call a signal: `SIGTERM`, `SIGRTMIN+3`, or its number.
#[must_use]
pub fn signal_name(number: i32) -> String {
    match NAMES.iter().find(|(_, n)| *n == number) {
        Some((name, _)) => format!("SIG{name}"),
        None if number == REAL_TIME.0 => "SIGRTMIN".to_owned(),
        None if (REAL_TIME.0..=REAL_TIME.1).contains(&number) => {
            format!("SIGRTMIN+{}", number - REAL_TIME.0)
        }
        None => number.to_string(),
    }
}
