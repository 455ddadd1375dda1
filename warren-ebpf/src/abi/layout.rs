//! What makes a layout comparable: a hash over names, sizes, alignments and offsets, computed by
//! the compiler on both sides. Two binaries whose hashes differ must not share maps.

/// A type that lies in a map. Implemented by the macro `layout!` only, which also refuses
/// structs with hidden padding: those bytes would be garbage in a key.
pub trait Layout: Copy + 'static {
    /// Hash of the type's name, size, alignment and fields.
    const HASH: u64;
}

/// Start value of [`mix_bytes`] and [`mix`] (FNV-1a, 64 bits).
pub const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// Folds a number into a hash.
#[must_use]
pub const fn mix(hash: u64, number: u64) -> u64 {
    mix_bytes(hash, &number.to_le_bytes())
}

/// Folds bytes into a hash.
#[must_use]
pub const fn mix_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Declares a struct that lies in a map: C layout, no hidden padding, [`Layout`], and `aya::Pod`
/// for the host (feature `user`). `A` stands for an address: `[u8; 4]` or `[u8; 16]`.
#[macro_export]
#[doc(hidden)]
macro_rules! layout {
    ($(#[$doc:meta])* pub struct $name:ident<A> { $($(#[$fdoc:meta])* pub $field:ident: $ty:ty,)+ }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name<A: $crate::abi::Address> { $($(#[$fdoc])* pub $field: $ty,)+ }
        $crate::layout!(@impl [<A: $crate::abi::Address>] $name [<A>] $($field: $ty,)+);
    };
    ($(#[$doc:meta])* pub struct $name:ident { $($(#[$fdoc:meta])* pub $field:ident: $ty:ty,)+ }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)+ }
        $crate::layout!(@impl [] $name [] $($field: $ty,)+);
    };
    (@impl [$($bounds:tt)*] $name:ident [$($args:tt)*] $($field:ident: $ty:ty,)+) => {
        impl $($bounds)* $crate::abi::Layout for $name $($args)* {
            const HASH: u64 = {
                assert!(size_of::<Self>() == 0 $(+ size_of::<$ty>())+, "hidden padding");
                let mut hash = $crate::abi::mix_bytes($crate::abi::SEED, stringify!($name).as_bytes());
                hash = $crate::abi::mix(hash, size_of::<Self>() as u64);
                hash = $crate::abi::mix(hash, align_of::<Self>() as u64);
                $(
                    hash = $crate::abi::mix_bytes(hash, stringify!($field).as_bytes());
                    hash = $crate::abi::mix(hash, core::mem::offset_of!(Self, $field) as u64);
                    hash = $crate::abi::mix(hash, size_of::<$ty>() as u64);
                )+
                hash
            };
        }
        // SAFETY: C layout without padding, of integers and arrays of integers only: every byte
        // pattern is a value.
        #[cfg(feature = "user")]
        unsafe impl $($bounds)* aya::Pod for $name $($args)* {}
    };
}
