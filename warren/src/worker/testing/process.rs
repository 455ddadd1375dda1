//! An operating-system process, faked: everything that runs on one tokio runtime.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::{runtime::Builder, sync::oneshot};

use super::{FakeOutside, FakeWorld};

/// One life of an agent: a runtime on a thread of its own. It dies as of SIGKILL, without a last
/// word, when the world says so ([`FakeWorld::crash_at`]) or when it is dropped: every task of the
/// runtime is gone at its next await, and only what it wrote to the world or to disk is left.
#[derive(Debug)]
pub struct Process {
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    world: FakeWorld,
}

impl Process {
    /// Starts one; `main` is given its doors to the world and may return once everything is
    /// spawned. The process before it must be gone: it could do nothing any more.
    #[must_use]
    pub fn spawn<F>(world: &FakeWorld, main: impl FnOnce(Arc<FakeOutside>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let outside = world.agent();
        let (kill, killed) = oneshot::channel();
        let of_thread = world.clone();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
            runtime.block_on(async {
                let main = tokio::spawn(main(outside));
                tokio::select! {
                    () = of_thread.crashed() => {}
                    _ = killed => {}
                    Err(e) = main => panic!("the agent failed: {e}"),
                }
            });
        });
        Self { kill: Some(kill), thread: Some(thread), world: world.clone() }
    }

    /// Whether it has died.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.world.kill_agent();
        drop(self.kill.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the agent failed, see above");
        }
    }
}
