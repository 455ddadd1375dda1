//! What happened in the cluster, as far back as is remembered.
//!
//! There is no log of events: they are what differs between two looks at the store (`diff`), kept
//! in a ring. What happens while this node does not look (before its start, between two changes
//! that are seen as one) is no event; the store itself holds what is.

mod diff;
mod filter;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use filter::Filter;

use crate::{
    model::Timestamp,
    proto::v1::{Event, WatchEventsRequest},
    store::{Store, View},
};

/// Events that are remembered.
const REMEMBERED: usize = 4096;

/// The memory of events. It looks as long as this value lives.
pub(super) struct Events {
    ring: Arc<Mutex<Ring>>,
    /// The number of the next event.
    next: watch::Receiver<u64>,
    now: fn() -> Timestamp,
    _looking: DropGuard,
}

/// The last events, with consecutive numbers.
#[derive(Default)]
struct Ring {
    events: VecDeque<Event>,
    /// Of the first one in it.
    first: u64,
}

impl Ring {
    fn push(&mut self, event: Event) {
        if self.events.len() == REMEMBERED {
            self.events.pop_front();
            self.first += 1;
        }
        self.events.push_back(event);
    }

    fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// Events from number `from` on, and how many of them are forgotten.
    fn from(&self, from: u64) -> (Vec<Event>, u64) {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        (self.events.iter().skip(skip).cloned().collect(), self.first.saturating_sub(from))
    }
}

fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Events {
    /// Begins to look at `store`: what is there now is no event. Needs a runtime.
    pub(super) fn start(store: Store, now: fn() -> Timestamp) -> Self {
        let ring = Arc::new(Mutex::new(Ring::default()));
        let (sender, next) = watch::channel(0);
        let cancel = CancellationToken::new();
        // Marked before the look, so that a change in between is seen.
        let mut changes = store.watch();
        changes.mark_unchanged();
        let before = store.view();
        tokio::spawn(look(store, before, changes, (ring.clone(), sender), now, cancel.clone()));
        Self { ring, next, now, _looking: cancel.drop_guard() }
    }

    /// What is remembered and then what happens, as asked for.
    pub(super) fn watch(
        &self,
        request: WatchEventsRequest,
    ) -> Result<mpsc::Receiver<Result<Event, Status>>, Status> {
        let filter = Filter::new(&request.filters)?;
        let (sender, receiver) = mpsc::channel(64);
        let until = (request.until_ms != 0).then_some(Timestamp(request.until_ms));
        // Time that is over when the request comes needs no waiting.
        let left = until.map(|until| until.since((self.now)()));
        let wanted = move |e: &Event| {
            e.at_ms >= request.since_ms && until.is_none_or(|until| e.at_ms <= until.0) && filter.matches(e)
        };
        tokio::spawn(follow(self.ring.clone(), self.next.clone(), left, wanted, sender));
        Ok(receiver)
    }
}

/// Remembers what differs after each change, until cancelled.
async fn look(
    store: Store,
    mut before: View,
    mut changes: watch::Receiver<u64>,
    (ring, next): (Arc<Mutex<Ring>>, watch::Sender<u64>),
    now: fn() -> Timestamp,
    cancel: CancellationToken,
) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        changes.mark_unchanged();
        let after = store.view();
        let events = diff::diff(&before, &after, now());
        before = after;
        if !events.is_empty() {
            let mut ring = lock(&ring);
            events.into_iter().for_each(|e| ring.push(e));
            next.send_replace(ring.next());
        }
    }
}

/// Sends what is wanted, until nobody listens or `left` is over.
async fn follow(
    ring: Arc<Mutex<Ring>>,
    mut next: watch::Receiver<u64>,
    left: Option<Duration>,
    wanted: impl Fn(&Event) -> bool,
    sender: mpsc::Sender<Result<Event, Status>>,
) {
    let deadline = left.map(|left| tokio::time::Instant::now() + left);
    let mut from = lock(&ring).first;
    loop {
        next.mark_unchanged();
        let (events, forgotten) = lock(&ring).from(from);
        if forgotten > 0 {
            let why = format!("{forgotten} events were forgotten before they were read: ask again");
            let _ = sender.send(Err(Status::data_loss(why))).await;
            return;
        }
        from += events.len() as u64;
        for event in events.into_iter().filter(&wanted) {
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sender.closed() => return,
            changed = next.changed() => if changed.is_err() { return },
            () = async { tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)).await }, if deadline.is_some() => return,
        }
    }
}
