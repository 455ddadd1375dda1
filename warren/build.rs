//! Generates the wire code, embeds the BPF object, when one has been built, and builds the log
//! writer, a small program that is embedded, too.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    wire();
    bpf_object();
    log_writer();
}

fn wire() {
    // Cargo runs this in the package's directory. Not `env!`: that is of where this was compiled.
    let root = Path::new("../proto");
    let files: Vec<PathBuf> = ["objects", "control", "dispatcher", "raft"]
        .iter()
        .map(|f| root.join(format!("warren/v1/{f}.proto")))
        .collect();
    for f in &files {
        println!("cargo:rerun-if-changed={}", f.display());
    }
    if let Err(e) = tonic_prost_build::configure().compile_protos(&files, &[root.to_path_buf()]) {
        panic!("cannot generate the wire code ({e}): run `cargo xtask deps`, which installs protoc");
    }
}

/// Puts the object of `cargo xtask build-ebpf` where the loader includes it; an empty file when
/// there is none, so that building and testing the rest needs no BPF toolchain.
fn bpf_object() {
    println!("cargo:rerun-if-env-changed=WARREN_BPF_OBJECT");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let built = env::var_os("WARREN_BPF_OBJECT").map(PathBuf::from).unwrap_or_else(|| {
        // OUT_DIR is <target dir>/<profile>/build/<package>/out. The directory is made here because
        // cargo takes a missing path for a changed one and would rebuild every time.
        let dir = out.ancestors().nth(4).expect("OUT_DIR is deep").join("bpf");
        fs::create_dir_all(&dir).expect("the target directory is writable");
        println!("cargo:rerun-if-changed={}", dir.display());
        dir.join("warren-ebpf.o")
    });
    if built.exists() {
        println!("cargo:rerun-if-changed={}", built.display());
    }
    let object = fs::read(&built).unwrap_or_default();
    fs::write(out.join("warren-ebpf.o"), object).expect("OUT_DIR is writable");
}

/// Builds the program that writes a container's output. It is linked at fixed addresses and without
/// libraries: each container has one, and nothing in it is then private but what it works with.
fn log_writer() {
    const PLACE: &str = "src/worker/logs/writer";
    println!("cargo:rerun-if-changed={PLACE}");
    let variable = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let out = PathBuf::from(variable("OUT_DIR")).join("log-writer");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.arg(format!("{PLACE}/main.rs")).arg("-o").arg(&out).arg("--target").arg(variable("TARGET"));
    rustc.args(["--crate-name", "warren_log_writer", "--crate-type", "bin", "--edition", "2024"]);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    for option in [
        "opt-level=3",
        "panic=abort",
        "codegen-units=1",
        "strip=symbols",
        "relocation-model=static",
        "target-feature=+crt-static",
    ] {
        rustc.arg("-C").arg(option);
    }
    let status = rustc.status().unwrap_or_else(|e| panic!("cannot run {rustc:?}: {e}"));
    assert!(status.success(), "the log writer could not be built: {rustc:?}");
}
