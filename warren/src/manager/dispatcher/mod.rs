//! Between the store and the nodes: assignments go out, statuses come in.

pub(super) mod assignments;
mod reports;
mod server;
mod sessions;
#[cfg(test)]
pub(in crate::manager) mod tests;

pub use server::Dispatcher;
