//! `warren cp`: files between a running task and here, by Docker's rules.

mod place;

use std::{
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use self::place::{Place, Source, Target, place};
use super::{Context, target};
use crate::{
    model::Task,
    proto::v1::{
        CopyFromRequest, CopyToRequest, StatPathRequest,
        copy_to_request::{Part, To},
    },
    rpc,
    worker::runtime::copy::{Owners, PathKind, causes, kind_of, pack, unpack},
};

/// Bytes sent at a time.
const CHUNK: usize = 64 << 10;

/// Copy files between a running task and here.
///
/// One of the two is TASK:PATH. `-` is a tar archive on standard input or output. A directory is
/// copied into one that is there, or becomes one that is not; with `/.` at its end only what is in
/// it is copied.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Copy what a link leads to, when the source is one.
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Keep owners; otherwise files are root's there, and yours here.
    #[arg(short, long)]
    archive: bool,
    /// TASK:PATH, a path, or `-`.
    #[arg(value_name = "SOURCE")]
    from: String,
    /// TASK:PATH, a path, or `-`.
    #[arg(value_name = "TARGET")]
    to: String,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// In a task: its name, and the path.
    Task(String, String),
    /// Here.
    Here(String),
    /// Standard input or output.
    Stream,
}

/// As Docker: a colon makes it a task's, unless it begins like a path.
fn end(text: &str) -> End {
    match text.split_once(':') {
        _ if text == "-" => End::Stream,
        Some((task, path)) if !text.starts_with(['/', '.']) => End::Task(task.to_owned(), path.to_owned()),
        _ => End::Here(text.to_owned()),
    }
}

pub(super) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let Args { follow_link, archive, .. } = args;
    match (end(&args.from), end(&args.to)) {
        (End::Task(..), End::Task(..)) => {
            anyhow::bail!("files are copied from a task or to one, not between two: copy them here first")
        }
        (End::Task(task, path), to) => {
            let task = target::one(context, &task).await?;
            let copy = Download { task, path, follow_link, archive };
            match to {
                End::Here(to) => copy.to_file(&to, context).await,
                _ => copy.to_stdout(context).await,
            }
        }
        (from, End::Task(task, path)) => {
            let task = target::one(context, &task).await?;
            let copy = Upload { task, path, archive };
            match from {
                End::Here(from) => copy.send_file(&from, follow_link, context).await,
                _ => copy.send_stdin(context).await,
            }
        }
        _ => anyhow::bail!(
            "neither {} nor {} is TASK:PATH; write a task before one of them",
            args.from,
            args.to
        ),
    }
}

async fn stat(context: &Context, task: &Task, path: &str) -> anyhow::Result<PathKind> {
    let request = StatPathRequest { task: task.id.to_string(), path: path.to_owned() };
    let answer = context.containers().await?.stat_path(request).await?.into_inner();
    Ok(match (answer.exists, answer.directory) {
        (false, _) => PathKind::Absent,
        (true, true) => PathKind::Directory,
        (true, false) => PathKind::Other,
    })
}

fn stat_here(path: &str) -> anyhow::Result<PathKind> {
    kind_of(Path::new(path)).map_err(|e| anyhow::anyhow!("cannot look at {path}: {e}"))
}

struct Download {
    task: Task,
    path: String,
    follow_link: bool,
    archive: bool,
}

impl Download {
    async fn chunks(
        &self,
        name: &str,
        follow: bool,
        context: &Context,
    ) -> anyhow::Result<tonic::Streaming<crate::proto::v1::CopyChunk>> {
        let request = CopyFromRequest {
            task: self.task.id.to_string(),
            path: self.path.clone(),
            follow_link: follow || self.follow_link,
            name: name.to_owned(),
        };
        Ok(context.containers().await?.copy_from(request).await?.into_inner())
    }

    async fn to_stdout(&self, context: &Context) -> anyhow::Result<()> {
        let source = Source::new(&self.path, stat(context, &self.task, &self.path).await?);
        let mut chunks = self.chunks(source.archive_name(), source.follow(), context).await?;
        let mut out = io::stdout().lock();
        while let Some(chunk) = chunks.message().await? {
            match out.write_all(&chunk.data) {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                other => other?,
            }
        }
        Ok(out.flush()?)
    }

