//! The command line: parse, ask, print, exit code. One file per verb.
//!
//! Flags have Docker's names and defaults where Docker has them.

mod cp;
mod credentials;
mod events;
mod exec;
mod image;
mod net;
mod node;
mod output;
mod port_forward;
mod progress;
#[cfg(test)]
mod reference;
mod screen;
mod service;
mod stats;
mod target;
mod time;
mod volume;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tonic::transport::Channel;

use crate::{
    proto::v1::{
        containers_client::ContainersClient, control_client::ControlClient, images_client::ImagesClient,
        logs_client::LogsClient, node_local_client::NodeLocalClient, probes_client::ProbesClient,
        volumes_client::VolumesClient,
    },
    rpc,
};

/// Where a node listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/warren/warren.sock";

/// Container orchestrator for small and edge clusters, with its network in eBPF.
#[derive(Debug, Parser)]
#[command(name = "warren", version, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    /// The node's socket.
    #[arg(long, global = true, env = "WARREN_SOCKET", hide_env_values = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Run and inspect nodes.
    #[command(subcommand)]
    Node(node::Verb),
    /// Create and manage services.
    #[command(subcommand)]
    Service(service::Verb),
    /// Manage the images on this node.
    #[command(subcommand)]
    Image(image::Verb),
    /// Manage the volumes on this node.
    #[command(subcommand)]
    Volume(volume::Verb),
    /// Look into this node's network.
    #[command(subcommand)]
    Net(net::Verb),
    /// Run a program in a running task.
    Exec(exec::Args),
    /// Copy files between a running task and here.
    Cp(cp::Args),
    /// Show what running tasks use: processors, memory, network, disks, processes.
    Stats(stats::Args),
    /// Reach ports of a running task from here.
    PortForward(port_forward::Args),
    /// Show what happens in the cluster, from now on or from a moment on.
    Events(events::Args),
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON array of objects.
    Json,
}

/// Flags of everything that lists.
#[derive(Debug, Clone, Copy, Args)]
struct ListArgs {
    /// How to print.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Print only what identifies each row.
    #[arg(short, long)]
    quiet: bool,
}

/// Flags of everything that waits for its result.
#[derive(Debug, Clone, Copy, Args)]
struct WaitArgs {
    /// Return once the request is stored, without waiting for the result.
    #[arg(short, long)]
    detach: bool,
    /// How long to wait for the result.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "2m", value_name = "DURATION")]
    timeout: std::time::Duration,
}

/// What every verb gets.
struct Context {
    socket: PathBuf,
}

impl Context {
    async fn channel(&self) -> anyhow::Result<Channel> {
        Ok(rpc::dial(&self.socket).await?)
    }

    async fn control(&self) -> anyhow::Result<ControlClient<Channel>> {
        Ok(ControlClient::new(self.channel().await?).max_decoding_message_size(rpc::MAX_MESSAGE))
    }

    async fn containers(&self) -> anyhow::Result<ContainersClient<Channel>> {
        Ok(ContainersClient::new(self.channel().await?).max_decoding_message_size(rpc::MAX_MESSAGE))
    }

    async fn images(&self) -> anyhow::Result<ImagesClient<Channel>> {
        Ok(ImagesClient::new(self.channel().await?).max_decoding_message_size(rpc::MAX_MESSAGE))
    }

    async fn volumes(&self) -> anyhow::Result<VolumesClient<Channel>> {
        Ok(VolumesClient::new(self.channel().await?).max_decoding_message_size(rpc::MAX_MESSAGE))
    }

    async fn logs(&self) -> anyhow::Result<LogsClient<Channel>> {
        Ok(LogsClient::new(self.channel().await?).max_decoding_message_size(rpc::MAX_MESSAGE))
    }

    async fn probes(&self) -> anyhow::Result<ProbesClient<Channel>> {
        Ok(ProbesClient::new(self.channel().await?).max_decoding_message_size(rpc::MAX_MESSAGE))
    }

    async fn node_local(&self) -> anyhow::Result<NodeLocalClient<Channel>> {
        Ok(NodeLocalClient::new(self.channel().await?).max_decoding_message_size(rpc::MAX_MESSAGE))
    }
}

