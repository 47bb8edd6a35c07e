//! Tables of NeMo's preprocessor that its checkpoints carry beside the weights.

use super::super::file::{Found, Stored};
use crate::error::{Error, Result};
use crate::features;

/// Buffers of the preprocessor, which are compared with our frontend.
const FILTERS: &str = "preprocessor.featurizer.fb";
const WINDOW: &str = "preprocessor.featurizer.window";
/// How far they may lie from ours.
const TOLERANCE: f64 = 1e-5;

/// Takes the buffers out of a checkpoint, where it has them.
///
/// # Errors
/// When one is not our frontend's.
pub(in crate::models::foreign) fn check_buffers(found: &mut Found, notes: &mut Vec<String>) -> Result<()> {
    for (name, ours) in [(FILTERS, features::mel_filters()), (WINDOW, features::window())] {
        if let Some(tensor) = found.remove(name) {
            compare(name, &tensor, &ours, notes)?;
        }
    }
    Ok(())
}

/// Compares a buffer of the preprocessor with our frontend's.
fn compare(name: &str, theirs: &Stored, ours: &[f64], notes: &mut Vec<String>) -> Result<()> {
    let count: usize = theirs.shape.iter().product();
    if !theirs.is_float() || count != ours.len() {
        return Err(Error::invalid(format!(
            "{name}: expected {} floating point values, found {:?} {}",
            ours.len(),
            theirs.shape,
            theirs.kind
        )));
    }
    let values = theirs.read()?;
    let largest = values.iter().zip(ours).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    if largest <= TOLERANCE {
        notes.push(format!("{name} agrees with the nemo frontend (largest difference {largest:.1e})"));
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{name} differs from the nemo frontend by up to {largest:.1e}: the features would be others"
    )))
}
