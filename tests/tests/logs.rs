//! What containers write: kept, read, followed, and bounded.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use warren_tests::{Node, eventually, process, scenario::OneNode};

const SOON: Duration = Duration::from_secs(20);
/// Bytes of a record of `lines`: 40 before the line, 13, and a newline.
const RECORD: u64 = 54;
/// For what writes millions of lines on a busy machine.
const LONG: Duration = Duration::from_secs(180);

/// A service that writes `lines` numbered lines on each stream, `rate` a second, and stays.
fn writer(node: &Node, name: &str, flags: &[&str], lines: u64, rate: u64) -> Result<()> {
    let words = ["service", "create", "--detach", "--image", "web:1", "--restart-condition", "none"];
    let (lines, rate) = (lines.to_string(), rate.to_string());
    node.ok(&[&words[..], flags, &[name, "lines", &lines, &rate]].concat()).map(drop)
}

/// The one task of a service, once it has been started.
fn task(node: &Node, name: &str) -> Result<String> {
    eventually("it has a task", SOON, || {
        let tasks = node.running(name)?;
        Ok(tasks.first().context("none runs")?.0.clone())
    })
}

fn dir(node: &Node, task: &str) -> PathBuf {
    node.data_dir().join("worker/logs").join(task)
}

/// The files of a task, in order.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?.flatten().map(|e| e.path()).collect();
    found.retain(|p| p.extension().is_some_and(|e| e == "log"));
    found.sort();
    Ok(found)
}

/// The numbers in a task's files, of stdout and of stderr, read as the format's document says and
/// not by Warren.
fn numbers(dir: &Path) -> Result<[Vec<u64>; 2]> {
    let mut found = [Vec::new(), Vec::new()];
    let mut last = String::new();
    for file in files(dir)? {
        for line in fs::read_to_string(&file)?.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            let [at, stream, "F", text] = words[..] else { bail!("{}: {line:?}", file.display()) };
            ensure!(at >= last.as_str(), "time goes back: {last} {line}");
            at.clone_into(&mut last);
            let (stream, word) = match stream {
                "stdout" => (0, "out "),
                "stderr" => (1, "err "),
                _ => bail!("{line:?}"),
            };
            found[stream]
                .push(text.strip_prefix(word).and_then(|n| n.parse().ok()).with_context(|| line.to_owned())?);
        }
    }
    Ok(found)
}

/// Each once and in order.
fn complete(numbers: &[u64], from: u64, to: u64) -> Result<()> {
    ensure!(numbers.first() == Some(&from), "begins with {:?} and not {from}", numbers.first());
    if let Some(pair) = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        bail!("{} is followed by {}", pair[0], pair[1]);
    }
    ensure!(numbers.last() == Some(&to), "ends with {:?} and not {to}", numbers.last());
    Ok(())
}

/// `service logs`: what it printed on each output.
fn logs(node: &Node, words: &[&str]) -> Result<(String, String)> {
    let ended = node.cli(&[&["service", "logs"], words].concat())?;
    ensure!(ended.good(), "{words:?}: {:?} {}", ended.status, ended.stderr);
    Ok((ended.stdout, ended.stderr))
}

/// `service logs --follow`, writing to two files.
struct Follower {
    child: Child,
    out: PathBuf,
}

impl Follower {
    fn start(node: &Node, words: &[&str]) -> Result<Self> {
        let out = node.dir().join(format!("followed-{}", words.join("-")));
        let file = |end: &str| fs::File::create(out.with_extension(end));
        let mut command = node.command()?;
        command.args(["service", "logs", "--follow"]).args(words);
        let child = command.stdin(Stdio::null()).stdout(file("out")?).stderr(file("err")?).spawn()?;
        Ok(Self { child, out })
    }

    fn text(&self) -> Result<(String, String)> {
        Ok((
            fs::read_to_string(self.out.with_extension("out"))?,
            fs::read_to_string(self.out.with_extension("err"))?,
        ))
    }

