//! The floors of the house: which room of `warren/src` may name which.
//!
//! An arrow may only point to a lower floor; rooms on one floor never name each other. Read from
//! the paths in the source (`use crate::room::…`, `crate::room::…`, `super::…` that climbs out of
//! the room), so that an arrow cannot hide in an expression.

use super::source::{Token, tokens};

/// The rooms of each floor, from the ground up.
const FLOORS: &[&[&str]] = &[
    &["model"],
    &["ca", "clock", "ipam", "proto", "observability", "seal"],
    &["store", "rpc", "logbroker"],
    &["api", "raft"],
    &["manager", "worker", "net", "ingress"],
    &["node"],
    &["cli"],
];

/// Where generated wire types may be named, besides `proto` itself.
const WIRE: &[&str] = &[
    "rpc/",
    "api/",
    "raft/",
    "manager/dispatcher/server",
    "worker/session",
    // The fake at the other end of the session.
    "worker/testing/dispatcher",
    "node/",
    "cli/",
];

/// Where errors may be `anyhow`'s.
const ANYHOW: &[&str] = &["cli/", "main.rs"];

/// Builders and fakes: only for tests.
const TESTING: &str = "testing";

/// What breaks the rules, one sentence each with file and line; `files` are (path, text) with
/// paths of the form `warren/src/room/file.rs`.
pub fn broken(files: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        let inner = path.strip_prefix("warren/src/").unwrap_or(path);
        if inner == "lib.rs" {
            continue;
        }
        let parts: Vec<&str> = inner.trim_end_matches(".rs").split('/').collect();
        let room = parts[0];
        let depth = parts.len() - usize::from(parts.last() == Some(&"mod"));
        for arrow in arrows(text, depth) {
            if let Some(reason) = judge(inner, room, &arrow) {
                found.push(format!("{path}:{}: {reason}", arrow.line));
            }
        }
    }
    found
}

fn judge(inner: &str, room: &str, arrow: &Arrow) -> Option<String> {
    let to = arrow.to.as_str();
    let may = |list: &[&str]| {
        list.iter().any(|p| inner.starts_with(p) || inner.trim_end_matches(".rs") == p.trim_end_matches('/'))
    };
    if to == "anyhow" {
        return (!may(ANYHOW))
            .then(|| "anyhow is only for cli and main: give this room an error of its own".into());
    }
    if to == room || room == TESTING {
        return None;
    }
    if to == TESTING {
        return (!arrow.test).then(|| "testing is only for tests".into());
    }
    let floor = |name: &str| FLOORS.iter().position(|rooms| rooms.contains(&name));
    let Some(below) = floor(to) else {
        return Some(format!("{to} has no floor: give it one in xtask/src/check/floors.rs"));
    };
    let above = if room == "main" {
        FLOORS.len()
    } else {
        match floor(room) {
            Some(f) => f,
            None => return Some(format!("{room} has no floor: give it one in xtask/src/check/floors.rs")),
        }
    };
    if below >= above {
        let how = if below == above { "stand on one floor" } else { "are the wrong way round" };
        return Some(format!("{room} names {to}: floors {above} and {below} {how}"));
    }
    if to == "proto" && !may(WIRE) {
        return Some(format!("{room} names a wire type here: convert it at the door (proto/convert)"));
    }
    None
}

/// A room named in a source text.
#[derive(Debug, PartialEq, Eq)]
struct Arrow {
    to: String,
    line: usize,
    /// Named by code that exists only in tests.
    test: bool,
}

/// An inline module or other block the walk is in.
struct Block {
    module: bool,
    test: bool,
}

