//! What the rivals are told, as text.

use std::{fmt::Write as _, net::Ipv4Addr, ops::RangeInclusive};

/// Where a rival sends what is published.
pub struct Inside {
    /// The container's address.
    pub container: Ipv4Addr,
    /// Its network.
    pub network: String,
    /// Published TCP ports, each to the same one of the container; the first for UDP, too.
    pub ports: RangeInclusive<u16>,
}

/// The device that leads to the container.
pub const DEVICE: &str = "c0";

/// One port as Docker's engine (20.10) publishes it: (table, rule without `-A`), three of them.
pub fn docker(inside: &Inside, protocol: &str, port: u16) -> [(&'static str, String); 3] {
    let to = inside.container;
    [
        (
            "nat",
            format!(
                "DOCKER ! -i {DEVICE} -p {protocol} -m {protocol} --dport {port} -j DNAT --to-destination {to}:{port}"
            ),
        ),
        (
            "nat",
            format!(
                "POSTROUTING -s {to}/32 -d {to}/32 -p {protocol} -m {protocol} --dport {port} -j MASQUERADE"
            ),
        ),
        (
            "filter",
            format!(
                "DOCKER -d {to}/32 ! -i {DEVICE} -o {DEVICE} -p {protocol} -m {protocol} --dport {port} -j ACCEPT"
            ),
        ),
    ]
}

/// What `iptables-restore` takes: the tables as Docker's engine leaves them.
pub fn iptables(inside: &Inside) -> String {
    let (mut nat, mut filter) = (String::new(), String::new());
    let protocols = [("udp", *inside.ports.start()..=*inside.ports.start()), ("tcp", inside.ports.clone())];
    for (protocol, ports) in protocols {
        for port in ports {
            for (table, rule) in docker(inside, protocol, port) {
                let text = if table == "nat" { &mut nat } else { &mut filter };
                let _ = writeln!(text, "-A {rule}");
            }
        }
    }
    let network = &inside.network;
    format!(
        "*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n:DOCKER -\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A POSTROUTING -s {network} ! -o {DEVICE} -j MASQUERADE\n\
         -A DOCKER -i {DEVICE} -j RETURN\n{nat}COMMIT\n\
         *filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\n:DOCKER -\n:DOCKER-ISOLATION-STAGE-1 -\n\
         :DOCKER-ISOLATION-STAGE-2 -\n:DOCKER-USER -\n\
         -A FORWARD -j DOCKER-USER\n\
         -A FORWARD -j DOCKER-ISOLATION-STAGE-1\n\
         -A FORWARD -o {DEVICE} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         -A FORWARD -o {DEVICE} -j DOCKER\n\
         -A FORWARD -i {DEVICE} ! -o {DEVICE} -j ACCEPT\n\
         -A FORWARD -i {DEVICE} -o {DEVICE} -j ACCEPT\n\
         -A DOCKER-ISOLATION-STAGE-1 -i {DEVICE} ! -o {DEVICE} -j DOCKER-ISOLATION-STAGE-2\n\
         -A DOCKER-ISOLATION-STAGE-1 -j RETURN\n\
         -A DOCKER-ISOLATION-STAGE-2 -o {DEVICE} -j DROP\n\
         -A DOCKER-ISOLATION-STAGE-2 -j RETURN\n\
         -A DOCKER-USER -j RETURN\n{filter}COMMIT\n"
    )
}

/// A published port as an element of the maps below.
pub fn element(inside: &Inside, node: Ipv4Addr, port: u16) -> String {
    format!("{node} . {port} : {} . {port}", inside.container)
}

/// What `nft -f` takes: one lookup in a map, whatever its size, and nothing else.
pub fn nftables(inside: &Inside, node: Ipv4Addr) -> String {
    let elements: Vec<String> = inside.ports.clone().map(|port| element(inside, node, port)).collect();
    let map = |name: &str, elements: &str| {
        format!(
            "map {name} {{ type ipv4_addr . inet_service : ipv4_addr . inet_service; elements = {{ {elements} }}; }}\n"
        )
    };
    format!(
        "table ip bench {{\n{}{}\
         chain before {{ type nat hook prerouting priority dstnat;\n\
         dnat ip to ip daddr . tcp dport map @tcp_ports\n\
         dnat ip to ip daddr . udp dport map @udp_ports\n}}\n\
         chain after {{ type nat hook postrouting priority srcnat;\n\
         ip saddr {} oifname != \"{DEVICE}\" masquerade\n}}\n}}\n",
        map("tcp_ports", &elements.join(", ")),
        map("udp_ports", &element(inside, node, *inside.ports.start())),
        inside.network
    )
}

/// What haproxy takes: every port to the same one of the container.
pub fn haproxy(inside: &Inside) -> String {
    format!(
        "global\n nbthread 2\n maxconn 4000\n\
         defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         frontend all\n bind :{}-{}\n default_backend container\n\
         backend container\n server one {}\n",
        inside.ports.start(),
        inside.ports.end(),
        inside.container
    )
}
