//! Who limits: for each a node of its own on the switch, a container behind a veth, and in it the same
//! server.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use warren_tests::{
    Cluster, Host, Node,
    bench::inside,
    eventually,
    image::{self, Image},
    netns::Netns,
};

/// The published port, which is the container's, too.
pub const PORT: u16 = 10_000;
const SERVICE: &str = "bench";
const DEVICE: &str = "c0";

/// Who limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nobody: a node of Warren without limits.
    Nobody,
    /// A node of Warren, in TC.
    Warren,
    /// A node of Warren, in TC and before it in XDP.
    Guarded,
    /// A dynamic set of nftables with a limit for each element.
    Nft,
    /// iptables with `hashlimit`.
    Hashlimit,
}

impl Kind {
    /// All of them, nobody first.
    pub const ALL: [Self; 5] = [Self::Nobody, Self::Warren, Self::Guarded, Self::Nft, Self::Hashlimit];

    /// What it is called in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "no limit",
            Self::Warren => "Warren (TC)",
            Self::Guarded => "Warren, --guard xdp",
            Self::Nft => "nft limit",
            Self::Hashlimit => "iptables hashlimit",
        }
    }
}

/// One who limits, ready. What it is made of ends in the order of the fields.
pub struct Side {
    /// Who limits.
    pub kind: Kind,
    /// Where clients send.
    pub to: Ipv4Addr,
    server: Child,
    _container: Option<Netns>,
    place: Place,
    limits: u32,
}

enum Place {
    Bare(Host),
    Node(Box<Node>),
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Side {
    /// Makes one; `number` decides its container's network.
    ///
    /// # Errors
    /// It does not come up.
    pub fn new(kind: Kind, cluster: &mut Cluster, client: &Host, number: u8) -> Result<Self> {
        let host = cluster.host("node")?;
        let to = host.v4;
        let side = match kind {
            Kind::Nobody | Kind::Warren | Kind::Guarded => Self::warren(kind, host)?,
            Kind::Nft | Kind::Hashlimit => Self::rival(kind, host, number)?,
        };
        eventually("the container answers", Duration::from_secs(20), || {
            answers(client, to).with_context(|| kind.name().to_owned())
        })?;
        Ok(side)
    }

    fn warren(kind: Kind, host: Host) -> Result<Self> {
        let guard = if kind == Kind::Guarded { "xdp" } else { "tc" };
        let mut node = Node::new(host, &["--log-level", "info", "--guard", guard])?;
        node.start_agent()?;
        let check = node.json(&["net", "check"])?;
        ensure!(check["notes"] == serde_json::json!([]), "{check}");
        node.import(&Image { cmd: vec!["sleep".into()], ..Image::web("bench:1") })?;
        let published = format!("{PORT}:{PORT}/udp");
        node.ok(&["service", "create", "--image", "bench:1", "-p", &published, SERVICE])?;
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/proc/{}/ns/net", node.pid(SERVICE)?)).arg(image::testbox()?);
        let (server, to) = (serve(inside)?, node.host.v4);
        Ok(Self { kind, to, server, _container: None, place: Place::Node(Box::new(node)), limits: 0 })
    }

    fn rival(kind: Kind, host: Host, number: u8) -> Result<Self> {
        let (gateway, address) = (Ipv4Addr::new(10, 78, number, 1), Ipv4Addr::new(10, 78, number, 2));
        let container = inside::container(&host, DEVICE, gateway, address)?;
        // The addresses of the flood lead nowhere else.
        for device in ["all", "eth0"] {
            host.ns.set_sysctl(&format!("net/ipv4/conf/{device}/rp_filter"), "0")?;
        }
        let server = serve(container.command(image::testbox()?)?)?;
        let to = format!("{address}:{PORT}");
        if kind == Kind::Nft {
            let table = format!(
                "table ip limits {{\n\
                 set clients {{ type ipv4_addr; size 65535; flags dynamic,timeout; timeout 1m; }}\n\
                 chain early {{ type filter hook prerouting priority raw; }}\n\
                 chain before {{ type nat hook prerouting priority dstnat; udp dport {PORT} dnat to {to}; }}\n}}"
            );
            host.ns.run("nft", &[&table])?;
        } else {
            let port = PORT.to_string();
            let rule = ["-t", "nat", "-A", "PREROUTING", "-p", "udp", "--dport", &port, "-j", "DNAT"];
            host.ns.run("iptables-nft", &[&rule[..], &["--to-destination", &to]].concat())?;
        }
        let to = host.v4;
        Ok(Self { kind, to, server, _container: Some(container), place: Place::Bare(host), limits: 0 })
    }

    /// Has each client get so many datagrams a second, and as many at once; starts at full budgets.
    ///
    /// # Errors
    /// It is refused.
    pub fn limit(&mut self, rate: u32) -> Result<()> {
        self.limits += 1;
        let port = PORT.to_string();
        match (&self.place, self.kind) {
            (_, Kind::Nobody) => {}
            (Place::Node(node), _) => {
                node.ok(&["service", "update", "--limit-pps", &format!("{rate}/{rate}"), SERVICE])?;
            }
            (Place::Bare(host), Kind::Nft) => {
                host.ns.run("nft", &["flush chain ip limits early; flush set ip limits clients"])?;
                let rule = format!(
                    "add rule ip limits early udp dport {port} update @clients \
                     {{ ip saddr limit rate over {rate}/second burst {rate} packets }} drop"
                );
                host.ns.run("nft", &[&rule])?;
            }
            (Place::Bare(host), _) => {
                host.ns.run("iptables-nft", &["-t", "raw", "-F", "PREROUTING"])?;
                let (above, burst, name) =
                    (format!("{rate}/sec"), rate.to_string(), format!("l{}", self.limits));
                let mut rule = vec!["-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", &port];
                rule.extend(["-m", "hashlimit", "--hashlimit-mode", "srcip", "--hashlimit-above", &above]);
                rule.extend(["--hashlimit-burst", &burst, "--hashlimit-name", &name]);
                rule.extend(["--hashlimit-htable-size", "16384", "--hashlimit-htable-max", "65536"]);
                rule.extend(["--hashlimit-htable-expire", "60000", "-j", "DROP"]);
                host.ns.run("iptables-nft", &rule)?;
            }
        }
        Ok(())
    }

    /// How many packets have come into the container so far. What the server's socket had no room for is
    /// among them: that is no matter of limits.
    ///
    /// # Errors
    /// The server has ended.
    pub fn came_in(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/net/dev", self.server.id()))?;
        let device = text.lines().find_map(|l| l.trim().strip_prefix("eth0:")).context("no eth0")?;
        Ok(device.split_whitespace().nth(1).context("no count of packets")?.parse()?)
    }

    /// That its server has not ended meanwhile.
    ///
    /// # Errors
    /// It has.
    pub fn alive(&mut self) -> Result<()> {
        ensure!(self.server.try_wait()?.is_none(), "{}: the server has ended", self.kind.name());
        Ok(())
    }
}

fn serve(mut c: Command) -> Result<Child> {
    c.args(["bench-serve", &PORT.to_string(), &PORT.to_string()]);
    let mut child = c.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("the server")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("a pipe")?).read_line(&mut line)?;
    ensure!(line == "serving\n", "the server did not start");
    Ok(child)
}

/// That the server answers a client, within some seconds.
fn answers(client: &Host, to: Ipv4Addr) -> Result<()> {
    client.ns.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(SocketAddr::from((to, PORT)))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        socket.send(b"e")?;
        socket.recv(&mut [0; 8]).map(drop).context("no answer")
    })?
}
