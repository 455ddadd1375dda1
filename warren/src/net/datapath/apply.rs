//! Writes changes into the maps, and keeps what we know of them in step.

use std::io;

use super::{
    contents::{ARRAYS, Contents, Maps},
    diff::Change,
};

/// Applies the changes in order; stops at the first that fails. `current` then says what was done.
pub fn apply(maps: &mut impl Maps, current: &mut Contents, changes: &[Change]) -> io::Result<()> {
    for change in changes {
        match change {
            Change::Set { map, key, value } => {
                maps.set(map, key, value)?;
                let rows = current.rows_mut(map);
                if ARRAYS.contains(map) && value.iter().all(|b| *b == 0) {
                    rows.remove(key);
                } else {
                    rows.insert(key.clone(), value.clone());
                }
            }
            Change::Delete { map, key } => {
                maps.delete(map, key)?;
                current.rows_mut(map).remove(key);
            }
        }
    }
    Ok(())
}
