//! Whose output: what was named, among what there is.

use tonic::{Code, transport::Channel};

use crate::{
    model::{Service, Task},
    proto::v1::{GetServiceRequest, ListTasksRequest, control_client::ControlClient},
};

/// Whose output is shown.
pub(super) enum Target {
    /// A service's, with its tasks.
    Service(Box<Service>, Vec<Task>),
    /// These tasks'.
    Tasks(Vec<Task>),
}

pub(super) async fn find(control: &mut ControlClient<Channel>, named: &str) -> anyhow::Result<Target> {
    let tasks = |answer: crate::proto::v1::ListTasksResponse| {
        answer.tasks.into_iter().map(Task::try_from).collect::<Result<Vec<_>, _>>()
    };
    match control.get_service(GetServiceRequest { service: named.to_owned() }).await {
        Ok(service) => {
            let service = Service::try_from(service.into_inner())?;
            let request = ListTasksRequest { service: service.id.to_string() };
            Ok(Target::Service(Box::new(service), tasks(control.list_tasks(request).await?.into_inner())?))
        }
        Err(status) if status.code() == Code::NotFound => {
            let all = control.list_tasks(ListTasksRequest { service: String::new() }).await?;
            Ok(Target::Tasks(among(tasks(all.into_inner())?, named).map_err(anyhow::Error::msg)?))
        }
        Err(status) => Err(status.into()),
    }
}

/// The tasks that are meant: by id, by the beginning of one, or all of a slot.
fn among(tasks: Vec<Task>, named: &str) -> Result<Vec<Task>, String> {
    let slot = |t: &Task| format!("{}.{}", t.service_name, t.slot);
    let found: Vec<Task> = tasks
        .into_iter()
        .filter(|t| {
            // Also as the lines themselves name it: SERVICE.SLOT.ID.
            let id = named.strip_prefix(&format!("{}.", slot(t))).unwrap_or(named);
            slot(t) == named || (!id.is_empty() && t.id.as_str().starts_with(id))
        })
        .collect();
    let of_one_slot = found.iter().all(|t| slot(t) == named);
    match found.len() {
        0 => Err(format!(
            "there is no service and no task {named}: see `warren service ls` and `warren service ps`"
        )),
        1 => Ok(found),
        _ if of_one_slot => Ok(found),
        n => Err(format!("{named} is the beginning of {n} tasks' ids: write more of it")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::a_task, *};

    #[test]
    fn tasks_are_named_in_several_ways() {
        let tasks = || vec![a_task("web", 1, 1), a_task("web", 1, 2), a_task("db", 2, 38)];
        let ask = |named: &str| among(tasks(), named).map(|t| t.len());
        let id = tasks()[2].id.to_string();
        assert_eq!(ask(&id), Ok(1));
        assert_eq!(ask(&id[..2]), Ok(1));
        assert_eq!(ask(&format!("db.2.{}", &id[..2])), Ok(1));
        assert_eq!(ask("web.1"), Ok(2));
        assert!(ask("web.2").unwrap_err().contains("no service and no task web.2"));
        let shared: String = tasks()[0].id.as_str().chars().take(0).collect();
        assert!(ask(&shared).is_err(), "nothing names nothing");
        assert_eq!(tasks()[0].id.as_str()[1..], tasks()[1].id.as_str()[1..]);
    }
}
