//! See `src/decode`: the searches, without what runs a model.

#[path = "../../src/decode/beam.rs"]
mod beam;
#[path = "../../src/decode/greedy.rs"]
mod greedy;
#[path = "../../src/decode/prefix.rs"]
mod prefix;
#[path = "../../src/decode/search.rs"]
mod search;

pub use beam::{BeamOptions, BeamSearch, Hypothesis};
pub use greedy::{Transcript, greedy};
pub use search::{Decoder, SearchSettings, log_softmax};
