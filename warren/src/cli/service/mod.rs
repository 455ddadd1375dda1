//! `warren service …`

mod create;
mod flags;
mod inspect;
mod logs;
mod ls;
mod ps;
mod reach;
mod rm;
mod rollback;
mod scale;
mod show;
mod update;

use clap::Subcommand;

use super::Context;
use crate::model::Task;
use reach::announce;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Create a service and wait until it runs.
    Create(Box<create::Args>),
    /// List services.
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// List the tasks of services, with the reason of every wait and every end.
    Ps(ps::Args),
    /// Show what a service's or a task's containers write.
    Logs(logs::Args),
    /// Show a service whole, as JSON.
    Inspect(inspect::Args),
    /// Change the number of replicas and wait until they run.
    Scale(scale::Args),
    /// Change a service, replace its tasks one by one where they must be, and wait until all run.
    Update(Box<update::Args>),
    /// Return a service to its spec before the last update, and wait until all tasks run it.
    Rollback(rollback::Args),
    /// Remove services and wait until nothing of them is left.
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
}

pub(super) async fn run(verb: Verb, context: &Context) -> anyhow::Result<()> {
    match verb {
        Verb::Create(args) => create::run(*args, context).await,
        Verb::Ls(args) => ls::run(args, context).await,
        Verb::Ps(args) => ps::run(args, context).await,
        Verb::Logs(args) => logs::run(args, context).await,
        Verb::Inspect(args) => inspect::run(args, context).await,
        Verb::Scale(args) => scale::run(args, context).await,
        Verb::Update(args) => update::run(*args, context).await,
        Verb::Rollback(args) => rollback::run(args, context).await,
        Verb::Rm(args) => rm::run(args, context).await,
    }
}

fn task_json(t: &Task) -> serde_json::Value {
    let container = t.status.container;
    serde_json::json!({
        "id": t.id.to_string(),
        "name": format!("{}.{}", t.service_name, t.slot),
        "service": t.service_name,
        "slot": t.slot,
        "image": t.spec.image.to_string(),
        "node": t.node.map(|n| n.to_string()),
        "desired": t.desired.name(),
        "state": t.status.state.name(),
        "since_ms": t.status.at.0,
        "message": t.status.message,
        "address": t.attachment.map(|a| a.address.to_string()),
        "address6": t.attachment.map(|a| a.address6.to_string()),
        "backend": t.attachment.map(|a| a.backend),
        "pid": container.map(|c| c.pid).filter(|&p| p != 0),
        "exit_code": container.and_then(|c| c.exit_code),
    })
}
