//! cache
pub mod codec;
