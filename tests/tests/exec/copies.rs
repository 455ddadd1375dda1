use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
    process::Stdio,
    thread,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

use super::{bytes, site, start};

fn digest(path: &Path) -> Result<Vec<u8>> {
    Ok(Sha256::digest(fs::read(path).with_context(|| path.display().to_string())?).to_vec())
}

fn tree(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("sub/empty"))?;
    fs::write(dir.join("file"), "text")?;
    fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o640))?;
    fs::write(dir.join("sub/program"), "run")?;
    fs::hard_link(dir.join("file"), dir.join("sub/same"))?;
    symlink("../file", dir.join("sub/link"))?;
    symlink("/etc/greeting", dir.join("absolute"))?;
    fs::set_permissions(dir.join("sub/empty"), fs::Permissions::from_mode(0o700))?;
    for name in ["file", "sub/program"] {
        chown(dir.join(name), Some(1234), Some(5678))?;
    }
    // Last: a change of the owner takes the bit away.
    fs::set_permissions(dir.join("sub/program"), fs::Permissions::from_mode(0o4755))?;
    Ok(())
}

fn check_tree(dir: &Path, owner: (u32, u32)) -> Result<()> {
    let meta = |n: &str| fs::symlink_metadata(dir.join(n)).with_context(|| format!("{}/{n}", dir.display()));
    ensure!(fs::read_to_string(dir.join("file"))? == "text");
    ensure!(meta("file")?.mode() & 0o7777 == 0o640, "{:o}", meta("file")?.mode());
    ensure!(meta("sub/program")?.mode() & 0o7777 == 0o4755, "{:o}", meta("sub/program")?.mode());
    ensure!(meta("sub/empty")?.mode() & 0o7777 == 0o700 && meta("sub/empty")?.is_dir());
    ensure!(meta("sub/same")?.ino() == meta("file")?.ino(), "a file of two names became two");
    ensure!(fs::read_link(dir.join("sub/link"))? == Path::new("../file"));
    ensure!(fs::read_link(dir.join("absolute"))? == Path::new("/etc/greeting"));
    let file = meta("file")?;
    ensure!((file.uid(), file.gid()) == owner, "{}:{}", file.uid(), file.gid());
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn trees_and_files_go_both_ways_by_dockers_rules() -> Result<()> {
    let (site, task) = site()?;
    let node = &site.node;
    let here = node.dir().join("here");
    tree(&here.join("tree"))?;
    let at = |p: &str| here.join(p).display().to_string();
    let root = task.root();

    // A directory becomes one that is not there, or goes into one that is.
    node.ok(&["cp", &at("tree"), "web:/new"])?;
    check_tree(&root.join("new"), (0, 0))?;
    node.ok(&["cp", "-a", &at("tree"), "web.1:/tmp"])?;
    check_tree(&root.join("tmp/tree"), (1234, 5678))?;
    fs::create_dir(root.join("into"))?;
    node.ok(&["cp", &at("tree/."), &format!("{}:into", task.id)])?;
    check_tree(&root.join("into"), (0, 0))?;
    // Again, over what is there.
    node.ok(&["cp", &at("tree"), "web:/tmp"])?;
    check_tree(&root.join("tmp/tree"), (0, 0))?;

    // And back.
    node.ok(&["cp", "web:/new", &at("back")])?;
    check_tree(&here.join("back"), (0, 0))?;
    fs::create_dir(here.join("dir"))?;
    chown(root.join("new/file"), Some(77), Some(88))?;
    node.ok(&["cp", "-a", "web:/new", &at("dir")])?;
    check_tree(&here.join("dir/new"), (77, 88))?;
    fs::create_dir(here.join("flat"))?;
    node.ok(&["cp", "web:/new/.", &at("flat")])?;
    check_tree(&here.join("flat"), (0, 0))?;

    // Files: a new name, another's place, into a directory; through a link.
    node.ok(&["cp", "web:/etc/greeting", &at("hello")])?;
    ensure!(fs::read_to_string(here.join("hello"))? == "hello from the image\n");
    node.ok(&["cp", "web:etc/greeting", &at("dir/")])?;
    ensure!(here.join("dir/greeting").is_file());
    node.ok(&["cp", &at("tree/file"), "web:/etc/greeting"])?;
    ensure!(fs::read_to_string(root.join("etc/greeting"))? == "text");
    node.ok(&["cp", "web:/new/absolute", &at("link")])?;
    ensure!(fs::symlink_metadata(here.join("link"))?.is_symlink());
    node.ok(&["cp", "-L", "web:/new/absolute", &at("followed")])?;
    ensure!(fs::read_to_string(here.join("followed"))? == "text");
    // A mount of the container.
    node.ok(&["cp", &at("tree/file"), "web:/dev/shm/"])?;
    ensure!(node.ok(&["exec", "web", "/testbox", "cat", "/dev/shm/file"])? == "text");
    ensure!(node.ok(&["exec", "web", "/testbox", "cat", "/etc/hosts"])?.contains("localhost"));
    node.ok(&["cp", "web:/etc/hosts", &at("hosts")])?;
    ensure!(fs::read_to_string(here.join("hosts"))?.contains("localhost"), "not the one mounted there");

    for (words, said) in [
        (["cp", "web:/absent", &at("x")], "there is no /absent"),
        (["cp", &at("absent"), "web:/x"], "there is no "),
        (["cp", &at("tree/file"), "web:/no/such/place"], "there is no /no/such"),
        (["cp", &at("tree/file"), "web:/nowhere/"], "there is no directory /nowhere/"),
        (["cp", &at("tree"), "web:/etc/passwd"], "cannot become the file"),
        (["cp", "web:/new", &at("hello")], "cannot become the file"),
        (["cp", "web:/etc/passwd/", &at("x")], "not a directory"),
        (["cp", &at("hello"), &at("x")], "TASK:PATH"),
        (["cp", "web:/etc", "web:/x"], "between two"),
        (["cp", "nobody:/etc", &at("x")], "no task or service nobody"),
    ] {
        let refused = node.refused(&words)?;
        ensure!(refused.contains(said), "{words:?}: {refused}");
    }
    ensure!(!here.join("x").exists() && !root.join("x").exists());
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_hundred_megabytes_stay_what_they_are_and_archives_flow() -> Result<()> {
    let (site, task) = site()?;
    let node = &site.node;
    let (big, back) = (node.dir().join("big"), node.dir().join("back"));
    fs::write(&big, bytes(100 << 20, 9))?;
    node.ok(&["cp", &big.display().to_string(), "web:/tmp/big"])?;
    ensure!(digest(&task.root().join("tmp/big"))? == digest(&big)?);
    node.ok(&["cp", "web:/tmp/big", &back.display().to_string()])?;
    ensure!(digest(&back)? == digest(&big)?);

    // As an archive, read and made by another tool.
    let mut client = start(node, &["cp", "web:/etc", "-"], Stdio::null())?;
    let mut archive = Vec::new();
    client.stdout.take().context("stdout")?.read_to_end(&mut archive)?;
    ensure!(client.wait()?.success());
    fs::write(node.dir().join("etc.tar"), &archive)?;
    let tar = |args: &[&str]| node.host.ns.run("tar", args);
    let file = node.dir().join("etc.tar").display().to_string();
    let listed = tar(&["-tf", &file])?;
    ensure!(listed.lines().any(|l| l == "etc/greeting") && listed.lines().any(|l| l == "etc/"), "{listed}");
    let made = node.dir().join("made.tar").display().to_string();
    let dir = node.dir().display().to_string();
    fs::write(node.dir().join("note"), "from tar")?;
    tar(&["-C", &dir, "--format=posix", "-cf", &made, "note"])?;
    let mut client = start(node, &["cp", "-", "web:/home"], File::open(&made)?.into())?;
    ensure!(client.wait()?.success());
    ensure!(fs::read_to_string(task.root().join("home/note"))? == "from tar");
    // Half of one is no archive.
    let mut client = start(node, &["cp", "-", "web:/home"], Stdio::piped())?;
    let mut stdin = client.stdin.take().context("stdin")?;
    let half = fs::read(&made)?[..700].to_vec();
    thread::spawn(move || stdin.write_all(&half)).join().expect("no panic")?;
    ensure!(!client.wait()?.success());
    Ok(())
}

/// Links of a container that lead to files of the host, were they followed there.
#[test]
#[ignore = "needs root"]
fn no_link_of_a_container_leads_out_of_it() -> Result<()> {
    let (site, task) = site()?;
    let node = &site.node;
    let (secret, here) = (node.dir().join("secret"), node.dir().join("here"));
    fs::create_dir_all(&secret)?;
    fs::create_dir_all(&here)?;
    fs::write(secret.join("key"), "the host's")?;
    fs::write(here.join("file"), "mine")?;
    let root = task.root();
    let host = secret.display().to_string();
    let up = format!("../../../../../../../../../..{host}");
    symlink(&host, root.join("absolute"))?;
    symlink(&up, root.join("relative"))?;
    symlink(format!("/proc/1/root{host}"), root.join("magic"))?;
    symlink(format!("/proc/self/root{host}"), root.join("own"))?;
    symlink("/", root.join("slash"))?;
    let file = here.join("file").display().to_string();
    let out = here.join("out").display().to_string();
    for link in ["absolute", "relative", "magic", "own"] {
        for path in [format!("web:/{link}/key"), format!("web:/{link}/."), format!("web:/{link}/")] {
            let said = node.refused(&["cp", "-L", &path, &out])?;
            ensure!(said.contains("there is no"), "{path}: {said}");
        }
        let said = node.refused(&["cp", &file, &format!("web:/{link}/caught")])?;
        ensure!(said.contains("there is no"), "{link}: {said}");
        ensure!(!Path::new(&out).exists());
    }
    let said = node.refused(&["cp", &format!("web:/slash{host}/key"), &out])?;
    ensure!(said.contains("there is no"), "{said}");
    let said = node.refused(&["cp", &format!("web:/../../../..{host}/key"), &out])?;
    ensure!(said.contains("there is no"), "{said}");
    // The same path inside: it is the container's that is read and written.
    fs::create_dir_all(root.join(host.trim_start_matches('/')))?;
    fs::write(root.join(host.trim_start_matches('/')).join("key"), "the container's")?;
    for link in ["absolute", "relative"] {
        node.ok(&["cp", &format!("web:/{link}/key"), &out])?;
        ensure!(fs::read_to_string(&out)? == "the container's");
        node.ok(&["cp", &file, &format!("web:/{link}/caught")])?;
        ensure!(root.join(host.trim_start_matches('/')).join("caught").is_file());
    }
    let names: Vec<_> = fs::read_dir(&secret)?.flatten().map(|e| e.file_name()).collect();
    ensure!(names == ["key"], "{names:?}");
    ensure!(fs::read_to_string(secret.join("key"))? == "the host's");
    Ok(())
}
