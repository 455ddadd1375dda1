//! Who may get a packet.

use warren_ebpf::{
    abi::{BACKEND_EMPTY, CONFIG_DENY, Limit, Service, ServiceKey, TCP, UDP},
    flow::decide::{Action, Verdict},
    packet::{ACK, FIN, RST, SYN, Tuple},
};

use super::{
    CONTAINERS, DEVICES, From, LIMIT, LIMITED, PUBLISHED, PieceOf, World,
    events::{link, reversed},
};
use crate::{
    family::Side,
    judge::{self, Change},
    read::Read,
};

impl<A: Side> World<A> {
    /// A packet that is not sent on: none that is for a container is left to the node's stack, which may
    /// forward it, and of a container only what is for the node.
    pub(super) fn stays(&self, from: From, frame: &[u8], verdict: &Verdict<A>) {
        if verdict.action == Action::Drop {
            return;
        }
        let at = link(from);
        let Some(header) = frame.get(at..at + A::IP_HEADER).filter(|h| h[0] >> 4 == A::FAMILY) else {
            return;
        };
        let destination = A::from_octets(&header[A::IP_HEADER - A::ZERO.as_ref().len()..]);
        match from {
            From::Device(_) => {
                // The kernel forwards what is whole.
                let length = usize::from(u16::from_be_bytes(match A::FAMILY {
                    4 => [header[2], header[3]],
                    _ => [header[4], header[5]],
                }));
                let whole = match A::FAMILY {
                    4 => {
                        let own = usize::from(header[0] & 0x0f) * 4;
                        (20..=length).contains(&own) && at + length <= frame.len()
                    }
                    _ => at + A::IP_HEADER + length <= frame.len(),
                };
                let known = self.model.endpoints.contains_key(&destination);
                assert!(!whole || !known, "a container's packet is left to the node");
            }
            From::Container(_) => {
                let near = matches!(destination.as_ref(), [0xff, b, ..] if b & 0x0f <= 2)
                    || matches!(destination.as_ref(), [0xfe, b, ..] if b & 0xc0 == 0x80);
                let link_local = A::FAMILY == 6 && near;
                assert!(
                    self.model.locals.contains(&destination) || link_local,
                    "a container's packet to others is left to the node"
                );
            }
        }
    }

    /// A packet from outside that goes on.
    pub(super) fn comes_in(&mut self, device: u32, change: &Change<'_, A>, verdict: &Verdict<A>) {
        assert_eq!(verdict.action, Action::Container, "what comes in goes nowhere else");
        let id = self.container(verdict, change);
        let protocol = change.came.protocol;
        if !change.came.has_header() {
            self.follows(None, change, verdict);
            return;
        }
        if let Some((came, goes)) = &change.quoted {
            let (Some(about), Some(shown)) = (came.tuple(change.before), goes.tuple(change.after)) else {
                panic!("an error about what has no ports");
            };
            // Said as it was told; or in a conversation that it took part in, which may have been another's.
            let said = self.told.get(&(came.protocol, about)).is_some_and(|s| s.contains(&(id, shown)));
            let got = self.shown.get(&(came.protocol, id, reversed(shown)));
            assert!(
                said || got.is_some_and(|s| s.contains(&reversed(about))),
                "an error about what it never sent"
            );
            return;
        }
        self.begins(None, change, verdict);
        let (Some(from), Some(to)) = (change.from(), change.to()) else {
            panic!("what has no ports goes into a container")
        };
        let answers =
            self.told.get(&(protocol, reversed(from))).is_some_and(|s| s.contains(&(id, reversed(to))));
        if !answers {
            self.is_published(id, change, from, to);
        }
        if change.came.piece.is_none() {
            self.comes_back(From::Device(device), id, change, answers);
        }
        self.shown.entry((protocol, id, to)).or_default().push(from);
    }

    /// It was published, and for the sender.
    fn is_published(&mut self, id: u32, change: &Change<'_, A>, from: Tuple<A>, to: Tuple<A>) {
        let protocol = change.came.protocol;
        assert!(matches!(protocol, TCP | UDP), "nothing else is published");
        let find = |address| {
            let key = ServiceKey { address, port: from.destination_port, protocol, pad: 0 };
            self.model.services.get(&key).copied()
        };
        let service: Service = find(from.destination)
            .or_else(|| find(A::ZERO))
            .expect("a packet to a port that is not published reaches a container");
        assert!(self.model.locals.contains(&from.destination), "it is not the node's address");
        let (_, _, target, containers) =
            PUBLISHED.into_iter().find(|p| u32::from(p.1) == service.id).expect("it is one of them");
        assert!(containers.contains(&id), "it is not published from that container");
        assert_eq!((to.source, to.destination_port), (from.source, target), "the client's address is kept");
        let denied = self.model.config.flags & CONFIG_DENY != 0
            && self.model.denied.iter().any(|(address, _)| *address == from.source);
        assert!(!denied, "it was denied");
        if service.sources != 0 {
            let (net, length) = A::friends();
            let bytes = length as usize / 8;
            let (net, source) = (net, from.source);
            let same = net.as_ref()[..bytes] == source.as_ref()[..bytes]
                && (length % 8 == 0
                    || (net.as_ref()[bytes] ^ source.as_ref()[bytes]) >> (8 - length % 8) == 0);
            assert!(same, "it was not published for the sender");
        }
        if protocol == TCP {
            let flags = change.before[change.came.payload.start + 13];
            let begun = self.shown.get(&(protocol, id, to)).is_some_and(|s| s.contains(&from));
            assert!(begun || flags & (SYN | ACK | FIN | RST) == SYN, "it never began with a SYN");
        }
        if service.id == u32::from(LIMITED) {
            let begun = self.shown.get(&(protocol, id, to)).is_some_and(|s| s.contains(&from));
            self.keeps_to_the_limit(protocol, from.source, !begun);
        }
    }

