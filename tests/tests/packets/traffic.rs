//! What flows count, in the kernel.

use anyhow::{Result, ensure};
use warren_ebpf::{
    abi::{TCP, program},
    packet::{ACK, SYN},
};

use crate::{
    frame::{Family, make, reversed, tuple},
    testrun::{Twins, UPLINK, container, run_merged},
};

of_both_families!(merged_packets_are_counted_apart);

/// Some devices say how many are merged, some only how large they are, with a header of 20 bytes before each.
fn merged_packets_are_counted_apart<A: Family>() -> Result<()> {
    let mut twins = Twins::<A>::new()?;
    let t = tuple(A::CLIENT, 40_000, A::NODE, 8082);
    let (_, inside) = twins.enter(t, TCP, SYN)?;
    twins.leave(1, reversed(inside), TCP, SYN | ACK)?;
    twins.enter(t, TCP, ACK)?;
    twins.same_records()?;
    let bytes = |packet: &[u8]| packet.len() as u64 - 14;
    for (segments, size, payload, packets) in
        [(0, 700, 3000, 5), (0, 750, 3000, 4), (0, 3000, 3000, 1), (5, 700, 3000, 5), (0, 0, 3000, 1)]
    {
        let packet = make(t, TCP, ACK, &vec![7; payload]);
        let before = twins.traffic()?;
        let said = run_merged(&mut twins.ebpf, program::NODE_IN_L2, UPLINK, &packet, (segments, size))?.0;
        let after = twins.traffic()?;
        ensure!(said == 7, "it is not sent on: {said}");
        let counted = after.received_packets - before.received_packets;
        ensure!(counted == packets, "{segments} of {size} in {payload}: {counted} packets");
        ensure!(after.received - before.received == bytes(&packet) && after.sent == before.sent);

        let packet = make(reversed(inside), TCP, ACK, &vec![7; payload]);
        let link = container::<A>(1).1;
        run_merged(&mut twins.ebpf, program::VETH_IN, link, &packet, (segments, size))?;
        let answered = twins.traffic()?;
        ensure!(answered.sent_packets - after.sent_packets == packets, "{answered:?}");
        ensure!(answered.sent - after.sent == bytes(&packet) && answered.received == after.received);
    }
    Ok(())
}
