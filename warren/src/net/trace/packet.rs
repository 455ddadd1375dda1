//! The packet that is sent, and what is read of the one that comes out. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use warren_ebpf::{
    abi::{ICMP, ICMP6, TCP, UDP, Words},
    packet::{ACK, Bytes, FIN, Family, Packet as _, RST, SYN, Tuple, sum, transport},
};

use super::Question;

/// Length of an Ethernet header.
pub(super) const ETHERNET: usize = 14;

/// The largest packet that every kernel takes for a test-run: a page, less what it needs itself.
pub const LARGEST: u32 = 3_500;

impl Question {
    /// IP protocol number.
    pub(super) fn number(&self) -> u8 {
        match (self.protocol, self.source.is_ipv4()) {
            (super::Protocol::Tcp, _) => TCP,
            (super::Protocol::Udp, _) => UDP,
            (super::Protocol::Icmp, true) => ICMP,
            (super::Protocol::Icmp, false) => ICMP6,
        }
    }

    /// Whether it may be a flow's first packet.
    pub(super) fn begins(&self) -> bool {
        match self.protocol {
            super::Protocol::Tcp => self.flags & (SYN | ACK | FIN | RST) == SYN,
            super::Protocol::Udp | super::Protocol::Icmp => true,
        }
    }

    /// Length of its headers, in bytes.
    #[must_use]
    pub fn headers(&self) -> u32 {
        let ip = if self.source.is_ipv4() { 20 } else { 40 };
        ip + if self.protocol == super::Protocol::Tcp { 20 } else { 8 }
    }

    /// The packet from its Ethernet header on, all checksums right.
    pub(in crate::net) fn frame(&self, to: [u8; 6]) -> Vec<u8> {
        let total = self.size.clamp(self.headers(), LARGEST);
        let ip_length = if self.source.is_ipv4() { 20 } else { 40 };
        let payload = self.payload(total as usize - ip_length);
        let mut frame = Vec::with_capacity(ETHERNET + total as usize);
        frame.extend(to);
        // Locally administered: nobody's.
        frame.extend([0x02, 0, 0, 0, 0, 1]);
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend([0x08, 0x00]);
                let mut header = [0u8; 20];
                header[0] = 0x45;
                header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
                // Not to be cut up.
                header[6] = 0x40;
                header[8] = 64;
                header[9] = self.number();
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&destination.octets());
                let check = !sum(&header);
                header[10..12].copy_from_slice(&check.to_be_bytes());
                frame.extend(header);
            }
            (source, destination) => {
                frame.extend([0x86, 0xdd]);
                let mut header = [0u8; 40];
                header[0] = 0x60;
                header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
                header[6] = self.number();
                header[7] = 64;
                header[8..24].copy_from_slice(&wide(source).octets());
                header[24..40].copy_from_slice(&wide(destination).octets());
                frame.extend(header);
            }
        }
        frame.extend(payload);
        frame
    }

    /// What the IP header is put before.
    fn payload(&self, length: usize) -> Vec<u8> {
        let mut payload = vec![0u8; length];
        let (source, destination) = (self.source.port().to_be_bytes(), self.destination.port().to_be_bytes());
        let check = match self.protocol {
            super::Protocol::Tcp => {
                payload[0..2].copy_from_slice(&source);
                payload[2..4].copy_from_slice(&destination);
                payload[4..8].copy_from_slice(&1u32.to_be_bytes());
                payload[12] = 5 << 4;
                payload[13] = self.flags;
                payload[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
                16
            }
            super::Protocol::Udp => {
                payload[0..2].copy_from_slice(&source);
                payload[2..4].copy_from_slice(&destination);
                payload[4..6].copy_from_slice(&(length as u16).to_be_bytes());
                6
            }
            super::Protocol::Icmp => {
                let request =
                    if self.source.is_ipv4() { <[u8; 4]>::ECHO_REQUEST } else { Words::ECHO_REQUEST };
                payload[0] = request;
                payload[4..6].copy_from_slice(&source);
                payload[6..8].copy_from_slice(&1u16.to_be_bytes());
                2
            }
        };
        let mut summed = Vec::new();
        // ICMP of IPv4 has no pseudo header.
        if self.number() != ICMP {
            match (self.source.ip(), self.destination.ip()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => summed.extend([a.octets(), b.octets()].concat()),
                (a, b) => summed.extend([wide(a).octets(), wide(b).octets()].concat()),
            }
            summed.extend((length as u32).to_be_bytes());
            summed.extend([0, 0, 0, self.number()]);
        }
        summed.extend(&payload);
        let sum = match !sum(&summed) {
            0 if self.protocol == super::Protocol::Udp => u16::MAX,
            sum => sum,
        };
        payload[check..check + 2].copy_from_slice(&sum.to_be_bytes());
        payload
    }
}

fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

/// What a packet shows, when it is one that has ports (or an echo).
pub(in crate::net) fn ends(frame: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    fn of<A: Family>(frame: &[u8]) -> Option<Tuple<A>> {
        let mut frame = frame.to_vec();
        let packet = Bytes(&mut frame);
        let ip = A::header(&packet, ETHERNET as u32)?;
        Some(Tuple::of(&ip, &transport(&packet, &ip)?))
    }
    fn socket<A: Family>(address: A, port: u16) -> SocketAddr {
        let wide = address.widen();
        let ip = match A::FAMILY {
            4 => IpAddr::from([wide[0], wide[1], wide[2], wide[3]]),
            _ => IpAddr::from(wide),
        };
        SocketAddr::new(ip, port)
    }
    fn both<A: Family>(t: &Tuple<A>) -> (SocketAddr, SocketAddr) {
        (socket(t.source, t.source_port), socket(t.destination, t.destination_port))
    }
    match frame.get(ETHERNET)? >> 4 {
        4 => of::<[u8; 4]>(frame).as_ref().map(both),
        6 => of::<Words>(frame).as_ref().map(both),
        _ => None,
    }
}

/// The MTU that a packet which says "too big" names; `None` when it says something else.
pub(super) fn too_big(frame: &mut [u8]) -> Option<u32> {
    let packet = Bytes(frame);
    let [first]: [u8; 1] = packet.load(ETHERNET as u32)?;
    if first >> 4 == 4 {
        let ip = <[u8; 4]>::header(&packet, ETHERNET as u32)?;
        let [kind, code, _, _, _, _, a, b] = packet.load(ip.payload)?;
        (ip.protocol == ICMP && (kind, code) == (3, 4)).then(|| u16::from_be_bytes([a, b]).into())
    } else {
        let ip = Words::header(&packet, ETHERNET as u32)?;
        let [kind, _, _, _, a, b, c, d] = packet.load(ip.payload)?;
        (ip.protocol == ICMP6 && kind == 2).then(|| u32::from_be_bytes([a, b, c, d]))
    }
}

#[cfg(test)]
mod tests {
    use warren_ebpf::packet::{ACK, SYN};

    use super::{
        super::{Protocol, Question},
        *,
    };

    fn question(protocol: Protocol, source: &str, destination: &str, size: u32) -> Question {
        Question {
            protocol,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            flags: SYN | ACK,
            size,
            from: None,
        }
    }

    #[test]
    fn packets_show_what_was_asked_and_their_checksums_are_right() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
            for (source, destination) in
                [("192.0.2.1:4000", "198.51.100.7:80"), ("[fd00::1]:4000", "[fd18::7]:80")]
            {
                for size in [0, 77, 1500, 100_000] {
                    let q = question(protocol, source, destination, size);
                    let frame = q.frame([2; 6]);
                    let length = size.clamp(q.headers(), LARGEST) as usize;
                    assert_eq!(frame.len(), ETHERNET + length);
                    let port = if protocol == Protocol::Icmp { 0 } else { 80 };
                    let to = SocketAddr::new(q.destination.ip(), port);
                    assert_eq!(ends(&frame), Some((q.source, to)));
                    let ip = &frame[ETHERNET..];
                    let (payload, pseudo) = if q.source.is_ipv4() {
                        assert_eq!(sum(&ip[..20]), u16::MAX);
                        (&ip[20..], ip[12..20].to_vec())
                    } else {
                        (&ip[40..], ip[8..40].to_vec())
                    };
                    let mut all = pseudo;
                    all.extend((payload.len() as u32).to_be_bytes());
                    all.extend([0, 0, 0, q.number()]);
                    if q.number() == ICMP {
                        all.clear();
                    }
                    all.extend(payload);
                    assert_eq!(sum(&all), u16::MAX, "{protocol:?} {source} {size}");
                    assert_eq!(too_big(&mut frame.clone()), None);
                }
            }
        }
    }
}
