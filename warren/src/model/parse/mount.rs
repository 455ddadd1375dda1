//! Docker's `--mount type=…,source=…,target=…`.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

use super::{bad, size, switch};
use crate::model::{Mount, MountSource, Propagation, validate::Invalid};

const HOW: &str =
    "write it as type=bind|volume|tmpfs,source=…,target=…, for example type=volume,source=data,target=/data";

impl FromStr for Mount {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut read = Read::default();
        let Some(fields) = fields(text) else {
            return bad("mount", text, "a quote is not closed");
        };
        for field in &fields {
            read.field(text, field)?;
        }
        read.mount(text)
    }
}

/// What was read so far.
#[derive(Default)]
struct Read {
    kind: Option<String>,
    source: Option<String>,
    target: Option<PathBuf>,
    read_only: bool,
    propagation: Option<Propagation>,
    non_recursive: bool,
    create: bool,
    no_copy: bool,
    labels: BTreeMap<String, String>,
    size: Option<u64>,
    mode: Option<u32>,
    /// Options of one type only, as they were written.
    special: Vec<String>,
}

impl Read {
    fn field(&mut self, text: &str, field: &str) -> Result<(), Invalid> {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let key = key.as_str();
        let is_special = ["bind-", "volume-", "tmpfs-"].iter().any(|prefix| key.starts_with(prefix));
        if is_special {
            self.special.push(key.to_owned());
        }
        let on = || value.map_or(Ok(true), |v| switch(&format!("value of {key}"), v));
        match key {
            "readonly" | "ro" => self.read_only = on()?,
            "bind-nonrecursive" => self.non_recursive = on()?,
            "bind-create" => self.create = on()?,
            "volume-nocopy" => self.no_copy = on()?,
            _ => {
                let Some(value) = value else {
                    return bad("mount", text, &format!("\"{field}\" has no value; {HOW}"));
                };
                self.valued(text, key, value)?;
            }
        }
        Ok(())
    }

    fn valued(&mut self, text: &str, key: &str, value: &str) -> Result<(), Invalid> {
        match key {
            "type" => self.kind = Some(value.to_ascii_lowercase()),
            "source" | "src" => self.source = Some(value.to_owned()),
            "target" | "dst" | "destination" => self.target = Some(value.into()),
            "bind-propagation" => self.propagation = Some(value.parse()?),
            "volume-label" => {
                let (name, value) = super::key_value("volume label", value)?;
                self.labels.insert(name, value);
            }
            "tmpfs-size" => self.size = Some(size(value)?),
            "tmpfs-mode" => match u32::from_str_radix(value, 8) {
                Ok(mode) if !value.starts_with('+') => self.mode = Some(mode),
                _ => return bad("tmpfs-mode", value, "write permission bits in octal, for example 1777"),
            },
            _ => {
                return bad(
                    "mount",
                    text,
                    &format!(
                        "\"{key}\" is not an option of mounts here; there are type, source, target, readonly, bind-propagation, bind-nonrecursive, bind-create, volume-nocopy, volume-label, tmpfs-size and tmpfs-mode"
                    ),
                );
            }
        }
        Ok(())
    }

    fn mount(self, text: &str) -> Result<Mount, Invalid> {
        let kind = self.kind.as_deref().unwrap_or("volume");
        if !["bind", "volume", "tmpfs"].contains(&kind) {
            return bad("mount", text, &format!("the type \"{kind}\" is none of bind, volume and tmpfs"));
        }
        if let Some(foreign) = self.special.iter().find(|o| !o.starts_with(&format!("{kind}-"))) {
            return bad("mount", text, &format!("{foreign} has no meaning for a mount of type {kind}"));
        }
        let Some(target) = self.target else {
            return bad("mount", text, &format!("there is no target; {HOW}"));
        };
        let source = match kind {
            "bind" => match self.source.filter(|s| !s.is_empty()) {
                Some(path) => MountSource::Bind {
                    path: path.into(),
                    propagation: self.propagation.unwrap_or_default(),
                    non_recursive: self.non_recursive,
                    create: self.create,
                },
                None => return bad("mount", text, "a bind needs a source, a path of the node"),
            },
            "volume" => MountSource::Volume {
                name: self.source.filter(|s| !s.is_empty()),
                no_copy: self.no_copy,
                labels: self.labels,
            },
            _ => match self.source {
                Some(_) => return bad("mount", text, "a tmpfs has no source; leave it away"),
                None => MountSource::Tmpfs { size: self.size, mode: self.mode },
            },
        };
        Ok(Mount { source, target, read_only: self.read_only })
    }
}

/// The fields of one line of CSV: a field in double quotes may contain commas, and quotes that are
/// doubled. `None` when a quote is not closed.
pub(super) fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        let field = fields.last_mut()?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    (!quoted).then_some(fields)
}
