//! The ways a packet may go: for each a node of its own on the switch, a container behind a veth, and
//! in it the same server.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use warren_tests::{
    Cluster, Host, Node,
    bench::inside,
    eventually,
    image::{self, Image},
    netns::Netns,
    program,
};

use crate::{
    rewrite::Rewriting,
    rules::{self, DEVICE, Inside},
};

/// The first published port, which is the container's, too.
pub const FIRST: u16 = 10_000;
/// The service in Warren.
pub const SERVICE: &str = "bench";

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nobody: the client is routed to the container's own address. The limit.
    Direct,
    /// A node of Warren.
    Warren,
    /// Two programs that only rewrite addresses: the limit for Warren.
    Rewrite,
    /// Docker's rules, iptables over nf_tables.
    IptablesNft,
    /// Docker's rules, iptables of old.
    IptablesLegacy,
    /// A map of nftables.
    Nft,
    /// haproxy in TCP mode.
    Haproxy,
    /// Docker's userland proxy.
    DockerProxy,
}

/// docker-proxy is a process a port, of several megabytes each.
const PROXIES: usize = 100;

impl Kind {
    /// All of them, the limit first.
    pub const ALL: [Self; 8] = [
        Self::Direct,
        Self::Warren,
        Self::Rewrite,
        Self::IptablesNft,
        Self::IptablesLegacy,
        Self::Nft,
        Self::Haproxy,
        Self::DockerProxy,
    ];

    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct, routed",
            Self::Warren => "Warren",
            Self::Rewrite => "BPF, rewriting only",
            Self::IptablesNft => "iptables (nft)",
            Self::IptablesLegacy => "iptables (legacy)",
            Self::Nft => "nftables map",
            Self::Haproxy => "haproxy",
            Self::DockerProxy => "docker-proxy",
        }
    }

    /// What it is called on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Warren => "warren",
            Self::Rewrite => "rewrite",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
            Self::Nft => "nft",
            Self::Haproxy => "haproxy",
            Self::DockerProxy => "docker-proxy",
        }
    }

    /// Whether it forwards UDP.
    pub fn datagrams(self) -> bool {
        self != Self::Haproxy
    }

    /// The program of iptables it uses.
    pub fn iptables(self) -> Option<&'static str> {
        match self {
            Self::IptablesNft => Some("iptables-nft"),
            Self::IptablesLegacy => Some("iptables-legacy"),
            _ => None,
        }
    }
}

