//! `warren image pull`: what is said of a pull is decided by [`Shown`]; the rest prints.

use std::{collections::BTreeMap, io::IsTerminal as _};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

use super::{Context, output};
use crate::{
    cli::credentials,
    model::ImageReference,
    proto::v1::{PullImageProgress, PullImageRequest, pull_image_progress::Layer},
};

/// Pull an image from its registry to this node.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The image.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Print only the image's name, when it is here.
    #[arg(short, long)]
    quiet: bool,
}

pub(in crate::cli) async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let reference: ImageReference = args.image.parse()?;
    let registry_auth = credentials::registry_auth(&reference).map(|a| (&a).into());
    let request = PullImageRequest { reference: reference.to_string(), registry_auth };
    let mut stream = context.images().await?.pull_image(request).await?.into_inner();
    let mut shown = Shown::new(args.quiet, std::io::stderr().is_terminal());
    while let Some(progress) = stream.message().await? {
        let image = progress.image.clone();
        shown.take(progress);
        if let Some(image) = image {
            shown.end();
            if !args.quiet {
                eprintln!("digest {}, {}", image.digest, HumanBytes(image.size));
            }
            return output::print(&format!("{}\n", reference.familiar()));
        }
    }
    anyhow::bail!("the node ended the pull without a word; see its log, and try again")
}

/// What the user sees of a pull: bars on a terminal, a line for each step elsewhere.
struct Shown {
    quiet: bool,
    bars: Option<MultiProgress>,
    layers: BTreeMap<String, (String, Option<ProgressBar>)>,
}

impl Shown {
    fn new(quiet: bool, terminal: bool) -> Self {
        Self { quiet, bars: (terminal && !quiet).then(MultiProgress::new), layers: BTreeMap::new() }
    }

    fn take(&mut self, progress: PullImageProgress) {
        if self.quiet {
            return;
        }
        if !progress.message.is_empty() {
            self.line(&progress.message);
        }
        for layer in progress.layers {
            self.layer(&layer);
        }
    }

    fn layer(&mut self, layer: &Layer) {
        let name: String = layer.digest.trim_start_matches("sha256:").chars().take(12).collect();
        let bars = self.bars.as_ref();
        let new = || (String::new(), bars.map(|b| b.add(ProgressBar::new(layer.total).with_style(style()))));
        let (before, bar) = self.layers.entry(layer.digest.clone()).or_insert_with(new);
        let step = std::mem::replace(before, layer.state.clone()) != layer.state;
        if let Some(bar) = bar {
            bar.set_prefix(name);
            bar.set_message(layer.state.clone());
            bar.set_position(layer.done);
            if matches!(layer.state.as_str(), "done" | "present") {
                bar.finish();
            }
        } else if let Some(line) = words(layer).filter(|_| step) {
            eprintln!("{name}: {line}");
        }
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            None => eprintln!("{text}"),
        }
    }

    fn end(&mut self) {
        for (_, bar) in self.layers.values() {
            if let Some(bar) = bar {
                bar.finish();
            }
        }
    }
}

/// What a line says of a layer that has come so far, if it is worth one.
fn words(layer: &Layer) -> Option<String> {
    match layer.state.as_str() {
        "downloading" => Some(format!("downloading {}", HumanBytes(layer.total))),
        "done" => Some("done".to_owned()),
        "present" => Some("here already".to_owned()),
        _ => None,
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix}  {msg:<11}  {bar:30}  {bytes} of {total_bytes}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_what_matters() {
        let layer =
            |state: &str| Layer { digest: "sha256:aa".into(), state: state.into(), done: 0, total: 2048 };
        assert_eq!(words(&layer("downloading")).unwrap(), "downloading 2.00 KiB");
        assert_eq!(words(&layer("waiting")), None);
        assert_eq!(words(&layer("present")).unwrap(), "here already");
    }
}
