//! What the leader does: makes tasks of services, gives them what they need, chooses their nodes,
//! tells the nodes and hears from them.
//!
//! ```text
//! spec ─▶ orchestrator ─NEW▶ allocator ─PENDING▶ scheduler ─ASSIGNED▶ dispatcher ─▶ node
//!          ▲ reaper                                                     │
//!          └──────────────────────── status ◀───────────────────────────┘
//! ```
//!
//! The stages are pure functions from a view to a [`Plan`]; none knows another. One loop
//! (`controller`) runs them in this order inside one transaction, so that a new service is
//! assigned in a single commit, and again after every change of the store. A restart
//! delay is a moment written into the task, which its node waits for; where the passing of time
//! alone matters, a plan says when to look again.
//!
//! The loop lives as long as a term of leadership. The dispatcher answers all the time; without
//! leadership its store refuses and its sessions end.

mod allocator;
mod controller;
mod dispatcher;
mod orchestrator;
mod plan;
mod scheduler;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

pub use dispatcher::Dispatcher;
pub use plan::{Mint, Plan};

use crate::{clock, model::Timestamp, store::Store};

const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Tells the time. Only the shells ask; deciders are told.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The clock of this machine.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(clock::now)
}

/// A running manager.
pub struct Manager {
    /// The gRPC service nodes talk to: give it to `DispatcherServer::new`.
    pub dispatcher: Dispatcher,
    /// Ends after `cancel`.
    pub running: JoinHandle<()>,
}

/// Starts the manager over `store`. It works in every term in which `leadership` is true, until
/// `cancel`. `seed` must be fresh randomness: ids of tasks are made from it.
#[must_use]
pub fn start(
    store: Store,
    leadership: watch::Receiver<bool>,
    clock: Clock,
    seed: [u8; 32],
    cancel: CancellationToken,
) -> Manager {
    let dispatcher = Dispatcher::new(store.clone(), leadership.clone(), clock.clone(), cancel.clone());
    let running = tokio::spawn(terms(store, leadership, clock, Mint::new(seed), dispatcher.clone(), cancel));
    Manager { dispatcher, running }
}

async fn terms(
    store: Store,
    mut leadership: watch::Receiver<bool>,
    clock: Clock,
    mut mint: Mint,
    dispatcher: Dispatcher,
    cancel: CancellationToken,
) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            led = leadership.wait_for(|leads| *leads) => if led.is_err() { return },
        }
        let term = cancel.child_token();
        let mut tasks = JoinSet::new();
        tasks.spawn(term_of_office(
            store.clone(),
            clock.clone(),
            mint.split(),
            dispatcher.clone(),
            term.clone(),
        ));
        let broke = tokio::select! {
            // The term is cancelled with us and then ends, too: that is no panic.
            biased;
            () = cancel.cancelled() => false,
            _ = leadership.wait_for(|leads| !*leads) => false,
            // Never before it is cancelled, except by a panic: what it did not finish, the next
            // beginning looks at again.
            _ = tasks.join_next() => true,
        };
        if broke && !cancel.is_cancelled() {
            tracing::error!("the manager's loop ended unexpectedly; it begins again in {AFTER_PANIC:?}");
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(AFTER_PANIC) => {}
            }
        }
        term.cancel();
        while tasks.join_next().await.is_some() {}
    }
}

async fn term_of_office(
    store: Store,
    clock: Clock,
    mint: Mint,
    dispatcher: Dispatcher,
    cancel: CancellationToken,
) {
    tokio::select! {
        () = cancel.cancelled() => return,
        () = dispatcher.begin_term() => {}
    }
    controller::run(store, clock, mint, cancel).await;
}
