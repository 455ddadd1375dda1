//! What the benchmarks share: Docker's engine to compare with, samples, what processes cost, and
//! programs of a few instructions for the kernel.

pub mod bpf;
pub mod docker;
pub mod inside;
pub mod measure;
