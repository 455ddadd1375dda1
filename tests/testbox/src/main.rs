//! The one static binary inside Warren's test images, and the load client beside them. It needs
//! nothing around it (no shell, no libc files), so that a test image is this file and two text
//! files. What it is asked to do is its first argument, or its own name when it was linked under
//! the name of a command.

mod behave;
mod bench;
mod client;
mod datagrams;
mod http;
mod load;
mod look;
mod mirror;
mod serve;
mod stdio;
mod sys;

use std::{env, process::exit};

const USAGE: &str = "testbox: commands:
  http [PORT]                    HTTP server that tells what it sees (default port 80)
  tcp-echo [PORT]                sends every byte back (default 7)
  udp-echo [PORT]                sends every datagram back (default 7)
  mirror PORT [v4]               TCP and UDP: tells whom it sees, sends everything back
  without-ipv6 PROGRAM [ARG...]  runs a program to which the kernel refuses sockets of IPv6
  echo                           standard input, back on standard output
  size [TIMES]                   rows and columns of its terminal, now and after each change
  busy SECONDS                   uses a processor
  http-local PORT                the HTTP server, on 127.0.0.1 only
  sleep [SECONDS]                does nothing (default: for ever); ends on SIGTERM
  exit STATUS [AFTER_MS]         ends with a status
  ignore-term                    does nothing and cannot be ended by SIGTERM
  cps ADDR:PORT RATE SECONDS     opens RATE connections a second, one request each; JSON result
  stream ADDR:PORT RATE SECONDS  one TCP stream of numbered records to an echo server; JSON result
  datagrams ADDR:PORT RATE SECONDS [connected]
                                 numbered datagrams to an echo server from one socket; JSON result
  ask-udp ADDR:PORT              one datagram to an echo server; fails if it does not come back
  well FILE ADDR:PORT            fails while FILE says sicken, or as ask-udp does
  dns SERVER:PORT NAME           asks for an A record over UDP, prints the addresses
  ping ADDR [COUNT]              ICMP echo
  get ADDR:PORT [PATH]           one HTTP request, prints the body
  cat FILE                       prints a file
  look [WORD...]                 prints all it sees of its container, also into /dev/shm/look, and
                                 stays until a signal comes, whose number is then its status;
                                 write=PATH, read=PATH and entries=DIR look at more
  allocate MB                    takes memory and keeps it
  fork N                         starts N processes that do nothing
  burn SECONDS [THREADS]         keeps processors busy, tells how many it got
  lines COUNT [RATE [WIDTH]]     numbered lines on both streams, RATE a second (0: no pause)
  orphan                         leaves a dead child behind, tells whether it was reaped
  die SIGNAL                     ends by a signal
  bench-serve FIRST LAST         the benchmark's server: TCP on these ports, UDP on the first
  bench ADDR FIRST LAST MEASURES SECONDS
                                 the benchmark's client: cps, rps, bulk, udp, urr, pace; JSON results
  bench-flood ADDR PORT SOURCES RATE SECONDS
                                 datagrams from many made-up addresses
  id                             prints uid, gid and supplementary groups";

fn main() {
    let mut args: Vec<String> = env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let called = args.first().and_then(|a| a.rsplit('/').next()).unwrap_or("").to_owned();
    if called == "testbox" || called.is_empty() {
        args.remove(0);
    } else {
        args[0] = called;
    }
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    sys::end_on_sigterm();
    match run(&words) {
        Ok(status) => exit(status),
        Err(e) => {
            eprintln!("testbox: {e}");
            exit(2);
        }
    }
}

type Outcome = Result<i32, String>;

