//! The datapath from the host's side: programs, maps and links in the kernel, and what is to be in
//! the maps.

pub mod sys;
