//! A model over a corpus, scored.

use burn::tensor::{Device, Tensor, TensorData};
use crossbeam::channel::bounded;

use super::batches::group;
use super::evaluation::{Evaluation, UtteranceScore};
use crate::corpus::Corpus;
use crate::decode::{Decoder, Transcript, recognise};
use crate::error::{Error, Result};
use crate::features::{BINS, HOP, SAMPLE_RATE, transpose};
use crate::models::Model;
use crate::progress::Progress;
use crate::signal::Stop;

/// How [`evaluate`] goes about it; of these only the decoder changes a score.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// From logits to text.
    pub decoder: Decoder,
    /// Padded audio in one batch, in seconds; a longer utterance is a batch of its own.
    pub batch_seconds: f64,
    /// Name of the progress bar; none without.
    pub progress: Option<String>,
    /// Asked between batches; a stop ends the evaluation with [`Error::Interrupted`].
    pub stop: Stop,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self { decoder: Decoder::Greedy, batch_seconds: 120.0, progress: None, stop: Stop::default() }
    }
}

/// A batch of features on its way to the model.
struct Batch {
    /// Indices into `corpus.utterances()`.
    utterances: Vec<usize>,
    frames: Vec<usize>,
    /// [batch, bins, longest], zero where an utterance has ended.
    values: Vec<f32>,
}

/// Recognises every utterance of `corpus` and scores it. `model` must live on `device`,
/// without autodiff (a training model's `valid()` copy). Batches hold utterances of like length
/// and are read ahead on a thread; the scores do not depend on the batches but for rounding.
///
/// # Errors
/// When model and corpus disagree on the frontend, the corpus is empty or has no text, features are corrupt
/// (the utterance is named) or logits are not finite.
pub fn evaluate(
    model: &Model,
    corpus: &Corpus,
    device: &Device,
    options: &EvaluateOptions,
) -> Result<Evaluation> {
    corpus.require_frontend(&model.config.frontend, &model.config.name)?;
    if !corpus.manifest().speeds.is_empty() {
        tracing::warn!(
            "{}: holds copies of its utterances at other speeds; each is scored as an utterance of its own",
            corpus.dir().display()
        );
    }
    options.decoder.require_words_of(&model.config.labels)?;
    let utterances = corpus.utterances();
    if utterances.iter().all(|u| u.text.trim().is_empty()) {
        return Err(Error::format(
            corpus.dir(),
            format!(
                "expected utterances with text to score against, found {} without; prepare a corpus with transcripts",
                utterances.len()
            ),
        ));
    }
    let frames: Vec<usize> = utterances.iter().map(|u| u.frames as usize).collect();
    let groups = group(&frames, budget_frames(options.batch_seconds)?);
    let progress = options.progress.as_ref().map(|n| Progress::new(n, "utterances", utterances.len() as u64));
    // What has no frame has no text either.
    let mut transcripts = vec![Transcript::default(); utterances.len()];

    std::thread::scope(|scope| {
        let (send, receive) = bounded(1);
        scope.spawn(move || {
            for group in groups {
                let batch = read(corpus, group);
                let failed = batch.is_err();
                if send.send(batch).is_err() || failed {
                    break;
                }
            }
        });
        for batch in receive {
            let batch = batch?;
            if options.stop.requested() {
                return Err(Error::Interrupted("the evaluation was not finished".to_owned()));
            }
            let indices = batch.utterances.clone();
            for (&index, transcript) in
                indices.iter().zip(run(model, corpus, device, &options.decoder, batch)?)
            {
                transcripts[index] = transcript;
            }
            if let Some(progress) = &progress {
                progress.add(indices.len() as u64);
            }
        }
        Ok::<(), Error>(())
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    let seconds = utterances.iter().map(|u| u.samples as f64).sum::<f64>() / f64::from(SAMPLE_RATE);
    let scores = utterances.iter().zip(&transcripts).map(|(u, t)| UtteranceScore::new(&u.id, &u.text, t));
    let mut evaluation = Evaluation::from_utterances(scores.collect(), seconds);
    evaluation.scores.search = options.decoder.settings().cloned();
    Ok(evaluation)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be a positive number"
)]
fn budget_frames(seconds: f64) -> Result<usize> {
    if seconds.is_finite() && seconds > 0.0 {
        Ok((seconds * f64::from(SAMPLE_RATE) / HOP as f64) as usize)
    } else {
        Err(Error::invalid(format!("expected a batch of more than 0 seconds, found {seconds}")))
    }
}

fn read(corpus: &Corpus, utterances: Vec<usize>) -> Result<Batch> {
    let frames: Vec<usize> = utterances.iter().map(|&i| corpus.utterances()[i].frames as usize).collect();
    let longest = frames.iter().copied().max().unwrap_or(0);
    let mut values = vec![0.0; utterances.len() * BINS * longest];
    let mut features = Vec::new();
    let _ahead = corpus.ahead(&utterances)?;
    for (row, &index) in utterances.iter().enumerate() {
        corpus.features(index, &mut features)?;
        let size = BINS * longest;
        transpose(&features, BINS, &mut values[row * size..(row + 1) * size], (0, longest));
    }
    Ok(Batch { utterances, frames, values })
}

fn run(
    model: &Model,
    corpus: &Corpus,
    device: &Device,
    decoder: &Decoder,
    batch: Batch,
) -> Result<Vec<Transcript>> {
    let Batch { utterances, frames, values } = batch;
    let shape = [utterances.len(), BINS, values.len() / (utterances.len() * BINS).max(1)];
    let features = Tensor::<3>::from_data(TensorData::new(values, shape), device);
    let names = |row: usize| corpus.utterances()[utterances[row]].id.clone();
    recognise(model, features, &frames, decoder, names)
}
