//! What was measured, and the tables made of it.

use std::collections::BTreeMap;

use crate::sides::Kind;

/// Samples of one way and measure, one a round. `None`: the round had none.
pub type Samples = Vec<f64>;

/// A column of rounds for each way; the limit's second run is under [`SECOND`].
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<usize, Samples>,
    /// Attempts that failed, by way.
    pub failed: BTreeMap<usize, u64>,
}

/// The limit's second run of a round.
pub const SECOND: usize = Kind::ALL.len();

/// Middle, least and most.
pub fn spread(samples: &[f64]) -> Option<(f64, f64, f64)> {
    let mut all = samples.to_vec();
    all.sort_by(f64::total_cmp);
    Some((*all.get(all.len() / 2)?, *all.first()?, *all.last()?))
}

/// Round by round.
fn ratios(ours: &[f64], theirs: &[f64]) -> Samples {
    ours.iter().zip(theirs).filter(|(_, t)| **t > 0.0).map(|(o, t)| o / t).collect()
}

impl Table {
    /// One more round of a way.
    pub fn add(&mut self, row: usize, value: f64) {
        self.rows.entry(row).or_default().push(value);
    }

    /// The middle of a way's rounds.
    pub fn median(&self, kind: Kind) -> Option<f64> {
        Some(spread(self.row(kind))?.0)
    }

    fn row(&self, kind: Kind) -> &[f64] {
        self.rows.get(&index(kind)).map_or(&[], Vec::as_slice)
    }

    /// As Markdown: each way, in relation to the limit, to what only rewrites, to iptables and to
    /// nftables' map, and the noise.
    pub fn shown(&self, title: &str, unit: &str, digits: usize) -> String {
        let limit = self.row(Kind::Direct);
        let noise = ratios(self.rows.get(&SECOND).map_or(&[][..], Vec::as_slice), limit);
        let Some((_, low, high)) = spread(&noise) else { return String::new() };
        let three = |s: &[f64], digits: usize| {
            spread(s).map_or(String::new(), |(m, l, h)| format!("{m:.digits$} [{l:.digits$}–{h:.digits$}]"))
        };
        // A ratio whose middle is where the limit's own two runs are is none that one may speak of.
        let ratio = |s: &[f64]| match spread(s) {
            Some((m, ..)) if (low..=high).contains(&m) => format!("≈ {}", three(s, 2)),
            _ => three(s, 2),
        };
        let mut text = format!(
            "\n### {title}\n\nNoise, direct / direct: {}\n\n| | {unit} | / direct | / rewriting only | / iptables (nft) | / nftables map |\n\
             | --- | --- | --- | --- | --- | --- |\n",
            three(&noise, 2)
        );
        for kind in Kind::ALL {
            let row = self.row(kind);
            if row.is_empty() {
                continue;
            }
            let to = |other: Kind| {
                if kind == other { String::new() } else { ratio(&ratios(row, self.row(other))) }
            };
            let failed = match self.failed.get(&index(kind)) {
                Some(n) if *n > 0 => format!(", {n} failed"),
                _ => String::new(),
            };
            text += &format!(
                "| {} | {}{failed} | {} | {} | {} | {} |\n",
                kind.name(),
                three(row, digits),
                to(Kind::Direct),
                to(Kind::Rewrite),
                to(Kind::IptablesNft),
                to(Kind::Nft)
            );
        }
        text
    }
}

/// Where a way is in [`Kind::ALL`].
pub fn index(kind: Kind) -> usize {
    Kind::ALL.iter().position(|k| *k == kind).expect("all are in ALL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_within_the_noise_is_marked() {
        let mut table = Table::default();
        for (row, value) in [(0, 100.0), (SECOND, 90.0), (1, 95.0), (3, 50.0)] {
            table.add(row, value);
        }
        table.add(0, 100.0);
        table.add(SECOND, 110.0);
        table.add(1, 95.0);
        table.add(3, 50.0);
        let text = table.shown("t", "u", 0);
        assert!(
            text.contains("| Warren | 95 [95–95] | ≈ 0.95 [0.95–0.95] |  | 1.90 [1.90–1.90] |"),
            "{text}"
        );
        assert!(text.contains("| iptables (nft) | 50 [50–50] | 0.50 [0.50–0.50] |  |  |"), "{text}");
        assert!(text.contains("direct / direct: 1.10 [0.90–1.10]"), "{text}");
    }
}
