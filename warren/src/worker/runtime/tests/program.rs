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
