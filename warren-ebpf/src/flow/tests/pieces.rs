//! Fragments of packets.

use etherparse::PacketBuilder;

use super::*;
use crate::{
    abi::Reason,
    packet::{self, Bytes},
};

of_both_families!(
    all_go_where_the_first_one_goes,
    out_and_back_under_the_nodes_address,
    what_comes_before_the_first_is_nobodys,
    packets_are_told_apart,
);

/// A datagram with much in it, and its pieces.
fn datagram<A: Family>(t: Tuple<A>, id: u16) -> (Vec<u8>, Vec<Vec<u8>>) {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(A::headers(t.source, t.destination));
    let mut whole = Vec::new();
    builder.udp(t.source_port, t.destination_port).write(&mut whole, &[7; 300]).unwrap();
    let (head, body) = whole.split_at(A::PAYLOAD);
    let parts = body.chunks(128).enumerate().map(|(n, part)| {
        let more = 128 * (n + 1) < body.len();
        let mut piece = head.to_vec();
        if A::FAMILY == 4 {
            piece[16..18].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
            piece[18..20].copy_from_slice(&id.to_be_bytes());
            piece[20..22].copy_from_slice(&((16 * n as u16) | if more { 0x2000 } else { 0 }).to_be_bytes());
            piece[24..26].fill(0);
            let check = !packet::sum(&piece[14..34]);
            piece[24..26].copy_from_slice(&check.to_be_bytes());
        } else {
            piece[18..20].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
            piece[20] = 44;
            let place = (128 * n as u16) | u16::from(more);
            piece.extend([UDP, 0, (place >> 8) as u8, place as u8, 0, 0, (id >> 8) as u8, id as u8]);
        }
        piece.extend(part);
        piece
    });
    (whole.clone(), parts.collect())
}

/// What fragments show put together, checksums found right.
fn together<A: Family>(mut whole: Vec<u8>, pieces: &[Vec<u8>]) -> Tuple<A> {
    let mut body: Vec<u8> = Vec::new();
    for piece in pieces {
        let mut copy = piece.clone();
        let ip = A::header(&Bytes(&mut copy), 14).unwrap();
        if A::FAMILY == 4 {
            assert_eq!(packet::sum(&piece[14..34]), 0xffff, "header checksum");
        }
        // Addresses of each piece, in the header of the whole.
        let ends = if A::FAMILY == 4 { 26..34 } else { 22..54 };
        if !body.is_empty() {
            assert_eq!(piece[ends.clone()], whole[ends], "one packet");
        } else {
            let mut header = whole.clone();
            header[ends.clone()].copy_from_slice(&piece[ends]);
            whole = header;
        }
        body.extend(&piece[ip.payload as usize..]);
    }
    whole.truncate(A::PAYLOAD);
    if A::FAMILY == 4 {
        whole[24..26].fill(0);
        let check = !packet::sum(&whole[14..34]);
        whole[24..26].copy_from_slice(&check.to_be_bytes());
    }
    whole.extend(body);
    read(&whole)
}

/// Passes all pieces; where each goes.
fn each<A>(pieces: &mut [Vec<u8>], pass: impl Fn(&mut [u8]) -> Verdict<A>) -> Vec<(Action, u32)> {
    let verdicts = pieces.iter_mut().map(|piece| pass(piece));
    verdicts.map(|verdict| (verdict.action, verdict.ifindex)).collect()
}

fn all_go_where_the_first_one_goes<A: Family>() {
    let mut node = node::<A>(3);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1, 2, 3]);
    for port in 4000..4050 {
        let t = tuple(A::CLIENT, port, A::NODE, 53);
        let (whole, mut pieces) = datagram(t, port);
        let ways = each(&mut pieces, |p| node.node_in(p, UPLINK));
        assert_eq!((ways.len(), ways[0].0), (3, Action::Container));
        assert!(ways.iter().all(|way| *way == ways[0]), "{ways:?}");
        let inside: Tuple<A> = together(whole, &pieces);
        assert_eq!(inside.destination, container(ways[0].1 - 100).0);
        let (whole, mut pieces) = datagram(reversed(inside), 7);
        let back = each(&mut pieces, |p| node.veth_in(p, ways[0].1));
        assert_eq!(back, [(Action::Device, UPLINK); 3]);
        assert_eq!(together::<A>(whole, &pieces), reversed(t));
    }
}

