//! The bpf(2) calls that aya does not wrap, or wraps only for one kind of program: maps as bytes
//! and in batches, and links that are the same thing for TCX and for cgroups (create, replace,
//! pin, ask). Everything unsafe of the datapath is in this file.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const MAP_LOOKUP: u32 = 1;
const MAP_UPDATE: u32 = 2;
const MAP_DELETE: u32 = 3;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const INFO_BY_FD: u32 = 15;
const MAP_LOOKUP_BATCH: u32 = 24;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;

/// `union bpf_attr`: larger than what any command here uses; the kernel wants the rest zero.
#[repr(C, align(8))]
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Self {
        Self([0; 128])
    }

    fn u32(mut self, at: usize, v: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&v.to_ne_bytes());
        self
    }

    fn fd(self, at: usize, fd: BorrowedFd<'_>) -> Self {
        self.u32(at, fd.as_raw_fd().cast_unsigned())
    }

    fn u64(mut self, at: usize, v: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&v.to_ne_bytes());
        self
    }

    fn get_u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    /// # Safety
    /// Every address put into the attribute must be valid for what the command does with it.
    unsafe fn call(&mut self, command: u32) -> io::Result<i64> {
        // SAFETY: the attribute lives as long as the call and its length is right; the addresses
        // inside are the caller's promise.
        let r = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
    }

    /// As [`Attr::call`], for commands that answer with a descriptor.
    ///
    /// # Safety
    /// As [`Attr::call`].
    unsafe fn call_fd(&mut self, command: u32) -> io::Result<OwnedFd> {
        // SAFETY: the caller's promise.
        let r = unsafe { self.call(command) }?;
        let fd = i32::try_from(r).map_err(io::Error::other)?;
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// The bytes of a map key or value.
pub fn bytes_of<T: aya::Pod>(v: &T) -> &[u8] {
    // SAFETY: Pod types have no invalid bytes to read and no padding by the ABI's own checks.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(v).cast(), size_of::<T>()) }
}

/// A map key or value from its bytes; `None` when the length is not right.
pub fn from_bytes<T: aya::Pod>(b: &[u8]) -> Option<T> {
    // SAFETY: the length was checked and any bytes make a valid Pod.
    (b.len() == size_of::<T>()).then(|| unsafe { std::ptr::read_unaligned(b.as_ptr().cast()) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Opens what is pinned at `path`.
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let p = c_path(path)?;
    // SAFETY: the path is a C string that outlives the call.
    unsafe { Attr::new().u64(0, p.as_ptr() as u64).call_fd(OBJ_GET) }
}

/// Pins a map, program or link at `path`.
pub fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let p = c_path(path)?;
    // SAFETY: the path is a C string that outlives the call.
    unsafe { Attr::new().u64(0, p.as_ptr() as u64).fd(8, fd).call(OBJ_PIN) }.map(drop)
}

fn info<const N: usize>(fd: BorrowedFd<'_>) -> io::Result<[u8; N]> {
    let mut out = [0u8; N];
    let mut attr =
        Attr::new().fd(0, fd).u32(4, u32::try_from(N).unwrap_or(0)).u64(8, out.as_mut_ptr() as u64);
    // SAFETY: `out` has the length we tell.
    unsafe { attr.call(INFO_BY_FD) }?;
    Ok(out)
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | (u64::from(u32_at(b, at + 4)) << 32)
}

/// What the kernel says of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapInfo {
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
}

/// What the kernel says of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// The kernel's number of it.
    pub id: u32,
    /// The kernel's fingerprint of its instructions.
    pub tag: [u8; 8],
    /// Nanoseconds spent in it; counted only with `kernel.bpf_stats_enabled=1`.
    pub run_ns: u64,
    /// Runs; counted only with `kernel.bpf_stats_enabled=1`.
    pub runs: u64,
    /// Instructions the verifier walked (0 before Linux 5.16).
    pub verified_instructions: u32,
}

/// Asks for a program.
pub fn program_info(fd: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let b = info::<224>(fd)?;
    Ok(ProgramInfo {
        id: u32_at(&b, 4),
        tag: b[8..16].try_into().unwrap_or_default(),
        run_ns: u64_at(&b, 192),
        runs: u64_at(&b, 200),
        verified_instructions: u32_at(&b, 216),
    })
}

