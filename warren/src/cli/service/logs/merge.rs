//! Several tasks' lines in the order of their times.
//!
//! What was written before the call is merged exactly: nothing is shown before every task has told
//! its next line or that it has none. After that a task is not waited for any more.

use std::{collections::VecDeque, io};

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
}

type Answer = (usize, Streaming<LogRecords>, Result<Option<LogRecords>, Status>);

/// The outputs of several tasks, becoming one.
pub(super) struct Merge {
    client: LogsClient<Channel>,
    request: ReadLogRequest,
    sources: Vec<Source>,
    asked: FuturesUnordered<BoxFuture<'static, Answer>>,
}

impl Merge {
    pub(super) fn new(client: LogsClient<Channel>, request: ReadLogRequest) -> Self {
        Self { client, request, sources: Vec::new(), asked: FuturesUnordered::new() }
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
        self.sources.push(Source {
            label: Label::of(task),
            lines: VecDeque::new(),
            stream: Some(stream),
            caught_up: false,
        });
        self.ask();
        Ok(())
    }

    /// Asks those for more that have told all they had; the others wait, so that memory is bounded.
    fn ask(&mut self) {
        for (number, source) in self.sources.iter_mut().enumerate() {
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
        self.asked.is_empty() && self.sources.iter().all(|s| s.lines.is_empty() && s.stream.is_none())
    }

    /// Waits for somebody to tell more. Nothing is lost when it is cut off.
    pub(super) async fn next(&mut self) -> Result<(), Status> {
        let Some((number, stream, answer)) = self.asked.next().await else { return Ok(()) };
        let source = &mut self.sources[number];
        if let Some(more) = answer? {
            source.caught_up |= more.caught_up;
            source.lines.extend(more.records);
            source.stream = Some(stream);
        } else {
            source.caught_up = true;
        }
        Ok(())
    }

    /// Prints what can be said to come next.
    pub(super) fn print<O: io::Write, E: io::Write>(&mut self, to: &mut Printer<O, E>) -> io::Result<()> {
        while self.sources.iter().all(|s| s.caught_up || !s.lines.is_empty()) {
            let first = self
                .sources
                .iter()
                .enumerate()
                .filter_map(|(number, s)| Some((s.lines.front()?.at_ns, number)))
                .min();
            let Some((_, number)) = first else { break };
            let source = &mut self.sources[number];
            if let Some(record) = source.lines.pop_front() {
                to.line(number, &source.label, &record)?;
            }
        }
        to.flush()?;
        self.ask();
        Ok(())
    }
}
