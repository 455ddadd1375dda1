//! What the probes of a thousand tasks on one node cost: the processor time of the thread that
//! tries, as a share of one core. `cargo bench -p warren --bench probes`.
//!
//! The servers are threads of this process; their time is not counted.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};
use warren::{
    clock::now,
    model::{HttpProbe, NetworkMode, Probe, Task, TaskId},
    worker::{
        health::{Check, Known, Prober, Tracker, Tried},
        testing::{FakeWorld, a_task},
    },
};

const TASKS: u128 = 1000;
const INTERVAL: Duration = Duration::from_secs(10);
/// Until the tries have spread over the interval.
const WARM_UP: Duration = Duration::from_secs(32);
const MEASURED: Duration = Duration::from_secs(20);

fn main() {
    let port = serve();
    let http = HttpProbe {
        https: false,
        port,
        path: "/healthz".into(),
        method: "GET".into(),
        headers: Vec::new(),
        statuses: Vec::new(),
    };
    for (name, probe) in [("HTTP", Probe::Http(http)), ("TCP", Probe::Tcp(port))] {
        measure(name, probe);
    }
}

fn measure(name: &str, probe: Probe) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let check = Check {
        probe,
        interval: INTERVAL,
        timeout: Duration::from_secs(3),
        retries: 3,
        start_period: Duration::ZERO,
        start_interval: Duration::from_secs(5),
    };
    runtime.block_on(async {
        let prober = Arc::new(Prober::new(FakeWorld::default().agent(), now));
        let (tries, bad) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        for n in 0..TASKS {
            let mut task: Task = a_task(1);
            task.id = TaskId::from_random(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
            task.spec.network = NetworkMode::Host;
            let (prober, check, tries, bad) = (prober.clone(), check.clone(), tries.clone(), bad.clone());
            tokio::spawn(async move {
                let mut tracker = Tracker::new(check.clone(), task.id, now(), Known::default(), now());
                loop {
                    tokio::time::sleep(tracker.next_probe(now()).since(now())).await;
                    let tried = prober.probe(&task, 1, &check).await;
                    tries.fetch_add(1, Ordering::Relaxed);
                    bad.fetch_add(u64::from(!matches!(&tried, Tried::Known(r) if r.good)), Ordering::Relaxed);
                    tracker.take(tried, now());
                }
            });
        }
        tokio::time::sleep(WARM_UP).await;
        let (before, cpu, begun) = (tries.load(Ordering::Relaxed), thread_time(), Instant::now());
        // The most in one tenth of a second shows whether they are spread.
        let (mut most, mut last) = (0, before);
        while begun.elapsed() < MEASURED {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let count = tries.load(Ordering::Relaxed);
            most = most.max(count - last);
            last = count;
        }
        let (cpu, took) = (thread_time() - cpu, begun.elapsed());
        let count = last - before;
        let share = 100.0 * cpu.as_secs_f64() / took.as_secs_f64();
        println!(
            "{name}: {TASKS} tasks every {INTERVAL:?}: {count} tries in {:.1} s, {} bad, at most {most} in 100 ms; {share:.2} % of one core, {:.0} µs each",
            took.as_secs_f64(),
            bad.load(Ordering::Relaxed),
            cpu.as_secs_f64() * 1e6 / count.max(1) as f64,
        );
    });
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock").into()
}

/// A server on loopback that says that it is well.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    for _ in 0..4 {
        let listener = listener.try_clone().expect("a descriptor can be had");
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 2048];
                if matches!(stream.read(&mut request), Ok(1..)) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n");
                }
            }
        });
    }
    port
}
