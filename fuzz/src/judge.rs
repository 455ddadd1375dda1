//! What must be true of a packet that was decided on, as far as the packet itself shows it: what is not
//! sent on is left as it was; what is sent on is understood by others in the same way, differs in addresses,
//! ports and checksums only, and its checksums are as right, or as wrong, as they were.

use std::ops::Range;

use warren_ebpf::{
    abi::{TCP, UDP},
    flow::decide::{Action, Verdict},
    packet::{Bytes, Tuple, notice::QUOTE, sum},
};

use crate::{
    family::Side,
    read::{Read, quote, read},
};

/// A packet before and after.
#[derive(Debug)]
pub struct Change<'a, A> {
    /// The frame as it came.
    pub before: &'a [u8],
    /// The frame as it is sent on.
    pub after: &'a [u8],
    /// What others read in it as it came.
    pub came: Read<A>,
    /// What others read in it as it is sent on.
    pub goes: Read<A>,
    /// Of an ICMP error: what it quotes, as it came and as it is sent on.
    pub quoted: Option<(Read<A>, Read<A>)>,
}

/// Length of an ICMP header.
const ICMP_HEADER: usize = 8;

impl<'a, A: Side> Change<'a, A> {
    /// Judges what was made of a frame by itself. `None`: it was not sent on.
    pub fn judge(before: &'a [u8], after: &'a [u8], link: usize, verdict: &Verdict<A>) -> Option<Self> {
        if matches!(verdict.action, Action::Pass | Action::Drop) {
            assert_eq!(before, after, "what is not sent on is left as it was");
            return None;
        }
        let of = |frame| match read::<A>(frame, link) {
            Ok(read) => read,
            Err(e) => panic!("what is sent on is understood: {e}"),
        };
        let (came, goes) = (of(before), of(after));
        let mut change = Change { before, after, came, goes, quoted: None };
        let is_error = change.came.has_header()
            && change.came.protocol == A::ICMP
            && change.came.tuple(before).is_none();
        if is_error {
            assert!(A::is_error(before[change.came.payload.start]), "an ICMP message that is no error");
            let at = change.came.payload.start + ICMP_HEADER..change.came.payload.end;
            let inner = |frame| quote::<A>(frame, at.clone()).expect("an error quotes a packet");
            change.quoted = Some((inner(before), inner(after)));
        }
        change.shows(verdict);
        change.touched();
        change.sums();
        change.absence(link);
        Some(change)
    }

    /// Its ends as it came; `None` of what has none, and of errors.
    pub fn from(&self) -> Option<Tuple<A>> {
        self.came.tuple(self.before)
    }

    /// Its ends as it is sent on.
    pub fn to(&self) -> Option<Tuple<A>> {
        self.goes.tuple(self.after)
    }

    /// It shows what the verdict says.
    fn shows(&self, verdict: &Verdict<A>) {
        let to = &verdict.to;
        assert_eq!((self.goes.source, self.goes.destination), (to.source, to.destination));
        if self.quoted.is_none()
            && let Some(tuple) = self.to()
        {
            assert_eq!(tuple, *to);
        }
        assert_eq!(
            (self.came.protocol, self.came.piece, &self.came.payload),
            (self.goes.protocol, self.goes.piece, &self.goes.payload)
        );
    }

    /// Nothing else was touched.
    fn touched(&self) {
        let mut expected = self.before.to_vec();
        let mut may_differ = |range: Range<usize>| {
            if range.end <= expected.len() {
                expected[range.clone()].copy_from_slice(&self.after[range]);
            }
        };
        let mut ends = |read: &Read<A>| {
            if A::FAMILY == 4 {
                may_differ(read.ip + 10..read.ip + 20);
            } else {
                may_differ(read.ip + 8..read.ip + 40);
            }
            let start = read.payload.start;
            if read.has_header() {
                match read.protocol {
                    TCP | UDP => may_differ(start..start + 4),
                    _ => may_differ(start + 4..start + 6),
                }
                let check = start + read.check();
                if check + 2 <= read.payload.end {
                    may_differ(check..check + 2);
                }
            }
        };
        match &self.quoted {
            None => ends(&self.came),
            Some((inner, _)) => {
                ends(inner);
                let outer = Read { piece: Some((0, false)), ..self.came.clone() };
                ends(&outer);
                may_differ(self.came.payload.start + 2..self.came.payload.start + 4);
            }
        }
        assert!(expected == self.after, "only addresses, ports and checksums change");
    }

