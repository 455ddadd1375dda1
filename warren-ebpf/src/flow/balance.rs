//! Which backend a new flow of a service gets: a row of its Maglev table, chosen by a hash, or one
//! near it when that one is not up.

use super::{Resolved, Search, Tables, hash, resolve};
use crate::abi::{Address, BACKEND_DRAINING, BACKEND_UP, BackendRef, SERVICE_DIRECT, Service, UDP};

/// Rows of a Maglev table that are tried for a backend that is up: with half of the backends down
/// and the table not yet rebuilt, one SYN in four thousand million finds none.
const PROBES: u32 = 32;

/// Picks a backend for a connection that the kernel tracks itself (a socket of the node). `hash` is
/// any number.
#[inline(always)]
pub fn choose<A: Address>(tables: &impl Tables<A>, service: &Service, hash: u64) -> Resolved<A> {
    pick(tables, service, hash, 0)
}

/// A backend that is up (other than `avoid`), else one that is draining.
#[inline(always)]
pub(super) fn pick<A: Address>(
    tables: &impl Tables<A>,
    service: &Service,
    hash: u64,
    avoid: u32,
) -> Resolved<A> {
    if service.table_size == 0 {
        let found = resolve(tables, service.single);
        let takes = found.takes() || (is_direct(service) && found.exists());
        return if takes && found.backend.id != avoid { found } else { Resolved::default() };
    }
    let mut search = Pick {
        hash,
        table: service.table,
        size: service.table_size,
        avoid,
        up: BackendRef::default(),
        draining: BackendRef::default(),
    };
    tables.search(PROBES, &mut search);
    if search.up.id != 0 { resolve(tables, search.up) } else { resolve(tables, search.draining) }
}

/// Looks through a table for a backend that is up.
struct Pick {
    hash: u64,
    table: u32,
    size: u32,
    avoid: u32,
    up: BackendRef,
    draining: BackendRef,
}

impl<A: Address, T: Tables<A>> Search<A, T> for Pick {
    #[inline(always)]
    fn step(&mut self, tables: &T, i: u32) -> bool {
        let spread = hash::scramble(self.hash.wrapping_add(u64::from(i)));
        if self.size == 0 {
            return true;
        }
        let row = (spread % u64::from(self.size)) as u32;
        let backend = tables.row(self.table.wrapping_add(row));
        let state = resolve::<A>(tables, backend).state;
        if backend.id == self.avoid {
            return false;
        }
        if state == BACKEND_UP {
            self.up = backend;
            return true;
        }
        if state == BACKEND_DRAINING && self.draining.id == 0 {
            self.draining = backend;
        }
        false
    }
}

/// Whether a flow stays with the backend it has. A TCP connection ends with its backend's, so it
/// stays for as long as that one keeps its flows. UDP has no end: it leaves one that is on its way
/// out, or does not work, as soon as the service leads to another.
#[inline(always)]
pub(super) fn keeps<A: Address>(
    tables: &impl Tables<A>,
    service: &Service,
    protocol: u8,
    hash: u64,
    backend: &Resolved<A>,
) -> bool {
    if is_direct(service) {
        return backend.exists();
    }
    if protocol != UDP || backend.state == BACKEND_UP || !backend.serves() {
        return backend.serves();
    }
    let candidate = candidate(tables, service, hash);
    candidate.id == 0 || candidate == backend.backend
}

/// Whether it is a container's own address.
#[inline(always)]
fn is_direct(service: &Service) -> bool {
    service.flags & SERVICE_DIRECT != 0
}

/// The backend for the next datagram of a socket of the node whose last one went to `known`, or to
/// nobody. `hash` is any number.
#[inline(always)]
pub fn choose_again<A: Address>(
    tables: &impl Tables<A>,
    service: &Service,
    hash: u64,
    known: BackendRef,
) -> Resolved<A> {
    let backend = resolve(tables, known);
    if keeps(tables, service, UDP, hash, &backend) { backend } else { choose(tables, service, hash) }
}

/// The backend that a new flow gets while all are up.
#[inline(always)]
pub(super) fn candidate<A: Address>(tables: &impl Tables<A>, service: &Service, hash: u64) -> BackendRef {
    if service.table_size == 0 {
        return service.single;
    }
    let row = (hash::scramble(hash) % u64::from(service.table_size)) as u32;
    tables.row(service.table.wrapping_add(row))
}
