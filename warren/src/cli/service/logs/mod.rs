//! `warren service logs`. `target`: whose output. `merge`: of several tasks, in order. `print`: a
//! line as it is shown. `again`: a node that goes away and comes back.

mod again;
mod merge;
mod print;
mod target;

use std::{collections::BTreeSet, io, time::SystemTime};

use tonic::{Code, Status, Streaming, transport::Channel};

use self::{
    merge::Merge,
    print::{Printer, Style},
    target::Target,
};
use crate::{
    cli::{Context, time},
    model::{ServiceId, Task, TaskId, TaskState},
    proto::v1::{
        GetServiceRequest, ReadLogRequest, ServiceProgress, control_client::ControlClient,
        read_log_request::Stream as WireStream,
    },
};

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Stream {
    Stdout,
    Stderr,
}

/// Show what a service's or a task's containers write.
///
/// Lines of standard output go to standard output, those of standard error to standard error.
/// Those of several tasks are put in the order of their times.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// A service, by name or id, or a task: its id, the beginning of it, or SERVICE.SLOT.
    #[arg(value_name = "SERVICE|TASK")]
    of: String,
    /// Go on with what is written, also by tasks that come later, until all have ended. A node that
    /// goes away is waited for, up to a minute.
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of each task, of those that the other flags leave, or `all`.
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = last)]
    tail: Tail,
    /// Only from this moment on: as long ago (10m), or RFC 3339 (2026-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<time::Moment>,
    /// Only before this moment, written in the same way.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    until: Option<time::Moment>,
    /// Show when each line was written.
    #[arg(short, long)]
    timestamps: bool,
    /// Only what was written there.
    #[arg(long, value_enum, value_name = "STREAM")]
    stream: Option<Stream>,
    /// Only lines in which this regular expression matches.
    #[arg(long, value_name = "REGEX")]
    grep: Option<String>,
    /// Do not show which task wrote a line.
    #[arg(long)]
    no_task_names: bool,
}

#[derive(Debug, Clone, Copy)]
struct Tail(Option<u64>);

fn last(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        n => n.parse().map(|n| Tail(Some(n))).map_err(|_| "expected a number of lines or `all`".to_owned()),
    }
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let mut control = context.control().await?;
    let target = target::find(&mut control, &args.of).await?;
    let style = Style {
        names: !args.no_task_names && target.is_service(),
        timestamps: args.timestamps,
        colour: print::colour(),
    };
    let mut printer = Printer::new(style, io::stdout().lock(), io::stderr().lock());
    match show(&args, context, &mut control, target, &mut printer).await {
        // Who read it has seen enough.
        Err(e) if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
            Ok(())
        }
        other => other,
    }
}

async fn show(
    args: &Args,
    context: &Context,
    control: &mut ControlClient<Channel>,
    target: Target,
    printer: &mut Printer<impl io::Write, impl io::Write>,
) -> anyhow::Result<()> {
    let logs = context.logs().await?;
    let now = SystemTime::now();
    let request = ReadLogRequest {
        task: String::new(),
        follow: args.follow,
        tail: args.tail.0,
        since_ns: args.since.map_or(0, |t| t.unix_ns(now)),
        until_ns: args.until.map_or(0, |t| t.unix_ns(now)),
        stream: match args.stream {
            None => WireStream::All,
            Some(Stream::Stdout) => WireStream::Stdout,
            Some(Stream::Stderr) => WireStream::Stderr,
        }
        .into(),
        grep: args.grep.clone().unwrap_or_default(),
        from: None,
    };
    let mut merge = Merge::new(logs, request);
    let mut asked = BTreeSet::new();
    let mut service = None;
    let mut watch = None;
    match target {
        Target::Tasks(tasks) => {
            for task in tasks {
                merge.add(&task, true).await?;
            }
        }
        Target::Service(of, tasks) => {
            if args.follow {
                watch = self::watch(control, of.id).await?;
                service = Some(of.id);
            }
            for task in tasks.iter().filter(|t| is_known(t)) {
                asked.insert(task.id);
                merge.add(task, false).await?;
            }
        }
    }
    loop {
        merge.print(printer)?;
        if merge.is_done() && watch.is_none() {
            return Ok(());
        }
        let news = async {
            match &mut watch {
                Some(watch) => watch.message().await,
                None => std::future::pending().await,
            }
        };
        let heard = tokio::select! {
            more = merge.next(), if !merge.is_done() => more.map(|()| None),
            progress = news => progress.map(Some),
        };
        let heard = match heard {
            Ok(None) => Ok(()),
            Ok(Some(Some(ServiceProgress { service: Some(_), tasks }))) => {
                add(&mut merge, &mut asked, tasks).await?
            }
            // The service is gone: what its last tasks wrote is still to come.
            Ok(Some(Some(_))) => {
                watch = None;
                Ok(())
            }
            Ok(Some(None)) => Err(Status::unavailable("the node stopped")),
            Err(status) if status.code() == Code::NotFound => {
                watch = None;
                Ok(())
            }
            Err(status) => Err(status),
        };
        match heard {
            Ok(()) => {}
            Err(status) if args.follow && again::is_away(&status) => {
                let service = service.filter(|_| watch.is_some());
                watch = again::when_back(async || reconnect(context, &mut merge, service).await).await?;
            }
            Err(status) => return Err(status.into()),
        }
    }
}

/// Adds those that a node has heard of by now.
async fn add(
    merge: &mut Merge,
    asked: &mut BTreeSet<TaskId>,
    tasks: Vec<crate::proto::v1::Task>,
) -> anyhow::Result<Result<(), Status>> {
    for task in tasks {
        let task = Task::try_from(task)?;
        if is_known(&task) && !asked.contains(&task.id) {
            if let Err(status) = merge.add(&task, false).await {
                return Ok(Err(status));
            }
            asked.insert(task.id);
        }
    }
    Ok(Ok(()))
}

/// What becomes of a service; `None` when it is gone.
async fn watch(
    control: &mut ControlClient<Channel>,
    service: ServiceId,
) -> Result<Option<Streaming<ServiceProgress>>, Status> {
    match control.watch_service(GetServiceRequest { service: service.to_string() }).await {
        Ok(watch) => Ok(Some(watch.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status),
    }
}

/// Goes on where everything was.
async fn reconnect(
    context: &Context,
    merge: &mut Merge,
    service: Option<ServiceId>,
) -> anyhow::Result<Option<Streaming<ServiceProgress>>> {
    for task in merge.resume(context.logs().await?).await? {
        eprintln!("warren: what task {task} wrote last has been removed meanwhile");
    }
    match service {
        Some(service) => Ok(watch(&mut context.control().await?, service).await?),
        None => Ok(None),
    }
}

/// Whether a node has heard of it: before that, there is nobody to ask.
fn is_known(task: &Task) -> bool {
    task.node.is_some() && task.status.state >= TaskState::Accepted
}

impl Target {
    fn is_service(&self) -> bool {
        matches!(self, Self::Service(..))
    }
}

#[cfg(test)]
fn a_task(service: &str, slot: u32, n: u8) -> Task {
    let mut task = crate::worker::testing::a_task(n);
    task.service_name = service.to_owned();
    task.slot = slot;
    task
}
