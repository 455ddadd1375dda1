//! The fuzzer's way to [`warren_fuzz::run`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| warren_fuzz::run(data));
