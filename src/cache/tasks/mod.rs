//! Many processes that write one cache together, on one machine or on any number over a shared file system.
//!
//! The first writes a plan ([`plan`], `plan.toml`): into how many tasks the corpus' shards are divided, and which is whose
//! ([`assign`]). Each process is one task ([`which`]) and writes only what is its own; claims ([`claim`]) keep two processes
//! from the same work where one task was started twice. `tutornet cache seal` makes of it what one process would have made.

pub mod assign;
pub mod claim;
mod holder;
pub mod plan;
mod which;

pub use which::{Array, Extent, Task};

use std::path::Path;

use crate::error::Result;
use crate::files;

/// Removes what only unsealed caches have: plan and claims.
///
/// # Errors
/// When the directory cannot be written.
pub fn clear(dir: &Path) -> Result<()> {
    files::remove(&dir.join(plan::PLAN))?;
    claim::clear(dir)
}
