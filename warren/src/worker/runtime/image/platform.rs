//! Which of an image's variants this machine runs best.

use serde::{Deserialize, Serialize};

/// A machine, as images name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Platform {
    pub(super) os: String,
    pub(super) architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |v| write!(f, "/{v}"))
    }
}

impl Platform {
    /// This machine.
    pub(super) fn own() -> Self {
        let machine = nix::sys::utsname::uname().ok();
        let machine = machine.as_ref().and_then(|u| u.machine().to_str()).unwrap_or_default();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            other => other,
        };
        let variant = match architecture {
            // A 64-bit kernel says aarch64 or armv8l to 32-bit programs; both run v7.
            "arm" if machine.starts_with("armv6") => Some("v6"),
            "arm" if machine.starts_with("armv5") => Some("v5"),
            "arm" => Some("v7"),
            _ => None,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well an image for `other` runs here, the lowest best; `None` when it does not.
    pub(super) fn fit(&self, other: &Self) -> Option<u32> {
        if other.os != self.os || other.architecture != self.architecture {
            return None;
        }
        let number = |p: &Self, otherwise: u32| match &p.variant {
            None => Some(otherwise),
            Some(v) if v.is_empty() => Some(otherwise),
            Some(v) => v.strip_prefix('v')?.parse().ok(),
        };
        // What a missing variant means.
        let basic = match self.architecture.as_str() {
            "arm" => 7,
            "arm64" => 8,
            // Of later ones we do not know whether this processor can do them.
            _ => 1,
        };
        number(self, basic)?.checked_sub(number(other, basic)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform { os: parts.next().unwrap(), architecture: parts.next().unwrap(), variant: parts.next() }
    }

    #[test]
    fn the_nearest_variant_that_runs_is_taken() {
        for (own, listed, taken) in [
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64"][..], Some(2)),
            ("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5", "linux/arm/v6"], Some(2)),
            ("linux/arm/v6", &["linux/arm/v7", "linux/arm"], None),
            ("linux/arm/v7", &["linux/arm64/v8", "linux/arm/v6"], Some(1)),
            ("linux/arm64", &["linux/arm/v7", "linux/arm64/v8"], Some(1)),
            ("linux/arm64", &["linux/arm64"], Some(0)),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64", "windows/amd64"], Some(1)),
            ("linux/amd64", &["windows/amd64", "linux/386"], None),
            ("linux/riscv64", &["linux/riscv64"], Some(0)),
        ] {
            let own = platform(own);
            let best = listed
                .iter()
                .enumerate()
                .filter_map(|(n, p)| Some((own.fit(&platform(p))?, n)))
                .min()
                .map(|(_, n)| n);
            assert_eq!(best, taken, "{own} of {listed:?}");
        }
        assert_eq!(Platform::own().fit(&Platform::own()), Some(0));
    }
}
