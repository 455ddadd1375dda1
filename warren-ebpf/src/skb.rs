//! A socket buffer as a [`Packet`].

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INVALIDATE_HASH, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{
        bpf_check_mtu, bpf_csum_diff, bpf_csum_update, bpf_l4_csum_replace, bpf_skb_adjust_room,
        bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};
use warren_ebpf::packet::Packet;

/// A socket buffer at a TC hook.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Skb(*mut __sk_buff);

impl Skb {
    /// The packet at hand, as the kernel gave it.
    #[inline(always)]
    pub fn at(packet: *mut __sk_buff) -> Self {
        Self(packet)
    }

    /// Device it came in by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context; the verifier rewrites the access.
        unsafe { (&raw const (*self.0).ifindex).read_volatile() }
    }

    /// `PACKET_HOST` and so on.
    #[inline(always)]
    pub fn kind(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).pkt_type).read_volatile() }
    }

    /// EtherType in host order.
    #[inline(always)]
    pub fn ethertype(&self) -> u16 {
        // SAFETY: as above.
        u16::from_be(unsafe { (&raw const (*self.0).protocol).read_volatile() } as u16)
    }

    /// Bytes that each of the merged segments carries; 0: it is one segment.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).gso_size).read_volatile() }
    }

    /// The MTU of a device as it is now; 0 when there is no such device.
    #[inline(always)]
    pub fn mtu(&self, ifindex: u32) -> u32 {
        // The length of a packet to check: any, it is the answer's place.
        let mut mtu = 1;
        // SAFETY: the helper reads and writes one number.
        let found = unsafe { bpf_check_mtu(self.0.cast(), ifindex, &raw mut mtu, 0, 0) };
        if found < 0 { 0 } else { mtu }
    }

    /// Cuts the packet off behind `length` bytes, and the merging of segments with it.
    #[inline(always)]
    #[must_use]
    pub fn truncate(&mut self, length: u32) -> bool {
        // SAFETY: plain numbers.
        unsafe { bpf_skb_change_tail(self.0, length, 0) == 0 }
    }

    /// Reads bytes to where they fit; false past the end.
    #[inline(always)]
    #[must_use]
    pub fn read<const N: usize>(&self, offset: u32, to: &mut [u8; N]) -> bool {
        // SAFETY: the helper writes N bytes, or fails.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset, to.as_mut_ptr().cast(), N as u32) == 0 }
    }

    /// Writes a value; false when that cannot be.
    #[inline(always)]
    #[must_use]
    pub fn put<T: Copy>(&mut self, offset: u32, value: &T) -> bool {
        let (from, length) = ((&raw const *value).cast(), size_of::<T>() as u32);
        // SAFETY: the helper reads as many bytes as there are.
        unsafe { bpf_skb_store_bytes(self.0, offset, from, length, u64::from(BPF_F_INVALIDATE_HASH)) == 0 }
    }

    /// Makes room for `length` bytes between link header and packet.
    #[inline(always)]
    #[must_use]
    pub fn make_room(&mut self, length: u32) -> bool {
        // SAFETY: plain numbers.
        unsafe { bpf_skb_adjust_room(self.0, length as i32, BPF_ADJ_ROOM_MAC, 0) == 0 }
    }

    #[inline(always)]
    fn fix(&mut self, offset: u32, from: u64, to: u64, flags: u64, optional: bool) -> bool {
        let flags = if optional { flags | u64::from(BPF_F_MARK_MANGLED_0) } else { flags };
        // SAFETY: the helper checks the offset itself.
        unsafe { bpf_l4_csum_replace(self.0, offset, from, to, flags) == 0 }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).len).read_volatile() }
    }

    #[inline(always)]
    fn merged(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).gso_segs).read_volatile() }
    }

    #[inline(always)]
    fn segment_size(&self) -> u32 {
        self.gso_size()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the helper writes all N bytes or fails.
        unsafe {
            if bpf_skb_load_bytes(self.0.cast(), offset, bytes.as_mut_ptr().cast(), N as u32) == 0 {
                Some(bytes.assume_init())
            } else {
                None
            }
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> bool {
        let flags = u64::from(BPF_F_INVALIDATE_HASH);
        // SAFETY: the helper reads N bytes and checks the offset itself.
        unsafe { bpf_skb_store_bytes(self.0, offset, bytes.as_ptr().cast(), N as u32, flags) == 0 }
    }

    #[inline(always)]
    fn fix_pseudo(&mut self, offset: u32, from: [u8; 4], to: [u8; 4], optional: bool) -> bool {
        let (from, to) = (u32::from_ne_bytes(from), u32::from_ne_bytes(to));
        self.fix(offset, u64::from(from), u64::from(to), u64::from(BPF_F_PSEUDO_HDR) | 4, optional)
    }

    #[inline(always)]
    fn fix_address(&mut self, offset: u32, from: &[u8; 16], to: &[u8; 16], optional: bool) -> bool {
        const SIZE: u32 = size_of::<[u8; 16]>() as u32;
        let (from, to) = (from.as_ptr().cast_mut().cast(), to.as_ptr().cast_mut().cast());
        // SAFETY: the helper reads as many bytes as there are.
        let difference = unsafe { bpf_csum_diff(from, SIZE, to, SIZE, 0) };
        if difference < 0 || !self.fix(offset, 0, difference as u64, u64::from(BPF_F_PSEUDO_HDR), optional) {
            return false;
        }
        // What a device has summed up over the whole packet stays as it was: the address and the
        // checksum changed by as much, one up, one down. The helper thinks of IPv4, where the header's
        // checksum does so too, and has changed the sum. Nothing happens where there is none.
        // SAFETY: plain numbers.
        unsafe { bpf_csum_update(self.0, difference as u32) };
        true
    }

    #[inline(always)]
    fn recount(&mut self, from: &[u8; 16], to: &[u8; 16]) {
        const SIZE: u32 = size_of::<[u8; 16]>() as u32;
        let (from, to) = (from.as_ptr().cast_mut().cast(), to.as_ptr().cast_mut().cast());
        // SAFETY: the helper reads as many bytes as there are. Nothing happens where there is no sum.
        unsafe {
            let difference = bpf_csum_diff(from, SIZE, to, SIZE, 0);
            bpf_csum_update(self.0, difference as u32);
        }
    }

    #[inline(always)]
    fn forget(&self, place: usize, value: u32) -> u32 {
        // Room of ours while the packet is here; all that the verifier knows of it is its size.
        // SAFETY: as above.
        unsafe {
            (&raw mut (*self.0).cb[place]).write_volatile(value);
            (&raw const (*self.0).cb[place]).read_volatile()
        }
    }

    #[inline(always)]
    fn fix_segment(&mut self, offset: u32, from: [u8; 2], to: [u8; 2], optional: bool) -> bool {
        let (from, to) = (u16::from_ne_bytes(from), u16::from_ne_bytes(to));
        self.fix(offset, u64::from(from), u64::from(to), 2, optional)
    }
}
