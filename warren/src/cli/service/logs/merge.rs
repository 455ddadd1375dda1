//! Several tasks' lines in the order of their times.
//!
//! What was written before the call is merged exactly: nothing is shown before every task has told
//! its next line or that it has none. After that a task is not waited for any more.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tonic::{Code, Status, Streaming, transport::Channel};

use super::print::{Label, Printer};
use crate::{
    model::Task,
    proto::v1::{LogRecord, LogRecords, ReadLogRequest, logs_client::LogsClient},
};

struct Source {
    label: Label,
    lines: VecDeque<LogRecord>,
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
        let request = ReadLogRequest { task: task.id.to_string(), ..self.request.clone() };
        let stream = match self.client.read_log(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) if status.code() == Code::NotFound && !needed => return Ok(()),
            Err(status) => return Err(status),
        };
        let source = Source {
            label: Label::of(task),
            lines: VecDeque::new(),
            stream: Some(stream),
            caught_up: false,
            ended: false,
        };
        self.sources.insert(self.added, source);
        self.added += 1;
        self.ask();
        Ok(())
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
        if let Some(more) = answer? {
            source.caught_up |= more.caught_up;
            source.lines.extend(more.records);
            source.stream = Some(stream);
        } else {
            (source.caught_up, source.ended) = (true, true);
        }
        Ok(())
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
