//! The fuzzer's target without the fuzzer: what is kept in `fuzz/corpus/packets`, and histories by chance.

#[path = "corpus/seeds.rs"]
mod seeds;

use std::{collections::BTreeMap, path::PathBuf};

use proptest::{prelude::*, test_runner::RngSeed};

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus/packets")
}

/// What the seeds made here are called begins so; anything else was found by the fuzzer and is kept.
const MADE: &str = "made-";

fn kept() -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(corpus()).expect("the corpus is there");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("it is listed").path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        (name, std::fs::read(&path).expect("it is readable"))
    };
    entries.map(read).collect()
}

/// The seeds are what is made here (`UPDATE_GOLDEN=1` writes them).
#[test]
fn the_corpus_has_the_seeds() {
    let made: BTreeMap<_, _> =
        seeds::all().into_iter().map(|(name, bytes)| (format!("{MADE}{name}"), bytes)).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(corpus()).unwrap();
        for name in kept().keys().filter(|name| name.starts_with(MADE) && !made.contains_key(*name)) {
            std::fs::remove_file(corpus().join(name)).unwrap();
        }
        for (name, bytes) in &made {
            std::fs::write(corpus().join(name), bytes).unwrap();
        }
    }
    let kept = kept().into_iter().filter(|(name, _)| name.starts_with(MADE));
    assert!(kept.eq(made), "run with UPDATE_GOLDEN=1 and look at what changed");
}

/// Whatever was kept, of what was made and what was found, still holds.
#[test]
fn the_corpus_holds() {
    for (name, bytes) in kept() {
        println!("{name}");
        warren_fuzz::run(&bytes);
    }
}

/// Seeds whose packets all go their way: what they are to reach is reached.
#[test]
fn seeds_get_through() {
    for (name, bytes) in seeds::all() {
        let least = seeds::reached(&name);
        assert!(warren_fuzz::sent_on(&bytes) >= least, "{name}: {} of {least}", warren_fuzz::sent_on(&bytes));
    }
}

/// Things that happen, mostly in a way that makes sense.
fn event() -> impl Strategy<Value = Vec<u8>> {
    let record = (2u8..14, any::<[u8; 3]>()).prop_map(|(kind, [x, y, z])| vec![kind, x, y, z]);
    let time = (0u8..=255, 0u8..12).prop_map(|(low, high)| vec![10, 0, low, high]);
    let frame = (0u8..2, any::<u8>(), prop::collection::vec(any::<u8>(), 0..120), 0u8..3).prop_map(
        |(kind, x, mut frame, family)| {
            if frame.len() >= 15 && family < 2 {
                let (ethertype, version) = [([8, 0], 0x45), ([0x86, 0xdd], 0x60)][usize::from(family)];
                frame[12..14].copy_from_slice(&ethertype);
                frame[14] = version;
            }
            let mut out = vec![kind, x, 0, 0, frame.len() as u8, 0];
            out.extend(frame);
            out
        },
    );
    prop_oneof![12 => record, 1 => time, 2 => frame]
}

proptest! {
    // The same every time: what is found by chance is for the fuzzer.
    #![proptest_config(ProptestConfig {
        cases: 1500, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default()
    })]

    /// Whatever happens in whatever order.
    #[test]
    fn histories_hold(setting: u8, events in prop::collection::vec(event(), 1..90)) {
        let mut bytes = vec![setting];
        bytes.extend(events.concat());
        warren_fuzz::run(&bytes);
    }

    /// Seeds with some of their bytes changed.
    #[test]
    fn spoiled_seeds_hold(
        which: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let all = seeds::all();
        let mut bytes = which.get(&all).1.clone();
        for (place, to) in changes {
            *place.get_mut(&mut bytes) = to;
        }
        warren_fuzz::run(&bytes);
    }
}
