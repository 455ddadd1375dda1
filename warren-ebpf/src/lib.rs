//! Warren's datapath as a library: the layout of the maps that the programs and the agent share
//! ([`abi`]), and everything the programs decide, as plain functions that run in the kernel and
//! under `cargo test` alike ([`packet`], [`flow`]). The programs themselves are the binary of this
//! crate, built for the BPF target with the feature `programs`.
#![no_std]
// core::sync::atomic has no read-modify-write on this target.
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics), allow(internal_features))]

pub mod abi;
pub mod flow;
#[cfg(not(target_arch = "bpf"))]
pub mod maglev;
pub mod packet;

#[cfg(feature = "programs")]
mod kernel;