fn out_and_back_under_the_nodes_address<A: Family>() {
    let node = node::<A>(2);
    let t = tuple(container::<A>(1).0, 5353, A::REMOTE, 53);
    let (whole, mut pieces) = datagram(t, 9);
    assert_eq!(each(&mut pieces, |p| node.veth_in(p, 101)), [(Action::Device, UPLINK); 3]);
    let shown: Tuple<A> = together(whole, &pieces);
    assert_eq!(shown.source, A::NODE);
    let (whole, mut pieces) = datagram(reversed(shown), 9);
    assert_eq!(each(&mut pieces, |p| node.node_in(p, UPLINK)), [(Action::Container, 101); 3]);
    assert_eq!(together::<A>(whole, &pieces), reversed(t));
    // To another container.
    let (whole, mut pieces) = datagram(tuple(container::<A>(1).0, 5353, container(2).0, 53), 9);
    assert_eq!(each(&mut pieces, |p| node.veth_in(p, 101)), [(Action::Container, 102); 3]);
    assert_eq!(together::<A>(whole, &pieces), tuple(container::<A>(1).0, 5353, container(2).0, 53));
}

fn what_comes_before_the_first_is_nobodys<A: Family>() {
    let mut node = node::<A>(1);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1]);
    let pieces = |id| datagram(tuple(A::CLIENT, 4000, A::NODE, 53), id).1;
    let enters = |node: &Model<A>, piece: &[u8]| node.node_in(&mut piece.to_vec(), UPLINK);
    assert_eq!(enters(&node, &pieces(1)[1]), Verdict::PASS, "the node's own stack waits for the others");
    assert_eq!(reached(&enters(&node, &pieces(1)[0])), Some(1));
    assert_eq!(reached(&enters(&node, &pieces(1)[2])), Some(1));
    after(&mut node, 31);
    assert_eq!(enters(&node, &pieces(1)[2]), Verdict::PASS, "nobody waits that long");
    let out = datagram(tuple(container::<A>(1).0, 5353, A::REMOTE, 53), 1).1;
    assert_eq!(node.veth_in(&mut out[1].clone(), 101), Verdict::drop(Reason::Fragment));
    let stray = datagram(tuple(A::CLIENT, 1, container::<A>(1).0, 53), 1).1;
    for mut piece in stray {
        assert_eq!(node.node_in(&mut piece, UPLINK), Verdict::drop(Reason::Unpublished));
    }
}

fn packets_are_told_apart<A: Family>() {
    let mut node = node::<A>(2);
    publish_for(&mut node, UDP, A::ZERO, 53, &[1]);
    publish_for(&mut node, UDP, A::ZERO, 54, &[2]);
    let one = datagram(tuple(A::CLIENT, 4000, A::NODE, 53), 1).1;
    let two = datagram(tuple(A::CLIENT, 4000, A::NODE, 54), 2).1;
    for n in 0..3 {
        assert_eq!(reached(&node.node_in(&mut one[n].clone(), UPLINK)), Some(1));
        assert_eq!(reached(&node.node_in(&mut two[n].clone(), UPLINK)), Some(2));
    }
    // What one container sends says nothing of what others say in its name.
    let out = datagram(tuple(container::<A>(1).0, 5353, A::REMOTE, 53), 5).1;
    node.veth_in(&mut out[0].clone(), 101);
    assert_eq!(node.veth_in(&mut out[1].clone(), 102), Verdict::drop(Reason::Spoofed));
    assert_eq!(node.node_in(&mut out[1].clone(), UPLINK), Verdict::PASS);
}
