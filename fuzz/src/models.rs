//! See `src/models`: of the networks, only the names of their layers.

#[path = "../../src/models/layer.rs"]
mod layer;

pub use layer::HiddenLayer;
