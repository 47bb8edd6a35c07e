//! What the trainer keeps: checkpoints, and the student at the end.

use super::checkpoint::{Position, State};
use super::metrics::Event;
use super::profile::Part;
use super::run::{Outcome, Trainer};
use crate::error::Result;
use crate::models::parameters;

/// Name of the bridge of pair `index` in checkpoints and for the optimiser.
pub(super) fn bridge_name(index: usize) -> String {
    if index == 0 { "bridge".to_owned() } else { format!("bridge-{}", index + 1) }
}

impl Trainer<'_> {
    /// Saves everything that the run needs to go on.
    pub(super) fn checkpoint(&mut self) -> Result<()> {
        let (profile, device) = (self.profile.clone(), self.device.clone());
        profile.time(Part::Checkpoint, &device, || self.save())
    }

    fn save(&mut self) -> Result<()> {
        self.metrics.sync()?;
        self.position.metrics_bytes = self.metrics.bytes();
        self.position.metrics_blake3 = self.metrics.blake3();
        let (optimizer_updates, moments) = self.optimizer.export();
        let mut state = State { position: self.position.clone(), optimizer_updates, ..State::default() };
        state.put("model", parameters::export(&self.model.network)?);
        state.put("optimizer", moments);
        for (index, bridge) in self.bridges.iter().enumerate() {
            state.put(&bridge_name(index), parameters::export(bridge)?);
        }
        if let Some(best) = &self.best {
            state.put("best", best.clone());
        }
        state.save(&self.directory.checkpoints(), self.pipeline.checkpoint.keep)?;
        Ok(())
    }

    /// Takes up a saved run.
    pub(super) fn restore(&mut self, mut state: State) -> Result<()> {
        self.position = state.position.clone();
        self.begin_stage();
        self.model.network = parameters::import(self.model.network.clone(), state.take("model"))?;
        for (index, bridge) in std::mem::take(&mut self.bridges).into_iter().enumerate() {
            self.bridges.push(parameters::import(bridge, state.take(&bridge_name(index)))?);
        }
        let best = state.take("best");
        self.best = (!best.is_empty()).then_some(best);
        let device = self.device.clone().inner();
        self.optimizer.import(state.optimizer_updates, state.take("optimizer"), &device)?;
        tracing::info!("going on from update {}", self.position.update);
        Ok(())
    }

    /// Writes the student and marks the run as done.
    pub(super) fn finish(mut self) -> Result<Outcome> {
        let selected = match (&self.position.best, self.best.take()) {
            (Some(best), Some(weights)) => {
                self.model.network = parameters::import(self.model.network.clone(), weights)?;
                format!("update {} (dev WER {:.2}, CER {:.2})", best.update, best.wer, best.cer)
            }
            _ => format!("update {} (the last)", self.position.update),
        };
        let options = &mut self.model.config.provenance.options;
        options.insert("selected".to_owned(), selected.clone());
        let student = self.directory.student();
        self.model.valid().save(&student)?;
        self.metrics.write(&Event::Done {
            update: self.position.update,
            rejected: self.position.rejected,
            selected,
        })?;
        self.metrics.sync()?;
        if self.position.rejected > 0 {
            let Position { rejected, update, .. } = self.position;
            tracing::warn!("{rejected} of {update} updates were rejected: a loss or gradient was not finite");
        }
        let outcome = Outcome {
            student,
            updates: self.position.update,
            best: self.position.best.clone(),
            already_done: false,
        };
        self.directory.mark_done(&outcome)?;
        Ok(outcome)
    }
}
