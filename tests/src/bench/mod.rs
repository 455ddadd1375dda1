//! What the benchmarks share: Docker's engine to compare with, samples, and what processes cost.

pub mod docker;
pub mod inside;
pub mod measure;
