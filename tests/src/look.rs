//! What `testbox look` saw from inside a container, read through /proc: needs neither the
//! container's network nor its log.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{Node, eventually::eventually};

/// How long a container may take to come up and look, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// What was seen: key → value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look(BTreeMap<String, String>);

impl Look {
    /// What the container of a process saw.
    ///
    /// # Errors
    /// The process is gone, or has not looked yet.
    pub fn of(pid: i64) -> Result<Self> {
        let file = format!("/proc/{pid}/root/dev/shm/look");
        Ok(Self::parse(&fs::read_to_string(&file).with_context(|| file)?))
    }

    /// `key: value` lines.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|l| l.split_once(": ").or_else(|| l.split_once(':')));
        Self(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    /// One value.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Everything whose key begins so.
    pub fn all<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let found = self.0.iter().filter(move |(k, _)| k.starts_with(prefix));
        found.map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

/// What a row wants of one key.
#[derive(Debug, Clone)]
pub enum Want {
    /// Exactly this.
    Is(String),
    /// This in it.
    Has(String),
    /// Not this.
    Not(String),
    /// A number no larger than this.
    AtMost(f64),
    /// No such key.
    Absent,
}

impl Want {
    /// What is wrong, if anything.
    #[must_use]
    pub fn wrong(&self, key: &str, look: &Look) -> Option<String> {
        let found = look.get(key);
        let good = match (self, found) {
            (Self::Is(w), Some(v)) => v == w,
            (Self::Has(w), Some(v)) => v.contains(w.as_str()),
            (Self::Not(w), Some(v)) => v != w,
            (Self::AtMost(w), Some(v)) => v.parse::<f64>().is_ok_and(|v| v <= *w),
            (Self::Absent, None) => true,
            (_, None) | (Self::Absent, Some(_)) => false,
        };
        (!good).then(|| format!("{key}: wanted {self:?}, saw {found:?}"))
    }
}

impl Node {
    /// The process of the one running task of a service.
    ///
    /// # Errors
    /// None runs, or several.
    pub fn pid(&self, service: &str) -> Result<i64> {
        match self.running(service)?[..] {
            [(_, pid)] if pid > 0 => Ok(pid),
            ref other => bail!("{service}: one running task was expected: {other:?}"),
        }
    }

    /// What the one task of a service saw, as soon as it has looked.
    ///
    /// # Errors
    /// It does not come up: what `service ps` says of it.
    pub fn look(&self, service: &str) -> Result<Look> {
        let seen = eventually("it looks around", SOON, || {
            match self.running(service)?[..] {
                [(_, pid)] if pid > 0 => return Look::of(pid),
                _ => {}
            }
            // A task that was refused will not come up by waiting.
            let tasks = self.json(&["service", "ps", service])?;
            let states: Vec<String> = tasks
                .as_array()
                .into_iter()
                .flatten()
                .map(|t| format!("{} {}", t["state"].as_str().unwrap_or("?"), t["message"]))
                .collect();
            match states.iter().find(|s| s.starts_with("rejected") || s.starts_with("failed")) {
                Some(refused) => Ok(Look(BTreeMap::from([("refused".into(), refused.clone())]))),
                None => bail!("{states:?}"),
            }
        })?;
        match seen.get("refused") {
            Some(why) => bail!("{why}"),
            None => Ok(seen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_read_back_and_compared() {
        let look = Look::parse("uid: 0\nfile./etc/hosts: a b\\nc: d\nempty: \n");
        assert_eq!(look.get("uid"), Some("0"));
        assert_eq!(look.get("file./etc/hosts"), Some("a b\\nc: d"));
        assert_eq!(look.get("empty"), Some(""));
        assert!(Want::Is("0".into()).wrong("uid", &look).is_none());
        assert!(Want::Is("1".into()).wrong("uid", &look).is_some());
        assert!(Want::Has("b".into()).wrong("file./etc/hosts", &look).is_none());
        assert!(Want::Absent.wrong("gid", &look).is_none());
        assert!(Want::Absent.wrong("uid", &look).is_some());
        assert!(Want::AtMost(0.5).wrong("uid", &look).is_none());
        assert!(Want::Not("x".into()).wrong("gid", &look).is_some());
    }
}
