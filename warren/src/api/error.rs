//! From what went wrong to what the user reads.

use tonic::Status;

use crate::store::{StoreError, UpdateError};

/// The store could not answer.
pub(super) fn store(e: &StoreError) -> Status {
    Status::unavailable(format!("the cluster cannot take requests now ({e}): try again in a moment"))
}

/// An update was refused by its own closure, or could not be stored.
pub(super) fn update(e: UpdateError<Status>) -> Status {
    match e {
        UpdateError::Refused(status) => status,
        UpdateError::Store(e) => store(&e),
    }
}
