//! See `src/cache`: what reads.

#[path = "../../src/cache/codec/mod.rs"]
pub mod codec;
#[path = "../../src/cache/column.rs"]
pub mod column;
#[path = "../../src/cache/identity.rs"]
pub mod identity;
#[path = "../../src/cache/manifest.rs"]
pub mod manifest;
#[path = "../../src/cache/nbest.rs"]
pub mod nbest;
#[path = "../../src/cache/reader.rs"]
mod reader;
#[path = "../../src/cache/remedy.rs"]
pub mod remedy;
#[path = "../../src/cache/rows.rs"]
pub mod rows;
#[path = "../../src/cache/schema.rs"]
pub mod schema;
pub mod tasks {
    //! Of several processes that write a cache, only what its reader knows.
    pub mod plan {
        /// As in `src/cache/tasks/plan.rs`.
        pub const PLAN: &str = "plan.toml";
    }
}
#[path = "../../src/cache/verify.rs"]
mod verify;
#[path = "../../src/cache/weights.rs"]
mod weights;

pub use codec::CodecName;
pub use identity::Identity;
pub use manifest::{Manifest, ShardEntry};
pub use reader::{Cache, Entry};
pub use verify::verify;
