//! The container's process settings, made those of a program run beside it. Works on the record as
//! it is written, so that settings this file has never heard of reach the program too.

use serde_json::{Value, json};

use super::{ExecSpec, Streams};
use crate::worker::runtime::spec::User;

/// Makes the process of `spec` from the container's specification; `user` replaces the
/// container's. `all` are the capabilities a privileged program gets.
pub(super) fn process(
    container: &Value,
    spec: &ExecSpec,
    user: Option<&User>,
    all: &[String],
) -> Result<Value, String> {
    let mut p = container["process"].clone();
    if !p.is_object() {
        return Err("the container's record has no process".to_owned());
    }
    p["args"] = json!(spec.command);
    if let Some(dir) = &spec.workdir {
        p["cwd"] = json!(dir);
    }
    if let Some(u) = user {
        p["user"] = json!({ "uid": u.uid, "gid": u.gid, "additionalGids": u.groups });
    }
    match spec.streams {
        Streams::Terminal(size) => {
            p["terminal"] = json!(true);
            // Known from the start, so that nothing is ever drawn at a wrong size.
            p["consoleSize"] = json!({ "height": size.rows, "width": size.columns });
        }
        _ => {
            p["terminal"] = json!(false);
            p.as_object_mut().map(|o| o.remove("consoleSize"));
        }
    }
    environment(&mut p, spec, user.is_some());
    if spec.privileged {
        p["capabilities"] = json!({
            "bounding": all, "effective": all, "permitted": all, "inheritable": [], "ambient": [],
        });
    } else if user.is_some() && p["capabilities"].is_object() {
        // As after any other execve: root has what the container may have, others have nothing.
        let own = if p["user"]["uid"] == 0 { p["capabilities"]["bounding"].clone() } else { json!([]) };
        for set in ["effective", "permitted"] {
            p["capabilities"][set] = own.clone();
        }
        p["capabilities"]["ambient"] = json!([]);
    }
    Ok(p)
}

fn environment(p: &mut Value, spec: &ExecSpec, other_user: bool) {
    let name = |v: &str| v.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<String> = p["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        // Another user has another home; runc looks it up when there is none.
        .filter(|v| !other_user || name(v) != "HOME")
        .collect();
    if matches!(spec.streams, Streams::Terminal(_)) && !env.iter().any(|v| name(v) == "TERM") {
        env.push("TERM=xterm".to_owned());
    }
    for (key, value) in &spec.env {
        env.retain(|v| name(v) != *key);
        env.push(format!("{key}={value}"));
    }
    p["env"] = json!(env);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::runtime::exec::TerminalSize;

    fn container() -> Value {
        json!({
            "process": {
                "terminal": false,
                "user": { "uid": 101, "gid": 102, "additionalGids": [102] },
                "args": ["/bin/web"],
                "env": ["PATH=/bin", "A=old", "HOME=/home/web"],
                "cwd": "/srv",
                "capabilities": { "bounding": ["CAP_KILL"], "effective": [], "permitted": [] },
                "noNewPrivileges": true,
                "somethingNew": 7,
            },
        })
    }

    fn spec(command: &[&str]) -> ExecSpec {
        ExecSpec { command: command.iter().map(|&c| c.to_owned()).collect(), ..ExecSpec::default() }
    }

    #[test]
    fn a_program_has_the_containers_settings() {
        let p = process(&container(), &spec(&["id", "-u"]), None, &[]).unwrap();
        let mut expected = container()["process"].clone();
        expected["args"] = json!(["id", "-u"]);
        assert_eq!(p, expected);
        assert!(process(&json!({}), &spec(&["id"]), None, &[]).is_err());
    }

    #[test]
    fn what_is_asked_replaces_them() {
        let mut s = spec(&["sh"]);
        s.streams = Streams::Terminal(TerminalSize { rows: 50, columns: 132 });
        s.env = vec![("A".into(), "new".into()), ("B".into(), "a=b".into())];
        s.workdir = Some("/tmp".into());
        let root = User { uid: 0, gid: 0, groups: vec![0] };
        let p = process(&container(), &s, Some(&root), &[]).unwrap();
        assert_eq!(p["env"], json!(["PATH=/bin", "TERM=xterm", "A=new", "B=a=b"]));
        assert_eq!(p["cwd"], "/tmp");
        assert_eq!(p["terminal"], true);
        assert_eq!(p["consoleSize"], json!({ "height": 50, "width": 132 }));
        assert_eq!(p["user"], json!({ "uid": 0, "gid": 0, "additionalGids": [0] }));
        assert_eq!(p["capabilities"]["effective"], json!(["CAP_KILL"]));
        let web = User { uid: 5, gid: 5, groups: vec![5] };
        let p = process(&container(), &s, Some(&web), &[]).unwrap();
        assert_eq!(p["capabilities"]["effective"], json!([]));
        s.privileged = true;
        let p = process(&container(), &s, None, &["CAP_BPF".into()]).unwrap();
        assert_eq!(p["capabilities"]["permitted"], json!(["CAP_BPF"]));
    }
}
