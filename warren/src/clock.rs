//! The clock of this machine. Only shells ask it; deciders are told.

use std::time::SystemTime;

use crate::model::Timestamp;

/// The present moment; that of 1970 when the clock is set before it.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::default().after(since)
}