fn run(words: &[&str]) -> Outcome {
    match words {
        ["http"] => http::serve(80),
        ["http", port] => http::serve(number(port)?),
        ["tcp-echo"] => serve::tcp_echo(7),
        ["tcp-echo", port] => serve::tcp_echo(number(port)?),
        ["udp-echo"] => serve::udp_echo(7),
        ["udp-echo", port] => serve::udp_echo(number(port)?),
        ["mirror", port] => mirror::serve(number(port)?, false),
        ["mirror", port, "v4"] => mirror::serve(number(port)?, true),
        ["without-ipv6", program, args @ ..] => sys::without_ipv6(program, args),
        ["echo"] => stdio::echo(),
        ["size"] => stdio::size(1),
        ["size", times] => stdio::size(number(times)?),
        ["busy", seconds] => stdio::busy(number(seconds)?),
        ["http-local", port] => stdio::http_local(number(port)?),
        ["sleep"] => serve::sleep(None),
        ["sleep", seconds] => serve::sleep(Some(number(seconds)?)),
        ["exit", status] => Ok(number(status)?),
        ["exit", status, after] => serve::exit_after(number(status)?, number(after)?),
        ["ignore-term"] => {
            sys::ignore_sigterm();
            serve::sleep(None)
        }
        ["cps", to, rate, seconds] => load::connections(address(to)?, number(rate)?, number(seconds)?),
        ["stream", to, rate, seconds] => load::stream(address(to)?, number(rate)?, number(seconds)?),
        ["datagrams", to, rate, seconds] => {
            datagrams::sequence(address(to)?, number(rate)?, number(seconds)?, false)
        }
        ["datagrams", to, rate, seconds, "connected"] => {
            datagrams::sequence(address(to)?, number(rate)?, number(seconds)?, true)
        }
        ["ask-udp", to] => client::ask(address(to)?).map(|found| shown(&found)),
        ["well", file, ..] if std::fs::read_to_string(file).is_ok_and(|t| t == "sicken") => Ok(1),
        ["well", _, to] => client::ask(address(to)?).map(|found| shown(&found)),
        ["dns", server, name] => client::dns(address(server)?, name).map(|found| shown(&found)),
        ["ping", to] => client::ping(ip(to)?, 1).map(|found| shown(&found)),
        ["ping", to, count] => client::ping(ip(to)?, number(count)?).map(|found| shown(&found)),
        ["get", to] => client::get(address(to)?, "/").map(|body| shown(&body)),
        ["get", to, path] => client::get(address(to)?, path).map(|body| shown(&body)),
        ["cat", file] => std::fs::read_to_string(file).map(|t| shown(&t)).map_err(|e| format!("{file}: {e}")),
        ["look", words @ ..] => look::stay(words),
        ["allocate", mb] => behave::allocate(number(mb)?),
        ["fork", n] => behave::fork(number(n)?),
        ["burn", seconds] => behave::burn(number(seconds)?, 1),
        ["burn", seconds, threads] => behave::burn(number(seconds)?, number(threads)?),
        ["lines", count] => behave::lines(number(count)?, 0, 0),
        ["lines", count, rate] => behave::lines(number(count)?, number(rate)?, 0),
        ["lines", count, rate, width] => behave::lines(number(count)?, number(rate)?, number(width)?),
        ["orphan"] => behave::orphan(),
        ["die", signal] => behave::die(number(signal)?),
        ["bench-serve", first, last] => bench::server::serve(number(first)?, number(last)?),
        ["bench-flood", to, port, sources, rate, seconds] => {
            let std::net::IpAddr::V4(to) = ip(to)? else { return Err("an IPv4 address".into()) };
            bench::flood::run(to, number(port)?, number(sources)?, number(rate)?, number(seconds)?)
        }
        ["bench", to, first, last, measures, seconds] => {
            let target = bench::Target { ip: ip(to)?, first: number(first)?, last: number(last)? };
            bench::run(target, measures, number(seconds)?)
        }
        ["id"] => Ok(shown(&sys::identity())),
        _ => Err(format!("{words:?} is not something I can do\n{USAGE}")),
    }
}

fn shown(text: &str) -> i32 {
    print!("{text}");
    0
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not a number I can use"))
}

fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not ADDRESS:PORT"))
}

fn ip(text: &str) -> Result<std::net::IpAddr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not an address"))
}
