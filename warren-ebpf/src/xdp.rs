//! A frame as it lies in a device's ring, as a [`Packet`] that is only read.

use aya_ebpf::bindings::xdp_md;
use warren_ebpf::packet::Packet;

/// Headers lie before this.
const REACH: u32 = 0xfff;

/// A frame at the XDP hook.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Frame(*mut xdp_md);

impl Frame {
    /// The frame at hand, as the kernel gave it.
    #[inline(always)]
    pub fn at(frame: *mut xdp_md) -> Self {
        Self(frame)
    }

    /// Device it came in by.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the kernel hands the program a valid context; the verifier rewrites the access.
        unsafe { (&raw const (*self.0).ingress_ifindex).read_volatile() }
    }

    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).data).read_volatile() as usize }
    }

    #[inline(always)]
    fn end(&self) -> usize {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).data_end).read_volatile() as usize }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.end().wrapping_sub(self.start()) as u32
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        if offset > REACH {
            return None;
        }
        let from = self.start() + offset as usize;
        if from + N > self.end() {
            return None;
        }
        // SAFETY: the N bytes lie before the end; the verifier checks that we have looked.
        Some(unsafe { (from as *const [u8; N]).read() })
    }

    fn store<const N: usize>(&mut self, _: u32, _: [u8; N]) -> bool {
        false
    }

    fn fix_pseudo(&mut self, _: u32, _: [u8; 4], _: [u8; 4], _: bool) -> bool {
        false
    }

    fn fix_address(&mut self, _: u32, _: &[u8; 16], _: &[u8; 16], _: bool) -> bool {
        false
    }

    fn fix_segment(&mut self, _: u32, _: [u8; 2], _: [u8; 2], _: bool) -> bool {
        false
    }
}
