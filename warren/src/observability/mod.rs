//! What a node says of itself while it runs.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// The filter is not one.
#[derive(Debug, thiserror::Error)]
#[error("bad log filter \"{0}\"")]
pub struct BadFilter(pub String);

/// Sends the program's log to standard error, as lines or as JSON objects. `filter` is a level or
/// a list of `target=level`, as `tracing` reads them.
///
/// # Errors
/// When the filter does not parse. A second call in a process is ignored.
pub fn log_to_stderr(filter: &str, json: bool) -> Result<(), BadFilter> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    // EnvFilter takes any single word for a target, so that a misspelt level would silence all.
    if !filter.contains(['=', ',']) && !levels.contains(&filter) {
        return Err(BadFilter(filter.to_owned()));
    }
    let filter = EnvFilter::try_new(filter).map_err(|_| BadFilter(filter.to_owned()))?;
    // Openraft tells each step of every entry at `info`; it is the state we log that people need.
    let filter = match "openraft=warn".parse() {
        Ok(quiet) if !filter.to_string().contains("openraft") => filter.add_directive(quiet),
        _ => filter,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let _ = if json {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(false)).try_init()
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused() {
        assert!(log_to_stderr("loud", false).is_err());
        assert!(log_to_stderr("info,=", false).is_err());
        assert!(log_to_stderr("error", false).is_ok());
    }
}
