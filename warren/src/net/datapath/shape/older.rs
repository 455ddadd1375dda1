//! Older layouts of flow tables that this build can read, and how.

use warren_ebpf::abi::{Address, Flow, FlowKey, Layout, Return, ReturnKey, TCP, Traffic, map, older};

use super::{
    super::sys::{bytes_of, from_bytes},
    LRU_HASH, Transform, layout,
};

type V4 = [u8; 4];
type V6 = [u8; 16];

/// (map, old layout, how a record of it becomes one of this build).
pub(super) const TRANSFORMS: &[(&str, u64, Transform)] = &[
    (map::FLOW_NEW4, of::<FlowKey<V4>, older::Flow<V4>>(), half_open::<V4>),
    (map::FLOW_NEW6, of::<FlowKey<V6>, older::Flow<V6>>(), half_open::<V6>),
    (map::FLOW_EST4, of::<FlowKey<V4>, older::Flow<V4>>(), established::<V4>),
    (map::FLOW_EST6, of::<FlowKey<V6>, older::Flow<V6>>(), established::<V6>),
    (map::MASQ_RET4, of::<ReturnKey<V4>, older::Return<V4>>(), masqueraded::<V4>),
    (map::MASQ_RET6, of::<ReturnKey<V6>, older::Return<V6>>(), masqueraded::<V6>),
];

/// The layout of a flow table of these structs.
const fn of<K: Layout, V: Layout>() -> u64 {
    layout(K::HASH, V::HASH, LRU_HASH)
}

/// A record that begins to count.
fn flow<A: Address>(v: older::Flow<A>) -> Flow<A> {
    Flow {
        last_seen: v.last_seen,
        backend: v.backend,
        ifindex: v.ifindex,
        service: v.service,
        published: v.published,
        client: v.client,
        published_port: v.published_port,
        client_port: v.client_port,
        state: v.state,
        flags: v.flags,
        seat: v.seat,
        expected: v.expected,
        turn: v.turn,
        pad: [0; 3],
        traffic: Traffic::default(),
    }
}

fn half_open<A: Address>(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((key.to_vec(), bytes_of(&flow::<A>(from_bytes(value)?)).to_vec()))
}

fn established<A: Address>(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut v = flow::<A>(from_bytes(value)?);
    if from_bytes::<FlowKey<A>>(key)?.protocol == TCP {
        // The sequence number that it was established by: the moment was not kept.
        v.expected = 0;
    }
    Some((key.to_vec(), bytes_of(&v).to_vec()))
}

fn masqueraded<A: Address>(key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let v: older::Return<A> = from_bytes(value)?;
    let v = Return {
        last_seen: v.last_seen,
        backend: v.backend,
        container: v.container,
        container_port: v.container_port,
        state: v.state,
        flags: v.flags,
        pad: v.pad,
        began: 0,
        traffic: Traffic::default(),
    };
    Some((key.to_vec(), bytes_of(&v).to_vec()))
}

#[cfg(test)]
mod tests {
    use warren_ebpf::abi::{BackendRef, FLOW_ESTABLISHED, MASQUERADE_REPLIED, UDP};

    use super::{
        super::{PinName, shapes, transform},
        *,
    };

    /// What becomes of a record of a map of an older build.
    fn carried(map: &str, layout: u64, key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let shape = shapes(1 << 30, 2).into_iter().find(|s| s.name == map).unwrap();
        assert_ne!(shape.layout, layout, "{map} has another layout today");
        let (k, v) =
            transform(&shape, &PinName { map: map.into(), layout }).expect("it is known")(key, value)?;
        assert_eq!((k.len() as u32, v.len() as u32), (shape.info.key_size, shape.info.value_size), "{map}");
        Some((k, v))
    }

    /// As the pins of that build have it in their names.
    const FLOW4: u64 = 0xa8a1_0854_ae93_02ea;
    const FLOW6: u64 = 0xf764_1cf2_6cae_9a65;
    const RETURN4: u64 = 0x0689_86de_006b_ac43;
    const RETURN6: u64 = 0x61cf_f3cc_b3fc_baab;

