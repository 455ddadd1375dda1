//! A program that puts a packet back as it was and hands it to another, so that one call of the
//! kernel's test-run can repeat a program that rewrites packets. Assembled by hand: it is part of
//! the measurement, not of the object.

use std::{
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use anyhow::{Result, ensure};
use warren_tests::bench::bpf::{
    EXIT, SCHED_CLS, STORE_BYTES, XDP, bpf, call, copy, halves, insn, load, owned, set,
};

/// `bpf(2)`: commands, types and helpers.
const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const TEST_RUN: libc::c_long = 10;
const PROG_ARRAY: u32 = 3;
const GET_PRANDOM: i32 = 7;
const TAIL_CALL: i32 = 12;

/// What the wrapper returns when there is nobody to hand the packet to.
const NOBODY: i32 = 77;

/// What a program of XDP says when it lets a packet pass.
pub const XDP_PASS: i32 = 2;

/// Where a program sees its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// In TC.
    Tc,
    /// In the device's driver.
    Xdp,
}

/// A program in the kernel.
pub struct Program {
    fd: OwnedFd,
    hook: Hook,
}

impl Program {
    /// A program that is loaded already.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn of(fd: BorrowedFd<'_>, hook: Hook) -> Result<Self> {
        Ok(Self { fd: fd.try_clone_to_owned()?, hook })
    }

    /// Where it sees its packets.
    #[must_use]
    pub fn hook(&self) -> Hook {
        self.hook
    }

    fn load(hook: Hook, code: &[u64]) -> Result<Self> {
        let kind = if hook == Hook::Tc { SCHED_CLS } else { XDP };
        Ok(Self { fd: load(kind, code)?, hook })
    }

    /// Returns at once.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn empty(hook: Hook) -> Result<Self> {
        let passes = if hook == Hook::Tc { -1 } else { XDP_PASS };
        Self::load(hook, &[set(0, passes), EXIT])
    }

    /// Runs it `times` over on one packet that came in by a device (in a driver: by lo): nanoseconds a
    /// run, and what the last one returned.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn run(&self, packet: &[u8], ifindex: u32, times: u32) -> Result<(u32, i32)> {
        // struct __sk_buff: ifindex is at byte 40.
        let mut context = [0u32; 48];
        context[10] = ifindex;
        let ([data_low, data_high], [context_low, context_high]) =
            (halves(packet.as_ptr()), halves(context.as_ptr()));
        let mut words = [0; 20];
        words[0] = self.fd.as_raw_fd().cast_unsigned();
        words[2] = u32::try_from(packet.len())?;
        [words[4], words[5]] = [data_low, data_high];
        words[8] = times;
        if self.hook == Hook::Tc {
            words[10] = u32::try_from(size_of_val(&context))?;
            [words[12], words[13]] = [context_low, context_high];
        }
        bpf(TEST_RUN, &mut words)?;
        Ok((words[9], words[1].cast_signed()))
    }
}

/// What of a packet is another one each time.
#[derive(Debug, Clone, Copy)]
pub struct Random {
    /// Where two bytes of the source's address are.
    pub address: u8,
    /// Where the source's port is.
    pub port: u8,
}

/// A program before which a packet is put back.
pub struct Wrapped {
    program: Rc<Program>,
    /// Keeps the program that is called: the map must live as long as this.
    _jumps: Option<OwnedFd>,
    packet: Vec<u8>,
    ifindex: u32,
    returns: i32,
}

impl Wrapped {
    /// Puts `packet` back (up to a multiple of four bytes) and calls `target`, which is to return
    /// `returns`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(
        target: &Program,
        packet: &[u8],
        ifindex: u32,
        random: Option<Random>,
        returns: i32,
    ) -> Result<Self> {
        let mut words = [0; 8];
        words[..4].copy_from_slice(&[PROG_ARRAY, 4, 4, 1]);
        let jumps = owned(bpf(MAP_CREATE, &mut words)?)?;
        let (key, value) = (0u32, target.fd.as_raw_fd());
        let mut words = [0; 8];
        words[0] = jumps.as_raw_fd().cast_unsigned();
        [words[2], words[3]] = halves(&raw const key);
        [words[4], words[5]] = halves(&raw const value);
        bpf(MAP_UPDATE, &mut words)?;

        let words = packet.as_chunks::<4>().0;
        let length = 4 * i16::try_from(words.len())?;
        ensure!(length <= 256, "a packet of {} bytes does not fit the stack", packet.len());
        let mut code = vec![copy(6, 1)];
        for (at, word) in (0i16..).step_by(4).zip(words) {
            // *(u32 *)(r10 - length + at) = word
            code.push(insn(0x62, 10, 0, at - length, i32::from_ne_bytes(*word)));
        }
        if let Some(Random { address, port }) = random {
            let store = |at: u8| insn(0x6b, 10, 0, i16::from(at) - length, 0);
            code.extend([call(GET_PRANDOM), store(address), insn(0x77, 0, 0, 0, 16), store(port)]);
        }
        // skb_store_bytes(skb, 0, r10 - length, length, 0)
        code.extend([copy(1, 6), set(2, 0), copy(3, 10), insn(0x07, 3, 0, 0, -i32::from(length))]);
        code.extend([set(4, length.into()), set(5, 0), call(STORE_BYTES)]);
        // tail_call(skb, jumps, 0)
        code.extend([copy(1, 6), insn(0x18, 2, 1, 0, jumps.as_raw_fd()), 0, set(3, 0), call(TAIL_CALL)]);
        code.extend([set(0, NOBODY), EXIT]);
        let program = Rc::new(Program::load(Hook::Tc, &code)?);
        Ok(Self { program, _jumps: Some(jumps), packet: packet.to_vec(), ifindex, returns })
    }

    /// The same before a program that returns at once.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn before(empty: &Program, packet: &[u8], ifindex: u32, random: Option<Random>) -> Result<Self> {
        Self::new(empty, packet, ifindex, random, -1)
    }

    /// A program that changes no packet, so that nothing is to be put back.
    #[must_use]
    pub fn bare(program: Rc<Program>, packet: &[u8], ifindex: u32, returns: i32) -> Self {
        Self { program, _jumps: None, packet: packet.to_vec(), ifindex, returns }
    }

    /// Nanoseconds a run, of so many.
    ///
    /// # Errors
    /// The last one did not return what it should.
    pub fn run(&self, times: u32) -> Result<u32> {
        let (took, returned) = self.program.run(&self.packet, self.ifindex, times)?;
        ensure!(returned == self.returns, "it returned {returned}, not {}", self.returns);
        Ok(took)
    }
}
