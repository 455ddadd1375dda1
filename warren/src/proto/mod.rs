//! The wire: code generated from `proto/` and conversions to and from `model`.
//!
//! Only the doors (`api`, `raft`, `manager::dispatcher`, `worker::session`, `cli`, `node`) name a
//! wire type; everything else speaks `model`.

mod convert;

pub use convert::ConvertError;

/// Generated code, as the `.proto` files document it.
#[allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("warren.v1");
}
