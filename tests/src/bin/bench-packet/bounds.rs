//! What packets may cost: the ratios that are checked in, and how far a run may be from them.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::Measured;

/// By how much the best of a run may be above the ratio that is checked in.
///
/// Generous, because it must hold on a shared machine with two processors: there the medians of runs
/// side by side with compilers were up to half off, the best rounds a fifth. What this gate is for (a
/// table gone over in a loop, a path walked twice) is above it; what is below, a lookup more, is for
/// `bench packet` on a quiet machine.
const TOLERANCE: f64 = 1.5;

fn file() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/budgets/packets.txt"))
}

const HEAD: &str = "\
# What a packet costs the BPF programs, as a ratio to an empty program: the best rounds of a run on a
# quiet machine. `cargo xtask test` fails when those of its own run are above 1.5 times this.
# UPDATE_GOLDEN=1 cargo xtask bench packet --gate writes this file.
";

/// The ratio a class is judged by: of the best rounds, which other processes' work disturbs least.
fn best(class: &Measured, nothing: &[f64]) -> f64 {
    let least = |samples: &[f64]| samples.iter().copied().fold(f64::INFINITY, f64::min);
    least(&class.net) / least(nothing) + 1.0
}

/// Compares a run with what is checked in, or (`UPDATE_GOLDEN=1`) writes it down.
///
/// # Errors
/// A class costs too much, or is not in the file: names them, and how to accept it.
pub fn judge(nothing: &[f64], classes: &[Measured]) -> Result<()> {
    let file = file();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let mut text = HEAD.to_owned();
        for class in classes {
            writeln!(text, "{:6.2}  {}", best(class, nothing), class.name)?;
        }
        fs::create_dir_all(file.parent().context("a file is in a directory")?)?;
        fs::write(&file, text)?;
        println!("{} is written", file.display());
        return Ok(());
    }
    let text = fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    let known = parse(&text)?;
    let mut over = Vec::new();
    for class in classes {
        let best = best(class, nothing);
        match known.get(class.name.as_str()) {
            Some(known) if best <= known * TOLERANCE => {
                println!("{best:6.2}  ({known:.2} checked in)  {}", class.name);
            }
            Some(known) => over.push(format!("{}: {best:.2} instead of {known:.2}", class.name)),
            None => over.push(format!("{}: {best:.2}, and no number is checked in", class.name)),
        }
    }
    if !over.is_empty() {
        bail!(
            "packets cost more than {TOLERANCE} times what is checked in ({}): make them cheaper, or accept it with \
             `UPDATE_GOLDEN=1 cargo xtask bench packet --gate`",
            over.join("; ")
        );
    }
    Ok(())
}

fn parse(text: &str) -> Result<BTreeMap<&str, f64>> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let (ratio, name) = line.trim().split_once("  ").with_context(|| line.to_owned())?;
        ensure!(found.insert(name, ratio.parse()?).is_none(), "{name} is there twice");
    }
    Ok(found)
}
