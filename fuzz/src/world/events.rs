//! What happens to a node.

use warren_ebpf::{
    abi::{BACKEND_UP, BackendRef, CONFIG_DENY, ICMP},
    flow::decide::{Action, Verdict},
    packet::Tuple,
};

use super::{CONTAINERS, DEVICES, From, PUBLISHED, SECOND, TUNNEL, UPLINK, World};
use crate::{
    family::Side,
    frames::{self, LINK, Shape},
    input::Event,
    judge::Change,
    read::read,
};

/// How many packets are kept of each kind.
const KEPT: usize = 32;

/// What became of a packet, in words that are the same for all ways to see a family.
pub type Became = (Action, u32, Vec<u8>);

impl<A: Side> World<A> {
    /// Lets something happen; what became of the packets.
    pub fn happen(&mut self, event: &Event<'_>) -> Vec<Became> {
        match *event {
            Event::In { device, frame } => {
                self.frame(From::Device(UPLINK + u32::from(device)), frame.to_vec())
            }
            Event::Out { container, frame } => self.frame(From::Container(container.into()), frame.to_vec()),
            Event::Client { device, client, port, published, protocol, flags, shape, .. } => {
                let device = [UPLINK, SECOND, TUNNEL, UPLINK][usize::from(device)];
                let (to, number) = place::<A>(published);
                let t = Tuple {
                    source: A::client(client),
                    destination: to,
                    source_port: 1000 + u16::from(port),
                    destination_port: number,
                };
                self.send(From::Device(device), t, of_family::<A>(protocol), flags, shape)
            }
            Event::Speak { container, port, to, protocol, flags, shape, .. } => {
                let (destination, number) = if to & 32 == 0 {
                    // A host outside, at its service or at the port that it comes from.
                    (A::client(to & 7), if to & 8 == 0 { 443 } else { 1000 + u16::from(port) })
                } else {
                    place::<A>(to)
                };
                let t = Tuple {
                    source: A::container(container.into()),
                    destination,
                    // From a port that is published, too.
                    source_port: [2000, 2001, 53, 1000][usize::from(port)],
                    destination_port: number,
                };
                self.send(From::Container(container.into()), t, of_family::<A>(protocol), flags, shape)
            }
            Event::Answer { which, flags, shape, .. } => match pick(&self.got, which) {
                Some((id, frame)) => self.answer(From::Container(*id), &frame.clone(), flags, shape),
                None => Vec::new(),
            },
            Event::Back { which, flags, shape, .. } => match pick(&self.left, which) {
                Some((device, frame)) => self.answer(From::Device(*device), &frame.clone(), flags, shape),
                None => Vec::new(),
            },
            Event::Report { outside, which, most, .. } => self.report(outside, which, usize::from(most)),
            Event::Again { back, place, change, .. } => {
                let Some((from, mut frame)) = self.recent(back) else { return Vec::new() };
                let start = link(from);
                if let Some(byte) = frame.get_mut(start + usize::from(place)) {
                    *byte ^= change;
                }
                self.frame(from, frame)
            }
            Event::Cut { back, eights, swap, .. } => {
                let Some((from, frame)) = self.recent(back) else { return Vec::new() };
                if link(from) == 0 {
                    return Vec::new();
                }
                let mut pieces = frames::cut::<A>(&frame, self.last.len() as u16 + 1, usize::from(eights));
                if swap {
                    pieces.reverse();
                }
                pieces.into_iter().flat_map(|piece| self.frame(from, piece)).collect()
            }
            Event::Wait(time) => {
                self.model.now += u64::from(time) * 10_000_000;
                Vec::new()
            }
            Event::State { id, state } => {
                self.model.backends.get_mut(&id.into()).expect("it is there").state = state;
                Vec::new()
            }
            Event::Tenant { id } => {
                self.tenant(id.into());
                Vec::new()
            }
            Event::Deny(on) => {
                let flags = &mut self.model.config.flags;
                *flags = if on { *flags | CONFIG_DENY } else { *flags & !CONFIG_DENY };
                Vec::new()
            }
        }
    }

    /// A packet as it should be.
    fn send(&mut self, from: From, t: Tuple<A>, protocol: u8, flags: u8, shape: Shape) -> Vec<Became> {
        let mut t = t;
        if protocol == A::ICMP && t.source_port != 0 {
            // A request has no second number.
            t.destination_port = 0;
        }
        let mut frame = frames::make(t, protocol, flags, shape);
        frame.drain(..LINK - link(from));
        self.frame(from, frame)
    }

