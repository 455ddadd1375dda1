//! Several tasks' lines in the order of their times.
//!
//! What was written before the call is merged exactly: nothing is shown before every task has told
//! its next line or that it has none. After that a task is not waited for any more. The same holds
//! for what was written while the node was away.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tonic::{Code, Status, Streaming, transport::Channel};

use super::print::{Label, Printer};
use crate::{
    model::{Task, TaskId},
    proto::v1::{LogPlace, LogRecord, LogRecords, ReadLogRequest, logs_client::LogsClient},
};

struct Source {
    task: TaskId,
    label: Label,
    lines: VecDeque<LogRecord>,
    /// Behind the last line it told; `None` before it told anything.
    place: Option<LogPlace>,
    /// `None` while it is asked for more, and at its end.
    stream: Option<Streaming<LogRecords>>,
    caught_up: bool,
    ended: bool,
}

type Answer = (usize, Streaming<LogRecords>, Result<Option<LogRecords>, Status>);

/// The outputs of several tasks, becoming one.
pub(super) struct Merge {
    client: LogsClient<Channel>,
    request: ReadLogRequest,
    /// Those that may still tell something, by the order in which they were added.
    sources: BTreeMap<usize, Source>,
    added: usize,
    asked: FuturesUnordered<BoxFuture<'static, Answer>>,
}

impl Merge {
    pub(super) fn new(client: LogsClient<Channel>, request: ReadLogRequest) -> Self {
        Self { client, request, sources: BTreeMap::new(), added: 0, asked: FuturesUnordered::new() }
    }

    /// Adds a task's output. Unless it is `needed`, a task that its node knows nothing of (it never
    /// got as far as running) adds none.
    pub(super) async fn add(&mut self, task: &Task, needed: bool) -> Result<(), Status> {
        let stream = match self.read(task.id, None).await {
            Ok(stream) => stream,
            Err(status) if status.code() == Code::NotFound && !needed => return Ok(()),
            Err(status) => return Err(status),
        };
        let source = Source {
            task: task.id,
            label: Label::of(task),
            lines: VecDeque::new(),
            place: None,
            stream: Some(stream),
            caught_up: false,
            ended: false,
        };
        self.sources.insert(self.added, source);
        self.added += 1;
        self.ask();
        Ok(())
    }

    async fn read(&mut self, task: TaskId, from: Option<LogPlace>) -> Result<Streaming<LogRecords>, Status> {
        let request = ReadLogRequest { task: task.to_string(), from, ..self.request.clone() };
        Ok(self.client.read_log(request).await?.into_inner())
    }

    /// Goes on with another client, behind what was told to this one; those of whose output nothing
    /// is left. May be called again when it was cut off or did not work.
    pub(super) async fn resume(&mut self, client: LogsClient<Channel>) -> Result<Vec<TaskId>, Status> {
        self.client = client;
        // What they were about to tell is behind their places: it is told again.
        self.asked.clear();
        let mut gone = Vec::new();
        let open: Vec<usize> = self.sources.iter().filter(|(_, s)| !s.ended).map(|(n, _)| *n).collect();
        for number in open {
            let Some(source) = self.sources.get_mut(&number) else { continue };
            (source.stream, source.caught_up) = (None, false);
            let (task, place) = (source.task, source.place);
            let answer = self.read(task, place).await;
            let Some(source) = self.sources.get_mut(&number) else { continue };
            match answer {
                Ok(stream) => source.stream = Some(stream),
                Err(status) if status.code() == Code::NotFound => {
                    (source.caught_up, source.ended) = (true, true);
                    gone.push(task);
                }
                Err(status) => return Err(status),
            }
        }
        self.ask();
        Ok(gone)
    }

    /// Asks those for more that have told all they had; the others wait, so that memory is bounded.
    fn ask(&mut self) {
        for (&number, source) in &mut self.sources {
            if source.lines.is_empty()
                && let Some(mut stream) = source.stream.take()
            {
                self.asked.push(Box::pin(async move {
                    let answer = stream.message().await;
                    (number, stream, answer)
                }));
            }
        }
    }

    /// Whether all is told.
    pub(super) fn is_done(&self) -> bool {
        self.sources.is_empty()
    }

    /// Waits for somebody to tell more. Nothing is lost when it is cut off.
    pub(super) async fn next(&mut self) -> Result<(), Status> {
        let Some((number, stream, answer)) = self.asked.next().await else { return Ok(()) };
        let Some(source) = self.sources.get_mut(&number) else { return Ok(()) };
        match answer? {
            Some(more) => {
                source.caught_up |= more.caught_up;
                source.ended = more.ended;
                source.lines.extend(more.records);
                source.place = more.place;
                source.stream = (!more.ended).then_some(stream);
                Ok(())
            }
            None => Err(Status::unavailable("the node stopped before it had told all")),
        }
    }

    /// Prints what can be said to come next.
    pub(super) fn print<O: io::Write, E: io::Write>(&mut self, to: &mut Printer<O, E>) -> io::Result<()> {
        while self.sources.values().all(|s| s.caught_up || !s.lines.is_empty()) {
            let next = |(number, s): (&usize, &Source)| Some((s.lines.front()?.at_ns, *number));
            let Some((_, number)) = self.sources.iter().filter_map(next).min() else { break };
            let Some(source) = self.sources.get_mut(&number) else { break };
            if let Some(record) = source.lines.pop_front() {
                to.line(number, &source.label, &record)?;
            }
        }
        self.sources.retain(|_, s| !s.ended || !s.lines.is_empty());
        to.flush()?;
        self.ask();
        Ok(())
    }
}
