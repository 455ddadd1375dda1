//! A node that goes away while its output is followed, and comes back: an agent's restart or upgrade.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

use crate::{cli::connection_lost, rpc::DialError};

/// Between two tries to reach the node.
const PAUSE: Duration = Duration::from_millis(200);
/// How long it may be away.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the node went away, and did not merely refuse.
pub(super) fn is_away(status: &Status) -> bool {
    connection_lost(status) || status.code() == Code::Unavailable
}

/// Does what needs the node as soon as it is back, and says that it waits.
pub(super) async fn when_back<T>(mut work: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    eprintln!("warren: the node went away; its output goes on when it is back");
    let deadline = Instant::now() + PATIENCE;
    loop {
        match timeout_at(deadline, work()).await {
            Ok(Err(e)) if !may_come_back(&e) => return Err(e),
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(_)) | Err(_) => {}
        }
        anyhow::ensure!(
            Instant::now() + PAUSE < deadline,
            "the node did not come back within {}: what is written meanwhile is kept, ask again with --since when it is back",
            humantime::format_duration(PATIENCE)
        );
        sleep(PAUSE).await;
    }
}

fn may_come_back(e: &anyhow::Error) -> bool {
    match (e.downcast_ref::<Status>(), e.downcast_ref::<DialError>()) {
        (Some(status), _) => is_away(status),
        (_, Some(e)) => matches!(e, DialError::Away(_) | DialError::NotANode(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_waited_for_but_not_for_ever_and_a_refusal_is_one() {
        let begun = Instant::now();
        let away = || anyhow::Error::from(DialError::Away("/run/s".into()));
        let mut tries = 0;
        let back = when_back(async || {
            tries += 1;
            match tries {
                1 => Err(away()),
                2 => Err(Status::unavailable("no leader yet").into()),
                n => Ok(n),
            }
        });
        assert_eq!(back.await.unwrap(), 3);
        assert!(begun.elapsed() < Duration::from_secs(1));

        let refused = when_back(async || Err::<(), _>(Status::invalid_argument("no").into())).await;
        assert_eq!(refused.unwrap_err().downcast::<Status>().unwrap().message(), "no");

        for hangs in [false, true] {
            let begun = Instant::now();
            let never = when_back(async || {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Err::<(), _>(away())
            });
            let why = never.await.unwrap_err().to_string();
            assert!(why.contains("did not come back within 1m"), "{why}");
            assert!(begun.elapsed() <= PATIENCE);
        }
    }
}
