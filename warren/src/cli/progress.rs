//! Waiting for a service to become what was asked, and showing how it goes.
//!
//! What is shown and when to stop are decided by [`judge`], which sees one message of the watch
//! at a time; the rest prints.

use std::{collections::BTreeSet, io::IsTerminal as _, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use super::Context;
use crate::{
    model::{Health, Service, Task, TaskId, TaskState},
    proto::v1::GetServiceRequest,
};

/// How long a service must stay as it was asked to be before that is believed, unless health checks
/// say so: a program that ends at once has been running, too.
const SETTLE: Duration = Duration::from_secs(1);

/// One look at a service on its way.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// Not there yet; what to show.
    Waiting(String),
    /// As it was asked to be; what to show.
    Reached(String),
    /// The same, and there is no doubt that it stays so.
    Sure(String),
    /// It will not get there by waiting; why.
    Hopeless(String),
}

/// Whether a service runs as `wanted` asked. `before` are the tasks that had already ended when
/// the wait began: their failures are not news.
fn judge(
    wanted: &Service,
    service: Option<&Service>,
    tasks: &[Task],
    before: &BTreeSet<TaskId>,
) -> Judgement {
    let name = &wanted.spec.name;
    let Some(service) = service else {
        return Judgement::Hopeless(format!("service {name} was removed"));
    };
    if service.removing {
        return Judgement::Hopeless(format!("service {name} is being removed"));
    }
    if service.spec != wanted.spec {
        return Judgement::Hopeless(format!("service {name} was changed again by someone else"));
    }
    // Those of another spec are being replaced: how they end says nothing about this one.
    let (of_this, outdated): (Vec<&Task>, Vec<&Task>) =
        tasks.iter().partition(|t| service.spec.task.same_container(&t.spec));
    // A task that ended by itself is a failure even with status 0: a service is meant to run.
    let ended = of_this.iter().find(|t| {
        !before.contains(&t.id)
            && t.desired <= TaskState::Running
            && matches!(t.status.state, TaskState::Failed | TaskState::Rejected | TaskState::Complete)
    });
    let ended = ended.or_else(|| {
        of_this.iter().find(|t| {
            !before.contains(&t.id) && matches!(t.status.state, TaskState::Failed | TaskState::Rejected)
        })
    });
    let old = outdated.iter().filter(|t| t.is_live()).count();
    if let Some(t) = ended {
        let reason = if t.status.message.is_empty() { t.status.state.name() } else { &t.status.message };
        let outlook = match old {
            0 => format!("the service is kept and tried again, see `warren service ps {name}`"),
            1 => format!("1 task of the spec before goes on, `warren service rollback {name}` returns to it"),
            n => {
                format!("{n} tasks of the spec before go on, `warren service rollback {name}` returns to it")
            }
        };
        return Judgement::Hopeless(format!("task {name}.{} did not stay up: {reason}; {outlook}", t.slot));
    }
    let wanted_running = service.spec.replicas as usize;
    let live = of_this.iter().filter(|t| t.is_live());
    let running = live.clone().filter(|t| t.status.state == TaskState::Running).count();
    let leaving =
        tasks.iter().filter(|t| t.desired > TaskState::Running && !t.status.state.is_final()).count();
    let mut text = format!("{name}: {running}/{wanted_running} running");
    if old > 0 {
        text.push_str(&format!(", {old} to be replaced"));
    }
    if leaving > 0 {
        text.push_str(&format!(", {leaving} stopping"));
    }
    if running == wanted_running && old + leaving == 0 && live.clone().count() == running {
        // Also when none is wanted: nothing that does not run can end early.
        let healthy = live.clone().all(|t| t.status.health == Health::Healthy);
        return if healthy { Judgement::Sure(text) } else { Judgement::Reached(text) };
    }
    let slowest = live.min_by_key(|t| (t.status.state, t.slot));
    if let Some(t) = slowest.filter(|t| t.status.state < TaskState::Running) {
        text.push_str(&format!(" ({}.{} {}", name, t.slot, t.status.state));
        if !t.status.message.is_empty() {
            text.push_str(&format!(": {}", t.status.message));
        }
        text.push(')');
    }
    Judgement::Waiting(text)
}

fn judge_gone(wanted: &Service, service: Option<&Service>, tasks: &[Task]) -> Judgement {
    let name = &wanted.spec.name;
    match service {
        None => Judgement::Sure(format!("{name}: removed")),
        Some(_) => {
            let left = tasks.iter().filter(|t| !t.status.state.is_final()).count();
            Judgement::Waiting(format!("{name}: removing, {left} tasks left"))
        }
    }
}

