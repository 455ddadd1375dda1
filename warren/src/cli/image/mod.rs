//! `warren image …`

mod prune;
mod pull;

use std::path::PathBuf;

use clap::Subcommand;
use tokio::io::AsyncReadExt as _;

use super::{Context, ListArgs, output};
use crate::{
    model::ImageReference,
    proto::v1::{
        Image, ImportImageRequest, ListImagesRequest, RemoveImageRequest, import_image_request::Part,
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Import images from an OCI archive or a `docker save` archive.
    Import(ImportArgs),
    /// List the images on this node.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Pull an image from its registry to this node.
    Pull(pull::Args),
    /// Remove images from this node.
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove every image that no service needs.
    Prune(prune::Args),
}

/// Import images from an OCI archive or a `docker save` archive.
#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// The archive; `-` reads standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Name the image, when the archive does not or another name is wanted.
    #[arg(long, value_name = "REFERENCE")]
    name: Option<String>,
}

/// List the images on this node.
#[derive(Debug, clap::Args)]
pub(super) struct LsArgs {
    #[command(flatten)]
    list: ListArgs,
}

/// Remove images from this node.
#[derive(Debug, clap::Args)]
pub(super) struct RmArgs {
    /// Images, by reference.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

pub(super) async fn run(verb: Verb, context: &Context) -> anyhow::Result<()> {
    match verb {
        Verb::Import(args) => import(args, context).await,
        Verb::Ls(args) => ls(args, context).await,
        Verb::Pull(args) => pull::run(args, context).await,
        Verb::Rm(args) => rm(args, context).await,
        Verb::Prune(args) => prune::run(args, context).await,
    }
}

/// Bytes sent at a time.
const CHUNK: usize = 1 << 20;

async fn import(args: ImportArgs, context: &Context) -> anyhow::Result<()> {
    let reference = args.name.as_deref().map(str::parse::<ImageReference>).transpose()?;
    let mut source: Box<dyn tokio::io::AsyncRead + Send + Unpin> = if args.file.as_os_str() == "-" {
        Box::new(tokio::io::stdin())
    } else {
        let file = tokio::fs::File::open(&args.file).await;
        Box::new(file.map_err(|e| anyhow::anyhow!("cannot read {}: {e}", args.file.display()))?)
    };
    let (parts, receiver) = tokio::sync::mpsc::channel(4);
    let send = async move {
        let reference = reference.map(|r| r.to_string()).unwrap_or_default();
        let first = ImportImageRequest { part: Some(Part::Reference(reference)) };
        if parts.send(first).await.is_err() {
            return Ok(());
        }
        loop {
            let mut chunk = vec![0; CHUNK];
            let n = source.read(&mut chunk).await?;
            chunk.truncate(n);
            // A closed channel means the node has already answered: its answer is what counts.
            if n == 0 || parts.send(ImportImageRequest { part: Some(Part::Chunk(chunk)) }).await.is_err() {
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    let mut node = context.images().await?;
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let (sent, answer) = tokio::join!(send, node.import_image(requests));
    sent.map_err(|e| anyhow::anyhow!("cannot read {}: {e}", args.file.display()))?;
    let answer = answer.map_err(|e| match e.code() {
        tonic::Code::InvalidArgument => {
            anyhow::anyhow!("cannot import {}: {}", args.file.display(), e.message())
        }
        _ => e.into(),
    })?;
    for image in answer.into_inner().images {
        output::print(&format!("{}\n", image.reference))?;
    }
    Ok(())
}

async fn ls(args: LsArgs, context: &Context) -> anyhow::Result<()> {
    let answer = context.images().await?.list_images(ListImagesRequest {}).await?.into_inner();
    let mut list = output::List::new(["IMAGE", "DIGEST", "SIZE"]);
    for Image { reference, digest, size, created_at_ms } in answer.images {
        let familiar =
            reference.parse::<ImageReference>().map_or_else(|_| reference.clone(), |r| r.familiar());
        let short = digest.strip_prefix("sha256:").unwrap_or(&digest).chars().take(12).collect();
        let cells = vec![familiar, short, indicatif::HumanBytes(size).to_string()];
        let json = serde_json::json!({
            "reference": reference, "digest": digest, "size": size, "created_at_ms": created_at_ms,
        });
        list.row(reference, cells, json);
    }
    list.print(args.list)
}

async fn rm(args: RmArgs, context: &Context) -> anyhow::Result<()> {
    let references =
        args.images.iter().map(|i| i.parse::<ImageReference>()).collect::<Result<Vec<_>, _>>()?;
    let mut node = context.images().await?;
    for reference in references {
        let request = RemoveImageRequest { reference: reference.to_string() };
        node.remove_image(request).await?;
        output::print(&format!("{}\n", reference.familiar()))?;
    }
    Ok(())
}
