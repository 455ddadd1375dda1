//! The conversation with the node: input, signals and sizes there, output and status back.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    mem::ManuallyDrop,
    os::fd::FromRawFd as _,
    thread,
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{super::screen, terminal::Raw};
use crate::proto::v1::{
    ExecRequest, ExecResponse,
    containers_client::ContainersClient,
    exec_request::{Part, Start},
    exec_response::Part as Told,
};

/// Bytes of input read at a time.
const CHUNK: usize = 32 << 10;
/// Bytes of input sent beyond what was confirmed; half of what the node allows.
const AHEAD: u64 = 512 << 10;
/// What a program killed by a broken pipe ends with: the reader of our output has gone.
const NO_READER: i32 = 128 + libc::SIGPIPE;
/// How long a signal waits for a program that is being started.
const STARTING: Duration = Duration::from_secs(2);

fn part(part: Part) -> ExecRequest {
    ExecRequest { part: Some(part) }
}

/// Runs it; the exit status.
pub(super) async fn run(mut node: ContainersClient<Channel>, start: Start) -> anyhow::Result<i32> {
    let (tty, stdin, detach) = (start.tty, start.stdin, start.detach);
    // From here on signals are the program's.
    let mut signals = Signals::new()?;
    let (say, said) = mpsc::channel(16);
    say.send(part(Part::Start(start))).await?;
    let answer = tokio::select! {
        answer = node.exec(ReceiverStream::new(said)) => answer?,
        number = signals.give_up(&say, detach || (tty && stdin)) => return Ok(128 + number),
    };
    let mut told = answer.into_inner();
    let raw = if tty && stdin { Raw::enter()? } else { None };
    let output = Output::new();
    let (mut input, mut ahead, mut started) = (stdin.then(read_input), 0u64, false);
    let mut resized = signal(SignalKind::window_change())?;
    let result = loop {
        tokio::select! {
            message = told.message() => match message {
                Ok(Some(ExecResponse { part: Some(told) })) => match told {
                    Told::Started(_) => started = true,
                    Told::Stdout(bytes) => if !output.write(false, bytes).await {
                        break Ok(NO_READER);
                    },
                    // A program that was not run has no output: this is why.
                    Told::Stderr(bytes) => if !output.write(true, explain(started, bytes)).await {
                        break Ok(NO_READER);
                    },
                    Told::StdinTaken(n) => ahead = ahead.saturating_sub(n),
                    Told::ExitCode(code) => break Ok(code),
                },
                Ok(Some(_)) => {}
                Ok(None) if detach && started => break Ok(0),
                Ok(None) => break Err(anyhow::anyhow!(
                    "the node ended the conversation; whether the program still runs is not known"
                )),
                Err(e) => break Err(e.into()),
            },
            // Read only as far as the program does, so that a signal overtakes it.
            bytes = next(&mut input), if ahead < AHEAD => {
                let message = match bytes {
                    Some(bytes) => {
                        ahead += bytes.len() as u64;
                        Part::Stdin(bytes)
                    }
                    None => {
                        input = None;
                        Part::StdinClosed(true)
                    }
                };
                let _ = say.send(part(message)).await;
            }
            number = signals.next() => {
                // On a terminal of its own, the program gets keys; a signal is for this command.
                if raw.is_some() {
                    break Ok(128 + number);
                }
                let _ = say.send(part(Part::Signal(number))).await;
            }
            _ = resized.recv(), if tty => {
                if let Some(size) = screen::size() {
                    let _ = say.send(part(Part::Resize(size))).await;
                }
            }
        }
    };
    output.close().await;
    drop(raw);
    result
}

fn explain(started: bool, bytes: Vec<u8>) -> Vec<u8> {
    if started { bytes } else { [b"warren: ", &bytes[..]].concat() }
}

