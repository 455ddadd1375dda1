//! What deciders are given and what they give.

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::model::{Change, TaskId};

/// What a stage wants changed. Whole objects: nothing is left to whoever carries it out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order to apply them.
    pub changes: Vec<Change>,
}

impl Plan {
    pub(super) fn push(&mut self, change: Change) {
        self.changes.push(change);
    }
}

/// Randomness as data: a seed and what was drawn from it so far.
pub struct Mint(StdRng);

impl Mint {
    /// The same seed gives the same ids.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self(StdRng::from_seed(seed))
    }

    /// One more mint, independent of this one.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self(StdRng::from_rng(&mut self.0))
    }

    /// A fresh id.
    pub fn task(&mut self) -> TaskId {
        let (high, low) = (self.0.next_u64(), self.0.next_u64());
        TaskId::from_random(u128::from(high) << 64 | u128::from(low))
    }
}