/// Why a way cannot be gone here; `None`: it can.
pub fn missing(kind: Kind, ports: usize) -> Result<Option<String>> {
    if kind == Kind::DockerProxy && ports > PROXIES {
        return Ok(Some(format!("it is a process a port: not started {ports} times")));
    }
    let scratch = Netns::create("try")?;
    let tried = match kind {
        Kind::Direct | Kind::Warren => return Ok(None),
        Kind::Rewrite => Rewriting::tried(&scratch).map(|()| String::new()),
        Kind::IptablesNft | Kind::IptablesLegacy => scratch.run(
            kind.iptables().context("an iptables")?,
            &["-t", "nat", "-A", "POSTROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "MASQUERADE"],
        ),
        Kind::Nft => {
            scratch.run("nft", &["add table ip t; add chain ip t c { type nat hook prerouting priority 0; }"])
        }
        Kind::Haproxy => scratch.run("haproxy", &["-v"]),
        Kind::DockerProxy => {
            return Ok((!Path::new(DOCKER_PROXY).is_file()).then(|| format!("no {DOCKER_PROXY}")));
        }
    };
    Ok(tried.err().map(|e| format!("not available on this kernel or machine: {e}")))
}

const DOCKER_PROXY: &str = "/usr/sbin/docker-proxy";

/// One way, ready. What it is made of ends in the order of the fields.
pub struct Side {
    /// Who forwards.
    pub kind: Kind,
    /// Where the client sends.
    pub to: Ipv4Addr,
    /// For rules.
    pub inside: Inside,
    processes: Processes,
    _rewriting: Option<Rewriting>,
    _container: Option<Netns>,
    place: Place,
}

enum Place {
    Bare(Host),
    Node(Box<Node>),
}

#[derive(Default)]
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Side {
    /// Makes one; `number` is not used by another, and decides its container's network.
    ///
    /// # Errors
    /// It does not come up.
    pub fn new(kind: Kind, cluster: &mut Cluster, client: &Host, number: u8, ports: u16) -> Result<Self> {
        let host = cluster.host("node")?;
        let published = FIRST..=FIRST + (ports - 1);
        let side = match kind {
            Kind::Warren => Self::warren(host, published)?,
            _ => Self::rival(kind, host, client, number, published)?,
        };
        let first = SocketAddr::from((side.to, FIRST));
        eventually("the container answers", Duration::from_secs(20), || {
            client
                .ns
                .enter(|| answers(first, Duration::from_millis(300)))?
                .with_context(|| kind.name().to_owned())
        })?;
        Ok(side)
    }

    fn warren(host: Host, published: RangeInclusive<u16>) -> Result<Self> {
        let mut node = Node::new(host, &["--log-level", "info,warren::net=debug"])?;
        node.start_agent()?;
        // The container's own process does nothing: what serves is started beside it in its network, so
        // that limits and filters of system calls, which have nothing to do with packets, are no part of
        // the comparison.
        node.import(&Image { cmd: vec!["sleep".into()], ..Image::web("bench:1") })?;
        let (first, last) = (published.start(), published.end());
        let tcp =
            if first == last { format!("{first}:{first}") } else { format!("{first}-{last}:{first}-{last}") };
        let udp = format!("{first}:{first}/udp");
        node.ok(&["service", "create", "--image", "bench:1", "-p", &tcp, "-p", &udp, SERVICE])?;
        let pid = node.pid(SERVICE)?;
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/proc/{pid}/ns/net")).arg(image::testbox()?);
        let mut processes = Processes::default();
        processes.0.push(serve(inside, &published)?);
        let to = node.host.v4;
        let inside = Inside { container: to, network: String::new(), ports: published };
        Ok(Self {
            kind: Kind::Warren,
            to,
            inside,
            processes,
            _rewriting: None,
            _container: None,
            place: Place::Node(Box::new(node)),
        })
    }

    fn rival(
        kind: Kind,
        host: Host,
        client: &Host,
        number: u8,
        published: RangeInclusive<u16>,
    ) -> Result<Self> {
        let (gateway, address) = (Ipv4Addr::new(10, 77, number, 1), Ipv4Addr::new(10, 77, number, 2));
        let network = format!("10.77.{number}.0/24");
        let container = inside::container(&host, DEVICE, gateway, address)?;
        // Proxies make connections of their own, thousands a second to one address.
        host.ns.set_sysctl("net/ipv4/ip_local_port_range", "20000 65535")?;
        host.ns.set_sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let mut processes = Processes::default();
        processes.0.push(serve(container.command(image::testbox()?)?, &published)?);
        let inside = Inside { container: address, network: network.clone(), ports: published };
        let (mut to, mut rewriting) = (host.v4, None);
        match kind {
            Kind::Rewrite => {
                let ends = (("eth0", host.v4), (DEVICE, address));
                rewriting = Some(Rewriting::new(&host.ns, ends.0, ends.1, &inside.ports)?);
            }
            Kind::Warren => bail!("Warren is no rival of its own"),
            Kind::Direct => {
                client.ns.ip(&["route", "replace", &network, "via", &host.v4.to_string()])?;
                to = address;
            }
            Kind::IptablesNft | Kind::IptablesLegacy => {
                let restore = format!("{}-restore", kind.iptables().context("an iptables")?);
                let _file = feed(&host.ns, &restore, &[], &rules::iptables(&inside))?;
            }
            Kind::Nft => {
                let _file = feed(&host.ns, "nft", &["-f"], &rules::nftables(&inside, host.v4))?;
            }
            Kind::Haproxy => {
                let file = Scratch::write(&rules::haproxy(&inside))?;
                let mut c = host.ns.command("haproxy")?;
                processes.0.push(start(c.args(["-db", "-f"]).arg(&file.0))?);
                let first = SocketAddr::from((host.v4, FIRST));
                eventually("haproxy listens", Duration::from_secs(20), || {
                    host.ns.enter(|| TcpStream::connect(first))?.context("haproxy")
                })?;
            }
            Kind::DockerProxy => {
                for (protocol, ports) in [("udp", FIRST..=FIRST), ("tcp", inside.ports.clone())] {
                    for port in ports {
                        let mut c = host.ns.command("sh")?;
                        c.args(["-c", "exec \"$@\" 3>/dev/null", "sh", DOCKER_PROXY, "-proto", protocol]);
                        c.args(["-host-ip", "0.0.0.0", "-host-port", &port.to_string()]);
                        c.args(["-container-ip", &address.to_string(), "-container-port", &port.to_string()]);
                        processes.0.push(start(&mut c)?);
                    }
                }
            }
        }
        if kind.iptables().is_some() || kind == Kind::Nft {
            // Connections are closed by RST; their records must not pile up.
            host.ns.set_sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "2")?;
        }
        Ok(Self {
            kind,
            to,
            inside,
            processes,
            _rewriting: rewriting,
            _container: Some(container),
            place: Place::Bare(host),
        })
    }

    /// Its network.
    pub fn ns(&self) -> &Netns {
        match &self.place {
            Place::Bare(host) => &host.ns,
            Place::Node(node) => &node.host.ns,
        }
    }

    /// The node, where it is Warren's.
    pub fn node(&self) -> Option<&Node> {
        match &self.place {
            Place::Bare(_) => None,
            Place::Node(node) => Some(node),
        }
    }

    /// That nothing has ended meanwhile.
    ///
    /// # Errors
    /// Something has.
    pub fn alive(&mut self) -> Result<()> {
        for child in &mut self.processes.0 {
            ensure!(child.try_wait()?.is_none(), "{}: a process has ended", self.kind.name());
        }
        Ok(())
    }
}