/// Runs this process's command line to its exit code: 0 done, 1 failed, 2 not understood. What
/// failed is one line on standard error.
#[must_use]
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli),
        // Help and version, asked for.
        Err(e) if !e.use_stderr() => {
            let _ = e.print();
            ExitCode::SUCCESS
        }
        // `warren` or `warren service` alone: the help says more than any sentence.
        Err(e) if e.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = e.print();
            ExitCode::from(2)
        }
        Err(e) => {
            eprintln!("warren: {}", usage(&e.to_string()));
            ExitCode::from(2)
        }
    }
}

/// What the parser says in several lines, as one sentence: its first paragraph, its tips, and
/// where the help is.
fn usage(text: &str) -> String {
    let mut paragraphs = text.split("\n\n").map(|p| {
        let lines: Vec<_> = p.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        lines.join(" ")
    });
    let first = paragraphs.next().unwrap_or_default();
    let mut sentence = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
    let mut help = "--help shows what it takes".to_owned();
    for p in paragraphs {
        if let Some(tip) = p.strip_prefix("tip: ") {
            sentence.push_str(&format!("; {tip}"));
        } else if let Some(line) = p.strip_prefix("Usage: ") {
            let words = line.split(' ').take_while(|w| w.starts_with(|c: char| c.is_ascii_lowercase()));
            help = format!("see `{} --help`", words.collect::<Vec<_>>().join(" "));
        }
    }
    format!("{sentence}; {help}")
}

fn run(cli: Cli) -> ExitCode {
    let context = Context { socket: cli.socket };
    // A node brings its own runtime; everything else waits for one answer after another.
    let result = match cli.noun {
        Noun::Node(node::Verb::Start(args)) => node::start::run(*args, &context),
        Noun::Node(node::Verb::Check(args)) => node::check::run(*args, &context),
        Noun::Node(node::Verb::Reset(args)) => node::reset::run(*args, &context),
        // Its exit code is the program's.
        Noun::Exec(args) => return exec::main(args, &context),
        noun => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(ask(noun, &context))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("warren: {}", sentence(&e));
            ExitCode::FAILURE
        }
    }
}

async fn ask(noun: Noun, context: &Context) -> anyhow::Result<()> {
    match noun {
        Noun::Node(verb) => node::run(verb, context).await,
        Noun::Service(verb) => service::run(verb, context).await,
        Noun::Image(verb) => image::run(verb, context).await,
        Noun::Volume(verb) => volume::run(verb, context).await,
        Noun::Net(verb) => net::run(verb, context).await,
        Noun::Cp(args) => cp::run(args, context).await,
        Noun::Stats(args) => stats::run(args, context).await,
        Noun::PortForward(args) => port_forward::run(args, context).await,
        Noun::Exec(_) => unreachable!("it brings its own runtime"),
        Noun::Events(args) => events::run(args, context).await,
    }
}

/// An error as one sentence: a server's answer is one already; anything else gets its causes.
fn sentence(error: &anyhow::Error) -> String {
    let text = match error.downcast_ref::<tonic::Status>() {
        Some(status) if connection_lost(status) => {
            "the node went away before it answered: look at its log, and whether what was asked for was done, before you try again".to_owned()
        }
        Some(status) => status.message().to_owned(),
        None => format!("{error:#}"),
    };
    // Messages can quote what others wrote: a line stays a line, and a terminal a terminal.
    text.split(char::is_control).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Whether a status is the transport's and not the node's answer.
fn connection_lost(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some() || status.message().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> String {
        let e = Cli::try_parse_from(line.split(' ')).unwrap_err();
        usage(&e.to_string())
    }

    #[test]
    fn an_answer_is_the_nodes_words_on_one_line() {
        let away = tonic::Status::unavailable("containerd does not answer\u{1b}[2J\n; try again");
        assert_eq!(sentence(&away.into()), "containerd does not answer [2J ; try again");
        let lost = tonic::Status::from_error(Box::new(std::io::Error::other("broken pipe")));
        assert!(sentence(&lost.into()).contains("went away"));
    }

    #[test]
    fn what_is_not_understood_is_one_sentence() {
        assert_eq!(
            refusal("warren service create web --image x --replicas -1"),
            "invalid value '-1' for '--replicas <N>': -1 is not in 0..=4294967295; --help shows what it takes"
        );
        assert_eq!(
            refusal("warren service create web"),
            "the following required arguments were not provided: --image <IMAGE>; see `warren service create --help`"
        );
        let e = refusal("warren servise ls");
        assert!(
            e.starts_with("unrecognized subcommand 'servise'; a similar subcommand exists: 'service'"),
            "{e}"
        );
        assert!(!refusal("warren node start --pool x").contains('\n'));
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
