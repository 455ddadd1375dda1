//! One layer from its registry into containerd's content store, from wherever an earlier try got
//! to.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use containerd_client::services::v1::{AbortRequest, WriteAction, WriteContentRequest, WriteContentResponse};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{LayerState, PullProgress};
use crate::worker::runtime::{
    client::{CallError, Client, LONG, SHORT, already, call},
    image::{
        PullFailure,
        read::Descriptor,
        registry::{Registry, RegistryError, TRIES, pause},
    },
};

/// Bytes written at a time.
const CHUNK: usize = 512 << 10;

/// What is needed to fetch a layer.
pub(super) struct Fetch {
    pub(super) client: Client,
    pub(super) registry: Arc<Registry>,
    pub(super) lease: String,
    pub(super) layer: Descriptor,
    /// Its place in the progress.
    pub(super) number: usize,
    pub(super) tell: Arc<watch::Sender<PullProgress>>,
}

/// How a try ended.
enum Try {
    /// The layer was here.
    Present,
    /// It is here now.
    Fetched,
}

impl Fetch {
    /// Brings the layer; true when it was here before.
    pub(super) async fn run(&self) -> Result<bool, PullFailure> {
        let (mut tries, mut later, mut reached) = (0, 0, 0);
        loop {
            let failure = match self.attempt(later).await {
                Ok(Try::Present) => {
                    self.at(LayerState::Downloaded, self.layer.size);
                    return Ok(true);
                }
                Ok(Try::Fetched) => return Ok(false),
                Err(e) => e,
            };
            // Bytes that came count as a success: a bad line is no reason to give up.
            let done = self.tell.borrow().layers[self.number].done;
            if done > reached {
                (tries, reached) = (0, done);
            }
            tries += 1;
            let spoiled = matches!(failure, PullFailure::Registry(RegistryError::Digest { .. }));
            if later < self.registry.others() && (spoiled || !failure.may_pass() || tries > 1) {
                self.registry.tell(format!("mirror: {failure}; asking the next for {}", self.short()));
                (tries, reached) = (0, 0);
                later += 1;
            } else if failure.may_pass() && tries < TRIES {
                let pause = pause(tries);
                self.registry.tell(format!("layer {}: {failure}; trying again in {pause:?}", self.short()));
                tokio::time::sleep(pause).await;
            } else {
                return Err(failure);
            }
        }
    }

    fn short(&self) -> &str {
        self.layer.digest.get(7..19).unwrap_or(&self.layer.digest)
    }

    fn at(&self, state: LayerState, done: u64) {
        self.tell.send_modify(|p| {
            let layer = &mut p.layers[self.number];
            (layer.state, layer.done) = (state, done);
        });
    }

    /// The name under which the bytes are collected: the same for each try.
    fn reference(&self) -> String {
        format!("warren-pull-{}", self.layer.digest)
    }

