//! The tracker by itself: Docker's rules, at random, and a thousand of them at once.

use proptest::prelude::*;

use super::*;
use crate::model::Probe;

fn check() -> Check {
    Check {
        probe: Probe::Tcp(80),
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(3),
        retries: 3,
        start_period: Duration::ZERO,
        start_interval: Duration::from_secs(1),
    }
}

fn task(n: u128) -> TaskId {
    // As random as the real ones.
    TaskId::from_random(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

const START: Timestamp = Timestamp(1_000_000);

fn fresh(check: Check) -> Tracker {
    Tracker::new(check, task(1), START, Known::default(), START)
}

fn result(good: bool, at: Timestamp) -> Tried {
    let (code, output) = if good { (0, "fine") } else { (1, "connection\n refused ") };
    Tried::Known(ProbeResult { at, took: Duration::from_millis(2), good, code, output: output.into() })
}

/// Lets the next probes come to this, each when it is due; when the last one was.
fn probes(t: &mut Tracker, mut now: Timestamp, good: &[bool]) -> Timestamp {
    for good in good {
        now = t.next_probe(now).max(now);
        t.take(result(*good, now), now);
    }
    now
}

#[test]
fn open_at_the_first_success_held_at_the_third_failure_over_at_the_sixth() {
    let mut t = fresh(check());
    assert_eq!((t.health(), t.gate(), t.over()), (Health::Starting, None, None));
    let now = probes(&mut t, START, &[false, false]);
    assert_eq!((t.health(), t.gate(), t.failures()), (Health::Starting, None, 2));
    let now = probes(&mut t, now, &[true]);
    assert_eq!((t.health(), t.gate(), t.failures()), (Health::Healthy, Some(Gate::Open), 0));
    let now = probes(&mut t, now, &[false, false]);
    assert_eq!((t.health(), t.gate()), (Health::Healthy, Some(Gate::Open)));
    let now = probes(&mut t, now, &[false]);
    assert_eq!((t.health(), t.gate(), t.over()), (Health::Unhealthy, Some(Gate::Held), None));
    let now = probes(&mut t, now, &[false, false, true]);
    assert_eq!((t.health(), t.gate()), (Health::Healthy, Some(Gate::Open)), "it gets its traffic back");
    probes(&mut t, now, &[false; 5]);
    assert_eq!(t.over(), None);
    probes(&mut t, now, &[false]);
    assert_eq!(t.over().as_deref(), Some("unhealthy: connection refused"));
    assert_eq!(t.results().len(), KEPT);
}

#[test]
fn one_that_never_was_healthy_is_over_with_the_failure_that_makes_it_unhealthy() {
    let mut t = fresh(check());
    probes(&mut t, START, &[false, false]);
    assert_eq!(t.over(), None);
    probes(&mut t, START, &[false]);
    assert_eq!(t.over().as_deref(), Some("unhealthy: connection refused"));
}

#[test]
fn failures_of_the_start_period_do_not_count_and_a_success_ends_it() {
    let mut t = fresh(Check { start_period: Duration::from_secs(20), ..check() });
    assert!(t.next_probe(START) <= START.after(Duration::from_millis(1100)), "the start interval");
    let mut now = START;
    let mut tries = 0;
    while t.failures() == 0 {
        now = t.next_probe(now);
        t.take(result(false, now), now);
        tries += 1;
    }
    assert!((19..=21).contains(&tries), "{tries}");
    assert!(now >= START.after(Duration::from_secs(20)));

    let mut t = fresh(Check { start_period: Duration::from_secs(600), ..check() });
    let now = probes(&mut t, START, &[false, false, false, false, true]);
    let next = t.next_probe(now).since(now);
    assert!(next > Duration::from_secs(4), "the interval holds from the first success on: {next:?}");
    probes(&mut t, now, &[false, false, false]);
    assert_eq!(t.health(), Health::Unhealthy);
}

#[test]
fn what_an_agent_before_knew_stays_until_a_probe_says_otherwise() {
    let later = START.after(Duration::from_secs(3600));
    let adopt =
        |health, served| Tracker::new(check(), task(7), START, Known { health, failures: 0, served }, later);
    for (known, served, health, gate) in [
        (Health::Healthy, true, Health::Healthy, None),
        (Health::Unhealthy, true, Health::Unhealthy, Some(Gate::Held)),
        (Health::Starting, false, Health::Starting, None),
        (Health::None, true, Health::Starting, None),
    ] {
        let mut t = adopt(known, served);
        assert_eq!((t.health(), t.gate(), t.over()), (health, gate, None), "{known:?}");
        let first = t.next_probe(later).since(later);
        assert!(first <= check().interval.mul_f64(FIRST_SPREAD), "{known:?}: {first:?}");
        probes(&mut t, later, &[true]);
        assert_eq!(t.gate(), Some(Gate::Open));
    }
    // One failure right after the start is no reason to close what was open.
    let mut t = adopt(Health::Healthy, true);
    probes(&mut t, later, &[false, false]);
    assert_eq!((t.health(), t.gate()), (Health::Healthy, None));
    probes(&mut t, later, &[false]);
    assert_eq!(t.gate(), Some(Gate::Held));
    let mut t = adopt(Health::Unhealthy, true);
    probes(&mut t, later, &[false, false]);
    assert_eq!(t.over(), None);
    probes(&mut t, later, &[false]);
    assert!(t.over().is_some());
}

#[test]
fn what_could_not_be_tried_says_nothing() {
    let mut t = fresh(check());
    let mut now = probes(&mut t, START, &[true, false, false]);
    for _ in 0..10 {
        now = t.next_probe(now);
        t.take(Tried::Unknown("containerd is away".into()), now);
    }
    assert_eq!((t.health(), t.failures(), t.results().len()), (Health::Healthy, 2, 3));
    assert!(t.next_probe(now) > now);
}

#[test]
fn a_clock_that_is_set_back_does_not_end_the_probing() {
    let t = fresh(check());
    let before = Timestamp(5);
    assert!(t.next_probe(before).since(before) <= Duration::from_secs(15));
}

/// When a thousand tasks that are all healthy and answer in 5 ms are probed.
fn moments(from: Timestamp, to: Timestamp) -> Vec<u64> {
    let mut all = Vec::new();
    for n in 0..1000 {
        let mut t = Tracker::new(check(), task(n), START, Known::default(), START);
        let mut now = START;
        while now < to {
            now = t.next_probe(now);
            if now >= from && now < to {
                all.push(now.since(from).as_millis() as u64);
            }
            now = now.after(Duration::from_millis(5));
            t.take(result(true, now), now);
        }
    }
    all
}

#[test]
fn a_thousand_tasks_started_at_once_are_probed_evenly_and_none_first_late() {
    let second = |n| START.after(Duration::from_secs(n));
    // The first round: each within a tenth of the interval after its interval.
    let first = moments(second(10), second(11));
    assert_eq!(first.len(), 1000);
    // From the fourth round on over the whole interval.
    let steady = moments(second(40), second(50));
    assert!((990..=1010).contains(&steady.len()), "{}", steady.len());
    let mut seconds = [0; 10];
    let mut tenths = [0; 100];
    for at in &steady {
        seconds[(at / 1000) as usize] += 1;
        tenths[(at / 100) as usize] += 1;
    }
    // Random places: a tenth of a second has 10 on average.
    assert!(seconds.iter().all(|n| (70..=135).contains(n)), "{seconds:?}");
    assert!(tenths.iter().all(|n| *n <= 25), "{tenths:?}");
}

proptest! {
    /// Whatever comes, in whatever order: it is never open while unhealthy or before its first
    /// success, a success always opens it, and it is over exactly after so many failures in a row.
    #[test]
    fn open_means_that_it_worked(
        retries in 1u32..5,
        start_period in 0u64..60,
        known in prop_oneof![Just(Health::None), Just(Health::Starting), Just(Health::Healthy), Just(Health::Unhealthy)],
        before in 0u32..5,
        steps in prop::collection::vec((0u8..4, 0u64..30_000), 0..80),
    ) {
        let check = Check { retries, start_period: Duration::from_secs(start_period), ..check() };
        let served = matches!(known, Health::Healthy | Health::Unhealthy);
        let mut now = START;
        // What is not unhealthy has not failed as often as that.
        let mut row = if known == Health::Unhealthy { retries + before } else { before % retries };
        let known = Known { health: known, failures: row, served };
        let mut t = Tracker::new(check.clone(), task(3), START, known, now);
        let mut was_good = served;
        for (kind, late) in steps {
            now = t.next_probe(now).max(now).after(Duration::from_millis(late));
            match kind {
                0 => t.take(Tried::Unknown("away".into()), now),
                1 => {
                    t.take(result(true, now), now);
                    (was_good, row) = (true, 0);
                    prop_assert_eq!(t.gate(), Some(Gate::Open));
                }
                _ => {
                    t.take(result(false, now), now);
                    row += u32::from(was_good || now.since(START) >= check.start_period);
                }
            }
            prop_assert_eq!(t.failures(), row);
            prop_assert_eq!(t.health() == Health::Unhealthy, row >= retries);
            prop_assert_eq!(t.gate() == Some(Gate::Held), row >= retries);
            if t.gate() == Some(Gate::Open) {
                prop_assert!(was_good && row < retries);
            }
            prop_assert_eq!(t.over().is_some(), row >= if was_good { 2 * retries } else { retries });
            prop_assert!(t.next_probe(now) > now && t.next_probe(now).since(now) <= Duration::from_secs(15));
            prop_assert!(t.results().len() <= KEPT);
        }
    }
}
