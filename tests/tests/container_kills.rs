//! SIGKILL to agent, containerd and shims in the middle of what they do: afterwards everything is
//! as it was asked for, nothing half-made is left, and no line of a log is lost or doubled.

#[path = "container_kills/life.rs"]
mod life;
#[path = "container_kills/output.rs"]
mod output;
#[path = "container_kills/programs.rs"]
mod programs;
#[path = "container_kills/pulling.rs"]
mod pulling;
