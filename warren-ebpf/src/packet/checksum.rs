//! The Internet checksum (RFC 1071) and its change by difference (RFC 1624).

/// Ones' complement sum of `bytes`, folded, not inverted: 0xffff over data whose checksum is
/// right and included.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The checksum `check` after the half word `from` became `to` (RFC 1624, equation 3).
#[must_use]
pub fn adjust(check: u16, from: u16, to: u16) -> u16 {
    let mut total = u32::from(!check) + u32::from(!from) + u32::from(to);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    !(total as u16)
}
