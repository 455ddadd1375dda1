//! Every form of a published port, with what it means; every fault, with what is said; and that
//! what is printed reads back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{collection::vec, option, prelude::*};

use super::{Ports, Run, written};
use crate::model::{PortSpec, Protocol, PublishMode};

fn read(text: &str) -> Vec<PortSpec> {
    text.parse::<Ports>().unwrap_or_else(|e| panic!("{text}: {e}")).0
}

fn plain(published: u16, target: u16) -> PortSpec {
    PortSpec {
        host_ip: None,
        published,
        target,
        protocol: Protocol::Tcp,
        from: vec![],
        mode: PublishMode::Ingress,
    }
}

#[test]
fn the_short_form() {
    let udp = |p: PortSpec| PortSpec { protocol: Protocol::Udp, ..p };
    let at = |ip: &str, p: PortSpec| PortSpec { host_ip: Some(ip.parse().unwrap()), ..p };
    for (text, expected) in [
        ("8080:80", vec![plain(8080, 80)]),
        ("8080:80/tcp", vec![plain(8080, 80)]),
        ("53:5353/UDP", vec![udp(plain(53, 5353))]),
        ("80", vec![plain(0, 80)]),
        ("80/udp", vec![udp(plain(0, 80))]),
        ("0:80", vec![plain(0, 80)]),
        (":80", vec![plain(0, 80)]),
        ("80-82", vec![plain(0, 80), plain(0, 81), plain(0, 82)]),
        ("0:80-81", vec![plain(0, 80), plain(0, 81)]),
        ("8000-8001:80-81", vec![plain(8000, 80), plain(8001, 81)]),
        ("8000-8000:80", vec![plain(8000, 80)]),
        ("127.0.0.1:8080:80", vec![at("127.0.0.1", plain(8080, 80))]),
        ("127.0.0.1::80", vec![at("127.0.0.1", plain(0, 80))]),
        ("0.0.0.0:8080:80", vec![at("0.0.0.0", plain(8080, 80))]),
        ("[::1]:8080:80", vec![at("::1", plain(8080, 80))]),
        ("[2001:db8::1]::80/udp", vec![at("2001:db8::1", udp(plain(0, 80)))]),
        ("[::]:8080-8081:80-81", vec![at("::", plain(8080, 80)), at("::", plain(8081, 81))]),
        ("65535:65535", vec![plain(65535, 65535)]),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn the_long_form() {
    let net = |n: &str| n.parse::<IpNet>().unwrap();
    let from = |nets: &[&str]| PortSpec { from: nets.iter().map(|n| net(n)).collect(), ..plain(8080, 80) };
    for (text, expected) in [
        ("target=80", vec![plain(0, 80)]),
        ("published=0,target=80", vec![plain(0, 80)]),
        ("published=8080,target=80", vec![plain(8080, 80)]),
        ("Target=80,Published=8080,Protocol=TCP,mode=ingress", vec![plain(8080, 80)]),
        ("published=8000-8001,target=80-81", vec![plain(8000, 80), plain(8001, 81)]),
        (
            "published=8080,target=80,ip=::1,protocol=udp,mode=host",
            vec![PortSpec {
                host_ip: Some("::1".parse().unwrap()),
                protocol: Protocol::Udp,
                mode: PublishMode::Host,
                ..plain(8080, 80)
            }],
        ),
        (
            "published=8080,target=80,ip=[::1]",
            vec![PortSpec { host_ip: Some("::1".parse().unwrap()), ..plain(8080, 80) }],
        ),
        ("published=8080,target=80,from=10.0.0.0/8", vec![from(&["10.0.0.0/8"])]),
        ("published=8080,target=80,from=10.0.0.7", vec![from(&["10.0.0.7/32"])]),
        ("from=10.0.0.0/8,fd00::/8,published=8080,target=80", vec![from(&["10.0.0.0/8", "fd00::/8"])]),
        ("from=10.0.0.0/8,published=8080,target=80,from=::1", vec![from(&["10.0.0.0/8", "::1/128"])]),
        (
            "published=8080,target=80,\"from=10.0.0.0/8,192.0.2.1\"",
            vec![from(&["10.0.0.0/8", "192.0.2.1/32"])],
        ),
    ] {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_in_one_sentence() {
    for (text, needle) in [
        ("", "[IP:]PUBLISHED"),
        (":", "[IP:]PUBLISHED"),
        ("8080:", "[IP:]PUBLISHED"),
        ("8080-:80", "[IP:]PUBLISHED"),
        ("80:0", "0 is not a port"),
        ("65536:80", "65536 is not a port; ports are 1 to 65535"),
        ("80:x", "x is not a port"),
        ("+80:80", "+80 is not a port"),
        ("0-2:80-82", "0 is not a port"),
        ("8080:80/sctp", "\"sctp\" cannot be published"),
        ("8080:80/", "\"\" cannot be published"),
        ("8080:80/tcp/tcp", "cannot be published"),
        ("a:80:80", "a is no IP address"),
        ("1.2.3:80:80", "1.2.3 is no IP address"),
        ("::1:80:80", "in brackets, [::1]"),
        ("[::1]80:80", "in brackets"),
        ("[1.2.3.4]:80:80", "1.2.3.4 is no IPv6 address"),
        ("8000-8002:80-81", "3 published and 2 target ports"),
        ("8000-8002:80", "same length"),
        ("8080:80-81", "same length"),
        ("8002-8000:80-82", "ends before it begins"),
        ("published=8080", "there is no target"),
        ("published=8080,target=80,colour=red", "\"colour\" is not known"),
        ("published=8080,target=80,target=81", "target is there twice"),
        ("published=8080,target=80,host", "\"host\" has no value"),
        ("published=8080,target=80,mode=vip", "neither ingress nor host"),
        ("published=8080,target=80,protocol=sctp", "\"sctp\" cannot be published"),
        ("published=8080,target=80,ip=here", "here is no IP address"),
        ("published=8080,target=80,from=", "\"\" is no network"),
        ("published=8080,target=80,from=10.0.0.0/33", "\"10.0.0.0/33\" is no network"),
        ("published=8080,target=80,from=10.0.0.0/8,lan", "\"lan\" is no network"),
        ("published=8080,target=80,\"from=10.0.0.0/8", "a quote is not closed"),
        ("published=8080,target=", "[IP:]PUBLISHED"),
    ] {
        let e = text.parse::<Ports>().unwrap_err().to_string();
        assert!(e.starts_with(&format!("bad port \"{text}\": ")) && e.contains(needle), "{text}: {e}");
        assert!(!e.contains('\n'));
    }
    assert!("80-81".parse::<PortSpec>().unwrap_err().to_string().contains("not a range"));
}

#[test]
fn neighbours_are_printed_as_ranges() {
    for (text, expected) in [
        (&["8000-8003:80-83"][..], "8000-8003:80-83/tcp"),
        (&["8000:80", "8001:81", "8002:83"], "8000-8001:80-81/tcp, 8002:83/tcp"),
        (&["80", "81"], "0:80/tcp, 0:81/tcp"),
        (&["[::1]:80:80/udp"], "[::1]:80:80/udp"),
        (
            &["published=80-81,target=80-81,from=10.0.0.0/8,from=fd00::/8,ip=::,mode=host"],
            "published=80-81,target=80-81,protocol=tcp,ip=::,from=10.0.0.0/8,fd00::/8,mode=host",
        ),
    ] {
        let ports: Vec<PortSpec> = text.iter().flat_map(|t| read(t)).collect();
        assert_eq!(written(&ports), expected);
    }
}

fn port() -> impl Strategy<Value = PortSpec> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|b| IpAddr::V4(Ipv4Addr::from(b))),
        any::<u128>().prop_map(|b| IpAddr::V6(Ipv6Addr::from(b))),
    ];
    let net = prop_oneof![
        (any::<u32>(), 0..=32u8).prop_map(|(b, len)| IpNet::from(Ipv4Net::new(b.into(), len).unwrap())),
        (any::<u128>(), 0..=128u8).prop_map(|(b, len)| IpNet::from(Ipv6Net::new(b.into(), len).unwrap())),
    ];
    (
        option::of(ip),
        prop_oneof![Just(0), any::<u16>()],
        1..=u16::MAX,
        prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]),
        vec(net, 0..3),
        prop::sample::select(vec![PublishMode::Ingress, PublishMode::Host]),
    )
        .prop_map(|(host_ip, published, target, protocol, from, mode)| PortSpec {
            host_ip,
            published,
            target,
            protocol,
            from,
            mode,
        })
}