async fn next(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// This command's input, read on a thread of its own: nobody can interrupt a read.
fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    thread::spawn(move || {
        // SAFETY: descriptor 0 is open as long as the process lives, and is not closed here.
        let mut stdin = ManuallyDrop::new(unsafe { File::from_raw_fd(0) });
        loop {
            let mut chunk = vec![0; CHUNK];
            match stdin.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => chunk.truncate(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            }
            if sender.blocking_send(chunk).is_err() {
                return;
            }
        }
    });
    receiver
}

/// This command's output, written on a thread of its own: a reader that is slow must not keep
/// signals from the program.
struct Output {
    sender: mpsc::Sender<(bool, Vec<u8>)>,
    done: tokio::sync::oneshot::Receiver<()>,
}

impl Output {
    fn new() -> Self {
        let (sender, mut receiver) = mpsc::channel::<(bool, Vec<u8>)>(2);
        let (finished, done) = tokio::sync::oneshot::channel();
        thread::spawn(move || {
            while let Some((error, bytes)) = receiver.blocking_recv() {
                let written = if error {
                    io::stderr().lock().write_all(&bytes)
                } else {
                    let mut out = io::stdout().lock();
                    out.write_all(&bytes).and_then(|()| out.flush())
                };
                if written.is_err() {
                    break;
                }
            }
            drop(receiver);
            let _ = finished.send(());
        });
        Self { sender, done }
    }

    /// False when nobody reads it any more.
    async fn write(&self, error: bool, bytes: Vec<u8>) -> bool {
        self.sender.send((error, bytes)).await.is_ok()
    }

    /// Returns when all is written.
    async fn close(self) {
        drop(self.sender);
        let _ = self.done.await;
    }
}

/// Signals that are the program's.
struct Signals {
    streams: Vec<(i32, Signal)>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
        ];
        let streams = kinds.map(|k| Ok((k.as_raw_value(), signal(k)?)));
        Ok(Self { streams: streams.into_iter().collect::<io::Result<_>>()? })
    }

    /// Waits for the one that ends this command before the node has answered. The program may run
    /// already: the first one is sent after it, and only a second one, or a start that takes too
    /// long, gives it up. With `own` signals are this command's: nobody passes them to a program that is
    /// detached, and one on a terminal gets keys.
    async fn give_up(&mut self, say: &mpsc::Sender<ExecRequest>, own: bool) -> i32 {
        let number = self.next().await;
        if own || say.try_send(part(Part::Signal(number))).is_err() {
            return number;
        }
        tokio::select! {
            number = self.next() => number,
            () = tokio::time::sleep(STARTING) => number,
        }
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        std::future::poll_fn(|cx| {
            for (number, stream) in &mut self.streams {
                if stream.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal as Number, raise};
    use tokio::time::timeout;

    use super::*;

    /// One test: signals are the whole process's.
    #[tokio::test]
    async fn a_signal_while_it_starts_is_the_programs_and_a_second_one_gives_up() {
        let (say, mut said) = mpsc::channel(16);
        let mut signals = Signals::new().unwrap();
        raise(Number::SIGUSR2).unwrap();
        // The node answers meanwhile: what was sent stays sent.
        let early = timeout(Duration::from_millis(200), signals.give_up(&say, false)).await;
        assert!(early.is_err(), "given up at once: {early:?}");
        assert_eq!(said.try_recv().unwrap(), part(Part::Signal(libc::SIGUSR2)));

        raise(Number::SIGUSR2).unwrap();
        let second = async {
            said.recv().await.unwrap();
            raise(Number::SIGHUP).unwrap();
        };
        assert_eq!(tokio::join!(signals.give_up(&say, false), second).0, libc::SIGHUP);

        raise(Number::SIGUSR1).unwrap();
        assert_eq!(signals.give_up(&say, true).await, libc::SIGUSR1);
        assert!(said.try_recv().is_err(), "nobody would pass it on");

        // A node that does not answer at all.
        raise(Number::SIGUSR1).unwrap();
        assert_eq!(signals.give_up(&say, false).await, libc::SIGUSR1);
    }
}
