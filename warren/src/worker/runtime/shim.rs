//! A container's end, asked of its shim and not of containerd: shims outlive it, and one that
//! starts (from 1.7 on) removes those whose container has ended, and with them how it ended.
//!
//! Shims speak ttrpc, which is frames over a unix socket: a header of ten bytes (length of the
//! message, number of the call, both with the highest byte first; kind; flags), then a protobuf
//! message with the name of a method and, within it, the method's own message. One call is all that is
//! needed: the `ttrpc` crate would bring a second protobuf library for it.

use std::io;

use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{RuntimeConfig, remains};
use crate::model::TaskId;

/// The same service, as shims of containerd 2 and of 1.x know it.
const SERVICES: [&str; 2] = ["containerd.task.v3.Task", "containerd.task.v2.Task"];
const HEADER: usize = 10;
/// Kinds of a frame.
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
/// The largest message there may be.
const MAX_MESSAGE: usize = 4 << 20;
/// gRPC's number for "there is no such method".
const UNIMPLEMENTED: i32 = 12;

#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(bytes = "vec", tag = "2")]
    payload: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WaitRequest {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WaitResponse {
    #[prost(uint32, tag = "1")]
    exit_status: u32,
}

/// A shim that was asked to tell when its container's first process ends.
pub(super) struct Waiting {
    stream: UnixStream,
    task: TaskId,
}

/// Asks a task's shim. When this returns, the shim will tell, whoever ends it afterwards.
pub(super) async fn wait(config: &RuntimeConfig, task: TaskId) -> io::Result<Waiting> {
    let stream = UnixStream::connect(remains::shim_socket(config, task.as_str())).await?;
    let mut waiting = Waiting { stream, task };
    for number in 0..SERVICES.len() {
        waiting.ask(number).await?;
    }
    Ok(waiting)
}

impl Waiting {
    /// Its exit status, once it has ended.
    pub(super) async fn ended(mut self) -> io::Result<i32> {
        let mut why = String::new();
        // One of the two calls is of a service that this shim does not have.
        for _ in SERVICES {
            let response = self.answer().await?;
            match response.status {
                None | Some(Status { code: 0, .. }) => {
                    let ended = WaitResponse::decode(&response.payload[..])?;
                    return Ok(i32::try_from(ended.exit_status).unwrap_or(255));
                }
                Some(Status { code: UNIMPLEMENTED, .. }) => {}
                Some(status) => why = status.message,
            }
        }
        Err(io::Error::other(format!("the shim does not tell how the container ended: {why}")))
    }

    async fn ask(&mut self, number: usize) -> io::Result<()> {
        let request = Request {
            service: SERVICES[number].to_owned(),
            method: "Wait".to_owned(),
            payload: WaitRequest { id: self.task.to_string() }.encode_to_vec(),
        };
        let message = request.encode_to_vec();
        let mut frame = u32::try_from(message.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
        // A client's calls have odd numbers.
        frame.extend((2 * number as u32 + 1).to_be_bytes());
        frame.extend([REQUEST, 0]);
        frame.extend(message);
        self.stream.write_all(&frame).await
    }

    async fn answer(&mut self) -> io::Result<Response> {
        loop {
            let mut header = [0; HEADER];
            self.stream.read_exact(&mut header).await?;
            let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
            if length > MAX_MESSAGE {
                return Err(io::Error::other(format!("the shim's answer has {length} bytes")));
            }
            let mut message = vec![0; length];
            self.stream.read_exact(&mut message).await?;
            if header[8] == RESPONSE {
                return Ok(Response::decode(&message[..])?);
            }
        }
    }
}
