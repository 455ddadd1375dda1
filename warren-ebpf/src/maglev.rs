//! Maglev tables: which backend a hash leads to, so that backends get equal shares and few flows
//! move when one comes or goes. Built in user space; the programs only read rows.

extern crate alloc;

use alloc::{vec, vec::Vec};

use crate::{
    abi::{BackendRef, SEED, mix},
    flow::hash::scramble,
};

/// Table sizes: primes, so that every stride visits every row.
pub const TABLE_SIZES: [u32; 4] = [251, 1021, 4093, 16_381];

/// The smallest table in which shares differ by a percent at most (100 rows per backend), or the
/// largest there is. 0 for fewer than two backends: they need no table.
#[must_use]
pub fn table_size(backends: usize) -> u32 {
    if backends < 2 {
        return 0;
    }
    let wanted = backends.saturating_mul(100);
    TABLE_SIZES.into_iter().find(|&size| size as usize >= wanted).unwrap_or(TABLE_SIZES[3])
}

/// Fills a table of `size` rows (one of [`TABLE_SIZES`]). The order of `backends` does not matter:
/// nodes that know the same backends build the same table. Empty when there is no backend.
#[must_use]
pub fn build(backends: &[BackendRef], size: u32) -> Vec<BackendRef> {
    if backends.is_empty() || size < 2 {
        return Vec::new();
    }
    let mut backends = backends.to_vec();
    backends.sort_unstable_by_key(|b| (b.id, b.generation));
    backends.dedup();
    let rows = u64::from(size);
    // Each backend walks the rows in an order of its own and takes, in turn, the next free one.
    let mut walks: Vec<(u64, u64)> = backends
        .iter()
        .map(|b| {
            let hash = mix(mix(SEED, u64::from(b.id)), u64::from(b.generation));
            (scramble(hash) % rows, scramble(hash ^ SEED) % (rows - 1) + 1)
        })
        .collect();
    let mut table = vec![BackendRef::default(); size as usize];
    let mut taken = vec![false; size as usize];
    let mut left = size;
    loop {
        for (backend, (position, stride)) in backends.iter().zip(&mut walks) {
            while taken[*position as usize] {
                *position = (*position + *stride) % rows;
            }
            taken[*position as usize] = true;
            table[*position as usize] = *backend;
            left -= 1;
            if left == 0 {
                return table;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(n: u32) -> Vec<BackendRef> {
        (1..=n).map(|id| BackendRef { id, generation: 7 }).collect()
    }

    #[test]
    fn sizes() {
        assert_eq!(table_size(0), 0);
        assert_eq!(table_size(1), 0);
        assert_eq!(table_size(2), 251);
        assert_eq!(table_size(3), 1021);
        assert_eq!(table_size(40), 4093);
        assert_eq!(table_size(5000), 16_381);
        for size in TABLE_SIZES {
            assert!((2..size).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size} is prime");
        }
    }

    #[test]
    fn shares_are_equal_and_order_is_free() {
        for n in [1, 2, 3, 10, 40] {
            let set = backends(n);
            let size = table_size(n as usize).max(251);
            let table = build(&set, size);
            assert_eq!(table.len(), size as usize);
            for b in &set {
                let rows = table.iter().filter(|r| *r == b).count();
                let fair = size as usize / n as usize;
                assert!(rows.abs_diff(fair) <= 1, "{n} backends, {rows} rows for one, fair is {fair}");
            }
            let mut other = set.clone();
            other.reverse();
            assert_eq!(build(&other, size), table);
        }
        assert!(build(&[], 251).is_empty());
    }

    #[test]
    fn removing_one_moves_few_of_the_others() {
        let set = backends(10);
        let table = build(&set, 4093);
        let less = build(&set[1..], 4093);
        let moved = table.iter().zip(&less).filter(|(a, b)| **a != set[0] && a != b).count();
        assert!(moved < 4093 * 3 / 100, "{moved} rows of surviving backends moved");
    }
}
