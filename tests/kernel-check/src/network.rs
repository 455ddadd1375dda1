//! A node's network in this kernel: published ports over TCP and UDP and what containers send out,
//! IPv4 and IPv6, between the node and another host, which is a network namespace.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use warren_tests::{eventually, program};

use super::node::{SOON, create, import, warren};

const IP: &str = "/usr/bin/ip";

/// The other host, and the node as it sees it: what appears while the agent runs.
const HOST: &str = "netns add client
link add u0 type veth peer name c0 netns client
addr add 10.9.0.1/24 dev u0
addr add fd09::1/64 dev u0 nodad
link set u0 up
-n client addr add 10.9.0.2/24 dev c0
-n client addr add fd09::2/64 dev c0 nodad
-n client link set lo up
-n client link set c0 up";

/// Whether this machine is for it.
pub fn is_wanted() -> bool {
    Path::new(IP).exists()
}

/// What one side asks, and the answer.
const QUESTIONS: [(&str, &str, &str); 12] = [
    ("published tcp", "get 10.9.0.1:8080 /client", "10.9.0.2"),
    ("published tcp, v6", "get [fd09::1]:8080 /client", "fd09::2"),
    ("published udp", "ask-udp 10.9.0.1:7000", ""),
    ("published udp, v6", "ask-udp [fd09::1]:7000", ""),
    ("masquerade tcp", "get 10.9.0.1:8080 /tcp?to=10.9.0.2:80", "10.9.0.1"),
    ("masquerade udp", "get 10.9.0.1:8080 /udp?to=10.9.0.2:7", "10.9.0.2:7"),
    ("masquerade icmp", "get 10.9.0.1:8080 /ping?to=10.9.0.2", ""),
    ("masquerade tcp, v6", "get 10.9.0.1:8080 /tcp?to=[fd09::2]:80", "fd09::1"),
    ("masquerade udp, v6", "get 10.9.0.1:8080 /udp?to=[fd09::2]:7", "[fd09::2]:7"),
    ("masquerade icmp, v6", "get 10.9.0.1:8080 /ping?to=fd09::2", ""),
    ("the node itself, tcp", "node get 127.0.0.1:8080 /client", ""),
    ("the node itself, udp", "node ask-udp 127.0.0.1:7000", ""),
];

/// Asks everything.
pub fn check() -> Result<()> {
    for line in HOST.lines() {
        ip(line)?;
    }
    let mut servers = Vec::new();
    for server in ["http 80", "udp-echo 7"] {
        servers.push(client(server).spawn()?);
    }
    import()?;
    create("web", "-p 8080:80", "http 80")?;
    create("echo", "-p 7000:7/udp", "udp-echo")?;
    let ask = |question: &str| {
        let mut asking = match question.strip_prefix("node ") {
            Some(question) => {
                let mut here = Command::new("/usr/bin/testbox");
                here.args(question.split(' '));
                here
            }
            None => client(question),
        };
        program::run(&mut asking, SOON)?.ok()
    };
    eventually("both services answer", SOON, || {
        ask("get 10.9.0.1:8080 /client")?;
        ask("ask-udp 10.9.0.1:7000")
    })?;
    let mut wrong = Vec::new();
    for (what, question, answer) in QUESTIONS {
        let found = match ask(question) {
            Ok(said) if answer.is_empty() || said.trim() == answer => "ok".to_owned(),
            Ok(said) => format!("{} instead of {answer}", said.trim()),
            Err(e) => format!("{e:#}"),
        };
        println!("kernel-check: {what}: {found}");
        if found != "ok" {
            wrong.push(what);
        }
    }
    for mut server in servers {
        server.kill()?;
        server.wait()?;
    }
    ensure!(wrong.is_empty(), "{}; dropped: {}", wrong.join(", "), warren(&["net", "drops"])?);
    warren(&["net", "check"]).map(drop)
}

fn ip(words: &str) -> Result<String> {
    program::run(Command::new(IP).args(words.split(' ')), SOON)?.ok()
}

/// `testbox`, on the other host.
fn client(words: &str) -> Command {
    let mut c = Command::new(IP);
    c.args(["netns", "exec", "client", "/usr/bin/testbox"]).args(words.split(' '));
    c
}
