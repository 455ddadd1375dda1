//! Sizes, durations and shares of processors.

use std::time::Duration;

use super::bad;
use crate::model::validate::Invalid;

/// Bytes, as Docker writes them: a number, also with a fraction, and one of b, k, m, g, t, p
/// (powers of 1024; `kb` and `KiB` mean the same).
///
/// # Errors
/// Says how a size is written.
pub fn size(text: &str) -> Result<u64, Invalid> {
    const HOW: &str = "write a number of bytes, or one with b, k, m, g or t, for example 512m";
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.strip_prefix(' ').unwrap_or(unit) {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return bad("size", text, HOW),
    };
    let Some(millionths) = decimal(number, 6) else { return bad("size", text, HOW) };
    let bytes = (u128::from(millionths) << shift) / 1_000_000;
    // More than the kernel's own counters hold means nothing.
    match i64::try_from(bytes) {
        Ok(bytes) => Ok(bytes.unsigned_abs()),
        Err(_) => bad("size", text, "it is more than any machine has"),
    }
}

/// Memory and swap together: a size, or −1 for as much swap as there is.
///
/// # Errors
/// Says how it is written.
pub fn swap(text: &str) -> Result<i64, Invalid> {
    if text == "-1" {
        return Ok(-1);
    }
    match size(text) {
        Ok(bytes) => Ok(i64::try_from(bytes).unwrap_or(i64::MAX)),
        Err(_) => bad(
            "amount of memory and swap",
            text,
            "write a size, for example 1g, or -1 for as much swap as there is",
        ),
    }
}

/// Billionths of a processor, from a decimal number of them.
///
/// # Errors
/// Says how it is written.
pub fn cpus(text: &str) -> Result<u64, Invalid> {
    match decimal(text, 9) {
        Some(nano) => Ok(nano),
        None => bad("number of processors", text, "write one such as 2 or 0.5"),
    }
}

/// A time span, as Go and Docker write it: `1m30s`, `1.5h`, `300ms`, `0`; also with days.
///
/// # Errors
/// Says how it is written.
pub fn duration(text: &str) -> Result<Duration, Invalid> {
    const HOW: &str = "write numbers with h, m, s or ms, for example 1m30s";
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut nanos: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let unit: u128 = match unit.trim() {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" | "sec" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return bad("duration", text, HOW),
        };
        let Some(billionths) = decimal(number, 9) else { return bad("duration", text, HOW) };
        nanos = nanos.saturating_add(u128::from(billionths) * unit / 1_000_000_000);
        rest = tail;
    }
    // A thousand years: what is more, nothing here can count.
    match u64::try_from(nanos / 1_000_000) {
        Ok(ms) if !text.is_empty() && ms <= 1000 * 365 * 86_400_000 => Ok(Duration::from_millis(ms)),
        _ => bad("duration", text, HOW),
    }
}

/// A time span in which a bare number means seconds, as in `docker run --stop-timeout`.
///
/// # Errors
/// Says how it is written.
pub fn seconds(text: &str) -> Result<Duration, Invalid> {
    match text.parse::<u32>() {
        Ok(seconds) if !text.starts_with('+') => Ok(Duration::from_secs(seconds.into())),
        _ => duration(text),
    }
}

/// A decimal number times 10^`places`; digits beyond are dropped.
fn decimal(text: &str, places: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let kept = &fraction[..fraction.len().min(places)];
    let part: u64 = format!("{kept:0<places$}").parse().ok()?;
    whole.checked_mul(10u64.pow(u32::try_from(places).ok()?))?.checked_add(part)
}
