// The one program in the test images, compiled statically by the tests.
use std::{thread::sleep, time::Duration};

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
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
        _ => {}
    }
    loop {
        sleep(Duration::from_secs(1));
    }
}
