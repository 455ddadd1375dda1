//! What an agent that died had running in containers.

use std::time::Duration;

use containerd_client::types::v1::Status as ProcessStatus;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{keeper::Kept, pipes};
use crate::worker::runtime::{Containerd, containerd::blocking};

impl Containerd {
    /// Ends what an agent that died had running in containers, since nobody is there to read it;
    /// what runs detached is waited for. Returns as soon as it is known what that is: no program
    /// of the caller may be started before. Nothing there is no error.
    pub async fn sweep_execs(&self) {
        let base = self.exec_dir();
        let Ok(left) = blocking(move || Ok(pipes::left(&base))).await else { return };
        for (name, pipes) in left {
            let kept = Kept { containerd: self.clone(), name, pipes, pid: 0 };
            tokio::spawn(take_up(kept));
        }
    }
}

async fn take_up(mut kept: Kept) {
    // It may have died while this was started.
    let _readers = kept.pipes.readers();
    let mut pause = Duration::from_millis(50);
    let process = loop {
        match kept.process().await {
            Ok(process) => break process,
            Err(e) => tracing::debug!(error = %e, "waiting for containerd to come back"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    };
    match process {
        Some(p) if matches!(p.status(), ProcessStatus::Created) => {}
        Some(p) => {
            kept.pid = i32::try_from(p.pid).unwrap_or(0);
            if kept.pipes.is_detached() {
                let (exit, _) = watch::channel(None);
                return kept.wait_and_delete(&exit, &CancellationToken::new()).await;
            }
            tracing::info!(task = %kept.name.task, pid = kept.pid, "ending a program of an agent that died");
            kept.end(Duration::ZERO).await;
        }
        None => {}
    }
    kept.delete().await;
}
