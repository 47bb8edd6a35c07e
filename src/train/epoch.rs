//! What happens between two epochs: scores on the dev corpora, the best weights, a checkpoint.

use super::checkpoint::Best;
use super::metrics::Event;
use super::pipeline::{Select, Stage};
use super::profile::Part;
use super::run::Trainer;
use crate::error::{Error, Result};
use crate::models::parameters;
use crate::progress::Progress;
use crate::score::{EvaluateOptions, Evaluation, Scores, evaluate};

impl Trainer<'_> {
    /// Scores the student on the dev corpora, logs the epoch and saves the state.
    pub(super) fn end_of_epoch(&mut self, stage: &Stage, last: bool, progress: &Progress) -> Result<()> {
        let every = self.pipeline.data.dev_every_epochs;
        let due = last || (self.position.epoch + 1).is_multiple_of(every);
        let dev = match due && stage.objective.trains_logits() {
            true => match self.evaluate_dev() {
                Err(Error::Interrupted(_)) => {
                    self.checkpoint()?;
                    return Err(self.interrupted());
                }
                result => result?,
            },
            false => None,
        };
        let (sum, count) = self.position.epoch_loss;
        if count == 0 && self.position.rejected_in_a_row == 0 {
            return Err(Error::invalid(format!(
                "stage {} ({}), epoch {}: no utterance could be read; `tutornet verify` on the corpora and caches lists what is damaged",
                self.position.stage,
                stage.objective,
                self.position.epoch + 1
            )));
        }
        let loss = if count > 0 { sum / count as f64 } else { f64::NAN };
        self.metrics.write(&Event::Epoch {
            stage: self.position.stage,
            objective: stage.objective.to_string(),
            epoch: self.position.epoch + 1,
            update: self.position.update,
            loss,
            dev_wer: dev.as_ref().map(|d| d.wer),
            dev_cer: dev.as_ref().map(|d| d.cer),
            dev_blank_rate: dev.as_ref().map(|d| d.blank_rate),
        })?;
        let scores =
            dev.as_ref().map(|d| format!("  dev WER {:.2} CER {:.2}", d.wer, d.cer)).unwrap_or_default();
        if due {
            progress.line(&format!(
                "{} epoch {} update {}: loss {loss:.3}{scores}",
                stage.objective,
                self.position.epoch + 1,
                self.position.update
            ));
        }
        if let Some(dev) = &dev
            && self.position.stage + 1 == self.pipeline.stage.len()
            && self.pipeline.checkpoint.select == Select::Best
        {
            let better = self.position.best.as_ref().is_none_or(|b| (dev.wer, dev.cer) <= (b.wer, b.cer));
            if better {
                let (epoch, update) = (self.position.epoch, self.position.update);
                self.position.best = Some(Best { wer: dev.wer, cer: dev.cer, epoch, update });
                self.best = Some(parameters::export(&self.model.network)?);
            }
        }
        self.position.epoch += 1;
        self.position.batch = 0;
        self.position.epoch_loss = (0.0, 0);
        self.checkpoint()
    }

    pub(super) fn interrupted(&self) -> Error {
        Error::Interrupted(format!(
            "a checkpoint holds update {}; the same command with --resume goes on from it",
            self.position.update
        ))
    }

    fn evaluate_dev(&self) -> Result<Option<Scores>> {
        if self.prepared.dev.is_empty() {
            return Ok(None);
        }
        self.profile.time(Part::Scoring, &self.device, || self.score_dev().map(Some))
    }

    fn score_dev(&self) -> Result<Scores> {
        let model = self.model.valid();
        let device = self.device.clone().inner();
        let options = EvaluateOptions { stop: self.stop.clone(), ..EvaluateOptions::default() };
        let (mut utterances, mut seconds) = (Vec::new(), 0.0);
        for corpus in &self.prepared.dev {
            let one = evaluate(&model, corpus, &device, &options)?;
            utterances.extend(one.per_utterance);
            seconds += one.scores.audio_seconds;
        }
        Ok(Evaluation::from_utterances(utterances, seconds).scores)
    }
}
