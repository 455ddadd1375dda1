//! A packet in memory: the kernel's helpers, modelled for tests.

use super::{Packet, adjust};

/// A packet in memory.
#[derive(Debug)]
pub struct Bytes<'a>(pub &'a mut [u8]);

impl Bytes<'_> {
    fn fix(&mut self, offset: u32, changes: &[(u16, u16)], optional: bool) -> bool {
        let Some(check) = self.load::<2>(offset).map(u16::from_be_bytes) else { return false };
        if optional && check == 0 {
            return true;
        }
        let mut new = check;
        for (from, to) in changes {
            new = adjust(new, *from, *to);
        }
        if optional && new == 0 {
            new = 0xffff;
        }
        self.store(offset, new.to_be_bytes())
    }
}

fn halves(from: [u8; 4], to: [u8; 4]) -> [(u16, u16); 2] {
    let half = |w: [u8; 4], i: usize| u16::from_be_bytes([w[i], w[i + 1]]);
    [(half(from, 0), half(to, 0)), (half(from, 2), half(to, 2))]
}

impl Packet for Bytes<'_> {
    fn length(&self) -> u32 {
        self.0.len() as u32
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(offset as usize..)?.first_chunk().copied()
    }

    fn store<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> bool {
        let place = self.0.get_mut(offset as usize..).and_then(|rest| rest.first_chunk_mut::<N>());
        place.map(|p| *p = bytes).is_some()
    }

    fn fix_pseudo(&mut self, offset: u32, from: [u8; 4], to: [u8; 4], optional: bool) -> bool {
        self.fix(offset, &halves(from, to), optional)
    }

    fn fix_address(&mut self, offset: u32, from: &[u8; 16], to: &[u8; 16], optional: bool) -> bool {
        let half = |a: &[u8; 16], i: usize| u16::from_be_bytes([a[2 * i], a[2 * i + 1]]);
        self.fix(offset, &core::array::from_fn::<_, 8, _>(|i| (half(from, i), half(to, i))), optional)
    }

    fn fix_segment(&mut self, offset: u32, from: [u8; 2], to: [u8; 2], optional: bool) -> bool {
        self.fix(offset, &[(u16::from_be_bytes(from), u16::from_be_bytes(to))], optional)
    }
}
