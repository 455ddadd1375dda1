//! Published ports, whom they answer and what is behind them: `SVC4`, `SRC4`, `BACKEND`, `MAGLEV`, and the maps that say
//! which container an address (`EP4`) or a device (`LINK`) belongs to.

use crate::layout;

/// `Backend::state`: the row belongs to nobody.
pub const BACKEND_EMPTY: u8 = 0;
/// `Backend::state`: takes new flows.
pub const BACKEND_UP: u8 = 1;
/// `Backend::state`: keeps its flows; takes new ones only while no other backend is up.
pub const BACKEND_DRAINING: u8 = 2;
/// `Backend::state`: attached (it may send), but behind no published port: not yet serving.
pub const BACKEND_CLOSED: u8 = 3;
/// `Backend::state`: keeps its flows and takes no new ones, even while no other backend is up: it
/// is known not to work.
pub const BACKEND_HELD: u8 = 4;

layout! {
/// Key of `SVC4` (and `SVC6`).
pub struct ServiceKey<A> {
    /// The address published on; all zero for every local address. The exact one is looked up
    /// first.
    pub address: A,
    /// Published port.
    pub port: u16,
    /// 6 or 17.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}
}

layout! {
/// A use of a backend row: the row and which of its tenants is meant. A reference whose generation
/// is not the row's is dead.
pub struct BackendRef {
    /// Row in `BACKEND`; 0 is nobody.
    pub id: u32,
    /// [`Backend::generation`].
    pub generation: u32,
}
}

/// What fills a [`Service`] up to a multiple of 8 bytes.
#[cfg(not(feature = "other-abi"))]
pub type ServicePad = [u32; 0];
/// What fills a [`Service`], and more: the layout of a build that tests upgrade to.
#[cfg(feature = "other-abi")]
pub type ServicePad = [u32; 2];

layout! {
/// A published port. Written whole (one update is atomic for readers): to change a table, fill
/// other rows of `MAGLEV` first, then update the service, then free the old rows.
pub struct Service {
    /// The service's number, for reports.
    pub id: u32,
    /// Counts changes, for reports.
    pub generation: u32,
    /// The backend, when there is one; ignored when `table_size` is not 0.
    pub single: BackendRef,
    /// First row of its table in `MAGLEV`.
    pub table: u32,
    /// Rows of its table; 0: use `single`. A prime of [`TABLE_SIZES`](crate::maglev::TABLE_SIZES).
    pub table_size: u32,
    /// Port the backends listen on.
    pub target: u16,
    /// `SERVICE_*`.
    pub flags: u16,
    /// The set of sources whose new flows it takes: rows of `SRC4` (and `SRC6`); 0: everybody's.
    pub sources: u32,
    /// Zero.
    pub pad: ServicePad,
}
}

/// [`Service::flags`]: what one client gets is limited; asked for where a flow begins.
pub const SERVICE_LIMITED: u16 = 1;
/// [`Service::flags`]: so is the number of packets; asked for with each one.
pub const SERVICE_PACED: u16 = 2;
/// [`Service::flags`]: so is the number of flows at a time; each has a seat.
pub const SERVICE_SEATED: u16 = 4;

/// [`Service::flags`], in no map: it is a container's own address, which another container asks. Its flows
/// are recorded as those of published ports are, whatever state it is in: that is about published ports.
pub const SERVICE_DIRECT: u16 = 0x8000;

/// [`Service::sources`]: the set that nobody is in.
pub const SOURCES_NOBODY: u32 = u32::MAX;

layout! {
/// What follows the prefix's length in a key of `SRC4` (and `SRC6`), a longest-prefix trie: a set's
/// number (all of it, 32 bits) and the network. A set is never changed: another one takes its place.
pub struct SourceKey<A> {
    /// [`Service::sources`].
    pub set: u32,
    /// The client's address.
    pub address: A,
}
}

layout! {
/// A row of `BACKEND`. The kernel copies a row without locking, so a reader may see half of a
/// change: write `state` alone (with the other fields unchanged) or, to hand a row to another
/// task, first EMPTY with the old fields, then the new fields with EMPTY, then the state.
pub struct Backend {
    /// Tells this tenant from earlier ones; not 0.
    pub generation: u32,
    /// The node's end of the container's veth.
    pub ifindex: u32,
    /// The node it runs on; 0 is this one.
    pub node: u32,
    /// Its address.
    pub address: [u8; 4],
    /// Its IPv6 address; all zero when it has none.
    pub address6: [u8; 16],
    /// MAC address of the container's end.
    pub mac: [u8; 6],
    /// `BACKEND_*`.
    pub state: u8,
    /// Zero.
    pub flags: u8,
}
}
