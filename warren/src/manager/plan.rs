//! What deciders are given and what they give.

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::model::{Change, TaskId, Timestamp};

/// What a stage wants changed. Whole objects: nothing is left to whoever carries it out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order to apply them.
    pub changes: Vec<Change>,
    /// When to decide again though nothing changed; `None` when only a change can matter.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    pub(super) fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Asks to be asked again at `at`, or earlier.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
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
