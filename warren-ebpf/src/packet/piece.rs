//! Fragments: the first one has the ports and the transport checksum, which is over all of them; the others
//! have addresses only.

use super::{Family, Ip, Packet, Tuple};

/// Changes the addresses of a fragment other than the first, which shows `old`. After `false` it is half
/// changed.
#[inline(always)]
#[must_use]
pub fn readdress<P: Packet, A: Family>(packet: &mut P, ip: &Ip<A>, old: &Tuple<A>, new: &Tuple<A>) -> bool {
    if A::FAMILY == 6 {
        for (from, to) in [(old.source, new.source), (old.destination, new.destination)] {
            if from != to {
                packet.recount(&from.widen(), &to.widen());
            }
        }
    }
    A::readdress(packet, ip, new.source, new.destination)
}
