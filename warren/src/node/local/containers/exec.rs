//! `Exec`: a program in a container, its streams carried both ways.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{Answers, Containers, answers, runtime_error};
use crate::{
    proto::v1::{ExecRequest, ExecResponse, exec_request, exec_response::Part},
    worker::runtime::exec::{
        Exec, ExecControl, ExecError, ExecEvent, ExecInput, ExecSpec, Streams, TerminalSize,
    },
};

/// Input that a client may have sent beyond what was confirmed.
const INPUT_AHEAD: usize = 1 << 20;
/// Confirmed at once.
const CONFIRM: u64 = 64 << 10;

type Answer = mpsc::Sender<Result<ExecResponse, Status>>;

fn part(part: Part) -> Result<ExecResponse, Status> {
    Ok(ExecResponse { part: Some(part) })
}

fn size(s: crate::proto::v1::TerminalSize) -> TerminalSize {
    let cut = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    TerminalSize { rows: cut(s.rows), columns: cut(s.columns) }
}

fn spec(start: exec_request::Start) -> ExecSpec {
    let streams = match (start.detach, start.tty) {
        (true, _) => Streams::Detached,
        (false, true) => Streams::Terminal(size(start.size.unwrap_or_default())),
        (false, false) => Streams::Apart,
    };
    ExecSpec {
        command: start.command,
        streams,
        stdin: start.stdin,
        env: start.env.into_iter().map(|v| (v.name, v.value)).collect(),
        workdir: start.workdir,
        user: start.user,
        privileged: start.privileged,
    }
}

impl Containers {
    pub(super) async fn exec_stream(
        &self,
        mut parts: Streaming<ExecRequest>,
    ) -> Result<Answers<ExecResponse>, Status> {
        let Some(ExecRequest { part: Some(exec_request::Part::Start(start)) }) = parts.message().await?
        else {
            return Err(Status::invalid_argument("the first message says what to run"));
        };
        let task = self.running(&start.task)?;
        let detach = start.detach;
        let (sender, stream) = answers();
        match self.containerd.exec(task.id, spec(start)).await {
            Ok(exec) if detach => {
                exec.detach();
                let _ = sender.send(part(Part::Started(true))).await;
            }
            Ok(exec) => drop(tokio::spawn(session(exec, parts, sender))),
            Err(ExecError::Refused { code, message }) => {
                let _ = sender.send(part(Part::Stderr(format!("{message}\n").into_bytes()))).await;
                let _ = sender.send(part(Part::ExitCode(code))).await;
            }
            Err(ExecError::NotRunning(id)) => return Err(self.stopped(id)),
            Err(ExecError::Invalid(m)) => return Err(Status::invalid_argument(m)),
            Err(ExecError::Runtime(e)) => return Err(runtime_error(&e)),
        }
        Ok(stream)
    }
}

/// Carries everything until the program has ended or the client has gone, which ends it.
async fn session(mut exec: Exec, parts: Streaming<ExecRequest>, answer: Answer) {
    let control = exec.control();
    let (sender, fed) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let feed = Feed { sender, waiting: waiting.clone() };
    let input = exec.take_stdin();
    let feeding = input.map(|input| tokio::spawn(feed_input(input, fed, waiting, answer.clone())));
    let feed = feeding.is_some().then_some(feed);
    tokio::select! {
        () = tell(&mut exec, &answer) => {}
        () = obey(parts, &control, feed) => {}
        () = answer.closed() => {}
    }
    if let Some(feeding) = feeding {
        feeding.abort();
    }
    exec.close().await;
}

/// Tells the client what the program tells, to its end.
async fn tell(exec: &mut Exec, answer: &Answer) {
    if answer.send(part(Part::Started(true))).await.is_err() {
        return;
    }
    loop {
        let (event, last) = match exec.next().await {
            ExecEvent::Stdout(bytes) => (Part::Stdout(bytes), false),
            ExecEvent::Stderr(bytes) => (Part::Stderr(bytes), false),
            ExecEvent::Ended(code) => (Part::ExitCode(code), true),
        };
        if answer.send(part(event)).await.is_err() || last {
            return;
        }
    }
}

/// Input on its way to the program.
struct Feed {
    sender: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes that the program has not taken yet.
    waiting: Arc<AtomicUsize>,
}

impl Feed {
    /// False when the client sends without waiting.
    fn take(&self, bytes: Vec<u8>) -> bool {
        let before = self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        // Without a program that reads, nobody takes it.
        before + bytes.len() <= INPUT_AHEAD && self.sender.send(bytes).is_ok() || self.sender.is_closed()
    }
}

/// Does what the client says, until it is gone. Never waits for the program.
async fn obey(mut parts: Streaming<ExecRequest>, control: &ExecControl, mut feed: Option<Feed>) {
    loop {
        let said = match parts.message().await {
            Ok(Some(ExecRequest { part: Some(said) })) => said,
            Ok(Some(_)) => continue,
            // It says no more, and may still listen.
            Ok(None) => {
                drop(feed);
                return std::future::pending().await;
            }
            Err(_) => return,
        };
        match said {
            exec_request::Part::Start(_) => {}
            exec_request::Part::Stdin(bytes) => {
                if feed.as_ref().is_some_and(|f| !f.take(bytes)) {
                    tracing::warn!("a client sends input without waiting and is cut off");
                    return;
                }
            }
            exec_request::Part::StdinClosed(_) => feed = None,
            exec_request::Part::Resize(to) => control.resize(size(to)).await,
            exec_request::Part::Signal(number) => {
                if let Ok(signal) = Signal::try_from(number) {
                    control.signal(signal).await;
                }
            }
        }
    }
}

/// Passes input on as fast as the program reads, and confirms it.
async fn feed_input(
    mut input: ExecInput,
    mut fed: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    answer: Answer,
) {
    let mut taken = 0;
    while let Some(bytes) = fed.recv().await {
        if !input.write(&bytes).await {
            break;
        }
        waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
        taken += bytes.len() as u64;
        if taken >= CONFIRM || fed.is_empty() {
            let _ = answer.send(part(Part::StdinTaken(std::mem::take(&mut taken)))).await;
        }
    }
    input.close().await;
}
