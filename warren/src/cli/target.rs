//! Which task is meant: by id, by an unambiguous beginning of one, by `service.slot`, or by
//! service.

use super::Context;
use crate::{
    model::{Task, TaskState},
    proto::v1::ListTasksRequest,
};

/// A word that names no task, or none that can be used. One sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct TargetError(String);

/// All tasks of the cluster.
pub(super) async fn all(context: &Context) -> anyhow::Result<Vec<Task>> {
    let request = ListTasksRequest { service: String::new() };
    let answer = context.control().await?.list_tasks(request).await?.into_inner();
    Ok(answer.tasks.into_iter().map(Task::try_from).collect::<Result<_, _>>()?)
}

/// The one running task that `word` names. Of a service with several, the first: which one is
/// said on standard error.
pub(super) async fn one(context: &Context, word: &str) -> anyhow::Result<Task> {
    let found = running(&all(context).await?, word)?;
    let Some(first) = found.first() else { anyhow::bail!("no task {word}") };
    if found.len() > 1 {
        let (name, slot, id) = (&first.service_name, first.slot, first.id);
        eprintln!("warren: {word} has {} running tasks; this is {name}.{slot} ({id})", found.len());
    }
    Ok(first.clone())
}

/// The running tasks that `word` names: one, or those of a service by their slots.
pub(super) fn running(tasks: &[Task], word: &str) -> Result<Vec<Task>, TargetError> {
    let runs = |t: &&Task| t.status.state == TaskState::Running;
    let of_service = |name: &str| -> Vec<&Task> {
        tasks.iter().filter(|t| t.service_name == name || t.service.as_str() == name).collect()
    };
    let service = of_service(word);
    if !service.is_empty() {
        let mut found: Vec<Task> = service.iter().copied().filter(runs).cloned().collect();
        found.sort_by_key(|t| (t.slot, t.created_at, t.id));
        if found.is_empty() {
            return Err(TargetError(format!(
                "service {word} has no running task; `warren service ps {word}` shows why"
            )));
        }
        return Ok(found);
    }
    if let Some((name, slot)) = word.rsplit_once('.')
        && let Ok(slot) = slot.parse::<u32>()
    {
        let of_slot: Vec<&Task> = of_service(name).into_iter().filter(|t| t.slot == slot).collect();
        let newest = of_slot.iter().copied().max_by_key(|t| (runs(t), t.created_at, t.id));
        return match newest {
            Some(t) => only_running(t, word),
            None => Err(TargetError(format!("no task {word}; `warren service ps` shows those there are"))),
        };
    }
    let mut begins: Vec<&Task> =
        tasks.iter().filter(|t| !word.is_empty() && t.id.as_str().starts_with(word)).collect();
    begins.sort_by_key(|t| t.id);
    match begins[..] {
        [] => {
            Err(TargetError(format!("no task or service {word}; `warren service ps` shows those there are")))
        }
        [one] => only_running(one, word),
        [a, b, ..] => Err(TargetError(format!(
            "{word} is the beginning of {} tasks' ids, {} and {} among them; write more of it",
            begins.len(),
            a.id,
            b.id
        ))),
    }
}

fn only_running(task: &Task, word: &str) -> Result<Vec<Task>, TargetError> {
    if task.status.state == TaskState::Running {
        return Ok(vec![task.clone()]);
    }
    let why = &task.status.message;
    let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
    Err(TargetError(format!("task {word} is not running: it is {}{why}", task.status.state)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{TaskId, TaskSpec, Timestamp},
        worker::runtime::testing::task,
    };

    fn tasks() -> Vec<Task> {
        let make = |id: &str, service: &str, slot, state, at| {
            let mut t = task(1, TaskSpec::new("a:1".parse().unwrap()));
            t.id = id.parse::<TaskId>().unwrap();
            t.service_name = service.to_owned();
            (t.slot, t.status.state, t.created_at) = (slot, state, Timestamp(at));
            t
        };
        vec![
            make("aaaa000000000001", "web", 2, TaskState::Running, 5),
            make("aaaa000000000002", "web", 1, TaskState::Failed, 1),
            make("bbbb000000000003", "web", 1, TaskState::Running, 2),
            make("cccc000000000004", "job", 1, TaskState::Complete, 9),
        ]
    }

    #[test]
    fn tasks_are_named_in_four_ways() {
        let ids = |word: &str| {
            let found = running(&tasks(), word);
            found.map(|f| {
                f.iter()
                    .map(|t| t.id.to_string()[..4].to_owned() + &t.id.to_string()[15..])
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(ids("web").unwrap(), ["bbbb3", "aaaa1"]);
        assert_eq!(ids("web.1").unwrap(), ["bbbb3"]);
        assert_eq!(ids("b").unwrap(), ["bbbb3"]);
        assert_eq!(ids("aaaa000000000001").unwrap(), ["aaaa1"]);
        let said = |word: &str| ids(word).unwrap_err().to_string();
        assert!(said("aaaa").contains("beginning of 2 tasks' ids"), "{}", said("aaaa"));
        assert!(said("web.3").starts_with("no task web.3"));
        assert!(said("nobody").starts_with("no task or service nobody"));
        assert!(said("").starts_with("no task or service"));
        assert_eq!(said("aaaa000000000002"), "task aaaa000000000002 is not running: it is failed");
        assert!(said("job").starts_with("service job has no running task"));
        assert_eq!(said("job.1"), "task job.1 is not running: it is complete");
    }
}
