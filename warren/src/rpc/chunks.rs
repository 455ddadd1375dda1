//! Bytes that come in messages, for a reader on a thread of its own.

use std::io::{self, Read};

use tokio::sync::mpsc;

/// Reads what is sent into a channel, to an empty chunk. A sender that goes away before that has
/// not sent everything: `UnexpectedEof`.
#[derive(Debug)]
pub struct ChunkReader {
    chunks: mpsc::Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
    ended: bool,
}

/// A channel of `ahead` chunks whose other end is read. The reader blocks: not for async code.
#[must_use]
pub fn chunks(ahead: usize) -> (mpsc::Sender<Vec<u8>>, ChunkReader) {
    let (sender, chunks) = mpsc::channel(ahead);
    (sender, ChunkReader { chunks, current: io::Cursor::default(), ended: false })
}

impl Read for ChunkReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.current.read(into)? {
                0 if self.ended || into.is_empty() => return Ok(0),
                0 => {}
                n => return Ok(n),
            }
            match self.chunks.blocking_recv() {
                Some(chunk) if chunk.is_empty() => self.ended = true,
                Some(chunk) => self.current = io::Cursor::new(chunk),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive was cut off")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_read_to_the_empty_chunk_and_what_is_cut_off_is_an_error() {
        for whole in [true, false] {
            let (sender, mut reader) = chunks(4);
            for chunk in ["ab", "cde"] {
                sender.blocking_send(chunk.into()).unwrap();
            }
            if whole {
                sender.blocking_send(Vec::new()).unwrap();
            }
            drop(sender);
            let mut read = Vec::new();
            let ended = reader.read_to_end(&mut read).map_err(|e| e.kind());
            assert_eq!(read, b"abcde");
            assert_eq!(ended, if whole { Ok(5) } else { Err(io::ErrorKind::UnexpectedEof) });
        }
    }
}