/// Runs of neighbours.
fn ports() -> impl Strategy<Value = Vec<PortSpec>> {
    let run = (port(), 0..4u16).prop_map(|(port, more)| {
        let next = |n: u16| {
            let (published, target) = (port.published.checked_add(n)?, port.target.checked_add(n)?);
            Some(PortSpec { published, target, ..port.clone() })
        };
        (0..=more).map_while(next).collect::<Vec<_>>()
    });
    vec(run, 0..3).prop_map(|runs| runs.concat())
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(port in port()) {
        prop_assert_eq!(port.to_string().parse::<PortSpec>(), Ok(port));
    }

    #[test]
    fn ranges_read_back(ports in ports()) {
        let back: Vec<PortSpec> = Run::of(&ports).iter().flat_map(|run| read(&run.to_string())).collect();
        prop_assert_eq!(back, ports);
    }

    /// Whatever is typed: what was understood is printed in a form that means the same.
    #[test]
    fn what_was_read_is_printed_and_read_again(text in "[0-9:/.,=\\[\\]a-z-]{0,24}") {
        if let Ok(Ports(ports)) = text.parse::<Ports>() {
            let again: Vec<PortSpec> = ports.iter().map(|p| p.to_string().parse().unwrap()).collect();
            prop_assert_eq!(again, ports);
        }
    }
}
