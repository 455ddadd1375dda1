//! Conversions between `model` and the generated wire types, and nothing else.
//!
//! To the wire is total (`From`, by value and by reference); from the wire is checked
//! (`TryFrom`). There and back gives the same value, with one limit: durations travel in whole
//! milliseconds.

mod assignment;
mod container;
mod node;
mod raft;
mod service;
mod task;
#[cfg(test)]
mod tests;

use std::{fmt::Display, str::FromStr, time::Duration};

/// A message that says something Warren does not understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad {field}: {why}")]
pub struct ConvertError {
    /// Which field of which message.
    pub field: &'static str,
    /// What is wrong with it and what it should be.
    pub why: String,
}

impl ConvertError {
    fn new(field: &'static str, why: impl Display) -> Self {
        Self { field, why: why.to_string() }
    }
}

/// A field that protobuf makes optional and we need.
fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or_else(|| ConvertError::new(field, "it is missing from the message"))
}

fn parse<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T, ConvertError> {
    text.parse().map_err(|e| ConvertError::new(field, e))
}

/// An address or prefix: unlike our own types, those of `std` do not say what was written.
fn parse_net<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T, ConvertError> {
    text.parse().map_err(|e| ConvertError::new(field, format_args!("\"{text}\": {e}")))
}

fn narrow<T: TryFrom<u32>>(field: &'static str, number: u32) -> Result<T, ConvertError> {
    T::try_from(number).map_err(|_| ConvertError::new(field, format_args!("{number} is too large")))
}

fn many<A, B>(items: Vec<A>) -> Result<Vec<B>, ConvertError>
where
    B: TryFrom<A, Error = ConvertError>,
{
    items.into_iter().map(B::try_from).collect()
}

fn milliseconds(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// By value where a reference would do, so that callers write `.into()` for either.
macro_rules! owned {
    ($($name:ident),+ $(,)?) => {$(
        impl From<crate::model::$name> for crate::proto::v1::$name {
            fn from(value: crate::model::$name) -> Self {
                Self::from(&value)
            }
        }
    )+};
}
use owned;