    /// Waits for its own end.
    fn ended(mut self) -> Result<(String, String)> {
        let ended = eventually("the follower ends by itself", SOON, || {
            self.child.try_wait()?.context("it still runs")
        });
        ensure!(ended?.success(), "{:?}", self.text()?);
        self.text()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn numbered(text: &str, word: &str) -> Result<Vec<u64>> {
    text.lines()
        .map(|l| {
            let number = l.rsplit_once(word).and_then(|(_, n)| n.trim_end_matches('\r').parse().ok());
            number.with_context(|| format!("a line: {l:?}"))
        })
        .collect()
}

#[test]
#[ignore = "needs root"]
fn each_flag_has_its_effect() -> Result<()> {
    let site = OneNode::new()?;
    let node = &site.node;
    writer(node, "w", &[], 20, 0)?;
    let id = task(node, "w")?;
    let bare = |words: &[&str]| logs(node, &[words, &["--no-task-names", "w"]].concat());
    let (out, err) = eventually("all is written", SOON, || {
        let (out, err) = bare(&[])?;
        ensure!(out.lines().count() == 20 && err.lines().count() == 20, "{out}{err}");
        Ok((out, err))
    })?;
    complete(&numbered(&out, "out ")?, 1, 20)?;
    complete(&numbered(&err, "err ")?, 1, 20)?;
    ensure!(out.starts_with("out 000000001\n"), "{out}");

    let (named, _) = logs(node, &["w"])?;
    ensure!(named.starts_with(&format!("w.1.{} | out 000000001\n", &id[..5])), "{named}");
    for one in [id.as_str(), &id[..8], "w.1", &format!("w.1.{}", &id[..5])] {
        ensure!(logs(node, &[one])? == (out.clone(), err.clone()), "by {one}");
    }
    let (some, more) = bare(&["--tail", "3"])?;
    ensure!(some.lines().count() + more.lines().count() == 3, "{some}{more}");
    ensure!(format!("{some}{more}").contains("err 000000020"), "{some}{more}");
    ensure!(bare(&["-n", "2", "--stream", "stdout"])?.0 == "out 000000019\nout 000000020\n");
    ensure!(bare(&["--stream", "stdout"])? == (out.clone(), String::new()));
    ensure!(bare(&["--stream", "stderr"])? == (String::new(), err.clone()));
    ensure!(bare(&["--grep", "0{8}7$"])? == ("out 000000007\n".to_owned(), "err 000000007\n".to_owned()));
    let last = bare(&["--grep", "out .*1", "--tail", "1"])?;
    ensure!(last == ("out 000000019\n".to_owned(), String::new()), "{last:?}");

    let (timed, _) = bare(&["--timestamps", "--stream", "stdout"])?;
    let first = timed.lines().next().and_then(|l| l.split_once(' ')).context("a line")?.0;
    ensure!(first.len() == 30 && first.ends_with('Z'), "{first}");
    let later = bare(&["--since", first])?;
    ensure!(later == (out.clone(), err.clone()), "the moment itself belongs to it");
    ensure!(bare(&["--until", first])?.0.is_empty());
    ensure!(bare(&["--since", "1h"])?.0 == out && bare(&["--until", "1h"])?.0.is_empty());
    thread::sleep(Duration::from_millis(1100));
    ensure!(bare(&["--since", "1s"])?.0.is_empty() && bare(&["--until", "1s"])?.0 == out);

    let no = node.refused(&["service", "logs", "nobody"])?;
    ensure!(no.contains("no service and no task nobody"), "{no}");
    let no = node.refused(&["service", "logs", "--grep", "(", "w"])?;
    ensure!(no.contains("\"(\" is not a regular expression: unclosed group"), "{no}");
    let no = node.refused(&["service", "logs", "--since", "yesterday", "w"])?;
    ensure!(no.contains("\"yesterday\" is neither a time ago"), "{no}");

    // Who has seen enough leaves, and nobody complains.
    let line = format!(
        "{} service logs w | head -n 1; exit ${{PIPESTATUS[0]}}",
        warren_tests::node::warren()?.display()
    );
    let mut shell = std::process::Command::new("bash");
    shell.args(["-c", &line]).env("WARREN_SOCKET", node.socket());
    let ended = warren_tests::program::run(&mut shell, SOON)?;
    ensure!(ended.good() && ended.stdout.lines().count() == 1, "{ended:?}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_follower_sees_new_tasks_and_the_end() -> Result<()> {
    let site = OneNode::new()?;
    let node = &site.node;
    writer(node, "w", &[], 10, 0)?;
    task(node, "w")?;
    let follower = Follower::start(node, &["w"])?;
    let tail = Follower::start(node, &["--tail", "0", "w"])?;
    let seen = |text: &str| {
        let mut tasks = BTreeMap::<String, Vec<u64>>::new();
        for line in text.lines() {
            let (task, number) = line.split_once(" | out ").with_context(|| line.to_owned())?;
            tasks.entry(task.to_owned()).or_default().push(number.parse()?);
        }
        Ok::<_, anyhow::Error>(tasks)
    };
    let wait = |tasks: usize| {
        eventually("the follower shows all", SOON, || {
            let seen = seen(&follower.text()?.0)?;
            ensure!(seen.len() == tasks && seen.values().all(|lines| lines.len() == 10), "{seen:?}");
            Ok(())
        })
    };
    wait(1)?;
    node.ok(&["service", "scale", "w=3"])?;
    wait(3)?;
    node.ok(&["service", "rm", "w"])?;
    let (out, err) = follower.ended()?;
    for lines in seen(&out)?.values() {
        complete(lines, 1, 10)?;
    }
    ensure!(err.lines().count() == 30, "{err}");
    let (out, _) = tail.ended()?;
    ensure!(seen(&out)?.len() == 2, "what was there before was not asked for: {out}");
    // Nothing is kept of what nobody lists any more.
    eventually("the files are gone", SOON, || {
        let left: Vec<_> = fs::read_dir(node.data_dir().join("worker/logs"))?
            .flatten()
            .filter(|e| e.path().is_dir())
            .collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn a_follower_goes_on_over_restarts_of_the_agent() -> Result<()> {
    const LINES: u64 = 20_000;
    let mut site = OneNode::new()?;
    let flags = ["--replicas", "2", "--log-max-size", "200k", "--log-max-file", "100"];
    writer(&site.node, "w", &flags, LINES, 2_000)?;
    let id = task(&site.node, "w")?;
    let all = Follower::start(&site.node, &["w"])?;
    let some = Follower::start(&site.node, &["--stream", "stdout", "--grep", "0$", &id])?;
    let node = &mut site.node;
    thread::sleep(Duration::from_millis(700));
    node.kill_agent()?;
    thread::sleep(Duration::from_millis(900));
    node.start_agent()?;
    thread::sleep(Duration::from_millis(700));
    node.stop_agent()?;
    node.start_agent()?;
    thread::sleep(Duration::from_millis(300));
    node.kill_agent()?;
    node.start_agent()?;

    /// The numbers of each task's lines, and how often the follower had to wait.
    fn seen(text: &str, word: &str) -> Result<(BTreeMap<String, Vec<u64>>, usize)> {
        let (waits, lines): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|l| l.starts_with("warren: the node went away"));
        let mut tasks = BTreeMap::<String, Vec<u64>>::new();
        for line in lines {
            let (task, number) = line.split_once(&format!(" | {word} ")).with_context(|| line.to_owned())?;
            tasks.entry(task.to_owned()).or_default().push(number.parse()?);
        }
        Ok((tasks, waits.len()))
    }
    eventually("the follower has seen all", LONG, || {
        let (out, err) = all.text()?;
        let last = format!("{LINES:09}\n");
        ensure!(out.matches(&last).count() == 2 && err.matches(&last).count() == 2, "{} bytes", out.len());
        Ok(())
    })?;
    site.node.ok(&["service", "rm", "w"])?;
    let (out, err) = all.ended()?;
    let (out, none) = seen(&out, "out")?;
    let (err, waits) = seen(&err, "err")?;
    ensure!(none == 0 && waits >= 3, "it waited {waits} times");
    for tasks in [&out, &err] {
        ensure!(tasks.len() == 2, "{:?}", tasks.keys());
        for numbers in tasks.values() {
            complete(numbers, 1, LINES)?;
        }
    }
    let (out, err) = some.ended()?;
    let tens: Vec<u64> = numbered(&out, "out ")?.iter().map(|n| n / 10).collect();
    complete(&tens, 1, LINES / 10)?;
    ensure!(err.lines().all(|l| l.starts_with("warren: the node went away")), "{err}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn rotation_loses_and_doubles_nothing_for_who_follows() -> Result<()> {
    const LINES: u64 = 60_000;
    let site = OneNode::new()?;
    let node = &site.node;
    writer(node, "w", &["--log-max-size", "200k", "--log-max-file", "20"], LINES, 10_000)?;
    let id = task(node, "w")?;
    let follower = Follower::start(node, &[&id])?;
    eventually("the follower has seen all", LONG, || {
        let (out, err) = follower.text()?;
        let last = format!("{LINES:09}\n");
        ensure!(out.ends_with(&last) && err.ends_with(&last), "{} bytes", out.len());
        Ok(())
    })?;
    let (out, err) = follower.text()?;
    complete(&numbered(&out, "out ")?, 1, LINES)?;
    complete(&numbered(&err, "err ")?, 1, LINES)?;
    let files = files(&dir(node, &id))?;
    ensure!(files.len() == 20, "{files:?}");
    for file in files {
        ensure!(file.metadata()?.len() <= 200 << 10, "{}", file.display());
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_flood_leaves_no_more_than_was_allowed() -> Result<()> {
    const LINES: u64 = 10_000_000;
    const ALLOWED: u64 = 3 * (10 << 20);
    let site = OneNode::new()?;
    let node = &site.node;
    let begun = Instant::now();
    writer(node, "w", &["--log-max-size", "10m", "--log-max-file", "3"], LINES, 0)?;
    let id = task(node, "w")?;
    let dir = dir(node, &id);
    let mut most = 0;
    eventually("all is written", LONG, || {
        let size: u64 = files(&dir)?.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
        most = most.max(size);
        ensure!(
            logs(node, &["--tail", "1", "--stream", "stderr", &id])?.1 == format!("err {LINES:09}\n"),
            "not yet"
        );
        Ok(())
    })?;
    println!("{} bytes in {:?}, at most {most} of them kept", 2 * LINES * RECORD, begun.elapsed());
    ensure!(most > ALLOWED / 2 && most <= ALLOWED, "{most} bytes");
    let [out, err] = numbers(&dir)?;
    complete(&out, *out.first().context("some are kept")?, LINES)?;
    complete(&err, *err.first().context("some are kept")?, LINES)
}

#[test]
#[ignore = "needs root"]
fn a_flood_goes_on_while_agent_and_containerd_die() -> Result<()> {
    const LINES: u64 = 2_000_000;
    let mut site = OneNode::new()?;
    writer(&site.node, "w", &["--log-max-size", "1g", "--log-max-file", "2"], LINES, 400_000)?;
    let id = task(&site.node, "w")?;
    for pause in [150, 400, 900] {
        thread::sleep(Duration::from_millis(pause));
        site.node.kill_agent()?;
        thread::sleep(Duration::from_millis(pause / 2));
        site.node.start_agent()?;
        site.node.kill_containerd()?;
    }
    let dir = dir(&site.node, &id);
    eventually("all is written", LONG, || {
        let size: u64 = files(&dir)?.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
        ensure!(size >= 2 * LINES * RECORD, "{size} bytes");
        Ok(())
    })?;
    for numbers in numbers(&dir)? {
        complete(&numbers, 1, LINES)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_terminal_is_one_stream() -> Result<()> {
    let site = OneNode::new()?;
    writer(&site.node, "w", &["--tty"], 5, 0)?;
    eventually("all is written", SOON, || {
        let (out, err) = logs(&site.node, &["--no-task-names", "w"])?;
        ensure!(err.is_empty() && out.lines().count() == 10, "{out:?} {err:?}");
        ensure!(out.contains("out 000000005\r\n") && out.contains("err 000000005\r\n"), "{out:?}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root"]
fn without_its_writer_a_container_ends_and_is_replaced() -> Result<()> {
    let site = OneNode::new()?;
    let node = &site.node;
    node.ok(&["service", "create", "--detach", "--image", "web:1", "w", "lines", "100000000", "1000"])?;
    let id = task(node, "w")?;
    thread::sleep(Duration::from_secs(1));
    let writers: Vec<_> =
        process::naming(&dir(node, &id)).into_iter().filter(|p| p.words.contains("/log-writer-")).collect();
    let [writer] = &writers[..] else { bail!("one writer was expected: {writers:?}") };
    process::signal(writer.pid, Signal::SIGKILL);
    eventually("another task", SOON, || {
        let now = node.running("w")?;
        ensure!(now.len() == 1 && now[0].0 != id, "{now:?}");
        Ok(())
    })?;
    // What it had written is there, up to the last moment.
    let [out, err] = numbers(&dir(node, &id))?;
    for numbers in [out, err] {
        let last = *numbers.last().context("nothing was written")?;
        ensure!(last > 300, "only {last}");
        complete(&numbers, 1, last)?;
    }
    Ok(())
}