    fn flows<A: Address + PartialEq>(maps: [&str; 2], layout: u64, ends: [A; 3]) {
        let [client, published, backend] = ends;
        for (protocol, map, expected) in [
            (TCP, maps[0], 0xdead_beef),
            (TCP, maps[1], 0),
            (UDP, maps[0], 0xdead_beef),
            (UDP, maps[1], 0xdead_beef),
        ] {
            let key =
                FlowKey { client, backend, client_port: 40_000, backend_port: 80, protocol, pad: [0; 3] };
            // The record's bytes, one field after the other.
            let old = [
                &77u64.to_ne_bytes()[..],
                &[5u32, 1005, 2, 3].map(u32::to_ne_bytes).concat(),
                published.as_ref(),
                client.as_ref(),
                &[8080u16, 40_001].map(u16::to_ne_bytes).concat(),
                &[FLOW_ESTABLISHED, 1, 0, 0],
                &0xdead_beefu32.to_ne_bytes(),
                &0x0123u16.to_ne_bytes(),
                &[9, 0],
            ]
            .concat();
            let (k, v) = carried(map, layout, bytes_of(&key), &old).expect("it is read");
            assert_eq!(k, bytes_of(&key));
            let new = Flow {
                last_seen: 77,
                backend: BackendRef { id: 5, generation: 1005 },
                ifindex: 2,
                service: 3,
                published,
                client,
                published_port: 8080,
                client_port: 40_001,
                state: FLOW_ESTABLISHED,
                flags: 1,
                seat: 0x0123,
                expected,
                turn: 9,
                pad: [0; 3],
                traffic: Traffic::default(),
            };
            assert_eq!(from_bytes::<Flow<A>>(&v), Some(new), "{map}, protocol {protocol}");
            assert_eq!(carried(map, layout, bytes_of(&key), &old[1..]), None, "of another length");
        }
    }

    #[test]
    fn flows_to_published_ports_are_read_as_the_build_before_counters_left_them() {
        flows::<V4>(
            [map::FLOW_NEW4, map::FLOW_EST4],
            FLOW4,
            [[198, 18, 0, 2], [198, 18, 0, 1], [10, 86, 0, 1]],
        );
        flows::<V6>([map::FLOW_NEW6, map::FLOW_EST6], FLOW6, [[2; 16], [1; 16], [0x86; 16]]);
    }

    fn returns<A: Address + PartialEq>(map: &str, layout: u64, ends: [A; 3], fill: usize) {
        let [remote, local, container] = ends;
        let key =
            ReturnKey { remote, local, remote_port: 443, local_port: 61_000, protocol: TCP, pad: [0; 3] };
        let old = [
            &88u64.to_ne_bytes()[..],
            &[6u32, 1006].map(u32::to_ne_bytes).concat(),
            container.as_ref(),
            &50_000u16.to_ne_bytes(),
            &[FLOW_ESTABLISHED, MASQUERADE_REPLIED],
            &vec![0; fill],
        ]
        .concat();
        let (k, v) = carried(map, layout, bytes_of(&key), &old).expect("it is read");
        assert_eq!(k, bytes_of(&key));
        let new = Return {
            last_seen: 88,
            backend: BackendRef { id: 6, generation: 1006 },
            container,
            container_port: 50_000,
            state: FLOW_ESTABLISHED,
            flags: MASQUERADE_REPLIED,
            pad: A::Fill::default(),
            began: 0,
            traffic: Traffic::default(),
        };
        assert_eq!(from_bytes::<Return<A>>(&v), Some(new));
    }

    #[test]
    fn so_are_those_of_what_containers_send_out() {
        returns::<V4>(map::MASQ_RET4, RETURN4, [[198, 18, 0, 2], [198, 18, 0, 1], [10, 86, 0, 1]], 0);
        returns::<V6>(map::MASQ_RET6, RETURN6, [[2; 16], [1; 16], [0x86; 16]], 4);
    }
}