    /// Who got a frame answers it.
    fn answer(&mut self, from: From, frame: &[u8], flags: u8, shape: Shape) -> Vec<Became> {
        let read = read::<A>(frame, LINK).expect("what was sent on is understood");
        match read.tuple(frame) {
            Some(tuple) => self.send(from, reversed(tuple), read.protocol, flags, shape),
            None => Vec::new(),
        }
    }

    /// Who got a frame reports an error about it.
    fn report(&mut self, outside: bool, which: u8, most: usize) -> Vec<Became> {
        let (from, about) = match (outside, pick(&self.left, which), pick(&self.got, which)) {
            (true, Some((device, frame)), _) => (From::Device(*device), frame),
            (false, _, Some((id, frame))) => (From::Container(*id), frame),
            _ => return Vec::new(),
        };
        let read = read::<A>(about, LINK).expect("what was sent on is understood");
        let mut frame = frames::error(read.destination, read.source, &about[LINK..], most);
        frame.drain(..LINK - link(from));
        self.frame(from, frame)
    }

    /// The row gets another tenant, as the agent does it.
    fn tenant(&mut self, id: u32) {
        let row = self.model.backends.get_mut(&id).expect("it is there");
        row.generation += 1;
        row.state = BACKEND_UP;
        let new = BackendRef { id, generation: row.generation };
        self.model.links.insert(DEVICES + id, new);
        if A::container(id) != A::ZERO {
            self.model.endpoints.insert(A::container(id), new);
        }
        self.model.maglev.iter_mut().filter(|row| row.id == id).for_each(|row| *row = new);
        self.model.services.values_mut().filter(|s| s.single.id == id).for_each(|s| s.single = new);
        // What the one before saw and said is nothing of its.
        self.shown.retain(|(_, of, _), _| *of != id);
        self.told.values_mut().for_each(|all| all.retain(|(of, _)| *of != id));
        self.got.retain(|(of, _)| *of != id);
    }

    /// Any frame.
    fn frame(&mut self, from: From, frame: Vec<u8>) -> Vec<Became> {
        let mut after = frame.clone();
        let verdict = match from {
            From::Device(device) => self.model.node_in_at(&mut after, link(from) as u32, device),
            From::Container(id) => self.model.veth_in(&mut after, DEVICES + id),
        };
        let change = Change::judge(&frame, &after, link(from), &verdict);
        match (from, &change) {
            (_, None) => self.stays(from, &frame, &verdict),
            (From::Device(device), Some(change)) => self.comes_in(device, change, &verdict),
            (From::Container(id), Some(change)) => self.goes_out(id, change, &verdict),
        }
        if change.is_some() {
            self.keep(from, &after, &verdict);
        }
        if self.last.len() == KEPT {
            self.last.remove(0);
        }
        self.last.push((from, frame));
        vec![(
            verdict.action,
            if verdict.action == Action::Drop { verdict.reason as u32 } else { verdict.ifindex },
            after,
        )]
    }

    /// Notes a frame that somebody got.
    fn keep(&mut self, from: From, after: &[u8], verdict: &Verdict<A>) {
        // As it is on a link with headers.
        let mut frame = vec![4; LINK - link(from)];
        frame.extend(after);
        if verdict.action == Action::Container {
            self.got.truncate(KEPT - 1);
            self.got.insert(0, (verdict.ifindex - DEVICES, frame));
        } else {
            self.left.truncate(KEPT - 1);
            self.left.insert(0, (verdict.ifindex, frame));
        }
    }

    fn recent(&self, back: u8) -> Option<(From, Vec<u8>)> {
        self.last.iter().rev().nth(back.into()).cloned()
    }
}

/// Length of the link headers of what comes from somewhere.
pub(super) fn link(from: From) -> usize {
    if from == From::Device(TUNNEL) { 0 } else { LINK }
}

/// The other way round.
pub(super) fn reversed<A>(t: Tuple<A>) -> Tuple<A> {
    Tuple {
        source: t.destination,
        destination: t.source,
        source_port: t.destination_port,
        destination_port: t.source_port,
    }
}

fn pick<T>(from: &[T], which: u8) -> Option<&T> {
    from.get(usize::from(which) % from.len().max(1))
}

/// What a family calls ICMP.
fn of_family<A: Side>(protocol: u8) -> u8 {
    if protocol == ICMP { A::ICMP } else { protocol }
}

/// Somewhere to send to on the node: a published port, one that is not, a container's own.
fn place<A: Side>(n: u8) -> (A, u16) {
    let address = if n & 8 == 0 { A::node() } else { A::lan() };
    match usize::from(n & 7) {
        i if i < PUBLISHED.len() => (address, PUBLISHED[i].1),
        6 => (address, 61_000),
        _ => (A::container(CONTAINERS[usize::from(n >> 3 & 1)]), 80),
    }
}
