//! The `Logs` service: what this node's containers write.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::Stream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    model::{Assignment, TaskId},
    proto::v1::{self, logs_server, read_log_request::Stream as WireStream},
    worker::logs::{self, Changes, Line, Query, Reader, Step, writer::record::Stream as Source},
};

/// Messages that may wait for a slow reader.
const AHEAD: usize = 2;
/// Bytes of lines in one message, about.
const MESSAGE: usize = 256 * 1024;
/// After a change, so that a container that writes line by line is not read line by line.
const PAUSE: Duration = Duration::from_millis(10);

/// Answers for what this node's containers write.
pub(in crate::node) struct Logs {
    pub(in crate::node) logs: logs::Logs,
    pub(in crate::node) assignment: watch::Receiver<Option<Arc<Assignment>>>,
}

type Batch = Result<v1::LogRecords, Status>;

#[tonic::async_trait]
impl logs_server::Logs for Logs {
    type ReadLogStream = Pin<Box<dyn Stream<Item = Batch> + Send>>;

    async fn read_log(
        &self,
        request: Request<v1::ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let request = request.into_inner();
        let task: TaskId = request.task.parse().map_err(|e| Status::invalid_argument(format!("{e}")))?;
        let query = query(&request)?;
        let dir = self.logs.of(task);
        if !dir.is_dir() && !lives(&self.assignment.borrow(), task) {
            return Err(Status::not_found(format!(
                "this node has nothing of task {task}: it never ran here, or is not listed any more"
            )));
        }
        let (sender, receiver) = mpsc::channel(AHEAD);
        let reading = Reading { dir, task, assignment: self.assignment.clone(), sender };
        tokio::spawn(reading.run(query, request.follow));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Whether a task may still write.
fn lives(assignment: &Option<Arc<Assignment>>, task: TaskId) -> bool {
    assignment.as_ref().is_none_or(|a| a.tasks.iter().any(|t| t.id == task && !t.status.state.is_final()))
}

fn query(request: &v1::ReadLogRequest) -> Result<Query, Status> {
    let pattern = match request.grep.as_str() {
        "" => None,
        text => Some(regex::bytes::Regex::new(text).map_err(|e| {
            // The last line says what is wrong; those before draw it.
            let why = e.to_string();
            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Status::invalid_argument(format!("\"{text}\" is not a regular expression: {why}"))
        })?),
    };
    let bound = |ns: i64| (ns != 0).then_some(ns);
    Ok(Query {
        tail: request.tail,
        since_ns: bound(request.since_ns),
        until_ns: bound(request.until_ns),
        stream: match request.stream() {
            WireStream::All => None,
            WireStream::Stdout => Some(Source::Stdout),
            WireStream::Stderr => Some(Source::Stderr),
        },
        pattern,
    })
}

/// One reader's way through a task's output.
struct Reading {
    dir: PathBuf,
    task: TaskId,
    assignment: watch::Receiver<Option<Arc<Assignment>>>,
    sender: mpsc::Sender<Batch>,
}

impl Reading {
    async fn run(self, query: Query, follow: bool) {
        if let Err(status) = self.read(query, follow).await {
            // Nobody listens any more: nobody needs to know.
            let _ = self.sender.send(Err(status)).await;
        }
    }

    async fn read(&self, query: Query, follow: bool) -> Result<(), Status> {
        // Before the first look, so that no change is missed after it.
        let mut changes = follow.then(|| Changes::of(&self.dir));
        let until = query.until_ns;
        let dir = self.dir.clone();
        let mut reader = blocking(move || Reader::open(&dir, query, follow)).await?;
        let mut caught_up = false;
        let mut assignment = self.assignment.clone();
        loop {
            // Asked before the files are read: what is there when nobody writes any more is all.
            let lives = lives(&assignment.borrow_and_update(), self.task);
            let over = !(lives || logs::is_written(&self.dir)) || until.is_some_and(passed);
            loop {
                let (next, lines, step) = blocking(move || fill(reader)).await?;
                reader = next;
                if !lines.is_empty() && !self.send(lines, false).await {
                    return Ok(());
                }
                if step == Step::End {
                    break;
                }
            }
            let Some(changes) = changes.as_mut().filter(|_| !over) else { break };
            if !std::mem::replace(&mut caught_up, true) && !self.send(Vec::new(), true).await {
                return Ok(());
            }
            tokio::select! {
                () = changes.next() => tokio::time::sleep(PAUSE).await,
                _ = assignment.changed() => {}
                () = self.sender.closed() => return Ok(()),
            }
        }
        let mut lines = Vec::new();
        reader.finish(&mut lines);
        self.send(lines, true).await;
        Ok(())
    }

    /// Sends lines; whether anybody listens.
    async fn send(&self, lines: Vec<Line>, caught_up: bool) -> bool {
        let records = lines
            .into_iter()
            .map(|l| v1::LogRecord {
                at_ns: l.at_ns,
                stream: match l.stream {
                    Source::Stdout => WireStream::Stdout,
                    Source::Stderr => WireStream::Stderr,
                }
                .into(),
                data: l.data,
            })
            .collect();
        self.sender.send(Ok(v1::LogRecords { records, caught_up })).await.is_ok()
    }
}

/// Whether a moment is over. A line takes a moment from the container to the file.
fn passed(until_ns: i64) -> bool {
    let until = SystemTime::UNIX_EPOCH + Duration::from_nanos(until_ns.max(0).unsigned_abs());
    SystemTime::now() > until + Duration::from_millis(200)
}

/// Reads about a message's worth of lines.
fn fill(mut reader: Reader) -> std::io::Result<(Reader, Vec<Line>, Step)> {
    let mut lines = Vec::new();
    loop {
        let step = reader.step(&mut lines)?;
        if step == Step::End || lines.iter().map(|l| l.data.len() + 16).sum::<usize>() >= MESSAGE {
            return Ok((reader, lines, step));
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))?;
    done.map_err(|e| Status::internal(format!("the task's output cannot be read: {e}")))
}
