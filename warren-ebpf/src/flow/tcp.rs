//! The life of a TCP flow, as someone in the middle sees it.

use crate::{
    abi::{
        Config, FLOW_CLIENT_FIN, FLOW_CLOSED, FLOW_ESTABLISHED, FLOW_OPENING, FLOW_REPLIED, FLOW_RESET,
        FLOW_SERVER_FIN,
    },
    packet::{ACK, FIN, RST, SYN},
};

/// Who sent a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who sent the first SYN.
    Client,
    /// The other one.
    Server,
}

/// The state after a packet with `flags` from `side`. `proven` says whether the packet is surely
/// from whom it claims: what is not establishes nothing.
#[inline(always)]
#[must_use]
pub fn next(state: u8, flags: u8, side: Side, proven: bool) -> u8 {
    if flags & RST != 0 {
        return if state == FLOW_CLOSED { FLOW_CLOSED } else { FLOW_RESET };
    }
    let fin = flags & FIN != 0;
    match (state, side) {
        (FLOW_OPENING, Side::Server) if flags & ACK != 0 => FLOW_REPLIED,
        (FLOW_REPLIED, Side::Client) if proven && flags & (SYN | ACK) == ACK => {
            if fin {
                FLOW_CLIENT_FIN
            } else {
                FLOW_ESTABLISHED
            }
        }
        // It goes on talking, so the reset was forged or answered something else.
        (FLOW_RESET, Side::Server) => match (flags & SYN != 0, fin) {
            (true, _) => FLOW_REPLIED,
            (false, true) => FLOW_SERVER_FIN,
            (false, false) => FLOW_ESTABLISHED,
        },
        (FLOW_ESTABLISHED, Side::Client) if fin => FLOW_CLIENT_FIN,
        (FLOW_ESTABLISHED, Side::Server) if fin => FLOW_SERVER_FIN,
        (FLOW_CLIENT_FIN, Side::Server) | (FLOW_SERVER_FIN, Side::Client) if fin => FLOW_CLOSED,
        _ => state,
    }
}

/// Whether a new SYN on such a flow begins another one.
#[inline(always)]
#[must_use]
pub fn over(state: u8) -> bool {
    matches!(state, FLOW_CLIENT_FIN | FLOW_SERVER_FIN | FLOW_CLOSED | FLOW_RESET)
}

/// For how many seconds a silent flow keeps its tuple.
#[inline(always)]
#[must_use]
pub fn patience(state: u8, config: &Config) -> u32 {
    match state {
        FLOW_OPENING | FLOW_REPLIED => config.half_open,
        FLOW_ESTABLISHED => config.established,
        FLOW_CLIENT_FIN | FLOW_SERVER_FIN => config.closing,
        _ => config.closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        use Side::{Client, Server};
        let run = |steps: &[(Side, u8)]| {
            steps.iter().fold(FLOW_OPENING, |state, (side, flags)| next(state, *flags, *side, true))
        };
        let open = [(Server, SYN | ACK), (Client, ACK)];
        assert_eq!(run(&open[..1]), FLOW_REPLIED);
        assert_eq!(run(&open), FLOW_ESTABLISHED);
        assert_eq!(next(FLOW_REPLIED, ACK, Client, false), FLOW_REPLIED, "a blind guess");
        assert_eq!(next(FLOW_REPLIED, ACK | FIN, Client, false), FLOW_REPLIED);
        assert_eq!(next(FLOW_ESTABLISHED, ACK | FIN, Client, true), FLOW_CLIENT_FIN);
        assert_eq!(run(&[(Client, ACK)]), FLOW_OPENING, "no answer seen, nothing established");
        assert_eq!(run(&[(Client, ACK | FIN)]), FLOW_OPENING);
        assert_eq!(run(&[(Server, RST | ACK)]), FLOW_RESET, "refused");
        assert_eq!(run(&[open[0], (Client, SYN)]), FLOW_REPLIED, "the answer was lost");
        let then = |more: &[(Side, u8)]| {
            more.iter().fold(FLOW_ESTABLISHED, |state, (side, flags)| next(state, *flags, *side, true))
        };
        assert_eq!(then(&[(Client, FIN | ACK)]), FLOW_CLIENT_FIN);
        assert_eq!(then(&[(Client, FIN | ACK), (Client, FIN | ACK)]), FLOW_CLIENT_FIN);
        assert_eq!(then(&[(Client, FIN | ACK), (Server, ACK)]), FLOW_CLIENT_FIN);
        assert_eq!(then(&[(Client, FIN | ACK), (Server, FIN | ACK)]), FLOW_CLOSED);
        assert_eq!(then(&[(Server, FIN | ACK), (Client, FIN | ACK), (Server, ACK)]), FLOW_CLOSED);
        assert_eq!(then(&[(Client, RST)]), FLOW_RESET);
        assert_eq!(then(&[(Client, RST), (Client, ACK)]), FLOW_RESET);
        assert_eq!(then(&[(Client, RST), (Server, ACK)]), FLOW_ESTABLISHED, "a forged reset cuts nothing");
        assert!(over(FLOW_RESET) && over(FLOW_CLOSED) && !over(FLOW_ESTABLISHED) && !over(FLOW_OPENING));
    }
}
