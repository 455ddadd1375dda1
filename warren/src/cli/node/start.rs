use std::{collections::BTreeMap, path::PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::{
    cli::Context,
    model, net,
    node::{self, Containerd, LogFormat, NodeConfig},
    worker::runtime::image::Watermarks,
};

/// What a node is made of.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Where the node keeps what must outlive it.
    #[arg(long, default_value = node::DEFAULT_DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// The containerd to use: a socket, or `embedded` for one of the node's own. Default: the
    /// machine's if it answers, else the node's own.
    #[arg(long, value_name = "SOCKET|embedded")]
    containerd: Option<String>,
    /// Devices on which published ports answer; may be given more than once. Default: every
    /// device that is not Warren's.
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// Whom a port answers that is published without an address and sources: everybody (any);
    /// private addresses and the node's own subnets (lan); the node itself (none).
    #[arg(long, value_enum, default_value_t, value_name = "WHOM")]
    publish_default: PublishDefault,
    /// Where packets are dropped that limits and deny lists refuse: where everything is decided (tc),
    /// or what is sure to be refused in the device's driver already (xdp).
    #[arg(long, value_enum, default_value_t, value_name = "WHERE")]
    guard: Guard,
    /// Where the cluster's container addresses are taken from. Fixed once the cluster exists.
    #[arg(long, value_name = "CIDR")]
    pool: Option<Ipv4Net>,
    /// The same for IPv6.
    #[arg(long, value_name = "CIDR")]
    pool6: Option<Ipv6Net>,
    /// The node's name. Default: the host's.
    #[arg(long)]
    name: Option<String>,
    /// Label the node; may be given more than once.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Ask these addresses for a registry's images before the registry itself, in order; may be
    /// given more than once.
    #[arg(long, value_name = "REGISTRY=URL[,URL]")]
    registry_mirror: Vec<String>,
    /// A registry that may be talked to without TLS (those on this machine may anyway); may be
    /// given more than once.
    #[arg(long, value_name = "HOST[:PORT]")]
    insecure_registry: Vec<String>,
    /// A file with certificates (PEM) that registries are trusted by, beyond the machine's own;
    /// may be given more than once.
    #[arg(long, value_name = "FILE")]
    registry_ca: Vec<PathBuf>,
    /// How full the disk of the data directory may get, in percent, before images that nobody
    /// needs are removed; 100 for never.
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    image_gc_high: u8,
    /// How full it may be when that ends; below --image-gc-high.
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..100))]
    image_gc_low: u8,
    /// What to log: error, warn, info, debug, trace, or a filter such as `info,warren::net=debug`.
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log_level: String,
    /// How to log.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    log_format: LogFormat,
}

/// [`model::PublishDefault`], as it is written.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum PublishDefault {
    #[default]
    Any,
    Lan,
    None,
}

impl From<PublishDefault> for model::PublishDefault {
    fn from(default: PublishDefault) -> Self {
        match default {
            PublishDefault::Any => Self::Any,
            PublishDefault::Lan => Self::Lan,
            PublishDefault::None => Self::None,
        }
    }
}

/// [`net::Guard`], as it is written.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Guard {
    #[default]
    Tc,
    Xdp,
}

impl From<Guard> for net::Guard {
    fn from(guard: Guard) -> Self {
        match guard {
            Guard::Tc => Self::Tc,
            Guard::Xdp => Self::Xdp,
        }
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((k, v)) if !k.is_empty() => Ok((k.to_owned(), v.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

impl Args {
    pub(super) fn config(self, context: &Context) -> NodeConfig {
        NodeConfig {
            data_dir: self.data_dir,
            socket: context.socket.clone(),
            containerd: match self.containerd.as_deref() {
                None => Containerd::Found,
                Some("embedded") => Containerd::Embedded,
                Some(path) => Containerd::Socket(path.into()),
            },
            interfaces: self.interface,
            publish_default: self.publish_default.into(),
            guard: self.guard.into(),
            pool: self.pool,
            pool6: self.pool6,
            name: self.name,
            labels: self.label.into_iter().collect::<BTreeMap<_, _>>(),
            registry_mirrors: self.registry_mirror,
            insecure_registries: self.insecure_registry,
            registry_authorities: self.registry_ca,
            watermarks: Watermarks { high: self.image_gc_high, low: self.image_gc_low },
            log_level: self.log_level,
            log_format: self.log_format,
        }
    }
}

pub(in crate::cli) fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.image_gc_low < args.image_gc_high,
        "--image-gc-low {} is not below --image-gc-high {}",
        args.image_gc_low,
        args.image_gc_high
    );
    Ok(node::start(args.config(context))?)
}
