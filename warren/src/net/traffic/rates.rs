//! What two samples of the flows' counters say of the time between. Pure.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use warren_ebpf::abi;

use super::{
    super::flows::{self, BackendRefKey, SECOND},
    Asked, ClientTraffic, Names, Outgoing, PortTraffic, Rates, Sort, Traffic,
    sample::{Of, Port, Record, Sample},
};

/// What was carried from the sample before, which was taken so long ago, to the present one.
pub(super) fn traffic(
    before: Option<(&Sample, Duration)>,
    present: &Sample,
    names: &Names,
    asked: &Asked,
) -> Traffic {
    let elapsed = before.map_or(Duration::ZERO, |(_, elapsed)| elapsed);
    let sums = Sums::of(before.map(|(sample, _)| sample), present, asked);
    let mut truncated = false;
    let mut cut = |more: bool| truncated |= more;
    let service = |port: &Port| names.services.get(&port.service).cloned().unwrap_or_default();
    let ports = first(sums.ports, elapsed, asked, &mut cut)
        .into_iter()
        .map(|(port, rates)| PortTraffic {
            published: port.published,
            protocol: port.protocol,
            service: service(&port),
            rates,
        })
        .collect();
    let clients = first(sums.clients, elapsed, asked, &mut cut)
        .into_iter()
        .map(|((port, client), rates)| ClientTraffic {
            client,
            published: port.published,
            protocol: port.protocol,
            service: service(&port),
            rates,
        })
        .collect();
    let out = first(sums.out, elapsed, asked, &mut cut)
        .into_iter()
        .map(|(backend, rates)| {
            let (task, replica) = names.owners.task(&backend);
            Outgoing { task, replica, rates }
        })
        .collect();
    Traffic { elapsed, ports, clients, out, truncated }
}

/// What some flows have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    flows: u64,
    new: u64,
    received: u64,
    sent: u64,
    received_packets: u64,
    sent_packets: u64,
}

impl Sum {
    /// What a flow has done since the sample before; `None`: there is none.
    fn since(before: Option<&Sample>, known: Option<&Record>, present: &Record) -> Self {
        let (mut new, mut from) = (0, present.traffic);
        match (before, known) {
            (None, _) => {}
            (Some(_), Some(known)) if goes_on(known, present) => from = known.traffic,
            // It is older than that sample, which has missed it: what it has carried since is not known.
            (Some(before), None) if present.began.is_some_and(|began| began + SECOND <= before.now) => {}
            // Another under the same key, or one that was not there.
            (Some(_), _) => (new, from) = (1, abi::Traffic::default()),
        }
        let to = &present.traffic;
        let packets = |from: u32, to: u32| u64::from(to.wrapping_sub(from));
        Self {
            flows: present.lives.into(),
            new,
            received: to.received - from.received,
            sent: to.sent - from.sent,
            received_packets: packets(from.received_packets, to.received_packets),
            sent_packets: packets(from.sent_packets, to.sent_packets),
        }
    }

    fn add(&mut self, other: &Self) {
        self.flows += other.flows;
        self.new += other.new;
        self.received += other.received;
        self.sent += other.sent;
        self.received_packets += other.received_packets;
        self.sent_packets += other.sent_packets;
    }

    fn each_second(&self, elapsed: Duration) -> Rates {
        let seconds = elapsed.as_secs_f64();
        let rate = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        Rates {
            flows: self.flows,
            new: rate(self.new),
            received_packets: rate(self.received_packets),
            sent_packets: rate(self.sent_packets),
            received: rate(self.received),
            sent: rate(self.sent),
        }
    }
}

/// Whether two records under one key are of one flow. When a TCP flow began is known from when it is
/// established on. Packets are no sign: their counters begin anew.
fn goes_on(known: &Record, present: &Record) -> bool {
    let (from, to) = (&known.traffic, &present.traffic);
    let same = match (known.began, present.began) {
        (Some(a), Some(b)) => a == b,
        (Some(_), None) => false,
        (None, _) => true,
    };
    same && from.received <= to.received && from.sent <= to.sent
}

