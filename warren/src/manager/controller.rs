//! The only loop: wait for a change, run every stage on what is there, commit.

use std::{convert::Infallible, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Clock, Mint, Plan, allocator, orchestrator, scheduler};
use crate::{
    model::Timestamp,
    store::{Store, Tx, View},
};

/// Between two tries when the store does not answer.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));

/// A pass is never further away than this when one is wanted.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// Runs until cancelled. A pass looks at everything: what happened between two passes, and in
/// which order, makes no difference.
pub(super) async fn run(store: Store, clock: Clock, mut mint: Mint, cancel: CancellationToken) {
    let mut changes = store.watch();
    let mut back_off = BACK_OFF.0;
    loop {
        changes.borrow_and_update();
        let now = clock();
        let pass = store.update(|tx| Ok::<_, Infallible>(pass(tx, now, &mut mint)));
        let done = tokio::select! {
            () = cancel.cancelled() => return,
            done = pass => done,
        };
        let again = match done {
            Ok(wake_at) => {
                back_off = BACK_OFF.0;
                // A clock that was set back must not put off what is due for long.
                wake_at.map(|at| at.since(now).clamp(BACK_OFF.0, LONGEST_SLEEP))
            }
            Err(error) => {
                tracing::warn!(%error, "cannot store what was decided; trying again in {back_off:?}");
                let wait = back_off;
                back_off = (back_off * 2).min(BACK_OFF.1);
                Some(wait)
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = async { tokio::time::sleep(again.unwrap_or_default()).await }, if again.is_some() => {}
        }
    }
}

/// Every stage once, each on what the ones before it left. Returns when to look again though
/// nothing changed.
pub(super) fn pass(tx: &mut Tx, now: Timestamp, mint: &mut Mint) -> Option<Timestamp> {
    let mut wake_at: Option<Timestamp> = None;
    let mut stage = |plan: &mut dyn FnMut(&View) -> Plan| {
        let plan = plan(tx);
        wake_at = wake_at.into_iter().chain(plan.wake_at).min();
        for change in plan.changes {
            tx.change(change);
        }
    };
    stage(&mut |view| orchestrator::replicated::plan(view, now, mint));
    stage(&mut |view| orchestrator::reaper::plan(view));
    stage(&mut |view| allocator::plan(view, now));
    stage(&mut |view| scheduler::plan(view, now));
    wake_at
}
