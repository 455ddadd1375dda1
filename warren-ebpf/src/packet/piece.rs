//! Fragments: the first one has the ports and the transport checksum, which is over all of them; the others
//! have addresses only.

use super::{Family, Ip, Packet, Tuple};

/// Changes the addresses of a fragment other than the first. After `false` it is half changed.
#[inline(always)]
#[must_use]
pub fn readdress<P: Packet, A: Family>(packet: &mut P, ip: &Ip<A>, old: &Tuple<A>, new: &Tuple<A>) -> bool {
    for (destination, from, to) in [(false, old.source, new.source), (true, old.destination, new.destination)]
    {
        if from != to {
            if !A::readdress(packet, ip, destination, from, to) {
                return false;
            }
            if A::FAMILY == 6 {
                packet.recount(&from.widen(), &to.widen());
            }
        }
    }
    true
}
