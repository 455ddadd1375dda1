//! Where in `MAGLEV` the tables of services lie. Pure.
//!
//! A packet may be between reading a service and reading its row: a table is never changed where
//! it lies. A changed one is written elsewhere, the service is pointed there, and the old rows are
//! left alone for a while.

use std::{collections::BTreeMap, ops::Range};

use warren_ebpf::{
    abi::{BackendRef, Service, ServiceKey, capacity, map},
    maglev,
};

use super::contents::Contents;

/// Where the tables are to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placed {
    /// By number of the service: rows and what is in them. Services that need no table are not in
    /// it.
    pub tables: BTreeMap<u32, (Range<u32>, Vec<BackendRef>)>,
    /// Rows that go out of use.
    pub retire: Vec<Range<u32>>,
}

/// Places the tables of services with these backends. A service whose table has not changed keeps
/// its rows. When there is no room (thousands of services with hundreds of backends each), a
/// service gets a smaller table.
#[must_use]
pub fn place(current: &Contents, wanted: &BTreeMap<u32, Vec<BackendRef>>, retired: &[Range<u32>]) -> Placed {
    let mut lying: BTreeMap<u32, Range<u32>> = BTreeMap::new();
    let services = current
        .iter::<ServiceKey<[u8; 4]>, Service>(map::SVC4)
        .map(|(_, s)| s)
        .chain(current.iter::<ServiceKey<[u8; 16]>, Service>(map::SVC6).map(|(_, s)| s));
    for s in services {
        if s.table_size > 0 {
            lying.insert(s.id, s.table..s.table.saturating_add(s.table_size));
        }
    }
    let mut taken: Vec<Range<u32>> = lying.values().cloned().chain(retired.iter().cloned()).collect();
    let mut placed = Placed::default();
    for (service, backends) in wanted {
        let mut size = maglev::table_size(backends.len());
        while size > 0 {
            let rows = maglev::build(backends, size);
            let at = match lying.get(service) {
                Some(range) if lies_there(current, range, &rows) => Some(range.clone()),
                _ => free(&taken, size),
            };
            if let Some(range) = at {
                taken.push(range.clone());
                placed.tables.insert(*service, (range, rows));
                break;
            }
            size = maglev::TABLE_SIZES.into_iter().rev().find(|s| *s < size).unwrap_or(0);
        }
    }
    placed.retire = lying
        .into_iter()
        .filter(|(service, range)| placed.tables.get(service).is_none_or(|(r, _)| r != range))
        .map(|(_, range)| range)
        .collect();
    placed
}

fn lies_there(current: &Contents, range: &Range<u32>, rows: &[BackendRef]) -> bool {
    range.len() == rows.len()
        && range
            .clone()
            .zip(rows)
            .all(|(row, b)| current.get::<u32, BackendRef>(map::MAGLEV, &row).unwrap_or_default() == *b)
}

/// The first place of this size that nobody uses.
fn free(taken: &[Range<u32>], size: u32) -> Option<Range<u32>> {
    let mut taken: Vec<&Range<u32>> = taken.iter().collect();
    taken.sort_by_key(|r| r.start);
    let mut at = 0;
    for r in taken {
        if r.start.saturating_sub(at) >= size {
            break;
        }
        at = at.max(r.end);
    }
    let end = at.checked_add(size)?;
    (end as usize <= capacity::MAGLEV_ROWS).then_some(at..end)
}
