//! The process, its names and its environment.

use std::{collections::BTreeMap, time::Duration};

use super::{Invalid, absolute, no};
use crate::model::{Names, RestartPolicy, TaskSpec};

/// No task may take longer to stop: somebody waits for it.
const MAX_STOP_GRACE: Duration = Duration::from_secs(24 * 3600);

/// What a resolver reads of each list (resolv.conf(5)); more would be ignored silently.
const MAX_NAMESERVERS: usize = 3;

/// An environment entry `NAME=VALUE`.
///
/// # Errors
/// Says what an entry looks like.
pub fn env_entry(text: &str) -> Result<(String, String), Invalid> {
    match text.split_once('=') {
        Some((k, v)) if !k.is_empty() && !text.contains('\0') => Ok((k.to_owned(), v.to_owned())),
        _ => Err(Invalid(format!("bad environment entry \"{text}\": write it as NAME=VALUE"))),
    }
}

/// Labels, given by `flag`.
pub(super) fn labels(flag: &str, labels: &BTreeMap<String, String>) -> Result<(), Invalid> {
    for (name, value) in labels {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return no(format!("bad name \"{name}\" in {flag}: a label's name has no blanks"));
        }
        if value.contains('\0') {
            return no(format!("bad value of {flag} {name}: remove the NUL character"));
        }
    }
    Ok(())
}

pub(super) fn task(task: &TaskSpec) -> Result<(), Invalid> {
    for (k, v) in &task.env {
        if k.is_empty() || k.contains(['=', '\0']) || v.contains('\0') {
            return no(format!("bad environment variable \"{k}\": write it as NAME=VALUE"));
        }
    }
    for word in task.args.iter().chain(task.entrypoint.iter().flatten()) {
        if word.contains('\0') {
            return no("an argument contains a NUL character: remove it");
        }
    }
    if task.entrypoint.as_ref().and_then(|e| e.first()).is_some_and(String::is_empty) {
        return no("bad --entrypoint: its first word, the program, is empty");
    }
    if let Some(dir) = &task.workdir {
        absolute("--workdir", dir)?;
    }
    if let Some(user) = &task.user {
        self::user(user)?;
    }
    for (i, group) in task.groups.iter().enumerate() {
        if !is_account(group) {
            return no(format!("bad group \"{group}\" in --group: write a name or a number"));
        }
        if task.groups[..i].contains(group) {
            return no(format!("--group {group} is given twice: leave one away"));
        }
    }
    if let Some(name) = &task.hostname {
        // What sethostname(2) takes.
        if !is_host_name(name) || name.len() > 63 {
            return no(format!(
                "bad host name \"{name}\" in --hostname: use up to 63 letters, digits, dashes and dots"
            ));
        }
    }
    labels("--container-label", &task.labels)?;
    if task.stop_signal.is_some_and(|n| !(1..=64).contains(&n)) {
        return no("bad --stop-signal: signals have the numbers 1 to 64");
    }
    if task.stop_grace > MAX_STOP_GRACE {
        return no("bad --stop-timeout: a task may take up to a day to stop");
    }
    if task.restart.max_attempts > RestartPolicy::MAX_ATTEMPTS {
        return no(format!(
            "bad --restart-max-attempts: up to {} are counted; write 0 for no limit",
            RestartPolicy::MAX_ATTEMPTS
        ));
    }
    names(&task.names)
}

fn names(names: &Names) -> Result<(), Invalid> {
    for (name, _) in &names.hosts {
        if !is_host_name(name) {
            return no(format!(
                "bad name \"{name}\" in --host: use letters, digits, dashes, underscores and dots"
            ));
        }
    }
    if names.dns.len() > MAX_NAMESERVERS {
        return no(format!("--dns is given {} times: resolvers read {MAX_NAMESERVERS}", names.dns.len()));
    }
    for domain in &names.dns_search {
        if domain != "." && !is_host_name(domain.strip_suffix('.').unwrap_or(domain)) {
            return no(format!("bad domain \"{domain}\" in --dns-search: write one such as example.org"));
        }
    }
    if names.dns_search.len() > 1 && names.dns_search.iter().any(|d| d == ".") {
        return no("--dns-search . means no domain: leave the others or the . away");
    }
    for option in &names.dns_options {
        if option.is_empty() || option.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return no(format!("bad option \"{option}\" in --dns-option: write one such as ndots:2"));
        }
    }
    Ok(())
}

fn user(text: &str) -> Result<(), Invalid> {
    let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    if is_account(user) && group.is_none_or(is_account) {
        return Ok(());
    }
    no(format!("bad user \"{text}\" in --user: write USER or USER:GROUP, names or numbers"))
}

/// A name of /etc/passwd or a number that is one: the kernel's ids have 32 bits, and the last
/// means "none".
fn is_account(text: &str) -> bool {
    let is_word = !text.is_empty()
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | '/' | ','));
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    is_word && (!is_number || text.parse::<u32>().is_ok_and(|n| n < u32::MAX))
}

/// RFC 1123, and the underscores that people use all the same.
fn is_host_name(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}
