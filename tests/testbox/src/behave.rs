//! Processes that use up what limits limit, and end in ways that are looked for.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    look::{answer, answer_quietly},
};

/// Touches `mb` megabytes (2^20) and keeps them.
pub fn allocate(mb: usize) -> Outcome {
    let mut held = Vec::new();
    for n in 1..=mb {
        let mut block = vec![1u8; 1 << 20];
        // Every page, in a way that is not optimised away.
        for page in block.iter_mut().step_by(4096) {
            *page = std::hint::black_box(2);
        }
        held.push(block);
        if n == mb {
            answer("allocated", n)?;
        }
    }
    crate::serve::sleep(None)
}

/// Starts up to `n` processes that do nothing, says how many came to be, and stays.
pub fn fork(n: u32) -> Outcome {
    let mut made = 0;
    while made < n {
        // SAFETY: one thread; the child only waits for its end.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: no pointer is passed.
                unsafe { libc::pause() };
            },
            -1 => break,
            _ => made += 1,
        }
    }
    let why = if made < n { super::sys::last_error() } else { "ok".into() };
    answer("forked", format!("{made} {why}"))?;
    crate::serve::sleep(None)
}

/// Keeps `threads` processors busy for so long, then says how many it got.
pub fn burn(seconds: u64, threads: usize) -> Outcome {
    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds);
    let all: Vec<_> = (0..threads)
        .map(|_| {
            thread::spawn(move || {
                while Instant::now() < until {
                    std::hint::black_box((0..10_000u64).sum::<u64>());
                }
            })
        })
        .collect();
    for one in all {
        one.join().map_err(|_| "a thread panicked")?;
    }
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a time that lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut used) };
    let cpu = Duration::new(used.tv_sec.cast_unsigned(), u32::try_from(used.tv_nsec).unwrap_or(0));
    answer("processors", format!("{:.3}", cpu.as_secs_f64() / begun.elapsed().as_secs_f64()))?;
    crate::serve::sleep(None)
}

/// Leaves a child behind that ends, and says whether its remains vanish: somebody reaps.
pub fn orphan() -> Outcome {
    // SAFETY: one thread; parent and child only end.
    let middle = unsafe { libc::fork() };
    if middle == 0 {
        // SAFETY: as above.
        let grandchild = unsafe { libc::fork() };
        if grandchild == 0 {
            thread::sleep(Duration::from_millis(50));
        }
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(middle, std::ptr::null_mut(), 0) };
    thread::sleep(Duration::from_millis(500));
    let zombies = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| std::fs::read_to_string(e.path().join("stat")).ok())
        .filter(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
        .count();
    answer("zombies", zombies)?;
    crate::serve::sleep(None)
}

/// Ends by a signal.
pub fn die(signal: i32) -> Outcome {
    // SAFETY: the default action, then the signal; no pointer is passed.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
    // The first process of a container has no default actions.
    Err(format!("signal {signal} does nothing to me"))
}

/// Writes `count` numbered lines to both streams in turn, `rate` a second of each (0: as fast as
/// they are taken), each with a word that says which stream it went to; then stays until it is told
/// to end. Lines are as wide as said, their ends counted.
pub fn lines(count: u64, rate: u64, width: usize) -> Outcome {
    use std::io::Write;
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr());
    let begun = Instant::now();
    // In blocks of what a hundredth of a second has, so that a high rate is not all system calls.
    let block = (rate / 100).max(1);
    let filler = ".".repeat(width.saturating_sub(14));
    let mut text = (String::new(), String::new());
    for n in 1..=count {
        use std::fmt::Write as _;
        let _ = writeln!(text.0, "out {n:09}{filler}");
        let _ = writeln!(text.1, "err {n:09}{filler}");
        if n % block == 0 || n == count || text.0.len() > 4000 {
            out.write_all(text.0.as_bytes()).and_then(|()| out.flush()).map_err(|e| e.to_string())?;
            err.write_all(text.1.as_bytes()).map_err(|e| e.to_string())?;
            text.0.clear();
            text.1.clear();
            if let Some(due) = (n * 1000).checked_div(rate) {
                thread::sleep(Duration::from_millis(due).saturating_sub(begun.elapsed()));
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    answer_quietly(&[("written", count.to_string()), ("seconds", format!("{seconds:.3}"))])?;
    crate::serve::sleep(None)
}
