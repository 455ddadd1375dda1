//! The life of a UDP flow, as someone in the middle sees it. Any packet begins one. Nothing in a
//! datagram proves that its sender has seen the answer, so a flow that goes both ways counts as
//! established only when it has done so for a while: a flood under made-up sources must keep its
//! records alive that long in the small tables, which it overruns itself.

use crate::abi::{Config, FLOW_ESTABLISHED, FLOW_OPENING, FLOW_REPLIED};

/// Age in seconds at which a flow with answers is established, at its client's next packet.
const STEADY: u32 = 2;

/// The second in which something happens, as records keep it.
#[inline(always)]
#[must_use]
pub const fn second(now: u64) -> u32 {
    (now / 1_000_000_000) as u32
}

/// The state after a packet of the client, on a flow that began in second `began`.
#[inline(always)]
#[must_use]
pub const fn asked(state: u8, began: u32, now: u64) -> u8 {
    if state == FLOW_REPLIED && second(now).wrapping_sub(began) >= STEADY { FLOW_ESTABLISHED } else { state }
}

/// The state after a packet of the container.
#[inline(always)]
#[must_use]
pub const fn answered(state: u8) -> u8 {
    if state == FLOW_OPENING { FLOW_REPLIED } else { state }
}

/// For how many seconds a silent flow keeps its tuple.
#[inline(always)]
#[must_use]
pub const fn patience(state: u8, config: &Config) -> u32 {
    if state == FLOW_OPENING { config.udp_one_way } else { config.udp_both_ways }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        let now = 1_000_500_000_000;
        assert_eq!(asked(FLOW_OPENING, 1000, now + 60_000_000_000), FLOW_OPENING, "never answered");
        assert_eq!(answered(FLOW_OPENING), FLOW_REPLIED);
        assert_eq!(asked(FLOW_REPLIED, 1000, now), FLOW_REPLIED, "a question and its answer");
        assert_eq!(asked(FLOW_REPLIED, 1000, now + 2_000_000_000), FLOW_ESTABLISHED);
        assert_eq!(asked(FLOW_REPLIED, u32::MAX, 2_000_000_000), FLOW_ESTABLISHED, "seconds wrap");
        assert_eq!(answered(FLOW_ESTABLISHED), FLOW_ESTABLISHED);
        let (one_way, both_ways) = (Config::DEFAULT.udp_one_way, Config::DEFAULT.udp_both_ways);
        assert_eq!(patience(FLOW_OPENING, &Config::DEFAULT), one_way);
        assert_eq!(patience(FLOW_REPLIED, &Config::DEFAULT), both_ways);
        assert_eq!(patience(FLOW_ESTABLISHED, &Config::DEFAULT), both_ways);
    }
}
