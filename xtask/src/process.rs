//! Running other programs, showing what is run.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// A heading.
pub fn say(text: &str) {
    eprintln!("==> {text}");
}

/// A command that will run in the workspace.
pub fn command(program: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut c = Command::new(program);
    c.args(args).current_dir(crate::workspace::root());
    c
}

/// The cargo that runs us, so that one toolchain does everything.
pub fn cargo(args: &[&str]) -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args)
}

/// Runs to the end with the terminal's output.
///
/// # Errors
/// It cannot be started, or ends with another status than 0.
pub fn run(c: &mut Command) -> Result<()> {
    eprintln!("    $ {}", shown(c));
    let status = c.stdin(Stdio::null()).status().with_context(|| format!("cannot run {}", shown(c)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(c));
    }
    Ok(())
}

/// Runs quietly; the standard output.
///
/// # Errors
/// As [`run`]; carries what it wrote to standard error.
pub fn output(c: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output_bytes(c)?).into_owned())
}

/// Runs quietly; the standard output as it is.
///
/// # Errors
/// As [`output`].
pub fn output_bytes(c: &mut Command) -> Result<Vec<u8>> {
    let out = c.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", shown(c)))?;
    if !out.status.success() {
        bail!("`{}` failed: {}", shown(c), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(out.stdout)
}

/// The command as a person would type it.
fn shown(c: &Command) -> String {
    let mut words: Vec<String> = c
        .get_envs()
        .filter(|(k, _)| *k != "PATH")
        .filter_map(|(k, v)| Some(format!("{}={}", k.display(), quoted(v?))))
        .collect();
    let program = Path::new(c.get_program());
    words.push(program.file_name().unwrap_or(c.get_program()).display().to_string());
    words.extend(c.get_args().map(quoted));
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let text = word.display().to_string();
    if text.is_empty() || text.contains([' ', '"', '$', '*', '(', '\n']) { format!("'{text}'") } else { text }
}

/// Where a program is: `PATH`, the system directories that an ordinary user's `PATH` lacks, and
/// cargo's own.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    dirs.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.extend(cargo_bin());
    dirs.into_iter().map(|d| d.join(program)).find(|p| p.is_file())
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    Some(home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?.join("bin"))
}

/// Whether we are root.
pub fn is_root() -> bool {
    // The owner of /proc/self is the effective user.
    std::os::unix::fs::MetadataExt::uid(&match std::fs::metadata("/proc/self") {
        Ok(m) => m,
        Err(_) => return false,
    }) == 0
}
