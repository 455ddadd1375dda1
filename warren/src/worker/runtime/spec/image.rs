//! What an image says of how it is to be run.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, de::IgnoredAny};

/// The `config` of an image's configuration. Missing and `null` are the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `USER`.
    pub user: Option<String>,
    /// `ENV`, as `NAME=value`.
    pub env: Option<Vec<String>>,
    /// `ENTRYPOINT`.
    pub entrypoint: Option<Vec<String>>,
    /// `CMD`.
    pub cmd: Option<Vec<String>>,
    /// `WORKDIR`.
    pub working_dir: Option<String>,
    /// `STOPSIGNAL`: a name, with or without `SIG`, or a number.
    pub stop_signal: Option<String>,
    /// `VOLUME`: paths that are volumes of the task's own unless something else is mounted there.
    #[serde(deserialize_with = "keys")]
    pub volumes: BTreeSet<String>,
    /// `EXPOSE`, as `port/protocol`.
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: BTreeSet<String>,
    /// `HEALTHCHECK`.
    pub healthcheck: Option<ImageHealthcheck>,
}

/// An image's `HEALTHCHECK`. Durations are nanoseconds; 0 is Docker's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageHealthcheck {
    /// Empty: what the image below says; `NONE`; `CMD` and a program with its arguments; or
    /// `CMD-SHELL` and a line.
    pub test: Option<Vec<String>>,
    /// Between tries.
    pub interval: i64,
    /// How long one try may take.
    pub timeout: i64,
    /// Failed tries in a row that make it unhealthy; 0 is Docker's default.
    pub retries: u32,
    /// From the start on, failed tries do not count for so long.
    pub start_period: i64,
    /// Between tries while the start period lasts.
    pub start_interval: i64,
}

impl ImageConfig {
    /// The signal that asks it to end; `None` when the image names none, or one that is none.
    #[must_use]
    pub fn stop_signal(&self) -> Option<i32> {
        signal_number(self.stop_signal.as_deref()?)
    }
}

/// A set written as an object without values.
fn keys<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<String>, D::Error> {
    let object = Option::<BTreeMap<String, IgnoredAny>>::deserialize(from)?;
    Ok(object.into_iter().flat_map(BTreeMap::into_keys).collect())
}

/// The number of a signal written as Docker takes it: `15`, `TERM`, `SIGTERM`, `RTMIN+3`.
fn signal_number(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    let last = libc::SIGRTMAX();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=last).contains(&number).then_some(number);
    }
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |base: i32, rest: &str| match rest {
        "" => Some(base),
        rest => rest.parse::<i32>().ok().map(|n| base + n),
    };
    let real_time = name.strip_prefix("RTMIN").and_then(|rest| offset(libc::SIGRTMIN(), rest));
    let real_time =
        real_time.or_else(|| name.strip_prefix("RTMAX").and_then(|rest| offset(libc::SIGRTMAX(), rest)));
    if let Some(number) = real_time {
        return (libc::SIGRTMIN()..=last).contains(&number).then_some(number);
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_are_nothing() {
        let c: ImageConfig = serde_json::from_str(
            r#"{"Cmd":null,"Env":null,"User":"","WorkingDir":"x","Volumes":null,"ExposedPorts":null,
                "Healthcheck":null,"StopSignal":null}"#,
        )
        .unwrap();
        assert_eq!(c.cmd, None);
        assert_eq!(c.working_dir.as_deref(), Some("x"));
        assert_eq!((c.volumes.len(), c.exposed_ports.len(), c.healthcheck), (0, 0, None));
    }

    #[test]
    fn everything_an_image_can_say_is_heard() {
        let c: ImageConfig = serde_json::from_str(
            r#"{"Volumes":{"/data":{},"/log":{}},"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT",
                "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":5000000000,"Retries":2,
                "StartInterval":1000000}}"#,
        )
        .unwrap();
        assert_eq!(c.volumes, ["/data".to_owned(), "/log".to_owned()].into());
        assert_eq!(c.exposed_ports, ["80/tcp".to_owned()].into());
        assert_eq!(c.stop_signal(), Some(libc::SIGQUIT));
        let health = c.healthcheck.unwrap();
        assert_eq!(health.test.unwrap(), ["CMD-SHELL", "true"]);
        assert_eq!((health.interval, health.timeout, health.retries), (5_000_000_000, 0, 2));
        assert_eq!((health.start_period, health.start_interval), (0, 1_000_000));
    }

    #[test]
    fn signals_are_names_or_numbers() {
        for (text, number) in [
            ("TERM", Some(15)),
            ("sigterm", Some(15)),
            ("9", Some(9)),
            (" SIGUSR1", Some(10)),
            ("WINCH", Some(28)),
            ("RTMIN+3", Some(libc::SIGRTMIN() + 3)),
            ("SIGRTMAX-1", Some(libc::SIGRTMAX() - 1)),
            ("0", None),
            ("65", None),
            ("RTMIN-1", None),
            ("NOPE", None),
            ("", None),
        ] {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }
}
