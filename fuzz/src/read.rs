//! What etherparse reads, as where it stands in the frame: the other opinion on every packet.

use std::ops::Range;

use etherparse::{
    Icmpv4Slice, Icmpv6Slice, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice, TcpSlice, UdpSlice, ip_number,
};
use warren_ebpf::{
    abi::{TCP, UDP},
    packet::Tuple,
};

use crate::family::Side;

/// An IP packet within a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read<A> {
    /// Where it starts.
    pub ip: usize,
    /// Its source.
    pub source: A,
    /// Its destination.
    pub destination: A,
    /// IP protocol number of the payload.
    pub protocol: u8,
    /// If it is a fragment: its packet's number, and whether it is the first.
    pub piece: Option<(u32, bool)>,
    /// Where the payload is.
    pub payload: Range<usize>,
}

impl<A: Side> Read<A> {
    /// Whether it has the transport header.
    pub fn has_header(&self) -> bool {
        self.piece.is_none_or(|(_, first)| first)
    }

    /// What tells its conversation from others; `None` if it has no ports or what takes their place.
    pub fn tuple(&self, frame: &[u8]) -> Option<Tuple<A>> {
        let payload = &frame[self.payload.clone()];
        let half = |at: usize| Some(u16::from_be_bytes([*payload.get(at)?, *payload.get(at + 1)?]));
        if !self.has_header() {
            return None;
        }
        let (source_port, destination_port) = match self.protocol {
            TCP | UDP => (half(0)?, half(2)?),
            p if p == A::ICMP && payload.first() == Some(&A::ECHO_REQUEST) => (half(4)?, 0),
            p if p == A::ICMP && payload.first() == Some(&A::ECHO_REPLY) => (0, half(4)?),
            _ => return None,
        };
        Some(Tuple { source: self.source, destination: self.destination, source_port, destination_port })
    }

    /// Where the transport checksum is, from the payload's start on.
    pub fn check(&self) -> usize {
        match self.protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        }
    }
}

/// Reads a frame of which everything must be right. `link`: the length of its link header.
///
/// # Errors
/// What is not right.
pub fn read<A: Side>(frame: &[u8], link: usize) -> Result<Read<A>, String> {
    if frame.len() < link {
        return Err("no link header".into());
    }
    let found = header::<A>(frame, link..frame.len(), true)?;
    let payload = &frame[found.payload.clone()];
    if found.piece.is_none() {
        match found.protocol {
            TCP => TcpSlice::from_slice(payload).map(|_| ()).map_err(|e| e.to_string()),
            UDP => UdpSlice::from_slice(payload).map(|_| ()).map_err(|e| e.to_string()),
            p if p == A::ICMP && A::FAMILY == 4 => {
                Icmpv4Slice::from_slice(payload).map(|_| ()).map_err(|e| e.to_string())
            }
            p if p == A::ICMP => Icmpv6Slice::from_slice(payload).map(|_| ()).map_err(|e| e.to_string()),
            other => Err(format!("protocol {other} is not known")),
        }?;
    }
    Ok(found)
}

/// Reads the start of a packet, `at` a place in the frame: what an ICMP error quotes.
pub fn quote<A: Side>(frame: &[u8], at: Range<usize>) -> Option<Read<A>> {
    header(frame, at, false).ok()
}

/// Reads an IP header at the start of `at`. `whole`: its packet must end there, too.
fn header<A: Side>(frame: &[u8], at: Range<usize>, whole: bool) -> Result<Read<A>, String> {
    let mut found = if A::FAMILY == 4 { four(frame, &at)? } else { six(frame, &at)? };
    if found.payload.end > at.end {
        if whole {
            return Err("it is cut off".into());
        }
        found.payload.end = at.end.max(found.payload.start);
    }
    Ok(found)
}

fn four<A: Side>(frame: &[u8], at: &Range<usize>) -> Result<Read<A>, String> {
    let header = Ipv4HeaderSlice::from_slice(&frame[at.clone()]).map_err(|e| e.to_string())?;
    let (length, total) = (header.slice().len(), usize::from(header.total_len()));
    if total < length {
        return Err("it is shorter than its header".into());
    }
    let first = header.fragments_offset().value() == 0;
    Ok(Read {
        ip: at.start,
        source: A::from_octets(&header.source()),
        destination: A::from_octets(&header.destination()),
        protocol: header.protocol().0,
        piece: header.is_fragmenting_payload().then(|| (header.identification().into(), first)),
        payload: at.start + length..at.start + total,
    })
}

/// One header after the other, as far as a fragment's payload: what comes after that is not of headers.
fn six<A: Side>(frame: &[u8], at: &Range<usize>) -> Result<Read<A>, String> {
    let header = Ipv6HeaderSlice::from_slice(&frame[at.clone()]).map_err(|e| e.to_string())?;
    let mut start = at.start + header.slice().len();
    let end = start + usize::from(header.payload_length());
    let (mut next, mut piece) = (header.next_header(), None);
    loop {
        let rest = frame.get(start..end.min(at.end)).ok_or("its headers are longer than it")?;
        match next {
            ip_number::IPV6_HOP_BY_HOP | ip_number::IPV6_DEST_OPTIONS | ip_number::IPV6_ROUTE => {
                let extension = Ipv6RawExtHeaderSlice::from_slice(rest).map_err(|e| e.to_string())?;
                start += extension.slice().len();
                next = extension.next_header();
            }
            ip_number::IPV6_FRAG => {
                let extension = Ipv6FragmentHeaderSlice::from_slice(rest).map_err(|e| e.to_string())?;
                start += extension.slice().len();
                next = extension.next_header();
                if extension.is_fragmenting_payload() {
                    piece = Some((extension.identification(), extension.fragment_offset().value() == 0));
                    break;
                }
            }
            _ => break,
        }
    }
    Ok(Read {
        ip: at.start,
        source: A::from_octets(&header.source()),
        destination: A::from_octets(&header.destination()),
        protocol: next.0,
        piece,
        payload: start..end,
    })
}
