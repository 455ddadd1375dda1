//! Running a table: every row a service, created side by side, all wrongs told at once.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use warren_tests::{
    Cluster, Node,
    image::Image,
    look::{Look, Want},
    program,
};

/// An option, and what is seen of it.
pub struct Row {
    /// Name of the row's service.
    pub name: String,
    /// The flags; `{dir}` stands for the node's directory.
    pub flags: Vec<String>,
    /// Arguments after the name: the container's, instead of the image's.
    pub args: Vec<String>,
    /// Keys of the look, and what is wanted of them.
    pub sees: Vec<(String, Want)>,
}

/// A row: flags as a shell would split them.
pub fn row(name: &str, flags: &str) -> Row {
    let flags = flags.split('|').flat_map(|part| {
        // A word that holds spaces is written between bars: `--env|B=x y`.
        if part.contains(" --") || part.starts_with("--") {
            part.split(' ').map(str::to_owned).collect::<Vec<_>>()
        } else {
            vec![part.to_owned()]
        }
    });
    Row { name: name.into(), flags: flags.filter(|f| !f.is_empty()).collect(), args: vec![], sees: vec![] }
}

impl Row {
    /// Arguments of the container.
    pub fn args(mut self, args: &str) -> Self {
        self.args = args.split(' ').map(str::to_owned).collect();
        self
    }

    fn wants(mut self, key: &str, want: Want) -> Self {
        self.sees.push((key.into(), want));
        self
    }

    /// This key has this value.
    pub fn is(self, key: &str, value: impl Into<String>) -> Self {
        self.wants(key, Want::Is(value.into()))
    }

    /// This key's value has this in it.
    pub fn has(self, key: &str, part: impl Into<String>) -> Self {
        self.wants(key, Want::Has(part.into()))
    }

    /// This key is there, and has another value.
    pub fn not(self, key: &str, value: &str) -> Self {
        self.wants(key, Want::Not(value.into()))
    }

    /// This key's value is a number no larger.
    pub fn at_most(self, key: &str, value: f64) -> Self {
        self.wants(key, Want::AtMost(value))
    }

    /// There is no such key.
    pub fn absent(self, key: &str) -> Self {
        self.wants(key, Want::Absent)
    }

    /// The command that creates its service.
    pub fn words(&self, node: &Node) -> Vec<String> {
        let dir = node.dir().display().to_string();
        let fixed = ["service", "create", "--detach", "--image", "look:1"].map(str::to_owned);
        let flags = self.flags.iter().map(|f| f.replace("{dir}", &dir));
        let name = std::iter::once(self.name.clone());
        fixed.into_iter().chain(flags).chain(name).chain(self.args.iter().cloned()).collect()
    }
}

/// A node with the image `look:1`, which looks around.
pub fn node() -> Result<(Cluster, Node)> {
    let mut cluster = Cluster::new()?;
    let node = Node::start(cluster.host("node")?)?;
    node.import(&Image { cmd: vec!["look".into()], ..Image::web("look:1") })?;
    Ok((cluster, node))
}

/// Creates all, looks, and names every wrong.
pub fn run(node: &Node, rows: &[Row]) -> Result<()> {
    let next = AtomicUsize::new(0);
    // Few at a time: a machine with two processors starts no more.
    let wrong: Vec<String> = thread::scope(|scope| {
        let worker = || {
            let mut wrong = Vec::new();
            while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                wrong.extend(one(node, row).unwrap_or_else(|e| vec![format!("{e:#}")]).into_iter().map(
                    |what| format!("{} ({} {}): {what}", row.name, row.flags.join(" "), row.args.join(" ")),
                ));
            }
            wrong
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().expect("a worker does not panic")).collect()
    });
    ensure!(wrong.is_empty(), "{} wrong in {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    Ok(())
}

fn one(node: &Node, row: &Row) -> Result<Vec<String>> {
    let words = row.words(node);
    let ended = program::run(node.command()?.args(&words).env("FROM_HERE", "yes"), Duration::from_secs(60))?;
    ensure!(ended.good(), "{}", ended.stderr.trim());
    let look = node.look(&row.name)?;
    let wrong = row.sees.iter().filter_map(|(key, want)| want.wrong(key, &look)).collect();
    node.ok(&["service", "rm", "--detach", &row.name])?;
    Ok(wrong)
}

/// Files and mounts that rows refer to, in the node's directory.
pub fn surroundings(node: &Node) -> Result<()> {
    let dir = node.dir();
    fs::write(dir.join("env"), "# a comment\nC=3\nBOTH=file\nFROM_HERE\n\nSPACED=a b \n")?;
    fs::create_dir(dir.join("bind"))?;
    fs::write(dir.join("bind/file"), "of the node\n")?;
    let mut seccomp = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO" }],
    });
    seccomp["syscalls"][0]["errnoRet"] = 1.into();
    fs::write(dir.join("seccomp.json"), seccomp.to_string())?;
    // A directory whose mounts are shared, and one with something mounted below it.
    for (sub, words) in [
        ("shared", vec!["--bind", "{}", "{}"]),
        ("shared", vec!["--make-shared", "{}"]),
        ("deep/below", vec!["-t", "tmpfs", "warren-tests", "{}"]),
    ] {
        let path = dir.join(sub);
        fs::create_dir_all(&path)?;
        let path = path.display().to_string();
        let words: Vec<String> = words.iter().map(|w| w.replace("{}", &path)).collect();
        program::run(Command::new("mount").args(&words), Duration::from_secs(10))?
            .ok()
            .with_context(|| format!("{words:?}"))?;
    }
    fs::write(dir.join("deep/below/file"), "below\n")?;
    Ok(())
}

/// What a look shows of a node's own namespaces and limits.
pub fn outside(node: &Node) -> Result<Look> {
    let testbox = warren_tests::image::testbox()?.display().to_string();
    // Its own /dev/shm: the machine's is not to be written to.
    let line = format!("mount -t tmpfs t /dev/shm && exec timeout -s KILL 2 {testbox} look");
    let ended = program::run(
        node.host.ns.command("unshare")?.args(["-m", "sh", "-c", &line]),
        Duration::from_secs(20),
    )?;
    Ok(Look::parse(&ended.stdout))
}
