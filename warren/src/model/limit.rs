//! How much one client gets of a published port. How it is written is in `parse`.

use std::fmt;

/// So many a second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// In the long run, 1–[`Rate::MOST`].
    pub per_second: u32,
    /// After a pause, 1–[`Rate::MOST`].
    pub burst: u32,
}

impl Rate {
    /// What is more is as good as no limit.
    pub const MOST: u32 = 1_000_000;

    /// Nanoseconds from one to the next.
    #[must_use]
    pub fn spacing(self) -> u32 {
        const SECOND: u32 = 1_000_000_000;
        SECOND.saturating_add(self.per_second / 2) / self.per_second.max(1)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.per_second, self.burst)
    }
}

/// What one client address (of IPv6: one /64 network) gets of each published port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ClientLimits {
    /// New TCP connections and UDP flows.
    pub conn_rate: Option<Rate>,
    /// Packets.
    pub packet_rate: Option<Rate>,
    /// TCP connections and UDP flows at a time, 1–[`ClientLimits::MOST_CONNS`].
    pub conns: Option<u32>,
}

impl ClientLimits {
    /// Of more a node could not keep count for several clients.
    pub const MOST_CONNS: u32 = 4096;

    /// Whether there is one.
    #[must_use]
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spacings_are_the_nearest() {
        let spacing = |per_second| Rate { per_second, burst: 1 }.spacing();
        assert_eq!(spacing(1), 1_000_000_000);
        assert_eq!(spacing(3), 333_333_333);
        assert_eq!(spacing(600_000), 1667);
        assert_eq!(spacing(Rate::MOST), 1000);
        for per_second in 1..=Rate::MOST {
            let real = 1e9 / f64::from(spacing(per_second));
            assert!((real / f64::from(per_second) - 1.0).abs() < 0.001, "{per_second}");
        }
    }
}
