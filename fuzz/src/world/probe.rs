//! Back and forth: on a copy of the node whoever got a packet answers it at once, and who sent it must see the
//! answer to what was sent.

use warren_ebpf::{
    abi::TCP,
    flow::decide::Action,
    packet::{ACK, FIN, RST, SYN, Tuple},
};

use super::{DEVICES, From, World, events::reversed};
use crate::{
    family::Side,
    frames::{self, LINK, Shape},
    judge::Change,
};

impl<A: Side> World<A> {
    /// Container `id` got a packet: its answer. One to an answer is not asked for.
    pub(super) fn comes_back(&self, sender: From, id: u32, change: &Change<'_, A>, answers: bool) {
        let (Some(from), Some(to)) = (change.from(), change.to()) else { return };
        let protocol = change.came.protocol;
        // What is of no flow may stand where another one is: containers know what to make of it.
        let begins =
            protocol != TCP || change.before[change.came.payload.start + 13] & (SYN | ACK | FIN | RST) == SYN;
        if (from == to && !begins) || answers {
            return;
        }
        let mut answer = frames::make(reversed(to), protocol, SYN | ACK, Shape::default());
        let node = self.model.clone();
        let before = answer.clone();
        let verdict = node.veth_in(&mut answer, DEVICES + id);
        let back = Change::judge(&before, &answer, LINK, &verdict);
        let back = back.unwrap_or_else(|| panic!("an answer comes back, but: {verdict:?}"));
        assert_eq!(back.to(), Some(reversed(from)), "an answer comes from where it was asked");
        match sender {
            From::Device(device) => {
                assert_eq!((verdict.action, verdict.ifindex), (Action::Device, device), "by the same way");
            }
            From::Container(of) => {
                assert_eq!((verdict.action, verdict.ifindex), (Action::Container, DEVICES + of));
            }
        }
    }

    /// What container `id` sent as `from` left as `to` by a device: the answer from outside.
    pub(super) fn is_answered(&self, id: u32, protocol: u8, from: Tuple<A>, to: Tuple<A>, device: u32) {
        let mut answer = frames::make(reversed(to), protocol, SYN | ACK, Shape::default());
        let node = self.model.clone();
        let before = answer.clone();
        let verdict = node.node_in(&mut answer, device);
        let back = Change::judge(&before, &answer, LINK, &verdict);
        let back = back.unwrap_or_else(|| panic!("an answer comes back, but: {verdict:?}"));
        assert_eq!(back.to(), Some(reversed(from)), "an answer is to what was asked");
        assert_eq!((verdict.action, verdict.ifindex), (Action::Container, DEVICES + id));
    }
}