/// Sums, by what flows belong to.
#[derive(Debug, Default)]
struct Sums {
    ports: HashMap<Port, Sum>,
    clients: HashMap<(Port, IpAddr), Sum>,
    out: HashMap<BackendRefKey, Sum>,
}

impl Sums {
    fn of(before: Option<&Sample>, present: &Sample, asked: &Asked) -> Self {
        let mut sums = Self::default();
        for (key, record) in &present.flows {
            if !wanted(&record.of, asked) {
                continue;
            }
            let sum = Sum::since(before, before.and_then(|b| b.flows.get(key)), record);
            if sum == Sum::default() {
                continue;
            }
            match record.of {
                Of::Port(port, client) => {
                    sums.ports.entry(port).or_default().add(&sum);
                    sums.clients.entry((port, client)).or_default().add(&sum);
                }
                Of::Out(backend) => sums.out.entry(backend).or_default().add(&sum),
            }
        }
        sums
    }
}

fn wanted(of: &Of, asked: &Asked) -> bool {
    let Some((number, protocol)) = asked.port else { return true };
    match of {
        Of::Port(port, _) => {
            port.published.port() == number
                && protocol.is_none_or(|p| flows::protocol(p.number()) == port.protocol)
        }
        Of::Out(_) => false,
    }
}

