//! The health check that holds for a task: what its service says over what its image says, and
//! Docker's defaults for the rest.

use std::time::Duration;

use crate::model::{HealthCheck, Probe};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u32 = 3;
const START_INTERVAL: Duration = Duration::from_secs(5);

/// A health check with nothing left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is tried; never [`Probe::Disabled`].
    pub probe: Probe,
    /// Between the end of one try and the next.
    pub interval: Duration,
    /// How long one try may take.
    pub timeout: Duration,
    /// Failed tries in a row that make it unhealthy; not 0.
    pub retries: u32,
    /// From the start on, failed tries do not count for so long.
    pub start_period: Duration,
    /// Between tries while the start period lasts.
    pub start_interval: Duration,
}

impl Check {
    /// The check of a task whose service and whose image say this. Each field that the service
    /// leaves open is the image's, as with Docker; a zero leaves open, too. `None`: nothing is
    /// tried.
    #[must_use]
    pub fn of(service: &HealthCheck, image: Option<&HealthCheck>) -> Option<Self> {
        let probe = service.probe.as_ref().or_else(|| image?.probe.as_ref())?;
        if *probe == Probe::Disabled {
            return None;
        }
        let duration = |field: fn(&HealthCheck) -> Option<Duration>, default| {
            let said = |check: &HealthCheck| field(check).filter(|d| !d.is_zero());
            said(service).or_else(|| said(image?)).unwrap_or(default)
        };
        let retries = |check: &HealthCheck| check.retries.filter(|n| *n > 0);
        Some(Self {
            probe: probe.clone(),
            interval: duration(|c| c.interval, INTERVAL),
            timeout: duration(|c| c.timeout, TIMEOUT),
            retries: retries(service).or_else(|| retries(image?)).unwrap_or(RETRIES),
            start_period: duration(|c| c.start_period, Duration::ZERO),
            start_interval: duration(|c| c.start_interval, START_INTERVAL),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_goes_before_the_image_field_by_field_and_docker_before_neither() {
        let seconds = |n| Some(Duration::from_secs(n));
        let image = HealthCheck {
            probe: Some(Probe::Shell("true".into())),
            interval: seconds(7),
            timeout: Some(Duration::ZERO),
            retries: Some(0),
            start_period: seconds(60),
            start_interval: None,
        };
        let nothing = HealthCheck::default();
        assert_eq!(Check::of(&nothing, None), None);
        assert_eq!(Check::of(&nothing, Some(&nothing)), None, "intervals alone are no check");
        let from_image = Check::of(&nothing, Some(&image)).unwrap();
        let expected = Check {
            probe: Probe::Shell("true".into()),
            interval: Duration::from_secs(7),
            timeout: Duration::from_secs(30),
            retries: 3,
            start_period: Duration::from_secs(60),
            start_interval: Duration::from_secs(5),
        };
        assert_eq!(from_image, expected);

        let service = HealthCheck { retries: Some(1), timeout: seconds(2), ..nothing.clone() };
        let both = Check::of(&service, Some(&image)).unwrap();
        assert_eq!(both, Check { retries: 1, timeout: Duration::from_secs(2), ..expected.clone() });

        let service = HealthCheck { probe: Some(Probe::Tcp(80)), interval: seconds(1), ..nothing.clone() };
        let own = Check::of(&service, Some(&image)).unwrap();
        assert_eq!(own, Check { probe: Probe::Tcp(80), interval: Duration::from_secs(1), ..expected });

        let off = HealthCheck { probe: Some(Probe::Disabled), ..nothing.clone() };
        assert_eq!(Check::of(&off, Some(&image)), None);
        assert_eq!(Check::of(&nothing, Some(&off)), None);
        assert!(Check::of(&service, Some(&off)).is_some(), "the service's own probe holds");
    }
}
