//! The harness of Warren's end-to-end tests: hosts as network namespaces joined by a switch, the
//! real binary in them, faults, and looks at the kernel through other tools than Warren.
//!
//! Everything it makes carries the test process's id in its name (`wt<pid>-…`), is removed when it
//! goes out of scope, and is swept by the next run when a process died before it could.

pub mod bench;
pub mod cluster;
pub mod eventually;
pub mod fault;
pub mod image;
pub mod leaks;
pub mod load;
pub mod look;
pub mod netns;
pub mod node;
pub mod process;
pub mod program;
pub mod registry;
pub mod scenario;
pub mod sweep;
pub mod tun;

pub use cluster::{Cluster, Host};
pub use eventually::eventually;
pub use node::Node;
