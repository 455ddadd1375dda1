//! Packets as bytes: made for a test, and read back by another library than ours.

use anyhow::{Context as _, Result, ensure};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use warren_ebpf::{
    abi::{ICMP, TCP, UDP},
    flow::decide::V4,
    packet::{ACK, FIN, RST, SYN, Tuple},
};

/// Sequence number of every SYN: the next one is 0.
const FIRST: u32 = u32::MAX;

pub fn tuple(source: V4, source_port: u16, destination: V4, destination_port: u16) -> Tuple<V4> {
    Tuple { source, destination, source_port, destination_port }
}

pub fn reversed(t: Tuple<V4>) -> Tuple<V4> {
    tuple(t.destination, t.destination_port, t.source, t.source_port)
}

/// What most packets carry: nothing on a SYN, whose acknowledgement would have to count it.
pub fn payload(protocol: u8, flags: u8) -> &'static [u8] {
    if protocol == TCP && flags & SYN != 0 { b"" } else { b"payload" }
}

pub fn make(t: Tuple<V4>, protocol: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(t.source, t.destination, 64);
    let mut out = Vec::new();
    let made = match protocol {
        TCP => {
            // Only SYNs have the first number; who has seen one acknowledges it.
            let number = if flags & SYN != 0 { FIRST } else { FIRST.wrapping_add(1) };
            let mut header = etherparse::TcpHeader::new(t.source_port, t.destination_port, number, 4096);
            header.acknowledgment_number = if flags & ACK != 0 { FIRST.wrapping_add(1) } else { 0 };
            header.fin = flags & FIN != 0;
            header.syn = flags & SYN != 0;
            header.rst = flags & RST != 0;
            header.ack = flags & ACK != 0;
            builder.tcp_header(header).write(&mut out, payload)
        }
        UDP => builder.udp(t.source_port, t.destination_port).write(&mut out, payload),
        ICMP if t.destination_port == 0 => {
            builder.icmpv4_echo_request(t.source_port, 1).write(&mut out, payload)
        }
        _ => builder.icmpv4_echo_reply(t.destination_port, 1).write(&mut out, payload),
    };
    made.expect("written to memory");
    out
}

/// What etherparse reads, after it has checked the checksums.
pub fn read(bytes: &[u8]) -> Result<Tuple<V4>> {
    let packet = SlicedPacket::from_ethernet(bytes)?;
    let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else { anyhow::bail!("not IPv4") };
    let header = ip.header().to_header();
    ensure!(header.header_checksum == header.calc_header_checksum(), "IP header checksum");
    let (source_port, destination_port) = match packet.transport.context("no transport header")? {
        TransportSlice::Tcp(tcp) => {
            ensure!(
                tcp.checksum() == tcp.to_header().calc_checksum_ipv4(&header, tcp.payload())?,
                "TCP checksum"
            );
            (tcp.source_port(), tcp.destination_port())
        }
        TransportSlice::Udp(udp) => {
            ensure!(
                udp.checksum() == udp.to_header().calc_checksum_ipv4(&header, udp.payload())?,
                "UDP checksum"
            );
            (udp.source_port(), udp.destination_port())
        }
        TransportSlice::Icmpv4(icmp) => {
            ensure!(icmp.checksum() == icmp.icmp_type().calc_checksum(icmp.payload()), "ICMP checksum");
            match icmp.icmp_type() {
                etherparse::Icmpv4Type::EchoRequest(echo) => (echo.id, 0),
                etherparse::Icmpv4Type::EchoReply(echo) => (0, echo.id),
                other => anyhow::bail!("{other:?}"),
            }
        }
        other => anyhow::bail!("{other:?}"),
    };
    Ok(tuple(header.source, source_port, header.destination, destination_port))
}
