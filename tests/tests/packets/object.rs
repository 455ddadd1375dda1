//! The object itself: where it is, and that tools other than ours can read it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use warren_ebpf::abi::{map, program};

/// The built object, or what to run.
pub fn bytes() -> Result<Vec<u8>> {
    let path = path();
    fs::read(&path)
        .with_context(|| format!("no BPF object at {}: run `cargo xtask build-ebpf`", path.display()))
}

fn path() -> PathBuf {
    if let Some(path) = std::env::var_os("WARREN_BPF_OBJECT") {
        return path.into();
    }
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    };
    target.join("bpf/warren-ebpf.o")
}

/// A directory in bpffs that goes with its pins.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bpftool(args: &[&str]) -> Result<String> {
    let out = Command::new("bpftool").args(args).output().context("bpftool: run `cargo xtask deps`")?;
    ensure!(out.status.success(), "bpftool {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?)
}

#[test]
#[ignore = "needs root"]
fn bpftool_loads_it_and_prints_named_fields() -> Result<()> {
    bytes()?;
    let pins = Pins(format!("/sys/fs/bpf/warren-packets-{}", std::process::id()).into());
    let (object, programs, maps) = (path(), pins.0.join("programs"), pins.0.join("maps"));
    let text = |p: &Path| p.to_str().expect("ASCII").to_owned();
    fs::create_dir_all(&pins.0)?;
    bpftool(&["prog", "loadall", &text(&object), &text(&programs), "pinmaps", &text(&maps)])?;
    for name in [
        program::NODE_IN_L2,
        program::NODE_IN_L3,
        program::VETH_IN,
        program::GUARD,
        program::SOCK_CONNECT4,
        program::SOCK_SENDMSG4,
        program::SOCK_RECVMSG4,
        program::SOCK_GETPEER4,
        program::SOCK_CONNECT6,
        program::SOCK_GETPEER6,
    ] {
        ensure!(programs.join(name).exists(), "no program {name}");
    }
    for name in map::ALL {
        ensure!(maps.join(name).exists(), "no map {name}");
    }
    let dump = |name: &str| bpftool(&["map", "dump", "pinned", &text(&maps.join(name))]);
    let config = dump(map::CONFIG)?;
    for field in ["netns_cookie", "hairpin", "half_open", "masquerade_first"] {
        ensure!(config.contains(&format!("\"{field}\"")), "CONFIG has no {field}: {config}");
    }
    // SVC4: 0.0.0.0:8080/tcp, port in host order (little-endian bytes).
    let value = ["0"; 32].join(" ");
    let service = text(&maps.join(map::SVC4));
    let mut update = vec![
        "map", "update", "pinned", &service, "key", "0", "0", "0", "0", "0x90", "0x1f", "6", "0", "value",
    ];
    update.extend(value.split(' '));
    bpftool(&update)?;
    let services: serde_json::Value = serde_json::from_str(&dump(map::SVC4)?)?;
    ensure!(services[0]["key"]["port"] == 8080, "{services}");
    ensure!(services[0]["key"]["protocol"] == 6, "{services}");
    ensure!(services[0]["value"].get("table_size").is_some(), "{services}");
    Ok(())
}
