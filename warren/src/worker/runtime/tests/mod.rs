//! The real thing: a containerd of each test's own, real images, real processes.

mod fixture;
mod images;
mod life;
mod pull;
mod registries;
mod supervision;
mod token;
