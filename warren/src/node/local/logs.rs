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
    worker::logs::{
        self, Begun, Changes, Line, Place, Position, Query, Reader, Step, writer::record::Stream as Source,
    },
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
        let from = request.from.map(place);
        let reading = Reading { dir, task, assignment: self.assignment.clone(), sender };
        tokio::spawn(reading.run(query, from, request.follow));
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

fn place(p: v1::LogPlace) -> Place {
    let begun = |b: v1::log_place::Begun| Begun {
        from: Position { number: b.file, offset: b.offset },
        at_ns: b.at_ns,
        told: b.told,
    };
    Place {
        at: Position { number: p.file, offset: p.offset },
        last_ns: p.at_ns,
        begun: [p.stdout.map(begun), p.stderr.map(begun)],
        first: Position { number: p.first_file, offset: p.first_offset },
    }
}

fn wire_place(p: Place) -> v1::LogPlace {
    let begun = |b: Begun| v1::log_place::Begun {
        file: b.from.number,
        offset: b.from.offset,
        at_ns: b.at_ns,
        told: b.told,
    };
    let [stdout, stderr] = p.begun.map(|b| b.map(begun));
    v1::LogPlace {
        file: p.at.number,
        offset: p.at.offset,
        at_ns: p.last_ns,
        stdout,
        stderr,
        first_file: p.first.number,
        first_offset: p.first.offset,
    }
}

/// One reader's way through a task's output.
struct Reading {
    dir: PathBuf,
    task: TaskId,
    assignment: watch::Receiver<Option<Arc<Assignment>>>,
    sender: mpsc::Sender<Batch>,
}

impl Reading {
    async fn run(self, query: Query, from: Option<Place>, follow: bool) {
        if let Err(status) = self.read(query, from, follow).await {
            // Nobody listens any more: nobody needs to know.
            let _ = self.sender.send(Err(status)).await;
        }
    }

    async fn read(&self, query: Query, from: Option<Place>, follow: bool) -> Result<(), Status> {
        // Before the first look, so that no change is missed after it.
        let mut changes = follow.then(|| Changes::of(&self.dir));
        let until = query.until_ns;
        let dir = self.dir.clone();
        let open = move || match from {
            None => Reader::open(&dir, query, follow),
            Some(place) => Reader::resume(&dir, query, place, follow),
        };
        let mut reader = blocking(open).await?;
        let mut caught_up = false;
        let mut assignment = self.assignment.clone();
        loop {
            // Asked before the files are read: what is there when nobody writes any more is all.
            let lives = lives(&assignment.borrow_and_update(), self.task);
            let over = !(lives || logs::is_written(&self.dir)) || until.is_some_and(passed);
            loop {
                let (next, lines, step) = blocking(move || fill(reader)).await?;
                reader = next;
                if !lines.is_empty() && !self.send(lines, &reader, Mark::None).await {
                    return Ok(());
                }
                if step == Step::End {
                    break;
                }
            }
            let Some(changes) = changes.as_mut().filter(|_| !over) else { break };
            let news = !std::mem::replace(&mut caught_up, true);
            if news && !self.send(Vec::new(), &reader, Mark::CaughtUp).await {
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
        self.send(lines, &reader, Mark::Ended).await;
        Ok(())
    }

    /// Sends what the reader has told last; whether anybody listens.
    async fn send(&self, lines: Vec<Line>, reader: &Reader, mark: Mark) -> bool {
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
        let records = v1::LogRecords {
            records,
            caught_up: mark != Mark::None,
            place: Some(wire_place(reader.place())),
            ended: mark == Mark::Ended,
        };
        self.sender.send(Ok(records)).await.is_ok()
    }
}

/// What a message says beside its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    /// All that there was is told.
    CaughtUp,
    /// Nothing comes any more.
    Ended,
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