    /// No client gets more than it may have.
    fn keeps_to_the_limit(&mut self, protocol: u8, client: A, begins: bool) {
        let now = self.model.now;
        let [flows, packets] = self.granted.entry((protocol, client.network())).or_default();
        if begins {
            flows.push(now);
        }
        packets.push(now);
        let Limit { flow_spacing, flow_burst, packet_spacing, packet_burst, .. } = LIMIT;
        for (granted, spacing, burst) in
            [(&*flows, flow_spacing, flow_burst), (&*packets, packet_spacing, packet_burst)]
        {
            for (i, from) in granted.iter().enumerate() {
                let most = u64::from(burst) + (now - from) / u64::from(spacing);
                assert!((granted.len() - i) as u64 <= most, "a client gets more than it may have");
            }
        }
    }

    /// A packet of a container that goes on.
    pub(super) fn goes_out(&mut self, id: u32, change: &Change<'_, A>, verdict: &Verdict<A>) {
        assert_eq!(change.came.source, A::container(id), "a container sends under its own address");
        let protocol = change.came.protocol;
        let to_container = verdict.action == Action::Container;
        if to_container {
            self.container(verdict, change);
        } else {
            assert!((2..=4).contains(&verdict.ifindex), "it leaves by a device of the node");
            assert!(
                self.model.locals.contains(&change.goes.source),
                "it leaves under an address of the node"
            );
        }
        if verdict.action == Action::Device {
            judge::too_big(change.before, &change.came, change.goes.source, 1400);
        }
        if !change.came.has_header() {
            self.follows(Some(id), change, verdict);
            return;
        }
        if let Some((came, goes)) = &change.quoted {
            let (Some(about), Some(shown)) = (came.tuple(change.before), goes.tuple(change.after)) else {
                panic!("an error about what has no ports");
            };
            // Got as it was shown; or in a conversation of its own, which may show another port by now.
            let got = self.shown.get(&(came.protocol, id, about)).is_some_and(|s| s.contains(&shown));
            let said = self.told.get(&(came.protocol, reversed(shown)));
            let said = said.is_some_and(|s| s.contains(&(id, reversed(about))));
            assert!(got || said, "an error about what it never got");
            return;
        }
        self.begins(Some(id), change, verdict);
        let (Some(from), Some(to)) = (change.from(), change.to()) else {
            panic!("what has no ports leaves a container")
        };
        let asked = self.shown.get(&(protocol, id, reversed(from)));
        let answers = asked.is_some_and(|s| s.contains(&reversed(to)));
        if to_container {
            let other = verdict.ifindex - DEVICES;
            if change.came.piece.is_none() {
                self.comes_back(From::Container(id), other, change, answers);
            }
            self.shown.entry((protocol, other, to)).or_default().push(from);
            self.told.entry((protocol, to)).or_default().push((id, from));
            return;
        }
        if !answers {
            let config = &self.model.config;
            let own = config.masquerade_first..=config.masquerade_last;
            assert!(own.contains(&to.source_port), "neither an answer nor masqueraded");
            assert_eq!((to.destination, to.destination_port), (from.destination, from.destination_port));
        }
        self.told.entry((protocol, to)).or_default().push((id, from));
        if change.came.piece.is_none() && !answers {
            self.is_answered(id, protocol, from, to, verdict.ifindex);
        }
    }

    /// A container that is there, at its own address.
    fn container(&self, verdict: &Verdict<A>, change: &Change<'_, A>) -> u32 {
        let id = verdict.ifindex - DEVICES;
        assert!(CONTAINERS.contains(&id), "it goes into a container");
        assert_eq!(
            change.goes.destination,
            A::container(id),
            "it is addressed to the container that gets it"
        );
        // What is left of a packet goes where the first fragment went: its device is gone with the container.
        let gone = self.model.backends[&id].state == BACKEND_EMPTY;
        assert!(!(gone && change.came.has_header()), "a container that is gone gets nothing");
        id
    }

    /// A first fragment: others will go where it goes.
    fn begins(&mut self, from: Option<u32>, change: &Change<'_, A>, verdict: &Verdict<A>) {
        if let Some(key) = piece(from, &change.came) {
            let (to, action) = (&verdict.to, verdict.action);
            self.pieces.insert(key, (action, verdict.ifindex, to.source, to.destination));
        }
    }

    /// Any other fragment goes where the first one went.
    fn follows(&self, from: Option<u32>, change: &Change<'_, A>, verdict: &Verdict<A>) {
        let key = piece(from, &change.came).expect("it is a fragment");
        let to = (verdict.action, verdict.ifindex, change.goes.source, change.goes.destination);
        assert_eq!(self.pieces.get(&key), Some(&to), "a fragment goes where the first one went");
    }
}

fn piece<A: Side>(from: Option<u32>, read: &Read<A>) -> Option<PieceOf<A>> {
    let protocol = if A::FAMILY == 4 { read.protocol } else { 0 };
    read.piece.map(|(number, _)| (from, read.source, read.destination, number, protocol))
}
