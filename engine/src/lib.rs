//! skeleton

pub mod protocol;
