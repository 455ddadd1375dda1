//! Capabilities, kernel parameters, and Docker's `--security-opt`.

use std::str::FromStr;

use super::{bad, switch};
use crate::model::validate::Invalid;

/// One `--security-opt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityOption {
    /// `no-new-privileges[=BOOL]`.
    NoNewPrivileges(bool),
    /// `seccomp=builtin`: Docker's default list.
    SeccompDefault,
    /// `seccomp=unconfined`.
    SeccompUnconfined,
    /// `seccomp=FILE`: a profile that whoever parses has to read.
    SeccompFile(String),
    /// `apparmor=PROFILE`; `None` for the default one, `apparmor=`.
    AppArmor(Option<String>),
    /// `systempaths=unconfined` (true) or `confined`.
    UnmaskedPaths(bool),
}

impl FromStr for SecurityOption {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // Docker's older form has a colon.
        let (name, value) = match text.find(['=', ':']) {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        match (name, value) {
            ("no-new-privileges", None) => Ok(Self::NoNewPrivileges(true)),
            ("no-new-privileges", Some(v)) => Ok(Self::NoNewPrivileges(switch("security option", v)?)),
            ("seccomp", Some("unconfined")) => Ok(Self::SeccompUnconfined),
            ("seccomp", Some("builtin")) => Ok(Self::SeccompDefault),
            ("seccomp", Some(file)) if !file.is_empty() => Ok(Self::SeccompFile(file.to_owned())),
            ("apparmor", Some(profile)) => {
                Ok(Self::AppArmor((!profile.is_empty()).then(|| profile.to_owned())))
            }
            ("systempaths", Some("unconfined")) => Ok(Self::UnmaskedPaths(true)),
            ("systempaths", Some("confined")) => Ok(Self::UnmaskedPaths(false)),
            ("label", _) => bad("security option", text, "SELinux labels are not supported here"),
            _ => bad(
                "security option",
                text,
                "there are no-new-privileges, seccomp=unconfined|builtin|FILE, apparmor=PROFILE and systempaths=unconfined",
            ),
        }
    }
}

/// A capability as the kernel calls it, without `CAP_`; case and prefix are the writer's choice.
///
/// # Errors
/// When it is not even a word; whether there is such a capability `validate` knows.
pub fn capability(text: &str) -> Result<String, Invalid> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
        return bad("capability", text, "write its name, for example NET_ADMIN, or ALL");
    }
    Ok(name.to_owned())
}

/// `NAME=VALUE`, a kernel parameter; slashes may stand for the dots.
///
/// # Errors
/// Says how it is written.
pub fn sysctl(text: &str) -> Result<(String, String), Invalid> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            let name = name.trim();
            // As sysctl(8): in the slash form, a dot is part of a name.
            let name = match name.find(['.', '/']).map(|at| &name[at..=at]) {
                Some("/") => name.replace('.', "\0").replace('/', ".").replace('\0', "/"),
                _ => name.to_owned(),
            };
            Ok((name, value.to_owned()))
        }
        _ => bad("kernel parameter", text, "write it as NAME=VALUE, for example net.core.somaxconn=1024"),
    }
}
