//! A look around from inside a container.

use std::{collections::HashMap, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use super::fixture::{TestNode, eventually, program, removed};
use crate::{
    model::{Mount, MountSource, Propagation, Task, TaskSpec},
    worker::executor::{Runtime, RuntimeError},
};

/// A running container that wrote down what it saw.
pub(super) struct Looked {
    pub(super) task: Task,
    pub(super) pid: u32,
    seen: HashMap<String, String>,
}

impl Looked {
    /// What it saw there.
    pub(super) fn at(&self, what: &str) -> &str {
        self.seen.get(what).unwrap_or_else(|| panic!("{what} was not looked at"))
    }

    /// A line of what it saw, without its first word.
    pub(super) fn line(&self, what: &str, word: &str) -> &str {
        let text = self.at(what);
        let found = text.lines().find_map(|l| l.strip_prefix(word));
        found.unwrap_or_else(|| panic!("no {word} in {text}")).trim()
    }
}

/// The directory that a task of this number reports to.
fn out(node: &TestNode, number: u128) -> PathBuf {
    node.dir.join(format!("out-{number}"))
}

/// A task whose container looks at these things.
pub(super) fn looking(
    node: &TestNode,
    number: u128,
    change: impl FnOnce(&mut TaskSpec),
    what: &[&str],
) -> Task {
    let args: Vec<&str> = std::iter::once("look").chain(what.iter().copied()).collect();
    let mut task = program(number, &args);
    let dir = out(node, number);
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    task.spec.mounts = vec![Mount {
        source: MountSource::Bind {
            path: dir,
            propagation: Propagation::RPrivate,
            non_recursive: false,
            create: false,
        },
        target: "/out".into(),
        read_only: false,
    }];
    change(&mut task.spec);
    task
}

/// Starts a task that looks, and waits until it has.
pub(super) async fn run(node: &TestNode, number: u128, task: Task) -> Looked {
    node.containerd.prepare(&task, &node.network).await.unwrap();
    let pid = node.containerd.start(task.id).await.unwrap();
    let report = out(node, number).join("report");
    eventually("the container has looked around", async || report.exists()).await;
    let text = String::from_utf8_lossy(&fs::read(&report).unwrap()).into_owned();
    let words: Vec<&str> = text.split('\0').collect();
    let seen = words.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect();
    Looked { task, pid, seen }
}

/// What a container of this service sees. It is removed again.
pub(super) async fn look(
    node: &TestNode,
    number: u128,
    change: impl FnOnce(&mut TaskSpec),
    what: &[&str],
) -> Looked {
    let looked = run(node, number, looking(node, number, change, what)).await;
    removed(node, &looked.task).await;
    looked
}

/// The sentence with which a service like this is refused.
pub(super) async fn refusal(node: &TestNode, number: u128, change: impl FnOnce(&mut TaskSpec)) -> String {
    let task = looking(node, number, change, &[]);
    let made = node.containerd.prepare(&task, &node.network).await;
    let why = match made {
        Err(RuntimeError::Fatal(why)) => why,
        other => panic!("{other:?}"),
    };
    removed(node, &task).await;
    why
}
