//! Brings programs and maps into the kernel, or finds them there.
//!
//! Maps first: those of an earlier agent with the same layout are taken over, others are made, and
//! what only the programs know (flows) is carried over. Then the programs are loaded onto these
//! maps. They are put into the place of the running ones only by [`Loaded::attach_sockets`] and
//! [`Loaded::attach_device`], once the agent has filled the maps.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::{CgroupSockAddr, Program, SchedClassifier, Xdp},
};
use warren_ebpf::abi::{map, program};

use super::{
    super::{NetError, netlink::host::Layer},
    bpffs::{self, Lock},
    contents::Opened,
    links::{Hook, Links, cgroup_root},
    rehearsal::Stage,
    shape::{self, FLOWS, Shape},
    sys::{AttachType, ProgramInfo, RawMap, bytes_of, from_bytes, program_info},
};

/// The object, empty when none had been built.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/warren-ebpf.o"));

/// Whether this binary has the object inside.
#[must_use]
pub fn has_object() -> bool {
    !OBJECT.is_empty()
}

/// Programs, maps and links of a node.
#[derive(Debug)]
pub struct Loaded {
    ebpf: Ebpf,
    maps: Opened,
    shapes: Vec<Shape>,
    root: PathBuf,
    links: Links,
    hook: Hook,
    /// Whether a map that the agent writes was made anew although programs are running on an old
    /// one: those go on until the new one is filled.
    pub refill: bool,
    /// Whether every map was made anew: there is nothing in them.
    pub fresh: bool,
    _lock: Lock,
}

/// A socket hook's place, by the program's name.
fn socket_hook(name: &str) -> Option<AttachType> {
    Some(match name {
        program::SOCK_CONNECT4 => AttachType::Connect4,
        program::SOCK_GETPEER4 => AttachType::GetPeerName4,
        program::SOCK_SENDMSG4 => AttachType::SendMsg4,
        program::SOCK_RECVMSG4 => AttachType::RecvMsg4,
        program::SOCK_CONNECT6 => AttachType::Connect6,
        program::SOCK_GETPEER6 => AttachType::GetPeerName6,
        program::SOCK_SENDMSG6 => AttachType::SendMsg6,
        program::SOCK_RECVMSG6 => AttachType::RecvMsg6,
        _ => return None,
    })
}

/// Flow tables keep the size they were made with for as long as they are pinned, which is until the
/// machine starts anew. A table of another size would have to be filled from the old one while both
/// are in use, and a connection born in between would be lost.
fn keep_sizes(mut shapes: Vec<Shape>, maps: &Path) -> Result<Vec<Shape>, NetError> {
    let names = fs::read_dir(maps).map_err(|e| NetError::system("list pinned maps", e))?;
    let names: Vec<String> = names.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    for s in shapes.iter_mut().filter(|s| FLOWS.contains(&s.name)) {
        if names.contains(&s.pin()) {
            continue;
        }
        let of_this_layout = format!("{}-{:016x}-", s.name, s.layout);
        let sizes =
            names.iter().filter_map(|n| u32::from_str_radix(n.strip_prefix(&of_this_layout)?, 16).ok());
        s.info.max_entries = sizes.max().unwrap_or(s.info.max_entries);
    }
    Ok(shapes)
}

impl Loaded {
    /// Takes over or makes everything under `root`.
    pub fn start(root: &Path, shapes: Vec<Shape>, hook: Hook) -> Result<Self, NetError> {
        if !has_object() {
            return Err(NetError::NoObject);
        }
        bpffs::ensure(root)?;
        let lock = Lock::take(root)?;
        let (maps_dir, links_dir) = (root.join("maps"), root.join("links"));
        for dir in [&maps_dir, &links_dir] {
            fs::create_dir_all(dir).map_err(|e| NetError::system("make a directory for pins", e))?;
        }
        take_over_siblings(root, &links_dir)?;
        let shapes = keep_sizes(shapes, &maps_dir)?;
        let links = Links::new(links_dir);
        let running = !links.pins()?.is_empty();
        let missing: Vec<&str> =
            shapes.iter().filter(|s| !s.path(&maps_dir).exists()).map(|s| s.name).collect();
        let fresh = missing.len() == shapes.len();
        let mut loaded = Self {
            ebpf: load(&maps_dir, &shapes)?,
            maps: Opened::new(),
            shapes,
            root: root.to_path_buf(),
            links,
            hook,
            refill: running && missing.iter().any(|m| !FLOWS.contains(m) && is_filled(m)),
            fresh,
            _lock: lock,
        };
        for s in &loaded.shapes {
            let map =
                RawMap::from_pin(&s.path(&maps_dir)).map_err(|e| NetError::system("open a pinned map", e))?;
            if *map.info() != s.info {
                return Err(NetError::ForeignObject { map: s.name.into() });
            }
            loaded.maps.insert(s.name, Arc::new(map));
        }
        loaded.check_schema()?;
        loaded.load_programs()?;
        Ok(loaded)
    }

