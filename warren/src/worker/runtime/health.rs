//! The health check that a container's image has, kept beside the container: the image may have
//! got another content, or be gone, when it is asked for.

use std::{fs, io, path::Path, time::Duration};

use super::spec::ImageHealthcheck;
use crate::model::{HealthCheck, Probe};

/// In a task's directory.
const FILE: &str = "health.json";

/// Keeps what the image says in a task's directory.
pub(super) fn keep(dir: &Path, image: Option<&ImageHealthcheck>) -> io::Result<()> {
    let path = dir.join(FILE);
    let Some(image) = image else {
        return match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    };
    fs::create_dir_all(dir)?;
    let aside = path.with_extension("new");
    fs::write(&aside, serde_json::to_vec(image)?)?;
    fs::rename(aside, path)
}

/// What was kept there.
pub(super) fn kept(dir: &Path) -> io::Result<Option<HealthCheck>> {
    match fs::read(dir.join(FILE)) {
        Ok(bytes) => Ok(Some(check(&serde_json::from_slice(&bytes)?))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// An image's check in our words. What Docker would not run either is no probe.
fn check(image: &ImageHealthcheck) -> HealthCheck {
    let test = image.test.as_deref().unwrap_or_default();
    let probe = match test.split_first().map(|(kind, rest)| (kind.as_str(), rest)) {
        Some(("NONE", _)) => Some(Probe::Disabled),
        Some(("CMD", words)) if !words.is_empty() => Some(Probe::Command(words.to_vec())),
        Some(("CMD-SHELL", [line, ..])) => Some(Probe::Shell(line.clone())),
        _ => None,
    };
    let duration = |ns: i64| u64::try_from(ns).ok().filter(|ns| *ns > 0).map(Duration::from_nanos);
    HealthCheck {
        probe,
        interval: duration(image.interval),
        timeout: duration(image.timeout),
        retries: Some(image.retries).filter(|n| *n > 0),
        start_period: duration(image.start_period),
        start_interval: duration(image.start_interval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_says_is_kept_as_long_as_it_says_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("task");
        assert_eq!(kept(&dir).unwrap(), None);
        keep(&dir, None).unwrap();
        let test = |words: &[&str]| ImageHealthcheck {
            test: Some(words.iter().map(|&w| w.to_owned()).collect()),
            interval: 5_000_000_000,
            retries: 2,
            ..Default::default()
        };
        for (image, probe) in [
            (test(&["NONE"]), Some(Probe::Disabled)),
            (test(&["CMD", "/probe", "x y"]), Some(Probe::Command(vec!["/probe".into(), "x y".into()]))),
            (test(&["CMD-SHELL", "exit 0"]), Some(Probe::Shell("exit 0".into()))),
            (test(&["CMD"]), None),
            (test(&["SOMETHING"]), None),
            (test(&[]), None),
        ] {
            keep(&dir, Some(&image)).unwrap();
            let expected = HealthCheck {
                probe,
                interval: Some(Duration::from_secs(5)),
                retries: Some(2),
                ..HealthCheck::default()
            };
            assert_eq!(kept(&dir).unwrap(), Some(expected));
        }
        keep(&dir, None).unwrap();
        assert_eq!(kept(&dir).unwrap(), None);
    }
}