/// The first rows of the order that is asked for; tells whether there are more.
fn first<K: Ord>(
    sums: HashMap<K, Sum>,
    elapsed: Duration,
    asked: &Asked,
    more: &mut impl FnMut(bool),
) -> Vec<(K, Rates)> {
    let by = |s: &Sum| match asked.sort {
        Sort::Bytes => s.received + s.sent,
        Sort::Packets => s.received_packets + s.sent_packets,
        Sort::Flows => s.flows,
        Sort::New => s.new,
    };
    let mut rows: Vec<(K, Sum)> = sums.into_iter().collect();
    // Rows that are alike stay where they are from one look to the next.
    rows.sort_by(|(a, x), (b, y)| by(y).cmp(&by(x)).then_with(|| a.cmp(b)));
    if asked.limit != 0 {
        more(rows.len() > asked.limit);
        rows.truncate(asked.limit);
    }
    rows.into_iter().map(|(key, sum)| (key, sum.each_second(elapsed))).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{super::flows::Replica, sample::Key},
        *,
    };
    use crate::model::{Protocol, TaskId};

    const WEB: &str = "198.18.0.1:8080";

    fn names() -> Names {
        let mut names = Names::default();
        names.services.insert(3, "web".into());
        let replica = Replica { service: "web".into(), slot: 1 };
        names.owners.0.insert((1, 1001), (TaskId::from_random(1), Some(replica)));
        names
    }

    /// A flow of a client (the last number of its address) to a published port.
    fn flow(client: u8, published: &str, began: Option<u64>, received: u64, sent: u64) -> Record {
        let port = Port { published: published.parse().unwrap(), protocol: "tcp", service: 3 };
        Record {
            of: Of::Port(port, IpAddr::from([198, 18, 0, client])),
            began: began.map(|second| second * SECOND),
            traffic: abi::Traffic {
                received,
                sent,
                received_packets: u32::try_from(received / 100).unwrap(),
                sent_packets: u32::try_from(sent / 100).unwrap(),
            },
            lives: true,
        }
    }

    /// A sample in this second, of flows under these keys.
    fn sample(second: u64, flows: &[(u8, Record)]) -> Sample {
        let keyed = flows.iter().map(|(n, record)| {
            let out = matches!(record.of, Of::Out(_));
            (Key::new(out, &[*n; 16]).unwrap(), *record)
        });
        Sample { now: second * SECOND, flows: keyed.collect() }
    }

    fn compare(before: &Sample, present: &Sample, asked: Asked) -> Traffic {
        traffic(Some((before, Duration::from_secs(2))), present, &names(), &asked)
    }

    /// Of the one port there is: flows, new ones, bytes received and sent, packets received and sent.
    fn port(before: &[(u8, Record)], present: &[(u8, Record)]) -> [f64; 6] {
        let found = compare(&sample(100, before), &sample(102, present), Asked::default());
        assert_eq!(found.ports.len(), 1, "{found:?}");
        let r = found.ports[0].rates;
        [r.flows as f64, r.new, r.received, r.sent, r.received_packets, r.sent_packets]
    }

    #[test]
    fn the_first_sample_has_flows_and_no_rates() {
        let first = sample(100, &[(1, flow(2, WEB, Some(50), 1000, 500))]);
        let found = traffic(None, &first, &names(), &Asked::default());
        assert_eq!(found.elapsed, Duration::ZERO);
        assert_eq!(found.ports[0].rates, Rates { flows: 1, ..Rates::default() });
        assert_eq!(found.ports[0].service, "web");
    }

    #[test]
    fn what_a_flow_has_carried_since_is_counted_by_the_second() {
        let was = [(1, flow(2, WEB, Some(50), 1000, 500))];
        assert_eq!(
            port(&was, &[(1, flow(2, WEB, Some(50), 5000, 700))]),
            [1.0, 0.0, 2000.0, 100.0, 20.0, 1.0]
        );
        assert_eq!(port(&was, &was), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn packets_are_counted_over_the_end_of_their_counters() {
        let mut was = flow(2, WEB, Some(50), 1000, 500);
        was.traffic.received_packets = u32::MAX - 1;
        let mut is = flow(2, WEB, Some(50), 1400, 500);
        is.traffic.received_packets = 2;
        assert_eq!(port(&[(1, was)], &[(1, is)]), [1.0, 0.0, 200.0, 0.0, 2.0, 0.0]);
    }

    #[test]
    fn a_flow_that_was_not_there_is_new_with_all_that_it_has_carried() {
        let old = (1, flow(2, WEB, Some(50), 1000, 500));
        let new = (2, flow(3, WEB, Some(101), 400, 200));
        assert_eq!(port(&[old], &[old, new]), [2.0, 0.5, 200.0, 100.0, 2.0, 1.0]);
        let half_open = (2, flow(3, WEB, None, 400, 200));
        assert_eq!(port(&[old], &[old, half_open]), [2.0, 0.5, 200.0, 100.0, 2.0, 1.0]);
    }

    #[test]
    fn one_that_is_older_than_the_sample_that_missed_it_is_not_new() {
        assert_eq!(port(&[], &[(1, flow(2, WEB, Some(50), 1000, 500))]), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        // In the second of that sample it may have begun a moment later.
        assert_eq!(port(&[], &[(1, flow(2, WEB, Some(100), 200, 0))]), [1.0, 0.5, 100.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn another_flow_under_the_same_key_is_counted_from_nothing() {
        let was = [(1, flow(2, WEB, Some(50), 1000, 500))];
        let another = [1.0, 0.5, 200.0, 100.0, 2.0, 1.0];
        assert_eq!(port(&was, &[(1, flow(2, WEB, Some(50), 400, 200))]), another, "its counters are smaller");
        assert_eq!(
            port(&[(1, flow(2, WEB, Some(50), 100, 0))], &[(1, flow(2, WEB, Some(101), 400, 200))]),
            another
        );
        let was = [(1, flow(2, WEB, Some(50), 100, 0))];
        assert_eq!(port(&was, &[(1, flow(2, WEB, None, 400, 200))]), another, "half-open after established");
    }

    #[test]
    fn a_flow_that_is_established_meanwhile_goes_on() {
        let was = [(1, flow(2, WEB, None, 200, 100))];
        assert_eq!(port(&was, &[(1, flow(2, WEB, Some(101), 600, 300))]), [1.0, 0.0, 200.0, 100.0, 2.0, 1.0]);
    }

    #[test]
    fn a_flow_that_is_gone_takes_nothing_away() {
        let (gone, stays) = ((1, flow(2, WEB, Some(50), 9000, 500)), (2, flow(3, WEB, Some(60), 100, 0)));
        assert_eq!(
            port(&[gone, stays], &[(2, flow(3, WEB, Some(60), 300, 0))]),
            [1.0, 0.0, 100.0, 0.0, 1.0, 0.0]
        );
        let nothing = compare(&sample(100, &[gone]), &sample(102, &[]), Asked::default());
        assert_eq!(nothing, Traffic { elapsed: Duration::from_secs(2), ..Traffic::default() });
    }

    #[test]
    fn one_that_has_run_out_is_no_live_flow_and_goes_on_where_it_was() {
        let over = Record { lives: false, ..flow(2, WEB, Some(50), 1000, 500) };
        let again = flow(2, WEB, Some(50), 1200, 500);
        let resting = compare(&sample(100, &[(1, over)]), &sample(102, &[(1, over)]), Asked::default());
        assert_eq!(resting.ports, []);
        assert_eq!(port(&[(1, over)], &[(1, again)]), [1.0, 0.0, 100.0, 0.0, 1.0, 0.0]);
    }

    /// Clients 2 and 3 at one port, client 2 at another, and a container that asks others.
    fn busy() -> (Sample, Sample) {
        let other = "[fd18::1]:9090";
        let out = |sent| Record { of: Of::Out((1, 1001)), ..flow(9, WEB, Some(50), 0, sent) };
        let before = sample(
            100,
            &[
                (1, flow(2, WEB, Some(50), 0, 0)),
                (2, flow(3, WEB, Some(50), 0, 0)),
                (3, flow(2, other, Some(50), 0, 0)),
                (4, out(0)),
            ],
        );
        let present = sample(
            102,
            &[
                (1, flow(2, WEB, Some(50), 1000, 0)),
                (2, flow(3, WEB, Some(50), 3000, 0)),
                (3, flow(2, other, Some(50), 2000, 0)),
                (4, out(800)),
                (5, flow(2, WEB, Some(101), 200, 0)),
            ],
        );
        (before, present)
    }

    /// The last number of each client's address, and the port.
    fn clients(found: &Traffic) -> Vec<(u8, u16)> {
        let last = |c: &ClientTraffic| match c.client {
            IpAddr::V4(a) => a.octets()[3],
            IpAddr::V6(_) => 0,
        };
        found.clients.iter().map(|c| (last(c), c.published.port())).collect()
    }

    #[test]
    fn rows_are_of_ports_of_their_clients_and_of_containers() {
        let (before, present) = busy();
        let found = compare(&before, &present, Asked::default());
        let ports: Vec<_> = found.ports.iter().map(|p| (p.published.port(), p.rates.received)).collect();
        assert_eq!(ports, [(8080, 2100.0), (9090, 1000.0)]);
        assert_eq!(clients(&found), [(3, 8080), (2, 9090), (2, 8080)]);
        assert_eq!(found.clients[2].rates.flows, 2);
        assert_eq!(found.out.len(), 1);
        assert_eq!(found.out[0].task, Some(TaskId::from_random(1)));
        assert_eq!((found.out[0].rates.sent, found.out[0].rates.flows), (400.0, 1));
        assert!(!found.truncated);
    }

    #[test]
    fn the_first_of_them_are_those_that_are_asked_for() {
        let (before, present) = busy();
        let asked = |sort, limit| Asked { sort, limit, port: None };
        let found = compare(&before, &present, asked(Sort::New, 0));
        assert_eq!(clients(&found), [(2, 8080), (3, 8080), (2, 9090)]);
        let found = compare(&before, &present, asked(Sort::Flows, 1));
        assert_eq!((clients(&found), found.truncated), (vec![(2, 8080)], true));
        let found = compare(&before, &present, asked(Sort::Packets, 2));
        assert_eq!((clients(&found), found.ports.len()), (vec![(3, 8080), (2, 9090)], 2));
    }

    #[test]
    fn one_port_can_be_asked_for() {
        let (before, present) = busy();
        let asked = |protocol| Asked { port: Some((9090, protocol)), ..Asked::default() };
        for protocol in [None, Some(Protocol::Tcp)] {
            let found = compare(&before, &present, asked(protocol));
            assert_eq!((clients(&found), found.ports.len(), found.out.len()), (vec![(2, 9090)], 1, 0));
        }
        assert_eq!(compare(&before, &present, asked(Some(Protocol::Udp))).ports, []);
    }
}
