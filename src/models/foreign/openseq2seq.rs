//! What OpenSeq2Seq's checkpoints have in common, whatever the network.
//!
//! Names are those of TensorFlow's variables, as `tools/tf_to_npz.py` or another converter keeps them: the network's
//! begin with `ForwardPass/`. Runs in mixed precision keep the weights as f16 and, under
//! `Loss_Optimization/FP32-master-copy/`, as f32 (`optimizers/mp_wrapper.py`, `utils/helpers.py`): the f32 copies
//! are taken. The optimiser's slots and counters are no weights.

use super::file::Found;

const MASTER: &str = "Loss_Optimization/FP32-master-copy/";
const OPTIMIZER: &str = "Loss_Optimization/";
/// Last parts of the names that TensorFlow's optimisers give their slots.
const SLOTS: [&str; 4] = ["Adam", "Adam_1", "Momentum", "LARC"];

/// Whether a file holds the variables of such an encoder.
pub(super) fn has(found: &Found, encoder: &str) -> bool {
    let scope = format!("ForwardPass/{encoder}/");
    found.keys().any(|name| name.contains(&scope))
}

/// The variables of the network alone: `:0` cut off, master copies in place of what they are copies of, the
/// optimiser's own left out.
pub(super) fn variables(found: Found, notes: &mut Vec<String>) -> Found {
    let (mut kept, mut masters, mut others) = (Found::new(), Found::new(), 0);
    for (name, tensor) in found {
        let name = name.strip_suffix(":0").unwrap_or(&name);
        let slot = name.rsplit('/').next().unwrap_or_default();
        if SLOTS.contains(&slot) || name.ends_with("_power") || name == "global_step" {
            others += 1;
        } else if let Some(name) = name.strip_prefix(MASTER) {
            masters.insert(name.to_owned(), tensor);
        } else if name.starts_with(OPTIMIZER) || (!name.starts_with("ForwardPass/") && !tensor.is_float()) {
            others += 1;
        } else {
            kept.insert(name.to_owned(), tensor);
        }
    }
    if others > 0 {
        notes.push(format!("{others} variables of the optimiser: no weights"));
    }
    if !masters.is_empty() {
        notes.push(format!("{} weights from their copies in f32", masters.len()));
    }
    kept.extend(masters);
    kept
}
