//! skeleton
pub mod record;