    async fn attempt(&self, later: usize) -> Result<Try, PullFailure> {
        let mut writer = match self.open().await {
            Err(CallError::Exists(_)) => return Ok(Try::Present),
            other => other?,
        };
        let copied = self.copy(&mut writer, later).await;
        // Its end must be seen, or the next try finds the name still taken.
        let resumed = match copied {
            Ok(resumed) => resumed,
            Err(e) => {
                writer.close().await;
                return Err(e);
            }
        };
        let committed = writer.commit(self.layer.size, &self.layer.digest).await;
        writer.close().await;
        match committed {
            Ok(()) | Err(CallError::Exists(_)) => {
                self.at(LayerState::Downloaded, self.layer.size);
                Ok(Try::Fetched)
            }
            Err(CallError::Refused(why)) if why.contains("unexpected commit") => {
                self.abort().await?;
                let registry = self.registry.name();
                Err(if resumed {
                    // What an earlier try left may be what is wrong: all of it anew.
                    let why = format!("the parts of layer {} do not fit together", self.short());
                    RegistryError::Unreachable { registry, why }
                } else {
                    RegistryError::Digest { registry, digest: self.layer.digest.clone() }
                }
                .into())
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn abort(&self) -> Result<(), CallError> {
        let r = AbortRequest { r#ref: self.reference() };
        already(call(SHORT, self.client.content().abort(self.client.leased(r, &self.lease))).await)
    }

    async fn open(&self) -> Result<Writer, CallError> {
        let (send, messages) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: self.reference(),
            total: i64::try_from(self.layer.size).unwrap_or(i64::MAX),
            expected: self.layer.digest.clone(),
            ..WriteContentRequest::default()
        };
        // The channel is empty: this does not wait.
        let _ = send.send(first).await;
        let request = self.client.leased(ReceiverStream::new(messages), &self.lease);
        // What an earlier try left is read again for its digest, which takes its time.
        let answers = call(LONG, self.client.content().write(request)).await?;
        let mut writer = Writer { send: Some(send), answers, at: 0 };
        writer.at = u64::try_from(writer.answer().await?.offset).unwrap_or_default();
        Ok(writer)
    }

    /// Copies what is missing. True when it went on from what an earlier try left.
    async fn copy(&self, writer: &mut Writer, later: usize) -> Result<bool, PullFailure> {
        let size = self.layer.size;
        self.at(LayerState::Downloading, writer.at.min(size));
        if writer.at >= size {
            return Ok(size > 0);
        }
        let mut blob = self.registry.blob(&self.layer.digest, writer.at, later).await?;
        let resumed = blob.offset > 0;
        writer.at = blob.offset;
        let mut waiting = BytesMut::with_capacity(CHUNK);
        loop {
            let next = blob.next().await;
            if let Ok(Some(bytes)) = &next {
                waiting.extend_from_slice(bytes);
            }
            let over = !matches!(next, Ok(Some(_)));
            if waiting.len() >= CHUNK || (over && !waiting.is_empty()) {
                if writer.at + waiting.len() as u64 > size {
                    let why = format!("layer {} is longer than its manifest says", self.short());
                    self.abort_after(writer).await;
                    return Err(RegistryError::Nonsense { registry: self.registry.name(), why }.into());
                }
                writer.write(waiting.split().freeze()).await?;
                self.at(LayerState::Downloading, writer.at);
            }
            if let Err(e) = next {
                return Err(e.into());
            }
            if over {
                break;
            }
        }
        if writer.at < size {
            let why = format!("it ended layer {} after {} of {size} bytes", self.short(), writer.at);
            return Err(RegistryError::Unreachable { registry: self.registry.name(), why }.into());
        }
        Ok(resumed)
    }

    async fn abort_after(&self, writer: &mut Writer) {
        writer.close().await;
        if let Err(e) = self.abort().await {
            tracing::debug!(error = %e, "a layer of no use stays for now");
        }
    }
}

/// A write under way: each message waits for its answer.
struct Writer {
    send: Option<mpsc::Sender<WriteContentRequest>>,
    answers: Streaming<WriteContentResponse>,
    /// Bytes written.
    at: u64,
}

impl Writer {
    async fn answer(&mut self) -> Result<WriteContentResponse, CallError> {
        match tokio::time::timeout(LONG, self.answers.message()).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(CallError::Away("it ended a write early".to_owned())),
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Err(CallError::Away(format!("no answer within {} s", LONG.as_secs()))),
        }
    }

    async fn send(&mut self, message: WriteContentRequest) -> Result<(), CallError> {
        if let Some(send) = &self.send {
            // A closed channel means that there is an answer already: it says why.
            let _ = send.send(message).await;
        }
        self.answer().await.map(drop)
    }

    async fn write(&mut self, data: Bytes) -> Result<(), CallError> {
        let len = data.len() as u64;
        self.send(WriteContentRequest {
            action: WriteAction::Write.into(),
            offset: i64::try_from(self.at).unwrap_or(i64::MAX),
            data: data.into(),
            ..WriteContentRequest::default()
        })
        .await?;
        self.at += len;
        Ok(())
    }

    async fn commit(&mut self, size: u64, digest: &str) -> Result<(), CallError> {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        self.send(WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: size,
            total: size,
            expected: digest.to_owned(),
            ..WriteContentRequest::default()
        })
        .await
    }

    /// Ends the write; what was written stays.
    async fn close(&mut self) {
        self.send = None;
        let rest = async { while let Ok(Some(_)) = self.answers.message().await {} };
        let _ = tokio::time::timeout(SHORT, rest).await;
    }
}
