//! What can go wrong.

use std::{io, path::PathBuf};

use ipnet::IpNet;

use crate::model::TaskId;

/// An error of the node's network.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The routing socket refused.
    #[error("cannot {what}: {source}")]
    Netlink {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
    /// A device that is not ours has a name we need.
    #[error("a device named {name} is in the way and is not Warren's: rename or remove it")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Something we have just made is gone.
    #[error("device {name} vanished while it was being set up: something else on this node removes devices")]
    Vanished {
        /// The name.
        name: String,
    },
    /// The binary was built without the BPF object.
    #[error("this binary has no BPF programs inside: run `cargo xtask build-ebpf` and build again")]
    NoObject,
    /// The object inside the binary is of another build.
    #[error(
        "the BPF programs inside this binary do not fit it (map {map}): run `cargo xtask build-ebpf` and build again"
    )]
    ForeignObject {
        /// The map, or program, that does not fit.
        map: String,
    },
    /// The kernel refused the object.
    #[error("the kernel did not take the BPF programs: {source}")]
    Load {
        /// What aya says.
        #[source]
        source: Box<aya::EbpfError>,
    },
    /// The verifier refused a program.
    #[error("the kernel did not take a BPF program ({program}): {source}")]
    Program {
        /// Its name, or that of the device it was for.
        program: String,
        /// What aya says.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// Another agent holds the pins.
    #[error("another agent of this node is running (it holds {}): stop it first", path.display())]
    Locked {
        /// The directory of the pins.
        path: PathBuf,
    },
    /// The pins' place is no BPF file system.
    #[error(
        "{} is not on a BPF file system: run `mount -t bpf bpf /sys/fs/bpf` and use a directory below it",
        path.display()
    )]
    NotBpffs {
        /// The directory of the pins.
        path: PathBuf,
    },
    /// The node's devices and links are in another network namespace.
    #[error(
        "this node lives in another network namespace: run the command there (`ip netns exec` or `nsenter --net`)"
    )]
    Elsewhere,
    /// There is no cgroup2 anywhere.
    #[error(
        "no cgroup2 file system is mounted, so the node's own processes could not reach published ports: run `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    NoCgroup2,
    /// What the deny list was kept in cannot be read.
    #[error(
        "the node's deny list {} is damaged: restore it, or remove the file and add the networks again with `warren net deny add`",
        path.display()
    )]
    DenyList {
        /// The file.
        path: PathBuf,
    },
    /// A network is to be taken from the deny list and is not on it.
    #[error("{net} is not on the deny list: `warren net deny ls` shows what is")]
    NotDenied {
        /// The network.
        net: IpNet,
    },
    /// The deny list has no room.
    #[error("the deny list has room for {room} networks of each family: remove some, or deny wider ones")]
    DenyListFull {
        /// How many.
        room: usize,
    },
    /// A packet is to come in where nothing is.
    #[error("nothing here is called {from}: a packet can come in by {places}")]
    NoSuchPlace {
        /// What was asked for.
        from: String,
        /// What there is.
        places: String,
    },
    /// Nothing says by which device a packet comes in.
    #[error("no route of this node leads to {address}: say with `--from` where it comes in: {places}")]
    WhichPlace {
        /// Its source.
        address: std::net::IpAddr,
        /// What there is.
        places: String,
    },
    /// The task has no link.
    #[error("task {0} is not attached to the network")]
    NotAttached(TaskId),
    /// The agent's network part has stopped.
    #[error("the network part of the agent has stopped")]
    Stopped,
}

impl NetError {
    pub(super) fn system(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self::System { what, source: source.into() }
    }

    pub(super) fn program(name: &str, source: aya::programs::ProgramError) -> Self {
        Self::Program { program: name.to_owned(), source: Box::new(source) }
    }
}
