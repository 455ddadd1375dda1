//! What the fuzzer begins with: one short history for each thing that the datapath does.

use warren_ebpf::{
    abi::{TCP, UDP},
    packet::{ACK, SYN, Tuple},
};
use warren_fuzz::{
    family::Side,
    frames::{self, LINK, Shape},
};

/// A history in the making.
struct Seed(Vec<u8>);

/// `x` of events of a family and protocol: 0 TCP, 1 UDP, 2 ICMP.
const fn of(six: bool, protocol: u8) -> u8 {
    (if six { 0x80 } else { 0 }) | protocol << 5
}

const SYN_: u8 = 0;
const SYN_ACK: u8 = 1;
const ACK_: u8 = 2;
const FIN_ACK: u8 = 3;
const RST: u8 = 4;
const OPTION: u8 = 8;
const UNCHECKED: u8 = 16;
const LONG: u8 = 32;
const PADDING: u8 = 64;

/// Published ports as an event names them; [`LAN`] is the node's other address.
const MANY: u8 = 0;
const LAN_ONLY: u8 = 1;
const FRIENDS: u8 = 2;
const LIMITED: u8 = 3;
const NOBODY: u8 = 4;
const NAMES: u8 = 5;
const NOT_PUBLISHED: u8 = 6;
const CONTAINER: u8 = 7;
const LAN: u8 = 8;
/// For [`Seed::speak`]: not a host outside.
const HERE: u8 = 32;

impl Seed {
    fn new(setting: u8) -> Self {
        Self(vec![setting])
    }

    fn event(mut self, kind: u8, x: u8, y: u8, z: u8) -> Self {
        self.0.extend([kind, x, y, z]);
        self
    }

    fn client(self, x: u8, port: u8, published: u8, z: u8) -> Self {
        self.event(2, x, port | published << 2, z)
    }

    /// The container that got a packet last answers.
    fn answer(self, x: u8, z: u8) -> Self {
        self.event(4, x, 0, z)
    }

    fn speak(self, x: u8, port: u8, to: u8, z: u8) -> Self {
        self.event(5, x, port | to << 2, z)
    }

    fn back(self, x: u8, z: u8) -> Self {
        self.event(6, x, 0, z)
    }

    fn report(self, x: u8, outside: bool, most: u8) -> Self {
        self.event(7, x | u8::from(outside), 0, most)
    }

    fn cut(self, x: u8, back: u8, eights: u8, swap: bool) -> Self {
        self.event(9, x | back, eights, u8::from(swap))
    }

    fn wait(self, seconds: u16) -> Self {
        let [low, high] = (seconds * 100).to_le_bytes();
        self.event(10, 0, low, high)
    }

    fn frame(mut self, kind: u8, x: u8, frame: &[u8]) -> Self {
        self.0.extend([kind, x, 0, 0]);
        self.0.extend((frame.len() as u16).to_le_bytes());
        self.0.extend(frame);
        self
    }
}

/// Seeds of which fewer packets than two go through, and how many do.
pub fn reached(name: &str) -> usize {
    match name {
        n if n.starts_with("refused-") => 0,
        n if n.starts_with("strange-") => 0,
        _ => 2,
    }
}