/// Shows where a wait is: a live line on a terminal, else one line for each change.
struct Display {
    bar: Option<ProgressBar>,
    last: String,
}

impl Display {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, last: String::new() }
    }

    fn show(&mut self, text: &str) {
        if text == self.last {
            return;
        }
        text.clone_into(&mut self.last);
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => eprintln!("{text}"),
        }
    }

    fn end(&mut self, text: &str) {
        match self.bar.take() {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("{text}");
            }
            None => self.show(text),
        }
    }
}

/// Whose failures end a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failures {
    /// Every task's: the service is new.
    All,
    /// Those of tasks that end from now on: the service has a history.
    New,
}

/// Waits until the service runs as asked.
pub(super) async fn until_running(
    context: &Context,
    wanted: &Service,
    failures: Failures,
    timeout: Duration,
) -> anyhow::Result<()> {
    let mut before: Option<BTreeSet<TaskId>> = None;
    wait(context, wanted, timeout, |service, tasks| {
        let before = before.get_or_insert_with(|| {
            let ended = tasks.iter().filter(|t| failures == Failures::New && t.status.state.is_final());
            ended.map(|t| t.id).collect()
        });
        judge(wanted, service, tasks, before)
    })
    .await
}

/// Waits until the service is gone.
pub(super) async fn until_gone(context: &Context, wanted: &Service, timeout: Duration) -> anyhow::Result<()> {
    wait(context, wanted, timeout, |service, tasks| judge_gone(wanted, service, tasks)).await
}

