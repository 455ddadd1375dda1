//! What bytes mean. Nothing is wrong: whatever is there happens, until the bytes end.
//!
//! One byte for the [`Setting`], then events: a byte that says which, three that say more, and for those with a
//! frame its length in two bytes (the lower one first) and the frame.

use warren_ebpf::packet::{ACK, FIN, RST, SYN};

use crate::frames::{LINK, Shape};

/// No frame is longer.
const LONGEST: usize = 2048;

/// How the node is.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its tables have room for so few records that they are forgotten all the time.
    pub small: bool,
    /// It has so few ports to masquerade with that they run out.
    pub few_ports: bool,
}

/// Something that happens.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// A frame comes in by a device of the node.
    In { device: u8, frame: &'a [u8] },
    /// A container sends a frame.
    Out { container: u8, frame: &'a [u8] },
    /// A client sends to the node, or to a container.
    Client {
        six: bool,
        device: u8,
        client: u8,
        port: u8,
        published: u8,
        protocol: u8,
        flags: u8,
        shape: Shape,
    },
    /// A container answers one of the packets that it got.
    Answer { six: bool, which: u8, flags: u8, shape: Shape },
    /// A container sends to somebody: a host outside, the node, another container.
    Speak { six: bool, container: u8, port: u8, to: u8, protocol: u8, flags: u8, shape: Shape },
    /// Who got a container's packet outside answers.
    Back { six: bool, which: u8, flags: u8, shape: Shape },
    /// Who got a packet reports an error about it.
    Report { six: bool, outside: bool, which: u8, most: u8 },
    /// The last packet but `back` is sent once more, but for one byte.
    Again { six: bool, back: u8, place: u8, change: u8 },
    /// The last packet but `back` is sent once more, in pieces.
    Cut { six: bool, back: u8, eights: u8, swap: bool },
    /// Time passes: so many times ten milliseconds.
    Wait(u16),
    /// The agent changes a backend.
    State { id: u8, state: u8 },
    /// A backend's row gets another tenant.
    Tenant { id: u8 },
    /// The list of who is denied is in force, or not.
    Deny(bool),
}

impl Event<'_> {
    /// Whether it happens to IPv6.
    pub fn is_of_ipv6(&self) -> bool {
        match self {
            Self::In { device: 2, frame } => frame.first().is_some_and(|b| b >> 4 == 6),
            Self::In { frame, .. } | Self::Out { frame, .. } => frame[LINK - 2..LINK] == [0x86, 0xdd],
            Self::Client { six, .. }
            | Self::Answer { six, .. }
            | Self::Speak { six, .. }
            | Self::Back { six, .. }
            | Self::Report { six, .. }
            | Self::Again { six, .. }
            | Self::Cut { six, .. } => *six,
            Self::Wait(_) | Self::State { .. } | Self::Tenant { .. } | Self::Deny(_) => false,
        }
    }

    /// Whether it happens to both families.
    pub fn is_of_all(&self) -> bool {
        matches!(self, Self::Wait(_) | Self::State { .. } | Self::Tenant { .. } | Self::Deny(_))
    }
}

/// Bytes that are being read.
#[derive(Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// From the start.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// How the node is: said first.
    pub fn setting(&mut self) -> Setting {
        let [bits] = self.take();
        Setting { small: bits & 1 != 0, few_ports: bits & 2 != 0 }
    }

    /// The next thing that happens; `None` at the end.
    pub fn event(&mut self) -> Option<Event<'a>> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let [kind, x, y, z] = self.take();
            let (six, protocol) = (x & 0x80 != 0, [6, 17, 1, 6][usize::from(x >> 5 & 3)]);
            let (flags, shape) = (flags(z), shape(z));
            let event = match kind % 14 {
                0 => Event::In { device: x % 3, frame: self.frame() },
                1 => Event::Out { container: x % 3 + 1, frame: self.frame() },
                2 | 3 => {
                    let (device, client) = (x >> 3 & 3, x & 7);
                    Event::Client {
                        six,
                        device,
                        client,
                        port: y & 3,
                        published: y >> 2,
                        protocol,
                        flags,
                        shape,
                    }
                }
                4 => Event::Answer { six, which: y, flags, shape },
                5 => {
                    let (container, port, to) = ((x & 3) % 3 + 1, y & 3, y >> 2);
                    Event::Speak { six, container, port, to, protocol, flags, shape }
                }
                6 => Event::Back { six, which: y, flags, shape },
                7 => Event::Report { six, outside: x & 1 != 0, which: y, most: z },
                8 => Event::Again { six, back: x & 7, place: y, change: z },
                9 => Event::Cut { six, back: x & 7, eights: y & 31, swap: z & 1 != 0 },
                10 => Event::Wait(u16::from_le_bytes([y, z])),
                11 => Event::State { id: x % 3 + 1, state: y % 5 },
                12 => Event::Tenant { id: x % 3 + 1 },
                _ => Event::Deny(x & 1 != 0),
            };
            // A frame without an IP packet is none of the decisions' business.
            match &event {
                Event::In { device: 2, .. } => return Some(event),
                Event::In { frame, .. } | Event::Out { frame, .. } => {
                    let is_ip = frame.len() >= LINK && matches!(frame[LINK - 2..LINK], [8, 0] | [0x86, 0xdd]);
                    if is_ip {
                        return Some(event);
                    }
                }
                _ => return Some(event),
            }
        }
    }

    /// The next bytes; those that are missing are zero.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut found = [0; N];
        let there = N.min(self.rest.len());
        found[..there].copy_from_slice(&self.rest[..there]);
        self.rest = &self.rest[there..];
        found
    }

    fn frame(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_le_bytes(self.take())) % LONGEST;
        let (frame, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        frame
    }
}

fn flags(z: u8) -> u8 {
    [SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK, 0, SYN | FIN][usize::from(z & 7)]
}

fn shape(z: u8) -> Shape {
    Shape { option: z & 8 != 0, unchecked: z & 16 != 0, long: z & 32 != 0, padding: z & 64 != 0 }
}
