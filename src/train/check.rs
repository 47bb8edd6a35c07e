//! Refuses pipelines that parse but cannot work.

use super::objective::{Objective, Target};
use super::pipeline::{LayerPair, Pipeline, Stage};
use super::recipe::positive;
use crate::device::Precision;

/// More threads than this is a slip of the keyboard.
const MAX_THREADS: usize = 1024;

/// Bounds that no real experiment meets: beyond them lies a slip, and a program that hangs.
const MAX_WIDTH: f64 = 64.0;
const MAX_MASK: usize = 10_000;
const MAX_EPOCHS: u64 = 100_000;
const MAX_BRIDGE: usize = 1_001;

/// Combinations that parse but cannot work.
///
/// # Errors
/// Names the key, what it expects, what was found, and what to do.
pub(super) fn validate(pipeline: &Pipeline) -> std::result::Result<(), String> {
    if pipeline.data.train.is_empty() {
        return Err("data.train: expected at least one corpus directory, found none".into());
    }
    positive("data.batch_seconds", pipeline.data.batch_seconds)?;
    positive("data.max_seconds", pipeline.data.max_seconds)?;
    positive("student.width", pipeline.student.width)?;
    if pipeline.data.batch_utterances == Some(0) {
        return Err("data.batch_utterances: expected 1 or more, found 0; leave it out for no limit".into());
    }
    if let Some(dropout) = pipeline.student.dropout.filter(|p| !(0.0..1.0).contains(p)) {
        return Err(format!("student.dropout: expected 0 <= p < 1, found {dropout}"));
    }
    if pipeline.precision != Precision::F32 {
        return Err(format!(
            "precision: expected f32, found {}: no device of this program trains in half precision (ARCHITECTURE.md \
             says why); leave the key out. `tutornet cache --precision f16` runs a teacher in it",
            pipeline.precision
        ));
    }
    if !(1..=MAX_THREADS).contains(&pipeline.threads) {
        return Err(format!("threads: expected 1 to {MAX_THREADS}, found {}", pipeline.threads));
    }
    if pipeline.stage.is_empty() {
        return Err("expected at least one [[stage]], found none".into());
    }
    pipeline.optimizer.check("optimizer")?;
    for (number, stage) in pipeline.stage.iter().enumerate() {
        let at = |key: &str| format!("stage.{number}.{key}");
        let objective = stage.objective;
        if objective.needs_teacher() && stage.teachers().is_empty() {
            return Err(format!(
                "{}: `{objective}` learns from a teacher's cache; add teacher = [\"CACHEDIR\"]",
                at("teacher")
            ));
        }
        type Uses = fn(Objective) -> bool;
        let owners = |uses: Uses| -> String {
            let names: Vec<_> =
                Objective::ALL.into_iter().filter(|o| uses(*o)).map(|o| o.to_string()).collect();
            names.join(", ")
        };
        let keys: [(_, _, Uses); 8] = [
            ("teacher", !stage.teacher.is_empty(), Objective::needs_teacher),
            ("fuse", !stage.fuse.is_empty(), |o| o.target() == Target::Posterior),
            ("pairs", stage.pairs.is_some(), |o| o == Objective::Rkd),
            ("frame_weighting", stage.frame_weighting.is_some(), |o| o == Objective::Rkd),
            ("bridge_kernel", stage.bridge_kernel.is_some(), |o| o == Objective::Rkd),
            ("lambda", stage.lambda.is_some(), |o| o.default_lambda().is_some()),
            ("temperature", stage.temperature.is_some(), Objective::has_temperature),
            ("guide_blank", stage.guide_blank.is_some(), |o| o == Objective::CtcGuided),
        ];
        for (key, given, uses) in keys {
            if given && !uses(objective) {
                return Err(format!(
                    "{}: `{objective}` does not use it (only these do: {}); remove it or change the objective",
                    at(key),
                    owners(uses)
                ));
            }
        }
        positive(&at("temperature"), stage.temperature())?;
        let most = if objective == Objective::CtcSequence { 1.0 } else { f64::MAX };
        if !(0.0..=most).contains(&stage.lambda()) {
            return Err(format!("{}: expected 0 to {most:e}, found {}", at("lambda"), stage.lambda()));
        }
        fused(&at("fuse"), stage)?;
        pairs(&at("pairs"), stage)?;
        if stage.bridge_kernel() % 2 == 0 {
            return Err(format!(
                "{}: expected an odd number, found {}",
                at("bridge_kernel"),
                stage.bridge_kernel()
            ));
        }
        if stage.bridge_kernel() > MAX_BRIDGE {
            let (key, found) = (at("bridge_kernel"), stage.bridge_kernel());
            return Err(format!("{key}: expected at most {MAX_BRIDGE}, found {found}"));
        }
        match (stage.epochs, stage.max_updates) {
            (Some(MAX_EPOCHS..), None) => {
                return Err(format!("{}: expected less than {MAX_EPOCHS}; use max_updates", at("epochs")));
            }
            (Some(1..), None) | (None, Some(1..)) => {}
            (Some(_), Some(_)) => {
                return Err(format!("{}: give either epochs or max_updates, found both", at("epochs")));
            }
            _ => {
                return Err(format!(
                    "{}: expected epochs = N or max_updates = N, N at least 1",
                    at("epochs")
                ));
            }
        }
        if let Some(own) = &stage.optimizer {
            own.check(&at("optimizer"))?;
        }
    }
    if pipeline.data.dev_every_epochs == 0 {
        return Err("data.dev_every_epochs: expected 1 or more, found 0".into());
    }
    let checkpoint = &pipeline.checkpoint;
    if checkpoint.every_updates == 0 || checkpoint.keep == 0 || checkpoint.max_rejected == 0 {
        return Err("checkpoint: expected every_updates, keep and max_rejected of 1 or more, found 0".into());
    }
    if pipeline.student.width > MAX_WIDTH {
        return Err(format!("student.width: expected at most {MAX_WIDTH}, found {}", pipeline.student.width));
    }
    if let Some(masks) = &pipeline.data.spec_augment {
        let largest = masks.freq_masks.max(masks.time_masks).max(masks.freq_width).max(masks.time_width);
        if largest > MAX_MASK {
            return Err(format!("data.spec_augment: expected numbers up to {MAX_MASK}, found {largest}"));
        }
    }
    Ok(())
}

