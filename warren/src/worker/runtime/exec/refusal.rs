//! Why a program could not be run, as a shell's exit status and a sentence.

use super::ExecError;
use crate::worker::runtime::{client::CallError, failure::quoted};

/// What containerd says of a start that failed.
pub(super) fn refusal(e: CallError) -> ExecError {
    match e {
        CallError::Refused(message) if message.contains("exec failed") || message.contains("exec: ") => {
            let (code, message) = sentence(&message);
            ExecError::Refused { code, message }
        }
        other => other.into(),
    }
}

fn sentence(message: &str) -> (i32, String) {
    if let Some(rest) = message.split("exec: ").nth(1)
        && let Some((name, why)) = quoted(rest)
    {
        if why.contains("executable file not found") || why.contains("no such file or directory") {
            return (127, format!("\"{name}\" is not in the container; name a program that is"));
        }
        if why.contains("permission denied") {
            return (126, format!("\"{name}\" is not executable in the container"));
        }
        if why.contains("is a directory") {
            return (126, format!("\"{name}\" is a directory in the container, not a program"));
        }
    }
    if message.contains("chdir to cwd") {
        let dir = message.split('"').nth(1).unwrap_or_default().trim_end_matches('\\');
        return (
            126,
            format!("\"{dir}\" is not a directory in the container; name one that is with --workdir"),
        );
    }
    if message.contains("exec format error") {
        return (
            126,
            "the program is for another processor architecture, or a script without a #! line".to_owned(),
        );
    }
    let mut core = message.trim_end_matches(": unknown").trim();
    for wrap in [
        "failed to exec in container: ",
        "failed to start exec: ",
        "OCI runtime exec failed: ",
        "exec failed: ",
        "unable to start container process: ",
        "error executing setns process: ",
    ] {
        core = core.find(wrap).map_or(core, |at| &core[at + wrap.len()..]);
    }
    (126, format!("the program could not be run: {core}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runc_is_made_a_shells_status() {
        for (said, code, told) in [
            (
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH: unknown",
                127,
                "\"nope\" is not in the container; name a program that is",
            ),
            (
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/nope\": stat /nope: no such file or directory: unknown",
                127,
                "\"/nope\" is not in the container; name a program that is",
            ),
            (
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/etc/passwd\": permission denied: unknown",
                126,
                "\"/etc/passwd\" is not executable in the container",
            ),
            (
                "OCI runtime exec failed: exec failed: unable to start container process: chdir to cwd (\"/x\") set in config.json failed: no such file or directory: unknown",
                126,
                "\"/x\" is not a directory in the container; name one that is with --workdir",
            ),
            (
                "failed to start exec \"a1\": OCI runtime exec failed: exec failed: strange: unknown",
                126,
                "the program could not be run: strange",
            ),
        ] {
            assert_eq!(sentence(said), (code, told.to_owned()));
        }
    }
}
