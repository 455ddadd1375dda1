//! What runc, containerd and archives say, made one sentence for a person.

use super::client::CallError;
use crate::worker::executor::RuntimeError;

/// Longest text of somebody else's within a sentence of ours, in characters.
const LONGEST: usize = 1000;

/// What somebody else wrote, fit for a line on a terminal: names of files in an image may hold
/// line breaks and escape sequences.
pub(super) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|w| !w.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Translates a failed creation or start of a container.
pub(super) fn start_error(e: CallError) -> RuntimeError {
    match e {
        // Not the image's fault: an earlier start of the same task is still being undone.
        CallError::Refused(message) if message.contains("failed to start shim") => {
            RuntimeError::Temporary(format!("containerd could not make the container: {message}"))
        }
        CallError::Refused(message) => RuntimeError::Fatal(sentence(&message)),
        other => other.into(),
    }
}

fn sentence(message: &str) -> String {
    if let Some(rest) = message.split("exec: ").nth(1)
        && let Some((name, why)) = quoted(rest)
    {
        if why.contains("executable file not found") || why.contains("no such file or directory") {
            return format!(
                "cannot start: \"{name}\" is not in the image; name a program that is, as argument or with --entrypoint"
            );
        }
        if why.contains("permission denied") {
            return format!("cannot start: \"{name}\" is not executable; make it so in the image (chmod +x)");
        }
        if why.contains("is a directory") {
            return format!("cannot start: \"{name}\" is a directory of the image, not a program");
        }
    }
    if message.contains("exec format error") {
        return "cannot start: the program is for another processor architecture, or a script without a #! line"
            .to_owned();
    }
    // runc wraps its causes from the left and containerd's code from the right.
    let mut core = message.trim_end_matches(": unknown").trim();
    for wrap in [
        "failed to create shim task: ",
        "failed to create task: ",
        "failed to start task: ",
        "OCI runtime create failed: ",
        "OCI runtime start failed: ",
        "runc create failed: ",
        "runc start failed: ",
        "unable to start container process: ",
        "error during container init: ",
        "cannot start a container that has stopped: ",
    ] {
        core = core.strip_prefix(wrap).unwrap_or(core);
    }
    format!("cannot start: {core}")
}

/// Splits `"name": rest`, with Go's escapes of quotes undone.
pub(super) fn quoted(s: &str) -> Option<(String, &str)> {
    let s = s.strip_prefix('"').or_else(|| s.strip_prefix("\\\""))?;
    let mut name = String::new();
    let mut chars = s.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((name, &s[i + 1..])),
            '\\' if s[i + 1..].starts_with('"') && s[i + 2..].starts_with(':') => {
                return Some((name, &s[i + 2..]));
            }
            '\\' => name.push(chars.next()?.1),
            _ => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_stays_on_one_line() {
        assert_eq!(one_line(" a\n\tb \u{1b}[31mred\u{1b}[0m\r\n\u{9b}x\u{7f} "), "a b [31mred [0m x");
        assert_eq!(one_line("exec: \"nope\": not found"), "exec: \"nope\": not found");
        assert_eq!(one_line(&"é".repeat(1001)), "é".repeat(1000) + "…");
    }

    #[test]
    fn runc_is_made_readable() {
        for (said, told) in [
            (
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"nope\": executable file not found in $PATH: unknown",
                "cannot start: \"nope\" is not in the image; name a program that is, as argument or with --entrypoint",
            ),
            (
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"/bin/nope\": stat /bin/nope: no such file or directory: unknown",
                "cannot start: \"/bin/nope\" is not in the image; name a program that is, as argument or with --entrypoint",
            ),
            (
                "OCI runtime create failed: runc create failed: unable to start container process: exec: \"/etc/passwd\": permission denied: unknown",
                "cannot start: \"/etc/passwd\" is not executable; make it so in the image (chmod +x)",
            ),
            (
                "failed to create shim task: OCI runtime create failed: runc create failed: namespace path: lstat /run/netns/x: no such file or directory: unknown",
                "cannot start: namespace path: lstat /run/netns/x: no such file or directory",
            ),
            (
                "exec: \"a\\\"b\": executable file not found in $PATH: unknown",
                "cannot start: \"a\"b\" is not in the image; name a program that is, as argument or with --entrypoint",
            ),
        ] {
            assert_eq!(sentence(said), told);
        }
    }
}