/// All of them, with their names.
pub fn all() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (name, six) in [("v4", false), ("v6", true)] {
        let mut add = |what: &str, seed: Seed| all.push((format!("{what}-{name}"), seed.0));
        let (t, u, i) = (of(six, 0), of(six, 1), of(six, 2));
        let connect = |seed: Seed, published| {
            seed.client(t, 0, published, SYN_).answer(t, SYN_ACK).client(t, 0, published, ACK_)
        };
        add("tcp", connect(Seed::new(0), MANY).answer(t, ACK_ | LONG).client(t, 0, MANY, ACK_ | OPTION));
        add(
            "tcp-closed",
            connect(Seed::new(0), LAN_ONLY | LAN)
                .client(t, 0, LAN_ONLY | LAN, FIN_ACK)
                .answer(t, FIN_ACK)
                .client(t, 0, LAN_ONLY | LAN, ACK_)
                .wait(11)
                .client(t, 0, LAN_ONLY | LAN, SYN_),
        );
        add("tcp-reset", connect(Seed::new(0), MANY).client(t, 0, MANY, RST).client(t, 0, MANY, SYN_));
        add("tcp-tunnel", Seed::new(0).client(t | 2 << 3, 1, MANY, SYN_).answer(t, SYN_ACK));
        add("tcp-two-ports-one-socket", connect(connect(Seed::new(0), NAMES), NAMES | LAN));
        add(
            "tcp-forgotten",
            connect(connect(connect(Seed::new(1), MANY), LAN_ONLY | LAN), MANY | LAN)
                .client(t, 0, MANY, ACK_)
                .answer(t, ACK_),
        );
        add(
            "udp",
            Seed::new(0)
                .client(u, 0, NAMES, 0)
                .answer(u, LONG)
                .client(u, 0, NAMES, UNCHECKED)
                .answer(u, UNCHECKED | OPTION)
                .client(u, 0, NAMES, PADDING),
        );
        add(
            "udp-awaited-by-the-node",
            Seed::new(0).client(u | 1, 1, MANY, 0).client(u | 1, 2, MANY, 0).answer(u, 0),
        );
        add(
            "udp-after-redeploy",
            Seed::new(0).client(u, 0, NAMES, 0).answer(u, 0).event(12, 0, 0, 0).client(u, 0, NAMES, 0),
        );
        add(
            "udp-draining",
            Seed::new(0)
                .client(u, 0, MANY, 0)
                .event(11, 0, 2, 0)
                .event(11, 1, 2, 0)
                .client(u, 0, MANY, 0)
                .answer(u, 0),
        );
        add(
            "friends",
            Seed::new(0).client(t, 0, FRIENDS, SYN_).answer(t, SYN_ACK).client(t | 4, 0, FRIENDS, SYN_),
        );
        add("refused-strangers", Seed::new(0).client(t | 4, 0, FRIENDS, SYN_).client(u | 5, 0, FRIENDS, 0));
        add(
            "refused-denied",
            Seed::new(0).event(13, 1, 0, 0).client(t | 3, 0, MANY, SYN_).client(u | 3, 0, MANY, 0),
        );
        add(
            "refused-not-published",
            Seed::new(0)
                .client(t, 0, NOT_PUBLISHED, SYN_)
                .client(t, 0, CONTAINER, SYN_)
                .client(u, 0, CONTAINER, 0)
                .client(i, 0, CONTAINER, 0)
                .client(t, 0, NOBODY, SYN_),
        );
        let mut flood = Seed::new(0);
        for port in 0..4 {
            flood = flood
                .client(t, port, LIMITED, SYN_)
                .answer(t, SYN_ACK)
                .client(t, port, LIMITED, ACK_)
                .client(u, port, LIMITED, 0);
        }
        add("limited", flood.wait(2).client(t, 3, LIMITED, SYN_).wait(1).client(t, 2, LIMITED, SYN_));
        let out = |seed: Seed, x: u8| seed.speak(x, 0, 1, SYN_).back(x, SYN_ACK).speak(x, 0, 1, ACK_);
        add("masqueraded-tcp", out(Seed::new(0), t));
        add("masqueraded-udp", out(Seed::new(0), u).back(u, UNCHECKED | OPTION));
        add("masqueraded-ping", out(Seed::new(0), i).back(i, LONG));
        add(
            "masqueraded-ports-run-out",
            (0..4).fold(Seed::new(2), |s, n| s.speak(u, n, 1, 0).speak(u | 1, n, 1, 0).back(u, 0)),
        );
        add("masqueraded-second-uplink", out(Seed::new(0), u | 1).speak(t, 0, 5, SYN_).back(t, SYN_ACK));
        add(
            "container-to-container",
            Seed::new(0)
                .speak(t | 1, 0, CONTAINER | HERE, SYN_)
                .answer(t, SYN_ACK)
                .speak(i | 1, 0, CONTAINER | HERE, 0)
                .answer(i, 0),
        );
        add("container-to-published", Seed::new(0).speak(t | 1, 0, NAMES | HERE, SYN_).answer(t, SYN_ACK));
        add(
            "container-to-itself",
            Seed::new(0)
                .speak(t, 0, NAMES | HERE, SYN_)
                .answer(t, SYN_ACK)
                .speak(u, 0, NAMES | HERE, 0)
                .answer(u, 0),
        );
        add(
            "error-from-outside",
            Seed::new(0)
                .speak(u, 0, 1, LONG)
                .report(u, true, 255)
                .back(u, 0)
                .client(u, 0, NAMES, 0)
                .answer(u, UNCHECKED)
                .report(u, true, 48)
                .report(u, true, 90),
        );
        add(
            "error-from-container",
            Seed::new(0)
                .client(u, 0, NAMES, 0)
                .report(u, false, 255)
                .client(t, 0, MANY, SYN_)
                .report(t, false, 48)
                .speak(u, 0, 1, 0)
                .back(u, LONG)
                .report(u, false, 255),
        );
        add(
            "pieces",
            Seed::new(0)
                .client(u, 0, NAMES, LONG)
                .cut(u, 0, 8, false)
                .cut(u, 0, 8, true)
                .answer(u, LONG)
                .cut(u, 0, 12, false),
        );
        add(
            "pieces-of-a-ping",
            Seed::new(0).speak(i, 0, 1, LONG).cut(i, 0, 10, false).back(i, LONG).cut(i, 0, 10, false),
        );
    }
    frames_as_they_are::<[u8; 4]>("v4", &mut all);
    frames_as_they_are::<[u8; 16]>("v6", &mut all);
    all
}

