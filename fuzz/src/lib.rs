//! A node's packets, as anybody may send them: the decisions and rewrites of `warren-ebpf`, run on a node
//! in memory and judged packet by packet. [`run`] is the target of the fuzzer (`cargo xtask fuzz`) and of
//! the tests beside it, which need no fuzzer.
//!
//! - [`input`]: what bytes mean as things that happen;
//! - [`world`]: a node with containers and published ports to which they happen, once for each family;
//! - [`judge`]: what must be true of each packet afterwards, whatever it was;
//! - [`read`], [`frames`]: packets as etherparse reads and makes them; [`family`]: their addresses.

pub mod family;
pub mod frames;
pub mod input;
pub mod judge;
pub mod read;
pub mod world;

use std::sync::LazyLock;

use warren_ebpf::{abi::Words, flow::decide::Action};

use crate::{input::Input, world::World};

/// How much happens at most, so that one run stays short.
const EVENTS: usize = 96;

/// Whether to say what happens (`WARREN_FUZZ_SHOW=1`).
static SHOW: LazyLock<bool> = LazyLock::new(|| std::env::var_os("WARREN_FUZZ_SHOW").is_some());

/// Lets happen what the bytes say.
///
/// # Panics
/// When what must be true of a packet is not.
pub fn run(data: &[u8]) {
    sent_on(data);
}

/// As [`run`]; how many packets were sent on, to a container or by a device.
///
/// # Panics
/// As [`run`].
pub fn sent_on(data: &[u8]) -> usize {
    let mut input = Input::new(data);
    let setting = input.setting();
    let mut four = World::<[u8; 4]>::new(setting);
    let mut six = World::<[u8; 16]>::new(setting);
    // As the programs in the kernel see addresses.
    let mut words = World::<Words>::new(setting);
    let (mut count, show) = (0, *SHOW);
    for _ in 0..EVENTS {
        let Some(event) = input.event() else { break };
        if show {
            eprintln!("{event:?}");
        }
        let became = if event.is_of_all() {
            words.happen(&event);
            [four.happen(&event), six.happen(&event)].concat()
        } else if event.is_of_ipv6() {
            let became = six.happen(&event);
            assert_eq!(became, words.happen(&event), "one family, seen in two ways");
            became
        } else {
            four.happen(&event)
        };
        count +=
            became.iter().filter(|(action, ..)| matches!(action, Action::Container | Action::Device)).count();
    }
    count
}