/// Opens a program by its number.
pub fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    const PROG_GET_FD_BY_ID: u32 = 13;
    // SAFETY: no address in the attribute.
    unsafe { Attr::new().u32(0, id).call_fd(PROG_GET_FD_BY_ID) }
}

/// Asks the kernel for the smallest map there is, and gives it back.
pub fn probe() -> io::Result<()> {
    const MAP_CREATE: u32 = 0;
    const ARRAY: u32 = 2;
    // SAFETY: no address in the attribute.
    unsafe { Attr::new().u32(0, ARRAY).u32(4, 4).u32(8, 4).u32(12, 1).call_fd(MAP_CREATE) }.map(drop)
}

/// A map, as bytes.
#[derive(Debug)]
pub struct RawMap {
    fd: OwnedFd,
    info: MapInfo,
    /// Bytes that one element occupies towards user space: for per-CPU maps one value for each
    /// possible CPU.
    value_bytes: usize,
}

const PERCPU_KINDS: [u32; 4] = [5, 6, 10, 21];
const ARRAY_KINDS: [u32; 2] = [2, 6];

impl RawMap {
    /// Takes a map's descriptor over.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let b = info::<80>(fd.as_fd())?;
        let info = MapInfo {
            kind: u32_at(&b, 0),
            key_size: u32_at(&b, 8),
            value_size: u32_at(&b, 12),
            max_entries: u32_at(&b, 16),
        };
        let one = info.value_size as usize;
        let value_bytes = if PERCPU_KINDS.contains(&info.kind) {
            one.next_multiple_of(8) * aya::util::nr_cpus().map_err(|(_, e)| e)?
        } else {
            one
        };
        Ok(Self { fd, info, value_bytes })
    }

    /// Opens a pinned map.
    pub fn from_pin(path: &Path) -> io::Result<Self> {
        Self::new(obj_get(path)?)
    }

    /// Shape of the map.
    pub fn info(&self) -> &MapInfo {
        &self.info
    }

    /// Whether it is an array: always full, elements cannot be deleted.
    pub fn is_array(&self) -> bool {
        ARRAY_KINDS.contains(&self.info.kind)
    }

    /// Bytes of kernel memory it holds, as its fdinfo says; 0 when it does not.
    pub fn memory(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", self.fd.as_raw_fd()))
            .unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix("memlock:")).and_then(|v| v.trim().parse().ok()).unwrap_or(0)
    }

    fn check(&self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        let fits =
            key.len() == self.info.key_size as usize && value.is_none_or(|v| v.len() == self.value_bytes);
        if fits { Ok(()) } else { Err(io::Error::from(io::ErrorKind::InvalidInput)) }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.check(key, None)?;
        let mut value = vec![0u8; self.value_bytes];
        let mut attr =
            Attr::new().fd(0, self.fd.as_fd()).u64(8, key.as_ptr() as u64).u64(16, value.as_mut_ptr() as u64);
        // SAFETY: key and value have the lengths the map has, checked above.
        match unsafe { attr.call(MAP_LOOKUP) } {
            Ok(_) => Ok(Some(value)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sets a key. The element is replaced as a whole: a reader sees the old or the new one
    /// (arrays: written in place).
    pub fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key, Some(value))?;
        let mut attr =
            Attr::new().fd(0, self.fd.as_fd()).u64(8, key.as_ptr() as u64).u64(16, value.as_ptr() as u64);
        // SAFETY: key and value have the lengths the map has, checked above.
        unsafe { attr.call(MAP_UPDATE) }.map(drop)
    }

    /// Adds a key; `false` when it is there already.
    pub fn add(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        const NOEXIST: u64 = 1;
        self.check(key, Some(value))?;
        let mut attr = Attr::new()
            .fd(0, self.fd.as_fd())
            .u64(8, key.as_ptr() as u64)
            .u64(16, value.as_ptr() as u64)
            .u64(24, NOEXIST);
        // SAFETY: key and value have the lengths the map has, checked above.
        match unsafe { attr.call(MAP_UPDATE) } {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Deletes a key; one that is not there is no error.
    pub fn delete(&self, key: &[u8]) -> io::Result<()> {
        self.check(key, None)?;
        let mut attr = Attr::new().fd(0, self.fd.as_fd()).u64(8, key.as_ptr() as u64);
        // SAFETY: the key has the length the map has, checked above.
        match unsafe { attr.call(MAP_DELETE) } {
            Ok(_) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Shows every element to `f` until it says `false`. Reads in batches, so that a large flow
    /// table costs tens of milliseconds and not seconds; elements that come or go meanwhile may be
    /// missed.
    pub fn for_each(&self, mut f: impl FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        if self.is_single() {
            return self.for_each_single(f);
        }
        let (ks, vs) = (self.info.key_size as usize, self.value_bytes);
        self.batches(|keys, values| keys.chunks_exact(ks).zip(values.chunks_exact(vs)).all(|(k, v)| f(k, v)))
    }

    /// Shows every element to `f`, of an array only those that are not all zero, until it says
    /// `false`. A large array that is mostly empty costs little more than the system calls.
    pub fn for_each_used(&self, mut f: impl FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        const BLOCK: usize = 64;
        if !self.is_array() {
            return self.for_each(f);
        }
        if self.is_single() {
            return self.for_each_single(|k, v| v.iter().all(|b| *b == 0) || f(k, v));
        }
        let (ks, vs) = (self.info.key_size as usize, self.value_bytes);
        let zeros = vec![0u8; BLOCK * vs];
        self.batches(|keys, values| {
            keys.chunks(BLOCK * ks).zip(values.chunks(BLOCK * vs)).all(|(keys, values)| {
                values == &zeros[..values.len()]
                    || keys
                        .chunks_exact(ks)
                        .zip(values.chunks_exact(vs))
                        .all(|(k, v)| v == &zeros[..vs] || f(k, v))
            })
        })
    }

    /// Whether its elements can only be read one by one.
    fn is_single(&self) -> bool {
        self.info.kind == BPF_MAP_TYPE_LPM_TRIE || PERCPU_KINDS.contains(&self.info.kind)
    }

    /// Shows keys and values to `f`, many at a time, until it says `false`.
    fn batches(&self, mut f: impl FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        let (ks, vs) = (self.info.key_size as usize, self.value_bytes);
        // A hash's batch ends at a bucket's end: too small a batch for a bucket answers ENOSPC.
        let mut chunk = (self.info.max_entries as usize).clamp(64, 4096);
        let mut keys = vec![0u8; chunk * ks];
        let mut values = vec![0u8; chunk * vs];
        // Opaque to us; the kernel writes at most a key or a u32.
        let mut cursor = vec![0u8; ks.max(8)];
        let mut first = true;
        loop {
            let at = cursor.as_mut_ptr() as u64;
            let mut attr = Attr::new()
                .u64(0, if first { 0 } else { at })
                .u64(8, at)
                .u64(16, keys.as_mut_ptr() as u64)
                .u64(24, values.as_mut_ptr() as u64)
                .u32(32, u32::try_from(chunk).unwrap_or(u32::MAX))
                .fd(36, self.fd.as_fd());
            // SAFETY: both buffers hold `chunk` elements and the cursor holds a key.
            let end = match unsafe { attr.call(MAP_LOOKUP_BATCH) } {
                Ok(_) => false,
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                    chunk *= 2;
                    keys.resize(chunk * ks, 0);
                    values.resize(chunk * vs, 0);
                    continue;
                }
                Err(e) => return Err(e),
            };
            first = false;
            let n = (attr.get_u32(32) as usize).min(chunk);
            if !f(&keys[..n * ks], &values[..n * vs]) || end {
                return Ok(());
            }
        }
    }

    /// For the kinds that have no batch operations on every kernel we support.
    fn for_each_single(&self, mut f: impl FnMut(&[u8], &[u8]) -> bool) -> io::Result<()> {
        const MAP_NEXT_KEY: u32 = 4;
        let mut key: Option<Vec<u8>> = None;
        loop {
            let mut next = vec![0u8; self.info.key_size as usize];
            let mut attr = Attr::new()
                .fd(0, self.fd.as_fd())
                .u64(8, key.as_ref().map_or(0, |k| k.as_ptr() as u64))
                .u64(16, next.as_mut_ptr() as u64);
            // SAFETY: both keys have the length of the map's keys.
            match unsafe { attr.call(MAP_NEXT_KEY) } {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
                Err(e) => return Err(e),
            }
            if let Some(value) = self.get(&next)?
                && !f(&next, &value)
            {
                return Ok(());
            }
            key = Some(next);
        }
    }
}

impl AsFd for RawMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const BPF_MAP_TYPE_LPM_TRIE: u32 = 11;

/// `enum bpf_attach_type`, the ones we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// connect(2) of an AF_INET socket.
    Connect4 = 10,
    /// connect(2) of an AF_INET6 socket.
    Connect6 = 11,
    /// sendmsg(2) of an AF_INET datagram socket.
    SendMsg4 = 14,
    /// sendmsg(2) of an AF_INET6 datagram socket.
    SendMsg6 = 15,
    /// recvmsg(2) of an AF_INET datagram socket.
    RecvMsg4 = 19,
    /// recvmsg(2) of an AF_INET6 datagram socket.
    RecvMsg6 = 20,
    /// getpeername(2) of an AF_INET socket.
    GetPeerName4 = 29,
    /// getpeername(2) of an AF_INET6 socket.
    GetPeerName6 = 30,
    /// Frames in a device's ring, by its driver.
    Xdp = 37,
    /// Packets that come in by a device.
    TcxIngress = 46,
}

/// Where a link hangs.
#[derive(Debug, Clone, Copy)]
pub enum LinkTarget<'a> {
    /// A device of this thread's network namespace.
    Device(u32),
    /// A directory of cgroup2.
    Cgroup(BorrowedFd<'a>),
}

/// A BPF link: detached when its last descriptor and pin are gone.
#[derive(Debug)]
pub struct Link(OwnedFd);

/// What the kernel says of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// The program it runs.
    pub program: u32,
    /// For TCX and XDP: its device, 0 when the device is gone. Without meaning for others.
    pub ifindex: u32,
}

impl Link {
    /// Attaches a program, after those that are there.
    pub fn create(program: BorrowedFd<'_>, target: LinkTarget<'_>, kind: AttachType) -> io::Result<Self> {
        /// Not in the kernel's own code, where a frame is a socket buffer already.
        const XDP_IN_THE_DRIVER: u32 = 1 << 2;
        let flags = if kind == AttachType::Xdp { XDP_IN_THE_DRIVER } else { 0 };
        let attr = Attr::new().fd(0, program).u32(8, kind as u32).u32(12, flags);
        let mut attr = match target {
            LinkTarget::Device(ifindex) => attr.u32(4, ifindex),
            // Cgroup links always allow others beside them.
            LinkTarget::Cgroup(fd) => attr.fd(4, fd),
        };
        // SAFETY: no address in the attribute.
        unsafe { attr.call_fd(LINK_CREATE) }.map(Self)
    }

    /// Opens a pinned link.
    pub fn from_pin(path: &Path) -> io::Result<Self> {
        obj_get(path).map(Self)
    }

    /// Keeps it attached for as long as the file is there.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        obj_pin(self.0.as_fd(), path)
    }

    /// Puts another program into its place: every packet meets the old or the new one.
    pub fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = Attr::new().fd(0, self.0.as_fd()).fd(4, program);
        // SAFETY: no address in the attribute.
        unsafe { attr.call(LINK_UPDATE) }.map(drop)
    }

    /// What it runs and where.
    pub fn info(&self) -> io::Result<LinkInfo> {
        let b = info::<64>(self.0.as_fd())?;
        Ok(LinkInfo { program: u32_at(&b, 8), ifindex: u32_at(&b, 16) })
    }
}

/// The cookie of this thread's network namespace: how programs of a cgroup tell this node's
/// processes from others'.
pub fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: the option writes a u64 and is told the length of one.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    };
    if r == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
