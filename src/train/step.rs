//! One batch through the student: the loss of a stage and its gradients.

use burn::tensor::{Device, Gradients, Tensor, TensorData};

use super::objective::Objective;
use super::pipeline::Stage;
use super::profile::{Part, Profile};
use super::stream::{Batch, HiddenTarget};
use crate::distill::{Bridge, ctc_loss, guided_loss, kd_loss, rkd_loss, sequence_loss, skd_loss};
use crate::error::{Error, Result};
use crate::models::{HiddenLayer, Mode, Model, TrainState};

/// The loss of a batch and its parts, means over the batch's utterances.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Losses {
    /// What is minimised.
    pub total: f64,
    /// Its parts by name, before lambda: `ctc`, and the objective's [`Objective::term`].
    pub parts: Vec<(&'static str, f64)>,
}

impl Losses {
    /// Mean of the losses of several batches of one stage.
    pub fn mean(losses: &[Self]) -> Self {
        let count = losses.len().max(1) as f64;
        let names = losses.first().map(|l| l.parts.as_slice()).unwrap_or_default();
        let part = |(number, (name, _)): (usize, &(&'static str, f64))| {
            let values = losses.iter().filter_map(|l| l.parts.get(number));
            (*name, values.map(|(_, value)| value).sum::<f64>() / count)
        };
        Self {
            total: losses.iter().map(|l| l.total).sum::<f64>() / count,
            parts: names.iter().enumerate().map(part).collect(),
        }
    }
}

/// The stage that a batch belongs to, and where it is computed.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The stage.
    pub settings: &'a Stage,
    /// The student's layer of every pair of an rkd stage.
    pub layers: &'a [HiddenLayer],
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
    bridges: &[Bridge],
    batch: Batch,
    state: &mut TrainState,
    place: Place<'_>,
) -> Result<(Losses, Option<Gradients>)> {
    let Place { settings, layers, device, profile } = place;
    let rows = batch.frames.len();
    let tensor =
        |values: Vec<f32>, shape: [usize; 3]| Tensor::<3>::from_data(TensorData::new(values, shape), device);
    let bins = batch.features.len() / (rows * batch.padded_frames).max(1);
    let output = profile.time(Part::Forward, device, || {
        let features = tensor(batch.features, [rows, bins, batch.padded_frames]);
        model.forward_with(features, &batch.frames, Mode::Train(state), layers)
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
    let objective = settings.objective;
    let (total, values) = profile.time(Part::Loss, device, || {
        let frame_masked = |frames: &[usize]| {
            let mut valid = vec![0f32; rows * padded];
            for (row, &frames) in valid.chunks_exact_mut(padded.max(1)).zip(frames) {
                row[..frames].fill(1.0);
            }
            tensor(valid, [rows, padded, 1])
        };
        let posterior = |values: Vec<f32>| tensor(values, [rows, padded, labels]);
        let (tau, logits) = (settings.temperature(), output.logits.clone());
        let term = match objective {
            Objective::Rkd => {
                let pairs = bridges.iter().zip(output.layers).zip(batch.hidden);
                let pairs = pairs.map(|((bridge, hidden), HiddenTarget { values, weight })| {
                    let width = values.len() / (rows * padded).max(1);
                    let target = tensor(values, [rows, width, padded]);
                    let predicted = bridge.forward(hidden, || frame_masked(&output.frames).swap_dims(1, 2));
                    rkd_loss(predicted, target, tensor(weight, [rows, 1, padded]))
                });
                let sum = pairs.reduce(|sum, loss| sum + loss);
                Some(sum.ok_or_else(|| Error::invalid("an rkd stage has no bridge"))?)
            }
            Objective::Ctc => None,
            Objective::CtcSkd => {
                let valid = frame_masked(&batch.target_frames);
                Some(skd_loss(logits, posterior(batch.posterior), valid, tau))
            }
            Objective::Kd | Objective::CtcKd => {
                let valid = frame_masked(&batch.target_frames);
                Some(kd_loss(logits, posterior(batch.posterior), valid, tau))
            }
            // Padding has no mark.
            Objective::CtcGuided => Some(guided_loss(logits, posterior(batch.posterior))),
            Objective::CtcSequence => Some(sequence_loss(logits, &batch.target_frames, &batch.nbest, blank)),
        };
        let ctc = objective.needs_text().then(|| ctc(output.logits));
        let lambda = settings.lambda();
        let total = match (ctc.clone(), term.clone()) {
            (Some(ctc), Some(term)) if objective == Objective::CtcSequence => {
                ctc.mul_scalar(1.0 - lambda) + term.mul_scalar(lambda)
            }
            (Some(ctc), Some(term)) => ctc + term.mul_scalar(lambda),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Err(Error::invalid("an objective has no loss")),
        };
        // One transfer for all the numbers of the step.
        let all: Vec<Tensor<1>> = std::iter::once(total.clone()).chain(ctc).chain(term).collect();
        let values: Vec<f64> = Tensor::cat(all, 0).into_data().iter::<f32>().map(f64::from).collect();
        Ok((total, values))
    })?;
    let names = objective.needs_text().then_some("ctc").into_iter().chain(objective.term());
    let losses = Losses { total: values[0], parts: names.zip(values[1..].iter().copied()).collect() };
    let gradients =
        losses.total.is_finite().then(|| profile.time(Part::Backward, device, || total.backward()));
    Ok((losses, gradients))
}