/// Whole frames, for whatever the fuzzer makes of them.
fn frames_as_they_are<A: Side>(name: &str, all: &mut Vec<(String, Vec<u8>)>) {
    let from = |client, port, to, number| Tuple {
        source: A::client(client),
        destination: to,
        source_port: port,
        destination_port: number,
    };
    let option = Shape { option: true, ..Shape::default() };
    let syn = frames::make(from(0, 1000, A::node(), 8080), TCP, SYN, Shape::default());
    let ack = frames::make(from(0, 1000, A::node(), 8080), TCP, ACK, option);
    let ask = frames::make(from(1, 1000, A::lan(), 53), UDP, 0, option);
    let mut seed =
        Seed::new(0).frame(0, 0, &syn).frame(0, 0, &ack).frame(0, 1, &ask).frame(0, 2, &syn[LINK..]);
    let about = from(0, 53, A::container(1), 1000);
    let answer =
        Tuple { source: A::container(1), destination: A::client(1), source_port: 53, destination_port: 1000 };
    seed = seed.frame(1, 0, &frames::make(answer, UDP, 0, Shape::default()));
    let out = Tuple {
        source: A::container(2),
        destination: A::client(5),
        source_port: 2000,
        destination_port: 443,
    };
    seed = seed.frame(1, 1, &frames::make(out, TCP, SYN, Shape::default()));
    all.push((format!("frames-{name}"), seed.0));
    let quoted = frames::make(about, UDP, 0, Shape::default());
    let error = frames::error(A::client(0), A::node(), &quoted[LINK..], 64);
    let mut strange = Seed::new(0).frame(0, 0, &error).frame(0, 0, &syn[..syn.len() - 9]);
    for piece in frames::cut::<A>(&ask, 7, 1) {
        strange = strange.frame(0, 1, &piece);
    }
    if A::FAMILY == 6 {
        // Headers that are named and not there, before a container and before a published port.
        let ping = Tuple { destination: A::container(1), ..from(0, 1000, A::node(), 0) };
        for t in [ping, Tuple { destination: A::node(), ..ping }] {
            let mut bare = frames::make(t, A::ICMP, 0, Shape::default());
            (bare[LINK + 4], bare[LINK + 5]) = (0, 0);
            for (next, length, end) in [(60, 0, 0), (60, 4, 4), (44, 0, 0), (44, 4, 8), (43, 0, 3)] {
                let mut frame = bare[..LINK + A::IP_HEADER + end].to_vec();
                (frame[LINK + 5], frame[LINK + 6]) = (length, next);
                strange = strange.frame(0, 0, &frame);
            }
        }
    }
    all.push((format!("strange-{name}"), strange.0));
}
