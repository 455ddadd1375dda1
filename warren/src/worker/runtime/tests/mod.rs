//! The real thing: a containerd of each test's own, real images, real processes.

mod exec;
mod fixture;
mod images;
mod life;
mod limits;
mod look;
mod options;
mod pull;
mod registries;
mod storage;
mod supervision;
mod token;
