//! One batch through the student: the loss of a stage and its gradients.

use burn::tensor::{Device, Gradients, Tensor, TensorData};

use super::pipeline::{Objective, Stage};
use super::profile::{Part, Profile};
use super::stream::Batch;
use crate::distill::{Bridge, ctc_loss, rkd_loss, skd_loss};
use crate::error::{Error, Result};
use crate::models::{Mode, Model, TrainState};

/// The loss of a batch and its parts, means over the batch's utterances.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Losses {
    /// What is minimised.
    pub total: f64,
    /// Equation (3).
    pub ctc: Option<f64>,
    /// Equation (8), before lambda.
    pub skd: Option<f64>,
    /// Equation (7).
    pub rkd: Option<f64>,
}

impl Losses {
    /// Mean of the losses of several batches of one stage.
    pub fn mean(losses: &[Self]) -> Self {
        let count = losses.len().max(1) as f64;
        let part = |get: fn(&Self) -> Option<f64>| {
            let values: Option<Vec<f64>> = losses.iter().map(get).collect();
            values.filter(|v| !v.is_empty()).map(|v| v.iter().sum::<f64>() / count)
        };
        Self {
            total: losses.iter().map(|l| l.total).sum::<f64>() / count,
            ctc: part(|l| l.ctc),
            skd: part(|l| l.skd),
            rkd: part(|l| l.rkd),
        }
    }
}

/// The stage that a batch belongs to, and where it is computed.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The stage.
    pub settings: &'a Stage,
    /// Of the student.
    pub device: &'a Device,
    /// The clock.
    pub profile: &'a Profile,
}

/// Forward and backward over one batch. Gradients are absent when the loss is not finite.
///
/// # Errors
/// When the student's output does not have the frames that the batch was padded for.
pub fn forward_backward(
    model: &Model,
    bridge: Option<&Bridge>,
    batch: Batch,
    state: &mut TrainState,
    place: Place<'_>,
) -> Result<(Losses, Option<Gradients>)> {
    let Place { settings, device, profile } = place;
    let rows = batch.frames.len();
    let tensor =
        |values: Vec<f32>, shape: [usize; 3]| Tensor::<3>::from_data(TensorData::new(values, shape), device);
    let bins = batch.features.len() / (rows * batch.padded_frames).max(1);
    let output = profile.time(Part::Forward, device, || {
        let features = tensor(batch.features, [rows, bins, batch.padded_frames]);
        model.forward(features, &batch.frames, Mode::Train(state))
    });
    let [_, padded, labels] = output.logits.dims();
    if padded != batch.padded_targets {
        return Err(Error::mismatch(
            "output frames of a batch",
            batch.padded_targets.to_string(),
            padded.to_string(),
            "the student's configuration and its network disagree: this is a defect of the model",
        ));
    }
    let blank = model.config.labels.blank;
    let ctc = |logits: Tensor<3>| ctc_loss(logits, &output.frames, &batch.text, blank).mean();
    let mut parts: Vec<Tensor<1>> = Vec::new();
    let (total, values) = profile.time(Part::Loss, device, || {
        let total = match (settings.objective, bridge) {
            (Objective::Rkd, Some(bridge)) => {
                let width = batch.hidden.len() / (rows * padded).max(1);
                let target = tensor(batch.hidden, [rows, width, padded]);
                let weight = tensor(batch.weight, [rows, 1, padded]);
                rkd_loss(bridge.forward(output.hidden), target, weight)
            }
            (Objective::Rkd, None) => return Err(Error::invalid("an rkd stage has no bridge")),
            (Objective::Ctc, _) => ctc(output.logits),
            (Objective::CtcSkd, _) => {
                let mut valid = vec![0f32; rows * padded];
                for (row, &frames) in valid.chunks_exact_mut(padded.max(1)).zip(&batch.target_frames) {
                    row[..frames].fill(1.0);
                }
                let teacher = tensor(batch.posterior, [rows, padded, labels]);
                let valid = tensor(valid, [rows, padded, 1]);
                let skd = skd_loss(output.logits.clone(), teacher, valid, settings.temperature());
                let ctc = ctc(output.logits);
                parts = vec![ctc.clone(), skd.clone()];
                ctc + skd.mul_scalar(settings.lambda())
            }
        };
        // One transfer for all the numbers of the step.
        parts.insert(0, total.clone());
        let values: Vec<f64> = Tensor::cat(parts, 0).into_data().iter::<f32>().map(f64::from).collect();
        Ok((total, values))
    })?;
    let losses = match settings.objective {
        Objective::Rkd => Losses { total: values[0], rkd: Some(values[0]), ..Losses::default() },
        Objective::Ctc => Losses { total: values[0], ctc: Some(values[0]), ..Losses::default() },
        Objective::CtcSkd => {
            Losses { total: values[0], ctc: Some(values[1]), skd: Some(values[2]), rkd: None }
        }
    };
    let gradients =
        losses.total.is_finite().then(|| profile.time(Part::Backward, device, || total.backward()));
    Ok((losses, gradients))
}
