//! The BPF programs in the kernel: packets through `BPF_PROG_TEST_RUN`, compared with the same
//! decisions on a node in memory; the object under `bpftool`; and live traffic through namespaces.

// First: it names tests of both families.
#[path = "packets/testrun.rs"]
#[macro_use]
mod testrun;

#[path = "packets/datagrams.rs"]
mod datagrams;
#[path = "packets/errors.rs"]
mod errors;
#[path = "packets/fragments.rs"]
mod fragments;
#[path = "packets/frame.rs"]
mod frame;
#[path = "packets/guard.rs"]
mod guard;
#[path = "packets/limits.rs"]
mod limits;
#[path = "packets/live.rs"]
mod live;
#[path = "packets/notices.rs"]
mod notices;
#[path = "packets/object.rs"]
mod object;
#[path = "packets/proofs.rs"]
mod proofs;
#[path = "packets/seats.rs"]
mod seats;
#[path = "packets/sources.rs"]
mod sources;
#[path = "packets/traffic.rs"]
mod traffic;
#[path = "packets/tun.rs"]
mod tun;
#[path = "packets/udp.rs"]
mod udp;
#[path = "packets/verdicts.rs"]
mod verdicts;
