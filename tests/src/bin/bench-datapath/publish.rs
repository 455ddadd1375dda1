//! How long it takes to publish one port more.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use warren_tests::{Host, program};

use crate::{
    rules,
    sides::{SERVICE, Side, answers},
};

/// Seconds, one a try.
#[derive(Default)]
pub struct Times {
    /// Until the command has returned.
    pub command: Vec<f64>,
    /// Until a client elsewhere is answered.
    pub answered: Vec<f64>,
    /// Warren's own: computing the change and writing the maps, as the agent logs it.
    pub in_process: Vec<f64>,
}

/// Publishes one port more and takes it away again, so many times. `None`: it cannot be told to.
///
/// # Errors
/// A command fails, or the port does not answer.
pub fn one_more(side: &Side, client: &Host, times: u32) -> Result<Option<Times>> {
    let port = side.inside.ports.end() + 1;
    let Some((add, remove)) = words(side, port) else { return Ok(None) };
    let mut found = Times::default();
    let to = SocketAddr::from((side.to, port));
    for _ in 0..times {
        let seen = side.node().map(|n| n.log_text().lines().count());
        let (command, answered) = client.ns.enter(|| {
            thread::scope(|scope| {
                let begun = Instant::now();
                // This thread's child, and so in the client's network.
                let asked = scope.spawn(move || {
                    while begun.elapsed() < Duration::from_secs(20) {
                        // Short: while one rule is there and the next is not, packets are lost.
                        if answers(to, Duration::from_millis(10)).is_ok() {
                            return Ok(begun.elapsed());
                        }
                        thread::sleep(Duration::from_millis(1));
                    }
                    bail!("port {port} does not answer")
                });
                run(side, &add)?;
                let command = begun.elapsed();
                let answered = asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                anyhow::Ok((command, answered))
            })
        })??;
        found.command.push(command.as_secs_f64());
        found.answered.push(answered.as_secs_f64());
        if let (Some(node), Some(seen)) = (side.node(), seen) {
            let log = node.log_text();
            let line = log.lines().skip(seen).find(|l| l.contains("maps are written"));
            let line = line.context("the agent logs what it writes")?;
            let field = |name: &str| -> Result<f64> {
                let value = line.split(' ').find_map(|w| w.strip_prefix(name));
                Ok(value.with_context(|| line.to_owned())?.parse()?)
            };
            found.in_process.push((field("plan_us=")? + field("write_us=")?) / 1e6);
        }
        run(side, &remove)?;
    }
    Ok(Some(found))
}

type Commands = Vec<Vec<String>>;

/// What publishes and what takes away.
fn words(side: &Side, port: u16) -> Option<(Commands, Commands)> {
    let split = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    if side.node().is_some() {
        let one = |flag: &str| vec![split(format!("warren service update {flag} {port}:{port} {SERVICE}"))];
        return Some((one("--publish-add"), one("--publish-rm")));
    }
    if let Some(iptables) = side.kind.iptables() {
        let all = |action: &str| {
            let rules = rules::docker(&side.inside, "tcp", port).into_iter();
            rules.map(|(table, rule)| split(format!("{iptables} -t {table} {action} {rule}"))).collect()
        };
        return Some((all("-A"), all("-D")));
    }
    if side.kind == crate::sides::Kind::Nft {
        let element = rules::element(&side.inside, side.to, port);
        let key = element.split(" : ").next().unwrap_or_default();
        let one = |action: &str, what: &str| {
            vec![split(format!("nft {action} element ip bench tcp_ports {{ {what} }}"))]
        };
        return Some((one("add", &element), one("delete", key)));
    }
    None
}

fn run(side: &Side, commands: &Commands) -> Result<()> {
    for words in commands {
        let rest: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        match side.node() {
            Some(node) => drop(node.ok(&rest)?),
            None => {
                program::run(side.ns().command(&words[0])?.args(rest), Duration::from_secs(60))?.ok()?;
            }
        }
    }
    Ok(())
}
