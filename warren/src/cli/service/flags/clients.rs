//! How much one client gets of a published port.

use crate::model::{ClientLimits, Rate, parse, validate::Invalid};

#[derive(Debug, Default, clap::Args)]
#[command(
    next_help_heading = "Limits of clients (of each address, IPv6: /64 network, at each published port)"
)]
pub(super) struct Clients {
    /// Most new connections (of UDP: flows) a second, and how many at once (default: as many as a
    /// second's); none for no limit.
    #[arg(long, value_name = "RATE[/BURST]", value_parser = limit)]
    limit_conn_rate: Option<Limit>,
    /// Most packets a second, and how many at once (default: as many as a second's); none for no
    /// limit.
    #[arg(long, value_name = "RATE[/BURST]", value_parser = limit)]
    limit_pps: Option<Limit>,
    /// Most connections (of UDP: flows) at a time; none for no limit.
    #[arg(long, value_name = "N", value_parser = number)]
    limit_conns: Option<Number>,
}

/// A limit that was named; none lifts it.
#[derive(Debug, Clone, Copy)]
struct Limit(Option<Rate>);

/// The same of a number at a time.
#[derive(Debug, Clone, Copy)]
struct Number(Option<u32>);

fn number(text: &str) -> Result<Number, Invalid> {
    parse::conns(text).map(Number)
}

fn limit(text: &str) -> Result<Limit, Invalid> {
    parse::rate(text).map(Limit)
}

impl Clients {
    pub(super) fn apply(&self, limits: &mut ClientLimits) {
        if let Some(Limit(rate)) = self.limit_conn_rate {
            limits.conn_rate = rate;
        }
        if let Some(Limit(rate)) = self.limit_pps {
            limits.packet_rate = rate;
        }
        if let Some(Number(conns)) = self.limit_conns {
            limits.conns = conns;
        }
    }
}
