//! `warren exec`: a program in a running task, on this terminal.

mod session;
mod terminal;

use std::{io::IsTerminal as _, process::ExitCode};

use super::{Context, screen, sentence, target};
use crate::proto::v1::{EnvVar, exec_request::Start};

/// The exit status when the program was not run for a reason that is not its own.
const NOT_RUN: u8 = 125;

/// Run a program in a running task.
///
/// The exit status is the program's; 127 when there is no such program, 126 when it cannot be run,
/// 125 when it was not tried. When this command goes away, so does the program.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Give the program this command's input.
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Let the program run without input and output, and return at once.
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
    /// Set a variable, `NAME=VALUE`; `NAME` takes it from here. Repeatable.
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Working directory in the container.
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run as this user, `USER[:GROUP]`, names or numbers.
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// With every capability.
    #[arg(long)]
    privileged: bool,
    /// A task's id, the beginning of one, SERVICE.SLOT, or a service (its first running task).
    #[arg(value_name = "TASK|SERVICE")]
    target: String,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs it to the exit code.
pub(super) fn main(args: Args, context: &Context) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("warren: {e}");
            return ExitCode::from(NOT_RUN);
        }
    };
    let result = runtime.block_on(run(args, context));
    // A thread may still wait for input that never comes.
    runtime.shutdown_background();
    match result {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(e) => {
            eprintln!("warren: {}", sentence(&e));
            ExitCode::from(NOT_RUN)
        }
    }
}

async fn run(args: Args, context: &Context) -> anyhow::Result<i32> {
    if args.tty && args.interactive && !std::io::stdin().is_terminal() {
        anyhow::bail!("the input is no terminal: leave -t away");
    }
    let env = args.env.iter().filter_map(|v| variable(v).transpose()).collect::<anyhow::Result<Vec<_>>>()?;
    let task = target::one(context, &args.target).await?;
    let start = Start {
        task: task.id.to_string(),
        command: args.command,
        tty: args.tty,
        stdin: args.interactive,
        env,
        workdir: args.workdir,
        user: args.user,
        privileged: args.privileged,
        size: args.tty.then(screen::size).flatten(),
        detach: args.detach,
    };
    session::run(context.containers().await?, start).await
}

/// `NAME=VALUE`, or `NAME` with its value here; nothing when it has none here.
fn variable(text: &str) -> anyhow::Result<Option<EnvVar>> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, std::env::var(text).ok()),
    };
    if name.is_empty() {
        anyhow::bail!("\"{text}\" is no variable: write NAME=VALUE");
    }
    Ok(value.map(|value| EnvVar { name: name.to_owned(), value }))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Noun};

    fn parse(line: &str) -> Args {
        match Cli::try_parse_from(line.split(' ')).unwrap().noun {
            Noun::Exec(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_the_program_is_the_programs() {
        let a = parse("warren exec -it -e A=1 -u 5:5 web sh -c ls --privileged -d");
        assert!(a.interactive && a.tty && !a.privileged && !a.detach);
        assert_eq!((a.target.as_str(), a.user.as_deref()), ("web", Some("5:5")));
        assert_eq!(a.command, ["sh", "-c", "ls", "--privileged", "-d"]);
        assert!(Cli::try_parse_from(["warren", "exec", "web"]).is_err());
        assert!(Cli::try_parse_from(["warren", "exec", "-d", "-t", "web", "x"]).is_err());
    }

    #[test]
    fn variables_are_given_or_passed_on() {
        let some = |n: &str, v: &str| Some(EnvVar { name: n.into(), value: v.into() });
        assert_eq!(variable("A=b=c").unwrap(), some("A", "b=c"));
        assert_eq!(variable("A=").unwrap(), some("A", ""));
        assert_eq!(variable("PATH").unwrap(), some("PATH", &std::env::var("PATH").unwrap()));
        assert_eq!(variable("WARREN_NO_SUCH_VARIABLE").unwrap(), None);
        assert!(variable("=x").is_err());
    }
}