    async fn to_file(&self, to: &str, context: &Context) -> anyhow::Result<()> {
        let source = Source::new(&self.path, stat(context, &self.task, &self.path).await?);
        let Place { directory, name } = place(&source, &Target::new(to, stat_here(to)?))?;
        let mut chunks = self.chunks(&name, source.follow(), context).await?;
        let (sender, receiver) = rpc::chunks(4);
        let owners = if self.archive { Owners::Archived } else { Owners::Own };
        let into = PathBuf::from(&directory);
        let unpacking = tokio::task::spawn_blocking(move || unpack(receiver, &into, owners));
        let received = async {
            while let Some(chunk) = chunks.message().await? {
                // A closed channel: it has failed, and says why below.
                if chunk.data.is_empty() || sender.send(chunk.data).await.is_err() {
                    break;
                }
            }
            Ok::<_, tonic::Status>(())
        };
        let received = received.await;
        if received.is_ok() {
            let _ = sender.send(Vec::new()).await;
        }
        drop(sender);
        let unpacked = unpacking.await?;
        received?;
        unpacked.map_err(|e| anyhow::anyhow!("cannot write into {directory}: {}", causes(&e)))?;
        Ok(())
    }
}

struct Upload {
    task: Task,
    path: String,
    archive: bool,
}

impl Upload {
    async fn send_stdin(&self, context: &Context) -> anyhow::Result<()> {
        self.send(self.path.clone(), io::stdin(), context).await
    }

    async fn send_file(&self, from: &str, follow_link: bool, context: &Context) -> anyhow::Result<()> {
        let source = Source::new(from, stat_here(from)?);
        // A link is looked at itself, unless it is to be followed: it may lead nowhere.
        let follow = follow_link || source.follow();
        if !follow && std::fs::symlink_metadata(from).is_err() || follow && source.kind == PathKind::Absent {
            anyhow::bail!("there is no {from} here");
        }
        let source =
            if source.kind == PathKind::Absent { Source { kind: PathKind::Other, ..source } } else { source };
        let at = stat(context, &self.task, &self.path).await?;
        let Place { directory, name } = place(&source, &Target::new(&self.path, at))?;
        let (reader, mut writer) = io::pipe()?;
        let (path, name) = (PathBuf::from(from), PathBuf::from(name));
        let packing = tokio::task::spawn_blocking(move || {
            let packed = pack(&path, &name, follow, &mut writer);
            // Without an end of the archive the node refuses what it has got.
            packed.map_err(|e| (path, e))
        });
        let sent = self.send(directory, reader, context).await;
        match packing.await? {
            // The node's refusal is why nobody read the rest.
            Err((path, e)) if sent.is_ok() || e.kind() != io::ErrorKind::BrokenPipe => {
                anyhow::bail!("cannot read {}: {}", path.display(), causes(&e))
            }
            _ => sent,
        }
    }

    /// Sends an archive; the node's answer.
    async fn send(
        &self,
        directory: String,
        mut archive: impl Read + Send + 'static,
        context: &Context,
    ) -> anyhow::Result<()> {
        let to = To { task: self.task.id.to_string(), directory, keep_owners: self.archive };
        let (sender, parts) = mpsc::channel(4);
        sender.send(CopyToRequest { part: Some(Part::To(to)) }).await?;
        std::thread::spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK];
                match archive.read(&mut chunk) {
                    Ok(0) | Err(_) => return,
                    Ok(n) => chunk.truncate(n),
                }
                if sender.blocking_send(CopyToRequest { part: Some(Part::Data(chunk)) }).is_err() {
                    return;
                }
            }
        });
        context.containers().await?.copy_to(ReceiverStream::new(parts)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_it_a_tasks() {
        let task = |t: &str, p: &str| End::Task(t.into(), p.into());
        assert_eq!(end("web.1:/etc"), task("web.1", "/etc"));
        assert_eq!(end("web:a:b"), task("web", "a:b"));
        assert_eq!(end("web:"), task("web", ""));
        assert_eq!(end("./a:b"), End::Here("./a:b".into()));
        assert_eq!(end("/a:b"), End::Here("/a:b".into()));
        assert_eq!(end("file"), End::Here("file".into()));
        assert_eq!(end("-"), End::Stream);
    }
}
