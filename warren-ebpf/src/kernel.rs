//! The tables in the kernel: [`Table`] for the map types that flows live in.

use aya_ebpf::{bindings::BPF_NOEXIST, btf_maps::LruHashMap};

use crate::flow::{Operation, Table};

impl<K, V, const MAX: usize, const FLAGS: usize> Table<K, V> for LruHashMap<K, V, MAX, FLAGS> {
    #[inline(always)]
    fn with<R>(&self, key: &K, f: impl FnOnce(&mut V) -> R) -> Option<R> {
        // SAFETY: the pointer is to the map's value, which stays mapped while the program runs.
        // Other CPUs may write it too; every field is a plain word or smaller, any mix of which
        // is a value.
        self.get_ptr_mut(key).map(|value| f(unsafe { &mut *value }))
    }

    #[inline(always)]
    fn apply<O: Operation<V>>(&self, key: &K, operation: O) -> Option<O::Output> {
        match self.get_ptr_mut(key) {
            // SAFETY: as in `with`.
            Some(value) => Some(operation.run(unsafe { &mut *value })),
            None => None,
        }
    }

    #[inline(always)]
    fn insert(&self, key: &K, value: &V) {
        // An LRU map makes room for itself; what cannot be stored now is made anew by the next
        // packet.
        let _ = LruHashMap::insert(self, key, value, 0);
    }

    #[inline(always)]
    fn create(&self, key: &K, value: &V) -> bool {
        LruHashMap::insert(self, key, value, u64::from(BPF_NOEXIST)).is_ok()
    }

    #[inline(always)]
    fn remove(&self, key: &K) {
        let _ = LruHashMap::remove(self, key);
    }
}