fn pairs(key: &str, stage: &Stage) -> std::result::Result<(), String> {
    let Some(pairs) = &stage.pairs else { return Ok(()) };
    if pairs.is_empty() {
        return Err(format!(
            "{key}: expected at least one pair [student's layer, teacher's layer], found none; leave it out for the last \
             layers of both"
        ));
    }
    for (number, pair) in pairs.iter().enumerate() {
        if pairs[..number].contains(pair) {
            let LayerPair { student, teacher } = pair;
            return Err(format!("{key}: expected every pair once, found [{student}, {teacher}] twice"));
        }
    }
    Ok(())
}

fn fused(key: &str, stage: &Stage) -> std::result::Result<(), String> {
    if stage.fuse.is_empty() {
        return Ok(());
    }
    if !stage.teacher.is_empty() {
        return Err(format!("{key}: give either teacher or fuse, found both"));
    }
    for (number, fused) in stage.fuse.iter().enumerate() {
        positive(&format!("{key}.{number}.weight"), fused.weight)?;
        if fused.teacher.is_empty() {
            return Err(format!("{key}.{number}.teacher: expected at least one cache directory, found none"));
        }
    }
    let sum: f64 = stage.fuse.iter().map(|fused| fused.weight).sum();
    if (sum - 1.0).abs() > 1e-6 {
        return Err(format!("{key}: expected weights that sum to 1, found {sum}"));
    }
    Ok(())
}