    /// A map by name.
    #[must_use]
    pub fn map(&self, name: &str) -> &Arc<RawMap> {
        &self.maps[name]
    }

    /// All maps; a copy of this reads and writes the same ones.
    #[must_use]
    pub fn maps(&self) -> &Opened {
        &self.maps
    }

    /// What a packet is rehearsed with.
    #[must_use]
    pub fn stage(&self) -> Stage {
        Stage { dir: self.root.join("maps"), shapes: self.shapes.clone(), live: self.maps.clone() }
    }

    /// The programs' events; `None` when they were taken already.
    pub fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.ebpf.take_map(map::EVENTS).and_then(|m| RingBuf::try_from(m).ok())
    }

    /// The links.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    fn check_schema(&self) -> Result<(), NetError> {
        let map = self.map(map::SCHEMA);
        let key = 0u32.to_ne_bytes();
        let found = map.get(&key).map_err(|e| NetError::system("read the schema", e))?;
        let found: Option<warren_ebpf::abi::Schema> = found.and_then(|b| from_bytes(&b));
        if let Some(s) = found.filter(|s| s.magic != 0 && *s != shape::SCHEMA) {
            tracing::info!(
                "the maps in the kernel are of another build (ABI {:016x}, ours is {:016x}): taking over what fits",
                s.abi_hash,
                shape::SCHEMA.abi_hash,
            );
        }
        map.set(&key, bytes_of(&shape::SCHEMA)).map_err(|e| NetError::system("write the schema", e))
    }

    /// Loads the programs side by side: the verifier is what a start waits for. That of devices
    /// without link headers waits until there is one, and the guard until somebody asks for it.
    fn load_programs(&mut self) -> Result<(), NetError> {
        for name in [program::NODE_IN_L2, program::NODE_IN_L3, program::VETH_IN, program::GUARD] {
            if self.ebpf.program(name).is_none() {
                return Err(NetError::ForeignObject { map: name.into() });
            }
        }
        std::thread::scope(|scope| {
            let loads: Vec<_> = self
                .ebpf
                .programs_mut()
                .filter(|(name, _)| ![program::NODE_IN_L3, program::GUARD].contains(name))
                .map(|(name, p)| scope.spawn(move || load_program(name, p)))
                .collect();
            loads.into_iter().try_for_each(|l| l.join().unwrap_or(Err(NetError::Stopped)))
        })
    }

    /// Copies flows from maps of other layouts into ours; what is there already is newer. Returns
    /// how many records were copied. To be called right before programs are replaced, not earlier, for the
    /// old ones go on with the old maps; and again after that, for flows born meanwhile.
    pub fn carry_over(&self) -> Result<usize, NetError> {
        let dir = self.root.join("maps");
        let pins = bpffs::files(&dir).map_err(|e| NetError::system("list the pinned maps", e))?;
        let mut copied = 0;
        for shape in self.shapes.iter().filter(|s| FLOWS.contains(&s.name)) {
            let ours = shape.pin();
            for (name, path) in pins.iter().filter(|(n, _)| *n != ours) {
                let Some(old) = shape::parse_pin(name).filter(|p| p.map == shape.name) else { continue };
                let Some(transform) = shape::transform(shape, &old) else {
                    tracing::warn!("flows of map {name} have a layout we cannot read: they are given up");
                    continue;
                };
                let from = RawMap::from_pin(path).map_err(|e| NetError::system("open a pinned map", e))?;
                let to = self.map(shape.name);
                from.for_each(|k, v| {
                    if let Some((k, v)) = transform(k, v) {
                        copied += usize::from(to.add(&k, &v).unwrap_or(false));
                    }
                    true
                })
                .map_err(|e| NetError::system("carry flows over", e))?;
            }
        }
        Ok(copied)
    }

    /// Removes the pins of maps of other layouts, once no program runs on them.
    pub fn drop_old_maps(&self) -> Result<(), NetError> {
        let dir = self.root.join("maps");
        let ours: Vec<String> = self.shapes.iter().map(Shape::pin).collect();
        for (name, path) in bpffs::files(&dir).map_err(|e| NetError::system("list the pinned maps", e))? {
            if !ours.contains(&name) {
                bpffs::remove_file(&path).map_err(|e| NetError::system("remove a pinned map", e))?;
            }
        }
        Ok(())
    }

    /// Attaches, or replaces, the socket hooks.
    pub fn attach_sockets(&mut self) -> Result<(), NetError> {
        let root = cgroup_root()?;
        let cgroup = File::open(root).map_err(|e| NetError::system("open the cgroup2 root", e))?;
        let mut wanted = Vec::new();
        for (name, p) in self.ebpf.programs() {
            let (Program::CgroupSockAddr(p), Some(kind)) = (p, socket_hook(name)) else { continue };
            let fd = CgroupSockAddr::fd(p).map_err(|e| NetError::program(name, e))?;
            self.links.cgroup(fd.as_fd(), name, &cgroup, kind)?;
            wanted.push(format!("cg-{name}"));
        }
        for (name, path) in self.links.pins()? {
            if name.starts_with("cg-") && !wanted.contains(&name) {
                bpffs::remove_file(&path).map_err(|e| NetError::system("remove a pinned link", e))?;
            }
        }
        Ok(())
    }

    /// Attaches, or replaces, the program of a device that is not ours.
    pub fn attach_device(&mut self, index: u32, device: &str, layer: Layer) -> Result<(), NetError> {
        let name = if layer == Layer::Ip { program::NODE_IN_L3 } else { program::NODE_IN_L2 };
        self.attach(index, device, name)
    }

    /// Attaches, or replaces, the program of a container's link.
    pub fn attach_link(&mut self, index: u32, device: &str) -> Result<(), NetError> {
        self.attach(index, device, program::VETH_IN)
    }

    /// Attaches, or replaces, the guard of a device.
    pub fn attach_guard(&mut self, index: u32) -> Result<(), NetError> {
        let p: &mut Xdp = self
            .ebpf
            .program_mut(program::GUARD)
            .and_then(|p| p.try_into().ok())
            .ok_or_else(|| NetError::ForeignObject { map: program::GUARD.to_owned() })?;
        if p.fd().is_err() {
            p.load().map_err(|e| NetError::program(program::GUARD, e))?;
        }
        let fd = p.fd().map_err(|e| NetError::program(program::GUARD, e))?;
        self.links.guard(index, fd.as_fd())
    }

    fn attach(&mut self, index: u32, device: &str, name: &str) -> Result<(), NetError> {
        let hook = self.hook;
        let p: &mut SchedClassifier = self
            .ebpf
            .program_mut(name)
            .and_then(|p| p.try_into().ok())
            .ok_or_else(|| NetError::ForeignObject { map: name.to_owned() })?;
        if p.fd().is_err() {
            p.load().map_err(|e| NetError::program(name, e))?;
        }
        self.links.device(hook, index, device, p)
    }

    /// What the kernel says of each program.
    pub fn programs(&self) -> Vec<(String, ProgramInfo)> {
        self.ebpf
            .programs()
            .filter_map(|(n, p)| {
                let fd = match p {
                    Program::SchedClassifier(p) => p.fd().ok()?,
                    Program::CgroupSockAddr(p) => p.fd().ok()?,
                    Program::Xdp(p) => p.fd().ok()?,
                    _ => return None,
                };
                Some((n.to_owned(), program_info(fd.as_fd()).ok()?))
            })
            .collect()
    }
}