    /// Checksums are as right, or as wrong, as they were.
    fn sums(&self) {
        let pair = [(&self.came, self.before), (&self.goes, self.after)];
        self.same(pair, "a header's checksum", header);
        if self.came.has_header() {
            self.same(pair, "a transport checksum", transport);
        }
        if let Some((came, goes)) = &self.quoted {
            let pair = [(came, self.before), (goes, self.after)];
            self.same(pair, "a quoted header's checksum", header);
            if came.payload.start + came.check() + 2 <= came.payload.end {
                self.same(pair, "a quoted transport checksum", transport);
            }
        }
    }

    /// A datagram whose sum comes out as 0 shows 0xffff, since 0 would be none. One in 65,536 does, so this one
    /// is given the checksum with which it does.
    fn absence(&self, link: usize) {
        let (Some(from), Some(to)) = (self.from(), self.to()) else { return };
        let check = self.came.payload.start + self.came.check();
        let [came, goes] =
            [self.before, self.after].map(|frame| u16::from_be_bytes([frame[check], frame[check + 1]]));
        let change = (u32::from(came) + u32::from(!goes)) % 0xffff;
        if self.came.protocol != UDP || came == 0 || change == 0 {
            return;
        }
        let mut twin = self.before.to_vec();
        twin[check..check + 2].copy_from_slice(&(change as u16).to_be_bytes());
        let ip = A::header(&Bytes(&mut twin), link as u32).expect("it was read before");
        assert!(A::rewrite(&mut Bytes(&mut twin), &ip, &from, &to), "what was read is rewritable");
        assert_eq!(twin[check..check + 2], [0xff, 0xff], "a sum is not sent as none");
    }

    fn same(
        &self,
        [came, goes]: [(&Read<A>, &[u8]); 2],
        what: &str,
        of: impl Fn(&Read<A>, &[u8]) -> Option<u16>,
    ) {
        assert_eq!(of(came.0, came.1), of(goes.0, goes.1), "{what} is as right as it was");
    }
}

/// A sum in ones' complement, where 0xffff is 0.
fn folded(sums: &[u16]) -> u16 {
    (sums.iter().map(|s| u32::from(*s)).sum::<u32>() % 0xffff) as u16
}

/// What is summed up for a header's checksum; `None` where there is none.
fn header<A: Side>(read: &Read<A>, frame: &[u8]) -> Option<u16> {
    let length = usize::from(frame[read.ip] & 0x0f) * 4;
    (A::FAMILY == 4).then(|| folded(&[sum(&frame[read.ip..read.ip + length])]))
}

/// What is summed up for a transport checksum; `None` where there is none.
fn transport<A: Side>(read: &Read<A>, frame: &[u8]) -> Option<u16> {
    let payload = &frame[read.payload.clone()];
    if read.protocol == UDP && payload[6..8] == [0, 0] {
        return None;
    }
    let pseudo = if A::FAMILY == 4 && read.protocol == A::ICMP {
        [0, 0]
    } else {
        [sum(read.source.as_ref()), sum(read.destination.as_ref())]
    };
    Some(folded(&[pseudo[0], pseudo[1], sum(payload)]))
}

/// What the node says to the sender of a packet that does not fit is right, too. `frame` is what was sent.
pub fn too_big<A: Side>(frame: &[u8], came: &Read<A>, from: A, mtu: u32) {
    let Some(start) = frame[came.ip..].first_chunk::<QUOTE>() else { return };
    let head = A::too_big(from, came.source, mtu, start);
    let notice = [head.as_ref(), start].concat();
    let read = read::<A>(&notice, 0).expect("an error is understood");
    assert_eq!((read.source, read.destination, read.protocol), (from, came.source, A::ICMP));
    assert_eq!(read.payload.end, notice.len(), "an error is as long as it says");
    let right = |sum: Option<u16>| assert_eq!(sum.unwrap_or(0), 0, "an error's checksums are right");
    right(header(&read, &notice));
    // The pseudo header has the length and the protocol, too.
    let rest = match A::FAMILY {
        4 => 0,
        _ => read.payload.len() as u16 + u16::from(A::ICMP),
    };
    right(transport(&read, &notice).map(|sum| folded(&[sum, rest])));
    let quoted = quote::<A>(&notice, read.payload.start + ICMP_HEADER..read.payload.end);
    let quoted = quoted.expect("an error quotes a packet");
    assert_eq!((quoted.source, quoted.destination), (came.source, came.destination));
}
