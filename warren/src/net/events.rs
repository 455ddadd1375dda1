//! What the programs tell: the first drop per reason, processor and second, as a line in the log.

use aya::maps::{MapData, RingBuf};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;
use warren_ebpf::abi::{Event, Reason};

use super::{
    datapath::sys::from_bytes,
    drops::{LastDrops, ends},
};

/// Logs events until `cancel`, and keeps the last of each reason. What comes while nobody reads is counted in `DROPS` all the same.
pub(super) async fn follow(ring: RingBuf<MapData>, last: LastDrops, cancel: CancellationToken) {
    // SAFETY: the ring buffer keeps its one descriptor for as long as it lives, and nothing here
    // exchanges it.
    let mut ring = match unsafe { AsyncFd::register(ring) } {
        Ok(ring) => ring,
        Err(e) => {
            tracing::warn!("cannot read the datapath's events: {e}");
            return;
        }
    };
    loop {
        let ready = tokio::select! {
            () = cancel.cancelled() => return,
            ready = ring.readable_mut() => ready,
        };
        let Ok(mut ready) = ready else { return };
        while let Some(item) = ready.get_inner_mut().next() {
            if let Some(e) = from_bytes::<Event>(&item) {
                tracing::debug!("dropped: {}", sentence(&e));
                last.note(e);
            }
        }
        ready.clear_ready();
    }
}

fn sentence(e: &Event) -> String {
    let reason = Reason::ALL.get(e.reason as usize).map_or("unknown", |r| r.name());
    let ends = ends(e).map_or_else(|| "no IP packet".to_owned(), |(s, d)| format!("{s} to {d}"));
    format!("{reason}: {ends}, protocol {}, {} bytes, came in by device {}", e.protocol, e.length, e.ifindex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_as_sentences() {
        let mut e = Event { reason: Reason::NoRoute as u32, family: 4, protocol: 17, ..Event::default() };
        e.source[..4].copy_from_slice(&[10, 86, 0, 2]);
        e.destination[..4].copy_from_slice(&[192, 0, 2, 1]);
        (e.source_port, e.destination_port) = (5353, 53);
        let text = sentence(&e);
        assert!(text.starts_with("no-route: 10.86.0.2:5353 to 192.0.2.1:53, protocol 17"), "{text}");
        assert!(sentence(&Event { reason: 63, ..e }).starts_with("unknown"));
    }
}
