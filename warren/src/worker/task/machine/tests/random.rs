//! Whatever fails, dies and is asked for, in whatever order.

use proptest::prelude::*;

use super::{
    health::{checked, try_of},
    *,
};

/// What happens next, at random.
#[derive(Debug, Clone, Copy)]
enum Chance {
    Works,
    FailsWithoutEffect,
    FailsWithEffect,
    NeverWorks,
    /// The agent dies before or after the action and another takes up what it finds.
    Dies(bool),
    Exits(i32),
    Stopped,
    Removed,
    TimePasses(u64),
    WaitFails,
    Probe(bool),
}

fn chance() -> impl Strategy<Value = Chance> {
    prop_oneof![
        12 => Just(Chance::Works),
        2 => Just(Chance::FailsWithoutEffect),
        2 => Just(Chance::FailsWithEffect),
        1 => Just(Chance::NeverWorks),
        2 => any::<bool>().prop_map(Chance::Dies),
        1 => (0..140i32).prop_map(Chance::Exits),
        1 => Just(Chance::Stopped),
        1 => Just(Chance::Removed),
        2 => (0..40u64).prop_map(Chance::TimePasses),
        1 => Just(Chance::WaitFails),
        3 => any::<bool>().prop_map(Chance::Probe),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever fails, dies and is asked for in whatever order: the container is started at most
    /// once, what is told only goes forward and stands once final, and a task that is to stop
    /// comes to an end with nothing left. One with a health check is never opened before its first
    /// success or while it is unhealthy.
    #[test]
    fn any_order_of_events_keeps_the_promises(
        chances in prop::collection::vec(chance(), 0..60),
        with_check: bool,
    ) {
        let mut world = World { checked: with_check, ..World::default() };
        let mut now = Timestamp(1000);
        let mut task = if with_check { checked() } else { a_task(1) };
        task.spec.health.interval = Some(Duration::from_millis(10));
        let mut m = Machine::new(task.clone(), Found::default(), BOOT, quick(), now);
        // What the managers have heard, which is what a new agent is told.
        let mut told = task.status.clone();
        let mut hear = |m: &Machine, task: &mut Task| {
            let status = m.status();
            assert!(status.state >= told.state, "{} went back to {}", told.state, status.state);
            assert!(!told.state.is_final() || *status == told, "{told:?} became {status:?}");
            told = status.clone();
            task.status = told.clone();
        };
        for c in chances {
            hear(&m, &mut task);
            match c {
                Chance::Exits(code) => world.exit(code),
                Chance::TimePasses(ms) => now = now.after(Duration::from_millis(ms)),
                Chance::Stopped => {
                    world.asked = true;
                    task.desired = TaskState::Shutdown;
                    m.desire(TaskState::Shutdown, now);
                }
                Chance::Removed => {
                    world.asked = true;
                    task.desired = TaskState::Remove;
                    m.desire(TaskState::Remove, now);
                }
                Chance::WaitFails => {
                    if matches!(m.next(now), Step::Wait { exit: true, .. }) {
                        m.wait_failed(Trouble::Temporary("containerd is away".into()), now);
                    }
                }
                _ => {}
            }
            match (c, m.next(now)) {
                (Chance::Dies(after), step) => {
                    if let (true, Step::Do(action)) = (after, step) {
                        world.perform(&action);
                    }
                    m = Machine::new(task.clone(), world.found(), BOOT, quick(), now);
                }
                (Chance::FailsWithoutEffect, Step::Do(action)) => {
                    world.refused |= matches!(action, Action::Record { .. });
                    m.done(Outcome::Failed(Trouble::Temporary("no".into())), now);
                }
                (Chance::NeverWorks, Step::Do(action)) => {
                    world.refused |= matches!(action, Action::Record { .. });
                    m.done(Outcome::Failed(Trouble::Fatal("never".into())), now);
                }
                (Chance::FailsWithEffect, Step::Do(action)) => {
                    world.perform(&action);
                    m.done(Outcome::Failed(Trouble::Temporary("no".into())), now);
                }
                (_, Step::Do(action)) => m.done(world.perform(&action), now),
                (Chance::Probe(good), Step::Wait { until, probe, .. }) => {
                    if probe {
                        world.probed(good);
                        m.probed(try_of(good, now), now);
                    } else if let Some(at) = until {
                        now = at;
                    }
                }
                (_, Step::Wait { exit: true, .. }) => {
                    if let Some(ContainerState::Stopped(exit)) = world.container {
                        m.exited(exit, now);
                    }
                }
                (_, Step::Wait { .. } | Step::End) => {}
            }
            prop_assert!(world.starts <= 1);
            hear(&m, &mut task);
        }
        // From here on everything works, and the task is wanted no more.
        world.asked = true;
        m.desire(TaskState::Shutdown, now);
        settle(&mut m, &mut world, &mut now);
        hear(&m, &mut task);
        prop_assert_eq!(m.next(now), Step::End);
        prop_assert!(m.status().state.is_final());
        prop_assert!(world.container.is_none() && !world.attached && !world.open);
        prop_assert!(world.starts <= 1);
    }
}