/// Every room (or `anyhow`) that a file names. `depth` is how many modules lie between it and the
/// crate's root.
fn arrows(text: &str, depth: usize) -> Vec<Arrow> {
    let tokens = tokens(text);
    let word = |i: usize| match tokens.get(i) {
        Some((Token::Word(w), _)) => Some(w.as_str()),
        _ => None,
    };
    let is = |i: usize, t: &Token| tokens.get(i).is_some_and(|(found, _)| found == t);
    let mut found = Vec::new();
    let mut blocks: Vec<Block> = Vec::new();
    // What the next item is: set by an attribute, ended by the item's `{` or `;`.
    let (mut test_next, mut module_next) = (false, false);
    let mut i = 0;
    while let Some((token, line)) = tokens.get(i) {
        let test = test_next || blocks.iter().any(|b| b.test);
        match token {
            Token::Sign('{') => {
                blocks.push(Block { module: module_next, test: test_next });
                (test_next, module_next) = (false, false);
            }
            Token::Sign('}') => {
                blocks.pop();
            }
            Token::Sign(';') => (test_next, module_next) = (false, false),
            Token::Sign('#') if word(i + 2) == Some("cfg") => {
                let mut j = i + 3;
                while j < tokens.len() && !is(j, &Token::Sign(']')) {
                    test_next |= word(j) == Some("test") && word(j.wrapping_sub(2)) != Some("not");
                    j += 1;
                }
                i = j;
            }
            Token::Word(w) if w == "mod" && is(i + 2, &Token::Sign('{')) => module_next = true,
            Token::Word(w) if w == "anyhow" && !is(i.wrapping_sub(1), &Token::Path) => {
                found.push(Arrow { to: w.clone(), line: *line, test });
            }
            Token::Word(w)
                if (w == "crate" || w == "warren")
                    && is(i + 1, &Token::Path)
                    && !is(i.wrapping_sub(1), &Token::Path) =>
            {
                i = heads(&tokens, i + 2, test, &mut found);
                continue;
            }
            Token::Word(w) if w == "super" && !is(i.wrapping_sub(1), &Token::Path) => {
                let mut climbed = 0;
                while word(i) == Some("super") && is(i + 1, &Token::Path) {
                    (climbed, i) = (climbed + 1, i + 2);
                }
                let inline = blocks.iter().filter(|b| b.module).count();
                if climbed > 0 && climbed >= depth + inline {
                    i = heads(&tokens, i, test, &mut found);
                } else if climbed == 0 {
                    i += 1;
                }
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// The first names of the path or `{group}` at `i`; where to go on.
fn heads(tokens: &[(Token, usize)], mut i: usize, test: bool, found: &mut Vec<Arrow>) -> usize {
    // Items of the crate's root itself (`crate::VERSION`, a type re-exported there) are upper-case.
    let mut push = |w: &str, line: usize| {
        if w.starts_with(|c: char| c.is_lowercase()) && w != "self" {
            found.push(Arrow { to: w.to_owned(), line, test });
        }
    };
    match tokens.get(i) {
        Some((Token::Word(w), line)) => {
            push(w, *line);
            i + 1
        }
        Some((Token::Sign('{'), _)) => {
            let (mut depth, mut first) = (0, true);
            while let Some((token, line)) = tokens.get(i) {
                match token {
                    Token::Sign('{') => depth += 1,
                    Token::Sign('}') => depth -= 1,
                    Token::Sign(',') if depth == 1 => first = true,
                    Token::Word(w) if first && depth == 1 => {
                        push(w, *line);
                        first = false;
                    }
                    _ => {}
                }
                i += 1;
                if depth == 0 {
                    break;
                }
            }
            i
        }
        _ => i,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str) -> Vec<String> {
        broken(&[(format!("warren/src/{path}"), text.to_owned())])
    }

    #[test]
    fn arrows_down_are_fine() {
        for (path, text) in [
            ("manager/scheduler/mod.rs", "use crate::{model::{Task, Node}, store::ReadTx};"),
            ("worker/session.rs", "use crate::proto::v1 as wire; use crate::rpc::Channel;"),
            ("node/run.rs", "fn f() { crate::net::start(); crate::worker::start(); }"),
            ("raft/log.rs", "use super::types::Config;"),
            ("cli/mod.rs", "use anyhow::Result; use crate::node::Config;"),
            ("main.rs", "use warren::cli; fn main() -> anyhow::Result<()> { cli::run() }"),
            ("store/mod.rs", "// use crate::raft::X;\nconst S: &str = \"crate::raft\";"),
        ] {
            assert_eq!(check(path, text), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn arrows_up_and_sideways_are_found_wherever_they_stand() {
        for (path, text) in [
            ("store/mod.rs", "use crate::raft::Log;"),
            ("store/mod.rs", "fn f() { let x = crate::manager::go(); }"),
            ("net/datapath/mod.rs", "use crate::{model::Task, worker::Executor};"),
            ("net/datapath/mod.rs", "use super::super::worker::Executor;"),
            ("net/dns.rs", "mod inner { use super::super::super::worker::Executor; }"),
            ("api/mod.rs", "pub use crate::raft;"),
            ("model/id.rs", "impl crate::proto::Id {}"),
        ] {
            assert_eq!(check(path, text).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn the_sentence_names_the_place_and_the_rule() {
        assert_eq!(
            check("ipam/pool.rs", "\n\nuse crate::store::Tx;"),
            ["warren/src/ipam/pool.rs:3: ipam names store: floors 1 and 2 are the wrong way round"]
        );
    }

    #[test]
    fn testing_is_for_tests_only() {
        let inside = "#[cfg(test)]\nmod tests { use crate::testing::a_service; }";
        assert_eq!(check("store/mod.rs", inside), Vec::<String>::new());
        assert_eq!(check("store/mod.rs", "use crate::testing::a_service;").len(), 1);
        let after = "#[cfg(test)]\nmod tests {}\nuse crate::testing::a_service;";
        assert_eq!(check("store/mod.rs", after).len(), 1);
        let not = "#[cfg(not(test))]\nmod x { use crate::testing::a_service; }";
        assert_eq!(check("store/mod.rs", not).len(), 1);
    }

    #[test]
    fn wire_types_stay_at_the_doors() {
        let text = "use crate::proto::v1::Task;";
        assert_eq!(check("manager/dispatcher/server.rs", text), Vec::<String>::new());
        assert_eq!(check("raft/network.rs", text), Vec::<String>::new());
        assert_eq!(check("manager/dispatcher/session.rs", text).len(), 1);
        assert_eq!(check("worker/agent.rs", text).len(), 1);
        assert_eq!(check("worker/session/mod.rs", text), Vec::<String>::new());
    }

    #[test]
    fn anyhow_and_unknown_rooms_are_found() {
        assert_eq!(check("net/mod.rs", "fn f() -> anyhow::Result<()> {}").len(), 1);
        assert_eq!(check("cellar/mod.rs", "use crate::model::Task;").len(), 1);
        assert_eq!(check("node/mod.rs", "use crate::cellar::Wine;").len(), 1);
    }
}
