//! Who can reach what a service publishes, said where it is published: the programs run before the
//! host's firewall.

use std::collections::BTreeMap;

use crate::{
    cli::Context,
    model::{Node, PortSpec, PublishDefault, Service, parse},
    proto::v1::ListNodesRequest,
};

/// Says of every published port that was not there `before` who can reach it.
pub(super) async fn announce(
    context: &Context,
    service: &Service,
    before: &[PortSpec],
) -> anyhow::Result<()> {
    let new: Vec<PortSpec> = service.spec.publish.iter().filter(|p| !before.contains(p)).cloned().collect();
    if new.is_empty() {
        return Ok(());
    }
    let answer = context.control().await?.list_nodes(ListNodesRequest {}).await?.into_inner();
    let nodes = answer.nodes.into_iter().map(Node::try_from).collect::<Result<Vec<_>, _>>()?;
    let defaults: BTreeMap<PublishDefault, Vec<String>> =
        nodes.into_iter().fold(BTreeMap::new(), |mut all, node| {
            let description = node.description;
            all.entry(description.publish_default).or_default().push(description.name);
            all
        });
    for run in parse::Run::of(&new) {
        for line in lines(&run, &defaults) {
            eprintln!("{}: {line}", service.spec.name);
        }
    }
    Ok(())
}

/// One sentence of a port, or one for each default where nodes have several.
fn lines(run: &parse::Run<'_>, defaults: &BTreeMap<PublishDefault, Vec<String>>) -> Vec<String> {
    let (text, port) = (run.short(), run.first);
    if port.host_ip.is_some_and(|ip| ip.is_loopback()) {
        return vec![format!("{text} answers processes of the node itself only")];
    }
    if !port.is_bare() {
        let at = match port.host_ip {
            None => String::new(),
            Some(ip) if ip.is_unspecified() => {
                format!(" at every {} address", if ip.is_ipv4() { "IPv4" } else { "IPv6" })
            }
            Some(ip) => format!(" at {ip}"),
        };
        let whom = if port.from.is_empty() {
            "everyone who reaches this node".to_owned()
        } else {
            let from: Vec<String> = port.from.iter().map(ToString::to_string).collect();
            format!("clients from {}", from.join(", "))
        };
        return vec![format!("{text} answers {whom}{at}, before any host firewall")];
    }
    let nodes = |names: &Vec<String>| match defaults.len() {
        0 | 1 => String::new(),
        _ => format!(" on {}", names.join(", ")),
    };
    let line = |(default, names): (&PublishDefault, &Vec<String>)| {
        let whom = match default {
            PublishDefault::Any => "everyone who reaches the node, before any host firewall",
            PublishDefault::Lan => {
                "private addresses and the node's own subnets (--publish-default lan), before any host firewall"
            }
            PublishDefault::None => "processes of the node itself only (--publish-default none)",
        };
        format!("{text}{} answers {whom}", nodes(names))
    };
    defaults.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(port: &str, defaults: &[(PublishDefault, &str)]) -> Vec<String> {
        let port: PortSpec = port.parse().unwrap();
        let defaults = defaults.iter().map(|(d, n)| (*d, vec![(*n).to_owned()])).collect();
        lines(&parse::Run::of(&[port])[0], &defaults)
    }

    #[test]
    fn each_port_says_who_can_reach_it() {
        use PublishDefault::{Any, Lan, None};
        for (port, default, expected) in [
            ("80:80", Any, "80:80/tcp answers everyone who reaches the node, before any host firewall"),
            (
                "80:80",
                Lan,
                "80:80/tcp answers private addresses and the node's own subnets (--publish-default lan), before any host firewall",
            ),
            ("80:80", None, "80:80/tcp answers processes of the node itself only (--publish-default none)"),
            ("127.0.0.1:80:80", Any, "127.0.0.1:80:80/tcp answers processes of the node itself only"),
            (
                "10.0.0.1:80:80",
                None,
                "10.0.0.1:80:80/tcp answers everyone who reaches this node at 10.0.0.1, before any host firewall",
            ),
            (
                "[::]:80:80/udp",
                None,
                "[::]:80:80/udp answers everyone who reaches this node at every IPv6 address, before any host firewall",
            ),
            (
                "published=80,target=80,from=10.0.0.0/8,from=fd00::/8",
                None,
                "80:80/tcp answers clients from 10.0.0.0/8, fd00::/8, before any host firewall",
            ),
        ] {
            assert_eq!(said(port, &[(default, "a")]), [expected]);
        }
        assert_eq!(
            said("80:80", &[(Any, "a"), (None, "b")]),
            [
                "80:80/tcp on a answers everyone who reaches the node, before any host firewall",
                "80:80/tcp on b answers processes of the node itself only (--publish-default none)"
            ]
        );
    }
}
