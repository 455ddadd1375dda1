//! How it is found out whether a container works.

use std::time::Duration;

use crate::model::{HealthCheck, HttpProbe, Probe, parse, validate::Invalid};

/// Status codes that are good: all of one flag.
#[derive(Debug, Clone)]
struct Statuses(Vec<(u16, u16)>);

fn statuses(text: &str) -> Result<Statuses, Invalid> {
    parse::statuses(text).map(Statuses)
}

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Health")]
pub(super) struct Health {
    /// A command in the container, for its shell; a JSON list of words is run without one.
    #[arg(long, value_name = "COMMAND", value_parser = parse::health_command, conflicts_with_all = ["health_http", "health_tcp", "no_healthcheck"])]
    health_cmd: Option<Probe>,
    /// A request to the container, such as http://:8080/healthz or https://:8443/.
    #[arg(long, value_name = "URL", conflicts_with_all = ["health_tcp", "no_healthcheck"])]
    health_http: Option<HttpProbe>,
    /// A connection to this port of the container.
    #[arg(long, value_name = "PORT", conflicts_with = "no_healthcheck")]
    health_tcp: Option<u16>,
    /// A header of the request; may be given several times, and replaces those there were.
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse::header)]
    health_header: Vec<(String, String)>,
    /// The method of the request.
    #[arg(long, value_name = "METHOD")]
    health_method: Option<String>,
    /// Which answers are good, such as 200,204 or 200-299; 200-399 when left away.
    #[arg(long, value_name = "CODES", value_parser = statuses)]
    health_status: Option<Statuses>,
    /// Between the end of one try and the next; 0 for the default, 30s.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    health_interval: Option<Duration>,
    /// How long one try may take; 0 for the default, 30s.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    health_timeout: Option<Duration>,
    /// Failed tries in a row that make it unhealthy; 0 for the default, 3.
    #[arg(long, value_name = "N")]
    health_retries: Option<u32>,
    /// From the start on, failed tries do not count for so long.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    health_start_period: Option<Duration>,
    /// Between tries while the start period lasts; 0 for the default, 5s.
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    health_start_interval: Option<Duration>,
    /// Try nothing, whatever the image says.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_healthcheck: Option<bool>,
}

impl Health {
    pub(super) fn apply(&self, health: &mut HealthCheck) -> anyhow::Result<()> {
        self.probe(health);
        self.request(health)?;
        let unless_zero = |d: Duration| (!d.is_zero()).then_some(d);
        if let Some(interval) = self.health_interval {
            health.interval = unless_zero(interval);
        }
        if let Some(timeout) = self.health_timeout {
            health.timeout = unless_zero(timeout);
        }
        if let Some(retries) = self.health_retries {
            health.retries = (retries != 0).then_some(retries);
        }
        if let Some(period) = self.health_start_period {
            health.start_period = unless_zero(period);
        }
        if let Some(interval) = self.health_start_interval {
            health.start_interval = unless_zero(interval);
        }
        Ok(())
    }

    fn probe(&self, health: &mut HealthCheck) {
        if let Some(probe) = &self.health_cmd {
            health.probe = Some(probe.clone());
        }
        if let Some(http) = &self.health_http {
            // Another URL is no reason to forget the rest of the request.
            let before = match health.probe.take() {
                Some(Probe::Http(before)) => before,
                _ => http.clone(),
            };
            let http = http.clone();
            health.probe = Some(Probe::Http(HttpProbe {
                https: http.https,
                port: http.port,
                path: http.path,
                ..before
            }));
        }
        if let Some(port) = self.health_tcp {
            health.probe = Some(Probe::Tcp(port));
        }
        match self.no_healthcheck {
            // How to try means nothing when nothing is tried.
            Some(true) => *health = HealthCheck { probe: Some(Probe::Disabled), ..HealthCheck::default() },
            Some(false) if health.probe == Some(Probe::Disabled) => health.probe = None,
            _ => {}
        }
    }

    /// What else is said of an HTTP request.
    fn request(&self, health: &mut HealthCheck) -> anyhow::Result<()> {
        let given = [
            ("--health-header", !self.health_header.is_empty()),
            ("--health-method", self.health_method.is_some()),
            ("--health-status", self.health_status.is_some()),
        ];
        let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) else { return Ok(()) };
        let Some(Probe::Http(http)) = &mut health.probe else {
            anyhow::bail!("{flag} is of an HTTP request: it needs --health-http");
        };
        if !self.health_header.is_empty() {
            http.headers.clone_from(&self.health_header);
        }
        if let Some(method) = &self.health_method {
            http.method.clone_from(method);
        }
        if let Some(Statuses(statuses)) = &self.health_status {
            http.statuses.clone_from(statuses);
        }
        Ok(())
    }
}
