//! The log writer's program; see `mod.rs`.

mod files;
mod pump;
mod record;
mod sys;

fn main() {
    pump::main();
}
