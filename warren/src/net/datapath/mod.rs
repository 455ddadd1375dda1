//! The datapath from the host's side: programs, maps and links in the kernel, and what is to be in
//! the maps.

pub mod apply;
pub mod bpffs;
pub mod contents;
pub mod desired;
pub mod diff;
pub mod links;
pub mod loader;
pub mod ports;
pub mod rehearsal;
pub mod shape;
pub mod sources;
pub mod sys;
pub mod tables;
#[cfg(test)]
mod tests;
