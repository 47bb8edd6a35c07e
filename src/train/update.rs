//! One update: gradients of a group of batches become a step, or leave no trace but their count.

use super::keep::bridge_name;
use super::metrics::Event;
use super::optimizer::NamedGradients;
use super::pipeline::Stage;
use super::profile::Part;
use super::run::Trainer;
use super::step::{Losses, Place, forward_backward};
use super::stream::Batch;
use crate::error::{Error, Result};
use crate::models::{BatchStatistics, TrainState, parameters};
use crate::random::Random;

impl Trainer<'_> {
    /// One optimiser step over a group of batches; a step with a number that is not finite leaves
    /// no trace but its count.
    pub(super) fn update(&mut self, stage: &Stage, group: Vec<Batch>, total: u64) -> Result<Losses> {
        let position = self.position.clone();
        let settings = self.settings(stage).clone();
        let rate = settings.schedule.at(settings.learning_rate, position.stage_update, total);
        let mut gradients = NamedGradients::default();
        let mut statistics: Vec<Vec<BatchStatistics>> = Vec::new();
        let mut losses = Vec::new();
        let layers: Vec<_> = self.prepared.stages[position.stage].pairs.iter().map(|p| p.student).collect();
        let names: Vec<String> = group.iter().flat_map(|b| b.utterances.clone()).collect();
        for (part, batch) in group.into_iter().enumerate() {
            if batch.utterances.is_empty() {
                continue; // every utterance was damaged, and skip_corrupt is on
            }
            let place = [position.stage as u64, position.stage_update, part as u64];
            let dropout = Random::new(self.pipeline.seed, "dropout", &place);
            let mut state = TrainState::new(self.model.config.norm().statistics, dropout);
            let place =
                Place { settings: stage, layers: &layers, device: &self.device, profile: &self.profile };
            let (loss, graph) = forward_backward(&self.model, &self.bridges, batch, &mut state, place)?;
            losses.push(loss);
            statistics.push(state.statistics);
            if let Some(graph) = graph {
                let (profile, device) = (self.profile.clone(), self.device.clone());
                profile.time(Part::Optimizer, &device, || self.collect(&mut gradients, &graph));
            }
        }
        let loss = Losses::mean(&losses);
        let (profile, device) = (self.profile.clone(), self.device.clone());
        let (norm, accepted) = profile.time(Part::Optimizer, &device, || {
            gradients.average();
            self.regularise(&mut gradients, settings.l2);
            let norm = gradients.norm();
            let accepted = loss.total.is_finite() && norm.is_finite();
            if accepted {
                gradients.clip(norm, settings.gradient_clip);
                self.apply(gradients, rate);
                for statistics in statistics {
                    self.model.apply_statistics(statistics, self.model.config.momentum())?;
                }
            }
            Ok::<_, Error>((norm, accepted))
        })?;
        self.count(stage, &loss, norm, rate, accepted, &names)?;
        Ok(loss)
    }

    fn collect(&mut self, gradients: &mut NamedGradients, graph: &burn::tensor::Gradients) {
        let network = self.model.network.clone();
        parameters::map(network, &mut gradients.collector(graph, ""));
        for (index, bridge) in self.bridges.iter().enumerate() {
            let prefix = format!("{}.", bridge_name(index));
            parameters::map(bridge.clone(), &mut gradients.collector(graph, &prefix));
        }
        gradients.batch_done();
    }

    /// The L2 term of the network; the bridges, which no recipe has, carry none.
    fn regularise(&self, gradients: &mut NamedGradients, l2: f64) {
        if l2 > 0.0 {
            let network = &self.model.network;
            parameters::map(
                network.clone(),
                &mut gradients.regulariser(l2, |name| network.regularised(name)),
            );
        }
    }

    fn apply(&mut self, mut gradients: NamedGradients, rate: f64) {
        self.optimizer.begin_step();
        let network = self.model.network.clone();
        self.model.network = parameters::map(network, &mut self.optimizer.stepper(&mut gradients, rate, ""));
        for (index, bridge) in std::mem::take(&mut self.bridges).into_iter().enumerate() {
            let prefix = format!("{}.", bridge_name(index));
            let stepper = &mut self.optimizer.stepper(&mut gradients, rate, &prefix);
            self.bridges.push(parameters::map(bridge, stepper));
        }
    }

    /// Moves the position by one update, logs it, and stops a run that only meets non-finite numbers.
    fn count(
        &mut self,
        stage: &Stage,
        loss: &Losses,
        norm: f64,
        rate: f64,
        accepted: bool,
        names: &[String],
    ) -> Result<()> {
        let position = &mut self.position;
        position.update += 1;
        position.stage_update += 1;
        if accepted {
            position.rejected_in_a_row = 0;
            position.epoch_loss = (position.epoch_loss.0 + loss.total, position.epoch_loss.1 + 1);
        } else {
            position.rejected += 1;
            position.rejected_in_a_row += 1;
        }
        let (profile, device) = (self.profile.clone(), self.device.clone());
        let event = Event::Step {
            stage: position.stage,
            objective: stage.objective.to_string(),
            update: position.update,
            epoch: position.epoch + 1,
            loss: loss.total,
            parts: loss.parts.iter().copied().collect(),
            gradient_norm: norm,
            learning_rate: rate,
            rejected: !accepted,
        };
        profile.time(Part::Log, &device, || self.metrics.write(&event))?;
        if accepted {
            return Ok(());
        }
        tracing::warn!("update {} rejected: loss {}, gradient norm {norm}", position.update, loss.total);
        let limit = self.pipeline.checkpoint.max_rejected;
        if position.rejected_in_a_row < limit {
            return Ok(());
        }
        Err(Error::NonFinite(format!(
            "stage {} ({}): loss or gradient not finite in {limit} updates in a row, the last at update {} with utterances {}; \
             start again into another --out with a lower optimizer.learning_rate or with optimizer.gradient_clip (the checkpoints in {} are whole, from before)",
            position.stage,
            stage.objective,
            position.update,
            names.join(" "),
            self.directory.checkpoints().display()
        )))
    }
}
