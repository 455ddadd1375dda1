//! Everything that is known of a packet's way, for the story.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use warren_ebpf::abi::{BACKEND_UP, Limit, Reason};

use super::{super::report::state_name, End, Question, place::Place};

/// Everything that is known of a packet's way.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub question: Question,
    pub place: Place,
    /// Whether the datapath is switched on.
    pub enabled: bool,
    /// The fingerprints: of what was asked and of what is on the device.
    pub tag: String,
    pub running_tag: String,
    /// What the program did; `None` for a socket, of which no program can be asked.
    pub done: Option<Done>,
    /// The networks of the deny list that the client is in; `None`: there is no list.
    pub denied: Option<Vec<IpNet>>,
    /// Whether the destination is an address of the node, and the source.
    pub to_node: bool,
    pub from_node: bool,
    /// The container behind the device it comes in by, and the one that has its destination.
    pub behind: Option<String>,
    pub neighbour: Option<String>,
    /// What is published there.
    pub port: Option<Port>,
    /// Whether the destination's port is one that masquerading uses.
    pub in_range: bool,
    /// What is known of the flow.
    pub record: Option<Record>,
    /// The device of the way out, and what is shown there; `None`: no way out.
    pub route: Option<Way>,
    /// Names of devices and their MTU.
    pub devices: BTreeMap<u32, (String, u32)>,
}

/// A way out of the node.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub device: String,
    /// What it shows there; `None`: itself.
    pub source: Option<IpAddr>,
}

/// What a program did.
#[derive(Debug, Clone)]
pub(super) struct Done {
    pub end: End,
    pub reason: Option<Reason>,
    /// What it shows afterwards.
    pub shown: Option<(SocketAddr, SocketAddr)>,
    /// The device it goes to; 0: none.
    pub to: u32,
    /// The MTU that its sender is told.
    pub mtu: u32,
    /// Whether a container was recognised as its sender.
    pub owned: bool,
    /// The backend that was chosen for a flow that begins.
    pub chosen: Option<String>,
    /// Whether what it shows outside was looked for.
    pub masqueraded: bool,
    /// Rows of the programs' own maps that would be born.
    pub born: usize,
    /// Whether the guard drops it before.
    pub early: bool,
}

/// A published port.
#[derive(Debug, Clone)]
pub(super) struct Port {
    /// As it is written, with the service.
    pub name: String,
    /// Its number in the datapath.
    pub id: u32,
    /// The networks whose clients it answers; everybody when `None`.
    pub sources: Option<Vec<IpNet>>,
    /// What is behind it: name and state.
    pub backends: Vec<(String, &'static str)>,
    /// What one client gets: new connections and packets, a spacing of 0 is no limit, and flows at a time.
    pub limit: Limit,
    pub limited: bool,
    pub paced: bool,
    pub seated: bool,
    /// How many flows the client has, of those that are counted.
    pub seats: u32,
}

impl Port {
    /// How many backends take new flows.
    pub fn takers(&self) -> usize {
        let up = self.backends.iter().filter(|(_, s)| *s == state_name(BACKEND_UP)).count();
        if up > 0 { up } else { self.backends.iter().filter(|(_, s)| *s == "draining").count() }
    }
}

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A client's flow to a published port (or a container).
    Forward,
    /// A container's reply to one.
    Reply,
    /// What a container began with somebody outside.
    Egress,
    /// The answer to that.
    Answer,
}

/// A flow that is known.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub kind: Kind,
    /// How far it is; `None`: only the half that names its backend is left.
    pub state: Option<&'static str>,
    /// Milliseconds since its last packet.
    pub idle_ms: u64,
    /// Whether it has run out.
    pub over: bool,
    /// Whose it is.
    pub backend: String,
    /// Whether that one is still there.
    pub lives: bool,
}
