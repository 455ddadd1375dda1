//! What a node does from time to time, whoever asks or not.

use std::{path::PathBuf, time::Duration};

use tokio_util::sync::CancellationToken;

use super::local::Images;
use crate::{
    manager::Clock,
    worker::runtime::image::{Disk, Watermarks},
};

/// Between two looks at the disk.
const EVERY: Duration = Duration::from_secs(60);

/// Keeps room on the disk that `data_dir` is on, until cancelled.
pub(super) async fn keep_room(
    images: Images,
    data_dir: PathBuf,
    marks: Watermarks,
    clock: Clock,
    cancel: CancellationToken,
) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let in_use = || images.in_use();
        let disk = || Disk::of(&data_dir);
        let pass = images.images.make_room(marks, clock(), in_use, disk);
        let done = tokio::select! {
            () = cancel.cancelled() => return,
            done = pass => done,
        };
        if let Err(e) = done {
            tracing::warn!("cannot look after this node's images: {e}");
        }
    }
}
