//! What is in the maps that the agent writes, as bytes, and the one outside thing that holds it.

use std::{collections::BTreeMap, io, sync::Arc};

use warren_ebpf::abi::map;

use super::sys::{RawMap, bytes_of, from_bytes};

/// Rows of one map. Of an array only the rows that are not all zero.
pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The maps that the agent writes, in the order in which new rows are written: what is referred to
/// comes before what refers to it, and the switch that turns the datapath on comes last.
pub const WRITTEN: [&str; 19] = [
    map::LOCAL4,
    map::LOCAL6,
    map::MAC,
    map::VIA6,
    map::ROUTE4,
    map::ROUTE6,
    map::BACKEND,
    map::EP4,
    map::EP6,
    map::LINK,
    map::MAGLEV,
    map::SRC4,
    map::SRC6,
    map::DENY4,
    map::DENY6,
    map::LIMIT,
    map::SVC4,
    map::SVC6,
    map::CONFIG,
];

/// Of those, the arrays: a row goes by being zeroed.
pub const ARRAYS: [&str; 3] = [map::BACKEND, map::MAGLEV, map::CONFIG];

/// Contents of all maps that the agent writes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents(BTreeMap<&'static str, Rows>);

impl Contents {
    /// What new maps hold.
    #[must_use]
    pub fn empty() -> Self {
        Self(WRITTEN.into_iter().map(|map| (map, Rows::new())).collect())
    }

    /// The rows of a map.
    #[must_use]
    pub fn rows(&self, map: &str) -> &Rows {
        static EMPTY: Rows = Rows::new();
        self.0.get(map).unwrap_or(&EMPTY)
    }

    /// The rows of a map, to change.
    pub fn rows_mut(&mut self, map: &'static str) -> &mut Rows {
        self.0.entry(map).or_default()
    }

    /// Puts a row.
    pub fn put<K: aya::Pod, V: aya::Pod>(&mut self, map: &'static str, key: &K, value: &V) {
        self.rows_mut(map).insert(bytes_of(key).to_vec(), bytes_of(value).to_vec());
    }

    /// A row, typed.
    #[must_use]
    pub fn get<K: aya::Pod, V: aya::Pod>(&self, map: &str, key: &K) -> Option<V> {
        self.rows(map).get(bytes_of(key)).and_then(|v| from_bytes(v))
    }

    /// The rows of a map, typed.
    pub fn iter<K: aya::Pod, V: aya::Pod>(&self, map: &str) -> impl Iterator<Item = (K, V)> + use<'_, K, V> {
        self.rows(map).iter().filter_map(|(k, v)| Some((from_bytes(k)?, from_bytes(v)?)))
    }
}

/// The maps in the kernel, or a stand-in.
pub trait Maps {
    /// Everything in a map; of an array the rows that are not all zero.
    fn dump(&self, map: &str) -> io::Result<Rows>;
    /// A row.
    fn get(&self, map: &str, key: &[u8]) -> io::Result<Option<Vec<u8>>>;
    /// Sets a row.
    fn set(&mut self, map: &str, key: &[u8], value: &[u8]) -> io::Result<()>;
    /// Deletes a row of a hash or trie; one that is not there is no error.
    fn delete(&mut self, map: &str, key: &[u8]) -> io::Result<()>;
}

/// The maps in the kernel, by name.
pub type Opened = BTreeMap<&'static str, Arc<RawMap>>;

impl Maps for Opened {
    fn dump(&self, map: &str) -> io::Result<Rows> {
        let mut rows = Rows::new();
        self[map].for_each_used(|k, v| {
            rows.insert(k.to_vec(), v.to_vec());
            true
        })?;
        Ok(rows)
    }

    fn get(&self, map: &str, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self[map].get(key)
    }

    fn set(&mut self, map: &str, key: &[u8], value: &[u8]) -> io::Result<()> {
        self[map].set(key, value)
    }

    fn delete(&mut self, map: &str, key: &[u8]) -> io::Result<()> {
        self[map].delete(key)
    }
}

/// Reads everything.
pub fn read(maps: &impl Maps) -> io::Result<Contents> {
    let mut contents = Contents::empty();
    for map in WRITTEN {
        *contents.rows_mut(map) = maps.dump(map)?;
    }
    Ok(contents)
}

/// Reads everything again, but of the arrays only the rows that `known` has: they have 200,000 rows,
/// of which a node uses a few thousand at most, and no program reads one that nothing refers to.
pub fn read_known(maps: &impl Maps, known: &Contents) -> io::Result<Contents> {
    let mut contents = Contents::empty();
    for map in WRITTEN {
        let rows = contents.rows_mut(map);
        if !ARRAYS.contains(&map) {
            *rows = maps.dump(map)?;
            continue;
        }
        for key in known.rows(map).keys() {
            let value = maps.get(map, key)?.filter(|v| v.iter().any(|b| *b != 0));
            rows.extend(value.map(|v| (key.clone(), v)));
        }
    }
    Ok(contents)
}
