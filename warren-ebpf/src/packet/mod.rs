//! Reading and rewriting packets. The same functions work on a socket buffer in the kernel and on
//! plain bytes under test ([`Bytes`]): both are a [`Packet`].

mod checksum;
mod family;
pub mod notice;
mod parse;
pub mod piece;
mod rewrite;

#[cfg(not(target_arch = "bpf"))]
mod bytes;
#[cfg(test)]
mod tests;

#[cfg(not(target_arch = "bpf"))]
pub use bytes::Bytes;
pub use checksum::{adjust, sum};
pub use family::Family;
pub use parse::{ACK, FIN, Ip, RST, SYN, Segment, ipv4, ipv6, segment, transport};
pub use rewrite::{Tuple, rewrite4, rewrite6};

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// A packet that can be read and changed. Offsets are in bytes from its start (link header, if
/// any, included). Checksums are changed by difference, as the kernel's helpers do it, so that
/// checksums that hardware is yet to complete stay right.
pub trait Packet {
    /// Length in bytes; of all segments together when they are merged (GRO).
    fn length(&self) -> u32;

    /// How many packets are merged in it (GRO, or for the device to cut up); 0: that is not known, see
    /// [`segment_size`](Self::segment_size).
    #[inline(always)]
    fn merged(&self) -> u32 {
        1
    }

    /// How much each of the packets carries that are merged in it, behind the transport header; 0: it is one.
    #[inline(always)]
    fn segment_size(&self) -> u32 {
        0
    }

    /// Reads `N` bytes; `None` past the end.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// Writes `N` bytes; false when that cannot be.
    #[must_use]
    fn store<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> bool;

    /// Adjusts the transport checksum at `offset` for a changed word of the pseudo header. With
    /// `optional` (UDP over IPv4) 0 means "no checksum" and stays.
    #[must_use]
    fn fix_pseudo(&mut self, offset: u32, from: [u8; 4], to: [u8; 4], optional: bool) -> bool;

    /// Adjusts the transport checksum at `offset` for a changed address of an IPv6 header, which has
    /// no checksum of its own. `optional` as above.
    #[must_use]
    fn fix_address(&mut self, offset: u32, from: &[u8; 16], to: &[u8; 16], optional: bool) -> bool;

    /// Adjusts the transport checksum at `offset` for a changed half word of the segment.
    #[must_use]
    fn fix_segment(&mut self, offset: u32, from: [u8; 2], to: [u8; 2], optional: bool) -> bool;

    /// An address of an IPv6 header was changed, and nothing that makes up for it in a checksum: what
    /// a device has summed up over the packet is to follow.
    #[inline(always)]
    fn recount(&mut self, from: &[u8; 16], to: &[u8; 16]) {
        let _ = (from, to);
    }

    /// `value`. In the kernel the verifier forgets how it came about (in `place`, 0 to 4), and so
    /// looks at what follows once, not once for each way that led there.
    #[inline(always)]
    fn forget(&self, place: usize, value: u32) -> u32 {
        let _ = place;
        value
    }
}