async fn wait(
    context: &Context,
    wanted: &Service,
    timeout: Duration,
    mut judge: impl FnMut(Option<&Service>, &[Task]) -> Judgement,
) -> anyhow::Result<()> {
    let mut display = Display::new();
    let deadline = tokio::time::Instant::now() + timeout;
    let request = GetServiceRequest { service: wanted.id.to_string() };
    let mut control = context.control().await?;
    let mut last = String::from("nothing heard of it");
    let outcome = tokio::time::timeout_at(deadline, async {
        let mut stream = control.watch_service(request).await?.into_inner();
        let mut reached: Option<(tokio::time::Instant, String)> = None;
        loop {
            let message = match &reached {
                None => stream.message().await,
                Some((since, text)) => match tokio::time::timeout_at(*since + SETTLE, stream.message()).await
                {
                    Ok(message) => message,
                    Err(_) => {
                        display.end(text);
                        return Ok(());
                    }
                },
            };
            let update = match message {
                Ok(Some(update)) => update,
                Ok(None) => break,
                Err(status) if super::connection_lost(&status) => break,
                Err(status) => return Err(status.into()),
            };
            let service = update.service.map(Service::try_from).transpose()?;
            let tasks = update.tasks.into_iter().map(Task::try_from).collect::<Result<Vec<_>, _>>()?;
            match judge(service.as_ref(), &tasks) {
                Judgement::Waiting(text) => {
                    display.show(&text);
                    last = text;
                    reached = None;
                }
                Judgement::Sure(text) => {
                    display.end(&text);
                    return Ok(());
                }
                Judgement::Reached(text) => {
                    display.show(&text);
                    let since = reached.map_or_else(tokio::time::Instant::now, |(since, _)| since);
                    reached = Some((since, text));
                }
                Judgement::Hopeless(why) => anyhow::bail!(why),
            }
        }
        anyhow::bail!(
            "the node stopped while this command waited: the request is stored and goes on when it is back, see `warren service ps {}`",
            wanted.spec.name
        )
    })
    .await;
    match outcome {
        Ok(result) => result,
        Err(_) => anyhow::bail!(
            "not done after {}: {last}; the request is stored and goes on, see `warren service ps {}`",
            humantime::format_duration(timeout),
            wanted.spec.name
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Id, ServiceSpec, TaskSpec, TaskStatus, Timestamp};

    fn service(replicas: u32) -> Service {
        Service {
            id: Id::from_random(1),
            version: 5,
            spec_version: 5,
            datapath_id: 1,
            spec: ServiceSpec {
                name: "web".into(),
                labels: Default::default(),
                replicas,
                task: TaskSpec::new("web".parse().unwrap()),
                publish: vec![],
                limits: Default::default(),
            },
            previous: None,
            removing: false,
            created_at: Timestamp(0),
        }
    }

    fn task(n: u128, desired: TaskState, state: TaskState, message: &str) -> Task {
        Task {
            id: Id::from_random(n),
            version: 1,
            service: Id::from_random(1),
            service_name: "web".into(),
            slot: u32::try_from(n).unwrap(),
            spec: TaskSpec::new("web".parse().unwrap()),
            spec_version: 5,
            node: None,
            attachment: None,
            desired,
            status: TaskStatus {
                state,
                at: Timestamp(0),
                message: message.into(),
                container: None,
                health: Default::default(),
            },
            created_at: Timestamp(0),
            start_at: Timestamp(0),
            restarts: Vec::new(),
        }
    }

    use TaskState::{Failed, Pending, Rejected, Running, Shutdown};

    #[test]
    fn reached_when_all_run_and_none_is_leaving() {
        let s = service(2);
        let none = BTreeSet::new();
        let tasks = [task(1, Running, Running, ""), task(2, Running, Running, "")];
        assert_eq!(judge(&s, Some(&s), &tasks, &none), Judgement::Reached("web: 2/2 running".into()));
        let more = [tasks[0].clone(), tasks[1].clone(), task(3, Shutdown, Running, "")];
        assert_eq!(
            judge(&s, Some(&s), &more, &none),
            Judgement::Waiting("web: 2/2 running, 1 stopping".into())
        );
        let zero = service(0);
        assert!(matches!(judge(&zero, Some(&zero), &[], &none), Judgement::Sure(_)));
    }

    #[test]
    fn only_health_checks_of_all_leave_no_doubt() {
        let s = service(2);
        let with = |n, health| {
            let mut t = task(n, Running, Running, "");
            t.status.health = health;
            t
        };
        for (health, sure) in [(Health::Healthy, true), (Health::None, false), (Health::Unhealthy, false)] {
            let tasks = [with(1, Health::Healthy), with(2, health)];
            let text = "web: 2/2 running".to_owned();
            let expected = if sure { Judgement::Sure(text) } else { Judgement::Reached(text) };
            assert_eq!(judge(&s, Some(&s), &tasks, &BTreeSet::new()), expected);
        }
    }

    #[test]
    fn a_wait_says_what_for() {
        let s = service(1);
        let tasks = [task(1, Running, Pending, "no suitable node: 1 node is down")];
        assert_eq!(
            judge(&s, Some(&s), &tasks, &BTreeSet::new()),
            Judgement::Waiting("web: 0/1 running (web.1 pending: no suitable node: 1 node is down)".into())
        );
    }

    #[test]
    fn a_failure_ends_the_wait_unless_it_is_old() {
        let s = service(1);
        let tasks = [task(1, Running, Rejected, "image web is not present")];
        let Judgement::Hopeless(why) = judge(&s, Some(&s), &tasks, &BTreeSet::new()) else { panic!() };
        assert!(why.contains("image web is not present"), "{why}");
        let old = [task(1, Shutdown, Failed, "x"), task(2, Running, Running, "")];
        let before = BTreeSet::from([old[0].id]);
        assert!(matches!(judge(&s, Some(&s), &old, &before), Judgement::Reached(_)));
    }

    #[test]
    fn an_update_is_done_when_nothing_of_the_old_is_left() {
        let mut s = service(2);
        s.spec.task.env.push(("A".into(), "1".into()));
        let new = |n, state, message: &str| {
            let mut t = task(n, Running, state, message);
            t.spec = s.spec.task.clone();
            t
        };
        let none = BTreeSet::new();
        let old = task(2, Running, Running, "");
        let judged = |tasks: &[Task]| judge(&s, Some(&s), tasks, &none);
        assert_eq!(
            judged(&[new(1, Running, ""), old.clone()]),
            Judgement::Waiting("web: 1/2 running, 1 to be replaced".into())
        );
        // How the old one ends is no news, not even when it fails to stop well.
        let ended = task(3, Shutdown, Failed, "exited with status 1");
        assert!(matches!(judged(&[new(1, Running, ""), new(2, Running, ""), ended]), Judgement::Reached(_)));
        let Judgement::Hopeless(why) = judged(&[new(1, Failed, "exited with status 3"), old]) else {
            panic!()
        };
        assert!(
            why.contains("web.1 did not stay up: exited with status 3; 1 task of the spec before"),
            "{why}"
        );
    }

    #[test]
    fn gone_is_gone() {
        let s = service(1);
        assert!(matches!(judge_gone(&s, Some(&s), &[]), Judgement::Waiting(_)));
        assert!(matches!(judge_gone(&s, None, &[]), Judgement::Sure(_)));
        assert!(matches!(judge(&s, None, &[], &BTreeSet::new()), Judgement::Hopeless(_)));
    }
}