/// Starts the server on all published ports and one more, and waits until it serves.
fn serve(mut c: Command, published: &RangeInclusive<u16>) -> Result<Child> {
    let last = published.end() + 1;
    c.args(["bench-serve", &published.start().to_string(), &last.to_string()]);
    let mut child = c.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("the server")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
    ensure!(line == "serving\n", "the server did not start");
    Ok(child)
}

fn start(c: &mut Command) -> Result<Child> {
    c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start it")
}

/// A file that goes.
struct Scratch(PathBuf);

impl Scratch {
    fn write(text: &str) -> Result<Self> {
        let file = std::env::temp_dir().join(warren_tests::netns::unique("rules"));
        fs::write(&file, text)?;
        Ok(Self(file))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Gives a program a file to read: as its last argument, or as its input where it takes none.
fn feed(ns: &Netns, program: &str, args: &[&str], text: &str) -> Result<Scratch> {
    let file = Scratch::write(text)?;
    if args.is_empty() {
        let mut c = ns.command(program)?;
        let out = c.stdin(File::open(&file.0)?).output().with_context(|| program.to_owned())?;
        ensure!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr).trim());
    } else {
        let path = file.0.display().to_string();
        program::run(ns.command(program)?.args(args).arg(path), Duration::from_secs(60))?.ok()?;
    }
    Ok(file)
}

/// One request, each of its steps within `patience`.
///
/// # Errors
/// It is not answered.
pub fn answers(to: SocketAddr, patience: Duration) -> std::io::Result<()> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(&[b'r'; 64])?;
    stream.read_exact(&mut [0; 64])
}
