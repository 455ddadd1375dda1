//! `cargo xtask fix`: what can be mended by a program.

use anyhow::Result;

use crate::process::{cargo, run as execute, say};

/// Formats and applies the lints' own suggestions.
///
/// # Errors
/// A command fails.
pub fn run() -> Result<()> {
    say("lints");
    execute(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
    ]))?;
    say("format");
    execute(&mut cargo(&["fmt", "--all"]))
}
