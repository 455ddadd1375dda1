//! Hosts on a switch: `198.18.0.0/15` (the range for tests of networks), v6 beside it.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// A switch that hosts are plugged into. Each cluster has its own, so addresses repeat among them.
#[derive(Debug)]
pub struct Cluster {
    switch: Netns,
    hosts: u8,
}

/// A host: a network namespace with `eth0` on the switch.
#[derive(Debug)]
pub struct Host {
    /// Its network.
    pub ns: Netns,
    /// Its IPv4 address, in a /24.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, in a /64.
    pub v6: Ipv6Addr,
    /// Its port on the switch.
    pub port: String,
}

impl Cluster {
    /// A switch without hosts.
    ///
    /// # Errors
    /// Not root, or the kernel refuses.
    pub fn new() -> Result<Self> {
        let switch = Netns::create("sw")?;
        switch.ip(&["link", "add", "br0", "type", "bridge"])?;
        switch.ip(&["link", "set", "br0", "up"])?;
        // A switch is no firewall; where the module is loaded it would be one.
        for family in ["iptables", "ip6tables"] {
            let _ = switch.set_sysctl(&format!("net/bridge/bridge-nf-call-{family}"), "0");
        }
        Ok(Self { switch, hosts: 0 })
    }

    /// Plugs a host in; the first has 198.18.0.10. Its way out is the switch's first host (there is
    /// no router: a default route makes it behave like a host that has one).
    ///
    /// # Errors
    /// The kernel refuses, or there are too many.
    pub fn host(&mut self, role: &str) -> Result<Host> {
        let n = self.hosts;
        self.hosts = n.checked_add(1).filter(|n| *n < 200).context("too many hosts")?;
        let ns = Netns::create(role)?;
        let port = format!("p{n}");
        self.switch.ip(&[
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            ns.name(),
        ])?;
        self.switch.ip(&["link", "set", &port, "master", "br0", "up"])?;
        let (v4, v6) =
            (Ipv4Addr::new(198, 18, 0, 10 + n), Ipv6Addr::new(0xfd18, 0, 0, 0, 0, 0, 0, 0x10 + u16::from(n)));
        ns.ip(&["addr", "add", &format!("{v4}/24"), "dev", "eth0"])?;
        ns.ip(&["addr", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"])?;
        ns.ip(&["link", "set", "eth0", "up"])?;
        if n > 0 {
            ns.ip(&["route", "add", "default", "via", "198.18.0.10"])?;
        }
        Ok(Host { ns, v4, v6, port })
    }

    /// The switch's own namespace, for faults.
    #[must_use]
    pub fn switch(&self) -> &Netns {
        &self.switch
    }
}

impl Host {
    /// Another host cannot mistake an answer: `curl` with a deadline, no proxy, the body on success.
    ///
    /// # Errors
    /// No connection, no answer in time, or a status of 400 and more.
    pub fn curl(&self, url: &str) -> Result<String> {
        self.ns.run("curl", &["-sS", "--fail-with-body", "--noproxy", "*", "--max-time", "10", url])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn hosts_reach_each_other_over_the_switch() {
        let mut cluster = Cluster::new().unwrap();
        let (a, b) = (cluster.host("a").unwrap(), cluster.host("b").unwrap());
        let listener = b.ns.enter(|| std::net::TcpListener::bind((b.v4, 80))).unwrap().unwrap();
        let to = (b.v4, 80);
        a.ns.enter(|| std::net::TcpStream::connect(to)).unwrap().unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), a.v4);
    }
}
