//! Warren's own commands: `cargo xtask COMMAND`. Each shows what it does and stops with the reason
//! when it cannot go on.

mod bench;
mod build_ebpf;
mod check;
mod containerd;
mod demo;
mod deps;
mod fix;
mod fuzz;
mod kernels;
mod packages;
mod process;
mod test;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Warren's own commands", disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what this machine lacks to build, run and test Warren
    Deps,
    /// Build the BPF programs
    BuildEbpf(build_ebpf::Args),
    /// Check format, lints, docs, floors and file lengths; writes nothing
    Check,
    /// Format, and mend what the lints can mend by themselves
    Fix,
    /// Set up and run every test there is; needs root
    Test(test::Args),
    /// Let a fuzzer look for packets that the datapath gets wrong
    Fuzz(fuzz::Args),
    /// Set up and show the main job on this machine; needs root
    Demo(demo::Args),
    /// Set up and measure; needs root
    #[command(subcommand)]
    Bench(bench::What),
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Deps => deps::run(),
        Command::BuildEbpf(args) => build_ebpf::run(&args),
        Command::Check => check::run(),
        Command::Fix => fix::run(),
        Command::Test(args) => test::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(what) => bench::run(&what),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\nxtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}
