//! Makes a service's tasks what its spec says: how many, in which slots, when again.

pub(super) mod reaper;
pub(super) mod replicated;
mod restart;
mod slots;
#[cfg(test)]
mod tests;
