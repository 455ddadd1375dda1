//! What a program has left.

use std::mem::offset_of;

use warren_ebpf::{
    abi::{BackendRef, Route},
    flow::{
        Resolved,
        decide::{Action, Verdict, Work},
        published::Chosen,
    },
};

use super::{
    super::datapath::rehearsal::Rehearsed,
    End,
    facts::{Done, Facts},
    packet,
    tables::{Side, Tables},
};

/// Reads what the program has left.
pub(super) fn done<A: Side>(tables: &Tables<'_>, mut r: Rehearsed, facts: &Facts) -> Done {
    const SHOT: i32 = 2;
    const REDIRECT: i32 = 7;
    let number =
        |at: usize| r.work.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let verdict = offset_of!(Work<A>, verdict);
    let action = number(verdict + offset_of!(Verdict<A>, action));
    let to = number(verdict + offset_of!(Verdict<A>, ifindex));
    let reference = |at: usize| BackendRef { id: number(at), generation: number(at + 4) };
    let owner = reference(offset_of!(Work<A>, owner));
    let chosen = reference(
        offset_of!(Work<A>, chosen) + offset_of!(Chosen<A>, backend) + offset_of!(Resolved<A>, backend),
    );
    let masqueraded = number(offset_of!(Work<A>, route) + offset_of!(Route<A>, ifindex)) != 0;
    let born = r.after.iter().map(|(name, rows)| {
        let known = &r.before[name];
        rows.keys().filter(|k| !known.contains_key(*k)).count()
    });
    let born = born.sum();
    let device = action == Action::Device as u32;
    let told = if device && r.action == REDIRECT { packet::too_big(&mut r.frame) } else { None };
    let begins = facts.question.begins();
    let no_taker = facts.port.as_ref().is_some_and(|p| p.takers() == 0);
    let end = match (r.action, told) {
        (REDIRECT, Some(_)) => End::TooBig,
        (REDIRECT, None) if device => End::Device,
        (REDIRECT, None) => End::Container,
        (SHOT, _) => End::Dropped,
        _ if begins && no_taker && facts.to_node && chosen.id == 0 => End::Refused,
        _ => End::Passed,
    };
    let goes = matches!(end, End::Device | End::Container);
    Done {
        end,
        // What is answered instead of sent on is counted, too.
        reason: r.dropped.filter(|_| end == End::Dropped),
        shown: if goes { packet::ends(&r.frame) } else { None },
        to: if goes || end == End::TooBig { to } else { 0 },
        mtu: told.unwrap_or(0),
        owned: owner.id != 0,
        chosen: (chosen.id != 0).then(|| tables.backend(chosen).0),
        masqueraded,
        born,
        early: false,
    }
}
