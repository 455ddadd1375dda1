//! Makes a service's tasks what its spec says: how many, in which slots, when again,
//! and, when the spec changed, one by one.

pub(super) mod reaper;
pub(super) mod replicated;
mod restart;
mod slots;
#[cfg(test)]
mod tests;
mod update;
