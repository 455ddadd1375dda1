//! What a node is told of registries at its start: flags and the environment's proxies, each seen
//! in what a pull does without it and with it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use warren_tests::{Cluster, Host, Node, eventually, image::Image, registry::Registry};

const PLAIN: u16 = 5001;
const TLS: u16 = 5443;
/// A name that nothing resolves.
const NOWHERE: &str = "registry.invalid";

/// An authority, and a certificate of it with its key, PEM.
fn certificates(names: &[&str]) -> Result<(String, String, String)> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(Vec::new())?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key)?.pem();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate()?;
    let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
    let leaf = rcgen::CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    Ok((authority, leaf.pem(), key.serialize_pem()))
}

/// A registry on another host: plain HTTP at one port, TLS at another. And the authority of its
/// certificate.
fn registry(shop: &Host) -> Result<(Registry, String)> {
    let mut registry = Registry::start(shop, 5000)?;
    registry.push(shop, &Image::web("app:1"), "library/app", "1", 0)?;
    let (authority, certificate, key) = certificates(&[&shop.v4.to_string(), NOWHERE])?;
    registry.open(shop, &format!("{}:{PLAIN}", shop.v4), None)?;
    registry.open(shop, &format!("{}:{TLS}", shop.v4), Some((&certificate, &key)))?;
    for port in [PLAIN, TLS] {
        eventually("the registry has another door", Duration::from_secs(20), || {
            Ok(shop.ns.enter(|| TcpStream::connect((shop.v4, port)))??)
        })?;
    }
    Ok((registry, authority))
}

fn restart(node: &mut Node, flags: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    node.stop_agent()?;
    node.set_flags(flags);
    node.set_environment(environment);
    node.start_agent()
}

fn pull(node: &Node, image: &str) -> Result<()> {
    let said = node.ok(&["image", "pull", "--quiet", image])?;
    ensure!(said.trim() == image, "{said}");
    node.ok(&["image", "rm", image]).map(drop)
}

#[test]
#[ignore = "needs root"]
fn registries_are_asked_as_the_nodes_flags_say() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let shop = cluster.host("shop")?;
    let mut node = Node::start(cluster.host("node")?)?;
    let (_registry, authority) = registry(&shop)?;
    let (plain, tls) = (format!("{}:{PLAIN}", shop.v4), format!("{}:{TLS}", shop.v4));
    let (from_plain, from_tls) = (format!("{plain}/library/app:1"), format!("{tls}/library/app:1"));

    let refused = |node: &Node, image: &str, flag: &str| -> Result<()> {
        let said = node.refused(&["image", "pull", "--quiet", image])?;
        ensure!(said.contains(flag), "{image}, without {flag}: {said}");
        Ok(())
    };
    refused(&node, &from_plain, "--insecure-registry")?;
    refused(&node, &from_tls, "--registry-ca")?;
    let file = node.dir().join("authority.pem");
    std::fs::write(&file, authority)?;
    let file = file.display().to_string();
    let mirror = format!("docker.io=http://{plain}");

    restart(&mut node, &["--insecure-registry", &plain], &[])?;
    pull(&node, &from_plain)?;
    refused(&node, &from_tls, "--registry-ca")?;
    restart(&mut node, &["--registry-ca", &file, "--registry-mirror", &mirror], &[])?;
    pull(&node, &from_tls)?;
    // There is no way from here to the registry itself.
    pull(&node, "app:1")?;
    refused(&node, &from_plain, "--insecure-registry")?;
    // What cannot be used is said at the start.
    node.stop_agent()?;
    for (flag, value) in
        [("--registry-ca", "/no/such/file"), ("--registry-mirror", "x"), ("--insecure-registry", "a/b")]
    {
        let mut start = node.start_command()?;
        let ended = warren_tests::program::run(start.args([flag, value]), Duration::from_secs(60))?;
        ensure!(!ended.good() && ended.stderr.contains(value), "{flag} {value}: {}", ended.stderr);
    }
    Ok(())
}

/// A proxy on a host's loopback that leads every CONNECT to `to`. And what it was asked for.
fn proxy(host: &Host, to: (Ipv4Addr, u16)) -> Result<(SocketAddr, Arc<Mutex<Vec<String>>>)> {
    let listener = host.ns.enter(|| TcpListener::bind("127.0.0.1:0"))??;
    let address = listener.local_addr()?;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (noted, name) = (asked.clone(), host.ns.path());
    // It lives as long as the test.
    thread::spawn(move || {
        use std::os::fd::AsFd as _;
        let inside = std::fs::File::open(name)?;
        nix::sched::setns(inside.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
        for client in listener.incoming() {
            let mut client = BufReader::new(client?);
            let mut first = String::new();
            client.read_line(&mut first)?;
            let mut line = String::new();
            while client.read_line(&mut line)? > 2 {
                line.clear();
            }
            noted.lock().expect("nothing panics with it").push(first.trim().to_owned());
            let mut server = TcpStream::connect(to)?;
            client.get_mut().write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            let (mut back, mut answers) = (client.get_ref().try_clone()?, server.try_clone()?);
            thread::spawn(move || std::io::copy(&mut answers, &mut back));
            thread::spawn(move || std::io::copy(&mut client, &mut server));
        }
        anyhow::Ok(())
    });
    Ok((address, asked))
}

#[test]
#[ignore = "needs root"]
fn registries_are_reached_through_the_proxy_of_the_nodes_environment() -> Result<()> {
    let mut cluster = Cluster::new()?;
    let shop = cluster.host("shop")?;
    let mut node = Node::start(cluster.host("node")?)?;
    let (_registry, authority) = registry(&shop)?;
    let file = node.dir().join("authority.pem");
    std::fs::write(&file, authority)?;
    let file = file.display().to_string();
    let flags = ["--registry-ca", file.as_str()];
    let (address, asked) = proxy(&node.host, (shop.v4, TLS))?;
    let (url, image) = (format!("http://{address}"), format!("{NOWHERE}/library/app:1"));
    restart(&mut node, &flags, &[("HTTPS_PROXY", &url)])?;
    pull(&node, &image)?;
    let seen = asked.lock().expect("nothing panics with it").split_off(0);
    ensure!(seen.iter().all(|s| s.starts_with(&format!("CONNECT {NOWHERE}:443 "))) && !seen.is_empty());
    // What needs none is asked straight.
    restart(&mut node, &flags, &[("HTTPS_PROXY", &url), ("NO_PROXY", "198.18.0.0/15,.invalid")])?;
    pull(&node, &format!("{}:{TLS}/library/app:1", shop.v4))?;
    node.refused(&["image", "pull", "--quiet", &image]).context("it is not reached without")?;
    let seen = asked.lock().expect("nothing panics with it").split_off(0);
    ensure!(seen.is_empty(), "{seen:?}");
    Ok(())
}
