//! The `warren` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    few_arenas();
    warren::cli::main()
}

/// Lets all threads share two of the C library's heaps. By itself it makes eight for each processor,
/// and each keeps what its threads once needed: an agent that starts a thread now and then for work
/// that blocks would grow with the number of threads it has ever had at once.
fn few_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointer is passed, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
