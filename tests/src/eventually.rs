//! Waiting for what must become true.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Tries until it succeeds.
///
/// # Errors
/// It did not within `within`: the last error, with what was waited for.
pub fn eventually<T>(what: &str, within: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        match attempt() {
            Ok(found) => return Ok(found),
            Err(e) if Instant::now() >= deadline => {
                return Err(e).with_context(|| format!("{what}: not within {within:?}; last"));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tries_again_and_reports_the_last_error() {
        let mut n = 0;
        let counted = eventually("three", Duration::from_secs(5), || {
            n += 1;
            if n == 3 { Ok(n) } else { anyhow::bail!("only {n}") }
        });
        assert_eq!(counted.unwrap(), 3);
        let failed: Result<()> = eventually("more", Duration::ZERO, || anyhow::bail!("seen 7"));
        assert_eq!(format!("{:#}", failed.unwrap_err()), "more: not within 0ns; last: seen 7");
    }
}
