//! Between the store and the nodes: assignments go out, statuses come in.

pub(super) mod assignments;
mod reports;
pub(super) mod server;
mod sessions;

pub use server::Dispatcher;
