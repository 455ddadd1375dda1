//! An IPv6 address as the programs handle it: two numbers instead of sixteen bytes, which on the BPF
//! target is a tenth of the code and of the stack. In memory the same as `[u8; 16]`.

use super::{Address, Backend, Config, GATE6, ICMP6, NEWCOMER_BURST6, NEWCOMER_SPACING6};

/// An IPv6 address, as long and laid out as its octets.
#[repr(C, packed(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Words {
    first: u64,
    last: u64,
}

const _: () = assert!(size_of::<Words>() == 16 && align_of::<Words>() == 4);

// The programs are built for such machines only.
const _: () = assert!(cfg!(target_endian = "little"));

impl Words {
    /// The address with these octets.
    #[inline(always)]
    #[must_use]
    pub const fn new(octets: [u8; 16]) -> Self {
        // SAFETY: as long, and every pattern of bytes is a value of both.
        unsafe { core::mem::transmute(octets) }
    }

    /// Its octets.
    #[inline(always)]
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        // SAFETY: as above.
        unsafe { core::mem::transmute(self) }
    }

    /// The first two of its octets.
    #[inline(always)]
    pub(crate) const fn kind(self) -> [u8; 2] {
        [self.first as u8, (self.first >> 8) as u8]
    }
}

impl From<[u8; 16]> for Words {
    #[inline(always)]
    fn from(octets: [u8; 16]) -> Self {
        Self::new(octets)
    }
}

impl From<Words> for [u8; 16] {
    #[inline(always)]
    fn from(words: Words) -> Self {
        words.octets()
    }
}

impl AsRef<[u8]> for Words {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: sixteen bytes without padding, in the order of octets where bytes of a number go up.
        unsafe { core::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }
}

impl Address for Words {
    const ZERO: Self = Self { first: 0, last: 0 };
    const ICMP: u8 = ICMP6;
    const FAMILY: u8 = 6;
    const OPTIONAL: bool = true;
    const GATE: u32 = GATE6;
    const NEWCOMERS: (u32, u32) = (NEWCOMER_SPACING6, NEWCOMER_BURST6);

    type Fill = [u8; 4];

    #[inline(always)]
    fn widen(&self) -> [u8; 16] {
        self.octets()
    }

    #[inline(always)]
    fn fold(&self) -> u32 {
        let (first, last) = (self.first, self.last);
        let mut word = first as u32;
        word = word.rotate_left(7) ^ (first >> 32) as u32;
        word = word.rotate_left(7) ^ last as u32;
        word.rotate_left(7) ^ (last >> 32) as u32
    }

    #[inline(always)]
    fn difference(&self, other: &Self) -> u32 {
        let word = (self.first ^ other.first) | (self.last ^ other.last);
        word as u32 | (word >> 32) as u32
    }

    #[inline(always)]
    fn undeliverable(&self) -> bool {
        let [a, b] = self.kind();
        let near = a == 0xff || (a == 0xfe && b & 0xc0 == 0x80);
        // The last octet is 0 or 1.
        near || (self.first == 0 && self.last & !(1 << 56) == 0)
    }

    #[inline(always)]
    fn of(backend: &Backend) -> Self {
        Self::new(backend.address6)
    }

    #[inline(always)]
    fn network(&self) -> [u8; 8] {
        self.first.to_le_bytes()
    }

    #[inline(always)]
    fn may_be_inside(&self, config: &Config) -> bool {
        super::inside6(self.first, config)
    }

    #[inline(always)]
    fn hairpin(config: &Config) -> Self {
        let [a, b, c, d] = config.hairpin;
        Self {
            first: u64::from_le_bytes([0xfe, 0x80, 0, 0, 0, 0, 0, 0]),
            last: u64::from(u32::from_le_bytes([a, b, c, d])) << 32,
        }
    }
}
