// The one program in the test images, compiled statically by the tests.
use std::{
    io::{Read, Write},
    process::Command,
    thread::sleep,
    time::Duration,
};

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn getuid() -> u32;
    fn _exit(code: i32) -> !;
}

unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
    fn isatty(fd: i32) -> i32;
    fn mknod(path: *const u8, mode: u32, device: u64) -> i32;
}

extern "C" fn on_usr1(_: i32) {
    unsafe { _exit(10) }
}

extern "C" fn on_quit(_: i32) {
    unsafe { _exit(3) }
}

/// "ok", or the error's number.
fn outcome(failed: bool) -> String {
    if failed {
        std::io::Error::last_os_error().raw_os_error().unwrap_or(-1).to_string()
    } else {
        "ok".into()
    }
}

fn said<T>(result: std::io::Result<T>) -> String {
    result.map_or_else(|e| e.raw_os_error().unwrap_or(-1).to_string(), |_| "ok".into())
}

/// Takes memory page by page.
fn eat(bytes: usize) {
    let mut all = vec![0u8; bytes];
    for page in all.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(all);
}

/// One look, `verb:what`, and what it shows.
fn look(what: &str) -> String {
    let (verb, rest) = what.split_once(':').unwrap_or((what, ""));
    match verb {
        "cat" => std::fs::read(rest).map_or_else(
            |e| format!("error {}", e.raw_os_error().unwrap_or(-1)),
            // What separates looks is no part of one.
            |b| String::from_utf8_lossy(&b).replace('\0', " "),
        ),
        "write" => {
            let (path, text) = rest.split_once('=').unwrap();
            said(std::fs::write(path, text))
        }
        "mkdir" => said(std::fs::create_dir(rest)),
        "ls" => {
            let mut names: Vec<String> = std::fs::read_dir(rest)
                .map(|d| d.map(|e| e.unwrap().file_name().into_string().unwrap()).collect())
                .unwrap_or_default();
            names.sort();
            names.join(" ")
        }
        "stat" => std::fs::symlink_metadata(rest).map_or_else(
            |e| format!("error {}", e.raw_os_error().unwrap_or(-1)),
            |m| {
                use std::os::unix::fs::MetadataExt;
                format!("{:o} {}:{} {}", m.mode(), m.uid(), m.gid(), m.rdev())
            },
        ),
        "cwd" => std::env::current_dir().unwrap().display().to_string(),
        "tty" => unsafe { (isatty(0), isatty(1), isatty(2)) == (1, 1, 1) }.to_string(),
        // Numbers of x86-64 and arm64.
        // In a process of its own: where it works, that one is nobody any more.
        "unshare" => match Command::new("/bin/probe").arg("unshare").status().unwrap().code() {
            Some(0) => "ok".into(),
            code => code.unwrap_or(-1).to_string(),
        },
        "keyctl" => outcome(
            unsafe { syscall(if cfg!(target_arch = "x86_64") { 250 } else { 219 }, 0i64, -3i64, 0i64) } < 0,
        ),
        "mknod" => {
            let mut words = rest.split(' ');
            let path = format!("{}\0", words.next().unwrap());
            let number = |w: Option<&str>| w.unwrap().parse::<u64>().unwrap();
            let (major, minor) = (number(words.next()), number(words.next()));
            outcome(unsafe { mknod(path.as_ptr(), 0o020_666, major << 8 | minor) } < 0)
        }
        // How many children there can be at the same time, up to 100.
        "fork" => {
            let mut children = Vec::new();
            for _ in 0..100 {
                match Command::new("/bin/probe").arg("sleep").spawn() {
                    Ok(child) => children.push(child),
                    Err(_) => break,
                }
            }
            let all = children.len();
            for child in &mut children {
                let _ = child.kill();
                let _ = child.wait();
            }
            all.to_string()
        }
        // A grandchild without a parent: how the first process of the container treats its end.
        "orphan" => {
            let out = Command::new("/bin/probe").arg("orphan").output().unwrap();
            let orphan = String::from_utf8(out.stdout).unwrap();
            sleep(Duration::from_millis(500));
            match std::fs::read_to_string(format!("/proc/{}/stat", orphan.trim())) {
                Ok(stat) => stat.rsplit(')').next().unwrap().trim().chars().next().unwrap().to_string(),
                Err(_) => "gone".into(),
            }
        }
        // A child that takes more memory than there is.
        "starve" => {
            let ended = Command::new("/bin/probe").args(["eat", rest]).status().unwrap();
            format!("{ended}")
        }
        _ => panic!("{what}"),
    }
}

extern "C" fn on_term(_: i32) {
    unsafe { _exit(7) }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("exit") => std::process::exit(args[1].parse().unwrap()),
        Some("trap") => unsafe {
            signal(15, on_term as *const () as usize);
        },
        // Says a word on each stream and ends with a status.
        Some("say") => {
            println!("{}", args[1]);
            eprintln!("{}", args[2]);
            std::process::exit(args[3].parse().unwrap());
        }
        Some("env") => {
            for (name, value) in std::env::vars() {
                println!("{name}={value}");
            }
            println!("cwd={} uid={}", std::env::current_dir().unwrap().display(), unsafe { getuid() });
            return;
        }
        // So many bytes of output.
        Some("flood") => {
            let mut left: usize = args[1].parse().unwrap();
            let mut out = std::io::stdout().lock();
            while left > 0 {
                let n = left.min(8192);
                out.write_all(&[b'x'; 8192][..n]).unwrap();
                left -= n;
            }
            return;
        }
        // Everything back.
        Some("echo") => {
            let mut all = Vec::new();
            std::io::stdin().read_to_end(&mut all).unwrap();
            std::io::stdout().write_all(&all).unwrap();
            return;
        }
        // Looks around and writes what it sees.
        Some("look") => {
            let seen: String = args[1..].iter().map(|w| format!("{w}\0{}\0", look(w))).collect();
            std::fs::write("/out/report.new", seen).unwrap();
            std::fs::rename("/out/report.new", "/out/report").unwrap();
        }
        Some("eat") => {
            eat(args[1].parse().unwrap());
            return;
        }
        // A user namespace, with the number that x86-64 or arm64 has for the call.
        Some("unshare") => {
            let number = if cfg!(target_arch = "x86_64") { 272i64 } else { 97 };
            let failed = unsafe { syscall(number, 0x1000_0000i64) } < 0;
            let error = std::io::Error::last_os_error().raw_os_error().unwrap_or(-1);
            std::process::exit(if failed { error } else { 0 });
        }
        Some("orphan") => {
            let child = Command::new("/bin/probe").arg("exit").arg("0").spawn().unwrap();
            println!("{}", child.id());
            return;
        }
        Some("signals") => unsafe {
            signal(10, on_usr1 as *const () as usize);
            signal(3, on_quit as *const () as usize);
            std::fs::write("/out/report", "ready\0\0").unwrap();
        },
        // Has a child and a grandchild that do not care about being hung up on.
        Some("family") => {
            unsafe { signal(1, 1) };
            let depth: u32 = args[1].parse().unwrap();
            if depth > 0 {
                let mut child =
                    Command::new("/bin/probe").args(["family", &(depth - 1).to_string()]).spawn().unwrap();
                child.wait().unwrap();
            }
        }
        // Leaves a child behind that holds its output.
        Some("leave") => {
            Command::new("/bin/probe").arg("sleep").spawn().unwrap();
            println!("left");
            return;
        }
        _ => {}
    }
    loop {
        sleep(Duration::from_secs(1));
    }
}
