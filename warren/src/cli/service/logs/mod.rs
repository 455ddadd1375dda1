//! `warren service logs`. `target`: whose output. `merge`: of several tasks, in order. `print`: a
//! line as it is shown.

mod merge;
mod print;
mod target;

use std::{collections::BTreeSet, io, time::SystemTime};

use tonic::{Code, transport::Channel};

use self::{
    merge::Merge,
    print::{Printer, Style},
    target::Target,
};
use crate::{
    cli::{Context, time},
    model::{Task, TaskState},
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
    /// Go on with what is written, also by tasks that come later, until all have ended.
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
    };
    let mut merge = Merge::new(logs, request);
    let mut asked = BTreeSet::new();
    let mut watch = None;
    match target {
        Target::Tasks(tasks) => {
            for task in tasks {
                merge.add(&task, true).await?;
            }
        }
        Target::Service(service, tasks) => {
            if args.follow {
                let request = GetServiceRequest { service: service.id.to_string() };
                watch = Some(control.watch_service(request).await?.into_inner());
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
        tokio::select! {
            more = merge.next(), if !merge.is_done() => more?,
            progress = news => match progress {
                Ok(Some(ServiceProgress { service: Some(_), tasks })) => {
                    for task in tasks {
                        let task = Task::try_from(task)?;
                        if is_known(&task) && asked.insert(task.id) {
                            merge.add(&task, false).await?;
                        }
                    }
                }
                // The service is gone: what its last tasks wrote is still to come.
                Ok(_) => watch = None,
                Err(status) if status.code() == Code::NotFound => watch = None,
                Err(status) => return Err(status.into()),
            },
        }
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
