//! How many instructions each kernel's verifier walks for each program, against those that are
//! checked in: what makes a program slow to load, and in the end refused, is noticed when it is
//! written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::PathBuf,
};

use anyhow::{Context, Result, bail};

use crate::{process::say, workspace};

/// By how much a program may grow before somebody must say that it is meant, in percent.
const GROWTH: u64 = 20;

const HEAD: &str = "\
# Instructions that a kernel's verifier walks for each BPF program. A program that grows by more than
# 20 % on a kernel of the same version fails `cargo xtask test`. Another verifier walks in another way,
# so a kernel of a version that is not here is only reported.
# UPDATE_GOLDEN=1 cargo xtask test --kernels writes this file.
";

/// (version of the kernel, program) and its instructions.
type Counts = BTreeMap<(String, String), u64>;

fn file() -> PathBuf {
    workspace::root().join("tests/budgets/verifier.txt")
}

/// Compares what kernels reported with what is checked in, or (`UPDATE_GOLDEN=1`) writes it down.
///
/// # Errors
/// A program has grown, or has no number: names it, and how to accept it.
pub fn judge(reports: &[String]) -> Result<()> {
    let found = reports.iter().flat_map(|r| counts(r)).collect::<Counts>();
    let file = file();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        // A kernel that could not be had keeps its numbers; a version that a suite moved on from goes.
        let mut found = found;
        if reports.len() < super::KERNELS.len()
            && let Ok(text) = fs::read_to_string(&file)
        {
            let had: BTreeSet<String> = found.keys().map(|(kernel, _)| kernel.clone()).collect();
            found.extend(parse(&text)?.into_iter().filter(|((kernel, _), _)| !had.contains(kernel)));
        }
        let mut text = HEAD.to_owned();
        for ((kernel, program), count) in &found {
            writeln!(text, "{kernel} {program} {count}")?;
        }
        fs::write(&file, text).with_context(|| format!("{}", file.display()))?;
        say(&format!("{} is written", file.display()));
        return Ok(());
    }
    let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    let verdict = compare(&parse(&text)?, &found);
    for line in &verdict.remarks {
        eprintln!("    {line}");
    }
    if !verdict.grown.is_empty() {
        bail!(
            "the verifier walks more than {GROWTH} % more than is checked in ({}): make the programs smaller, or \
             accept it with `UPDATE_GOLDEN=1 cargo xtask test --kernels`",
            verdict.grown.join("; ")
        );
    }
    Ok(())
}

/// What a comparison says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// What must be accepted or mended.
    grown: Vec<String>,
    /// What is only worth knowing.
    remarks: Vec<String>,
}

fn compare(known: &Counts, found: &Counts) -> Verdict {
    let mut verdict = Verdict::default();
    for ((kernel, program), count) in found {
        match known.get(&(kernel.clone(), program.clone())) {
            Some(was) if *count * 100 > was * (100 + GROWTH) => {
                verdict.grown.push(format!("{program} on {kernel}: {count} instead of {was}"));
            }
            Some(was) if *count * 100 < was * (100 - GROWTH) => {
                verdict.remarks.push(format!(
                    "{program} on {kernel} has shrunk from {was} to {count}: write it down, so that it stays so"
                ));
            }
            Some(_) => {}
            None if known.keys().any(|(k, _)| k == kernel) => {
                verdict.grown.push(format!("{program} on {kernel}: {count}, and no number is checked in"));
            }
            None => verdict
                .remarks
                .push(format!("{program}: {count} on {kernel}, of which no numbers are checked in")),
        }
    }
    verdict
}

/// What the init of a test kernel said.
fn counts(report: &str) -> Vec<((String, String), u64)> {
    let lines = report.lines().filter_map(|l| l.trim().strip_prefix("kernel-check: "));
    let (mut kernel, mut found) = (None, Vec::new());
    for line in lines {
        // First of all its release: "6.12.107+deb13-cloud-amd64".
        let Some(kernel) = &kernel else {
            let numbers: Vec<&str> = line.splitn(3, '.').take(2).collect();
            kernel = Some(numbers.join("."));
            continue;
        };
        if let Some((program, rest)) = line.split_once(": ")
            && let Some((count, _)) = rest.split_once(" instructions verified")
            && let Ok(count) = count.parse()
        {
            found.push(((kernel.clone(), program.to_owned()), count));
        }
    }
    found
}

fn parse(text: &str) -> Result<Counts> {
    let rows = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    rows.map(|row| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let [kernel, program, count] = words[..] else { bail!("\"{row}\" is not KERNEL PROGRAM NUMBER") };
        Ok(((kernel.to_owned(), program.to_owned()), count.parse().with_context(|| row.to_owned())?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Counts {
        parse(text).unwrap()
    }

    #[test]
    fn reports_are_read_by_kernel_and_program() {
        let report = "kernel-check: 6.12.107+deb13-cloud-amd64\n\
             kernel-check: node_in: 1234 instructions verified, 99 bytes, tcx\n\
             kernel-check: veth_in: ? instructions verified, 99 bytes, tcx\nkernel-check: ok\n";
        let found: Counts = counts(report).into_iter().collect();
        assert_eq!(found, of("6.12 node_in 1234\n"));
    }

    #[test]
    fn growth_of_more_than_a_fifth_must_be_accepted() {
        let known = of("6.1 a 1000\n6.1 b 1000\n");
        assert_eq!(compare(&known, &of("6.1 a 1200\n6.1 b 800\n")), Verdict::default());
        let verdict = compare(&known, &of("6.1 a 1201\n6.1 b 700\n6.1 c 5\n"));
        assert_eq!(verdict.grown.len(), 2, "{verdict:?}");
        assert!(verdict.grown[0].contains("a on 6.1: 1201 instead of 1000"), "{verdict:?}");
        assert!(verdict.remarks[0].contains("shrunk"), "{verdict:?}");
    }

    #[test]
    fn another_kernel_is_only_reported() {
        let verdict = compare(&of("6.1 a 1000\n"), &of("7.2 a 5000\n"));
        assert!(verdict.grown.is_empty() && verdict.remarks.len() == 1, "{verdict:?}");
    }
}
