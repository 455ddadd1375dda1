//! The loop: something may have changed, so look at everything and make it so. Events carry
//! nothing; a lost one costs at most until the next audit.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::engine::{Audit, Engine};

/// How often what the maps really hold is read again.
const AUDIT: Duration = Duration::from_secs(10);
/// Of so many audits one reads the rows, too, that nothing refers to.
const WHOLE: u32 = 12;
/// How long to wait for more changes before looking: a device that comes up is a dozen messages.
const SETTLE: Duration = Duration::from_millis(20);

pub(super) async fn run(engine: Arc<Engine>, cancel: CancellationToken) {
    let mut assignment = engine.assignment.clone();
    assignment.mark_changed();
    let mut audit_at = Instant::now() + AUDIT;
    let mut audits = 0u32;
    let mut failed = false;
    loop {
        let look_at = match engine.next_look() {
            Some(after) => audit_at.min(Instant::now() + after),
            None => audit_at,
        };
        // A failed pass is repeated soon: what failed may have been a device that went.
        let look_at = if failed { look_at.min(Instant::now() + Duration::from_secs(1)) } else { look_at };
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = assignment.changed() => {
                if changed.is_err() {
                    // Nobody will ever assign anything any more; the rest goes on.
                    cancel.cancelled().await;
                    return;
                }
            }
            () = engine.wake.notified() => {}
            () = engine.monitor.changed.notified() => tokio::time::sleep(SETTLE).await,
            () = sleep_until(look_at) => {}
        }
        let due = Instant::now() >= audit_at;
        if due {
            audit_at = Instant::now() + AUDIT;
            audits = audits.wrapping_add(1);
        }
        let audit = match (failed, due) {
            (true, _) => Some(Audit::Whole),
            (false, true) if audits.is_multiple_of(WHOLE) => Some(Audit::Whole),
            (false, true) => Some(Audit::Known),
            (false, false) => None,
        };
        match engine.pass(audit).await {
            Ok(()) => failed = false,
            Err(e) => {
                if !failed {
                    tracing::warn!("the network is not as it should be: {e}");
                }
                failed = true;
            }
        }
    }
}