/// Whether the agent must fill this map before programs may run on it.
fn is_filled(map: &str) -> bool {
    use map::{CLIENT4, CLIENT6, DROPS, EVENTS, GATE, SCHEMA, SCRATCH};
    ![SCHEMA, DROPS, EVENTS, SCRATCH, CLIENT4, CLIENT6, GATE].contains(&map)
}

fn load_program(name: &str, p: &mut Program) -> Result<(), NetError> {
    match p {
        Program::SchedClassifier(p) => p.load(),
        Program::CgroupSockAddr(p) if socket_hook(name).is_some() => p.load(),
        _ => return Err(NetError::ForeignObject { map: name.to_owned() }),
    }
    .map_err(|e| NetError::program(name, e))
}

fn load(maps: &Path, shapes: &[Shape]) -> Result<Ebpf, NetError> {
    let mut loader = EbpfLoader::new();
    // No relocations against the kernel's types: kernels without BTF work, too.
    loader.btf(None);
    for s in shapes {
        loader.map_pin_path(s.name, s.path(maps)).map_max_entries(s.name, s.info.max_entries);
    }
    loader.load(OBJECT).map_err(|e| NetError::Load { source: Box::new(e) })
}

/// Takes the links of other versions of the pin directory over, so that their programs are replaced
/// in place, and forgets their maps: old and new programs cannot live on the same ones.
fn take_over_siblings(root: &Path, links: &Path) -> Result<(), NetError> {
    let Some(node) = root.parent() else { return Ok(()) };
    let version = |p: &Path| {
        p.file_name().is_some_and(|n| {
            let n = n.to_string_lossy();
            n.starts_with('v') && n[1..].bytes().all(|b| b.is_ascii_digit()) && n.len() > 1
        })
    };
    if !version(root) {
        return Ok(());
    }
    for sibling in bpffs::subdirectories(node) {
        if sibling == root || !version(&sibling) {
            continue;
        }
        let pins =
            bpffs::files(&sibling.join("links")).map_err(|e| NetError::system("list the pinned links", e))?;
        for (name, path) in pins {
            let to = links.join(&name);
            if to.exists() { fs::remove_file(&path) } else { fs::rename(&path, &to) }
                .map_err(|e| NetError::system("take a pinned link over", e))?;
        }
        tracing::info!("took over the links of {}", sibling.display());
        fs::remove_dir_all(&sibling).map_err(|e| NetError::system("remove old pins", e))?;
    }
    Ok(())
}
