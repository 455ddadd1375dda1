//! Room to work in outside of the stack, which has 512 bytes: what one step of a decision leaves to the
//! next, and the keys and values of the tables of IPv6, which the kernel takes from here. One row per
//! CPU; no two programs that use it are ever at work on one CPU.
//!
//! What comes from here the verifier knows nothing of, so that it looks at a step once and not once for
//! each way that leads there.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem},
};
use warren_ebpf::{
    abi::{Address, Scratch},
    flow::{Operation, Table, decide::Work},
    packet::notice::{QUOTE, Quoted},
};

use crate::maps;

/// This CPU's row.
#[derive(Clone, Copy)]
pub struct Room(*mut Scratch);

impl Room {
    #[inline(always)]
    pub fn find() -> Option<Self> {
        maps::SCRATCH.get_ptr_mut(0).map(Self)
    }

    /// The place for what is found out about a packet. One at a time, and of one family: whoever is not
    /// the first to ask knows which.
    #[inline(always)]
    pub fn work<'a, A: Address>(self) -> &'a mut Work<A> {
        const { assert!(size_of::<Work<A>>() <= size_of::<[[u64; 8]; 5]>() && align_of::<Work<A>>() <= 8) };
        // SAFETY: the row is this CPU's own and stays while the program runs. Whoever asks first writes
        // all of it.
        unsafe { &mut *(&raw mut (*self.0).work).cast() }
    }

    /// The place for what an ICMP error quotes.
    #[inline(always)]
    pub fn quoted<'a, A: Address>(self) -> &'a mut Quoted<A> {
        const { assert!(size_of::<Quoted<A>>() <= size_of::<[[u64; 8]; 2]>() && align_of::<Quoted<A>>() <= 8) };
        // SAFETY: as above.
        unsafe { &mut *(&raw mut (*self.0).quoted).cast() }
    }

    /// The place for what an ICMP error of our own quotes.
    #[inline(always)]
    pub fn quote<'a>(self) -> &'a mut [u8; QUOTE] {
        const { assert!(QUOTE <= size_of::<[[u64; 8]; 2]>()) };
        // SAFETY: as above. A packet that we report is no error of others.
        unsafe { &mut *(&raw mut (*self.0).quoted).cast() }
    }

    /// Puts a key into its place.
    #[inline(always)]
    fn key<K: Copy>(self, key: &K) -> *mut K {
        const { assert!(size_of::<K>() <= size_of::<[u64; 6]>() && align_of::<K>() <= 8) };
        // SAFETY: the row is this CPU's own, and its place large enough.
        unsafe {
            let place = (&raw mut (*self.0).key).cast::<K>();
            place.write(*key);
            place
        }
    }

    /// Puts a value into its place.
    #[inline(always)]
    fn value<V: Copy>(self, value: &V) -> *mut V {
        const { assert!(size_of::<V>() <= size_of::<[u64; 12]>() && align_of::<V>() <= 8) };
        // SAFETY: as above.
        unsafe {
            let place = (&raw mut (*self.0).value).cast::<V>();
            place.write(*value);
            place
        }
    }
}

/// A hash map that takes keys and values from a [`Room`].
pub struct Roomy<K, V> {
    map: *mut core::ffi::c_void,
    room: Room,
    of: core::marker::PhantomData<(K, V)>,
}

impl<K, V> Roomy<K, V> {
    /// `map` is a BTF map of `K` to `V`.
    #[inline(always)]
    pub fn new<M>(map: &'static M, room: Room) -> Self {
        Self { map: (&raw const *map).cast_mut().cast(), room, of: core::marker::PhantomData }
    }
}

impl<K: Copy, V: Copy> Roomy<K, V> {
    #[inline(always)]
    fn find(&self, key: &K) -> *mut V {
        let key = self.room.key(key);
        // SAFETY: the map's own key, as large as it must be.
        unsafe { bpf_map_lookup_elem(self.map, key.cast()).cast() }
    }

    #[inline(always)]
    fn put(&self, key: &K, value: &V, flags: u32) -> bool {
        let (key, value) = (self.room.key(key), self.room.value(value));
        // SAFETY: as above, and its value.
        unsafe { bpf_map_update_elem(self.map, key.cast(), value.cast(), u64::from(flags)) == 0 }
    }
}

impl<K: Copy, V: Copy> Table<K, V> for Roomy<K, V> {
    #[inline(always)]
    fn with<R>(&self, key: &K, f: impl FnOnce(&mut V) -> R) -> Option<R> {
        let found = self.find(key);
        // SAFETY: as for the tables of IPv4.
        if found.is_null() { None } else { Some(f(unsafe { &mut *found })) }
    }

    #[inline(always)]
    fn apply<O: Operation<V>>(&self, key: &K, operation: O) -> Option<O::Output> {
        let found = self.find(key);
        // SAFETY: as above.
        if found.is_null() { None } else { Some(operation.run(unsafe { &mut *found })) }
    }

    #[inline(always)]
    fn insert(&self, key: &K, value: &V) {
        // As in the tables of IPv4: what is not stored is made anew.
        let _ = self.put(key, value, BPF_ANY);
    }

    #[inline(always)]
    fn create(&self, key: &K, value: &V) -> bool {
        self.put(key, value, BPF_NOEXIST)
    }

    #[inline(always)]
    fn remove(&self, key: &K) {
        let key = self.room.key(key);
        // SAFETY: as above.
        let _ = unsafe { bpf_map_delete_elem(self.map, key.cast()) };
    }
}
