//! The reference in `docs/cli.md`, made from the commands themselves.

use clap::{Command, CommandFactory as _};

use super::Cli;

/// All commands as Markdown: one section for each, its help text below.
fn markdown() -> String {
    let mut text = String::from(
        "# Command line\n\nMade from the program itself: `UPDATE_GOLDEN=1 cargo test -p warren --lib cli::reference` writes this file.\n",
    );
    let mut root = Cli::command().term_width(100);
    root.build();
    section(&mut root, &mut text);
    text
}

fn section(command: &mut Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let help: Vec<_> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()));
    for sub in command.get_subcommands_mut() {
        section(sub, text);
    }
}

#[test]
fn the_reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let now = markdown();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == now, "docs/cli.md is not what the commands say: run the command in its second line");
}
