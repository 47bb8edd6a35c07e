//! Real utterances for the rows of whole networks: a batch with a teacher's cached targets, or all of a corpus.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tutornet::cache::Cache;
use tutornet::corpus::Corpus;
use tutornet::features::{BINS, transpose};
use tutornet::labels::Labels;
use tutornet::models::{HiddenLayer, Model};

use super::Row;
use super::tensors::Named;

/// Utterances of a batch.
const COUNT: usize = 16;

/// A padded batch of a forward pass.
#[derive(Debug, Serialize, Deserialize)]
pub struct Padded {
    /// Feature frames of each utterance.
    pub frames: Vec<usize>,
    /// Feature frames that all are padded to.
    pub padded: usize,
    /// Their places in the corpus; none for drawn features.
    #[serde(default)]
    pub indices: Vec<usize>,
}

/// Gives the row the lengths and transcripts of the batch that [`batch`] then reads: neighbours in length,
/// three quarters up from the shortest.
pub fn describe(row: &mut Row) {
    let corpus = open(row);
    let utterances = corpus.utterances();
    let mut order: Vec<usize> = (0..utterances.len()).collect();
    order.sort_by_key(|&i| (utterances[i].frames, i));
    if row.kind == "forward" {
        let batches: Vec<Padded> = order.chunks(COUNT).map(|chosen| padded(&corpus, chosen)).collect();
        row.parameters.insert("batches".to_owned(), json!(batches));
        return;
    }
    let from = (order.len() * 3 / 4).min(order.len().saturating_sub(COUNT));
    let chosen = &order[from..order.len().min(from + COUNT)];
    let Padded { frames, padded, indices } = padded(&corpus, chosen);
    let labels = Labels::english();
    let targets: Vec<Vec<u32>> =
        chosen.iter().map(|&i| labels.encode(&utterances[i].text).expect("a transcript")).collect();
    let values = [
        ("indices", json!(indices)),
        ("frames", json!(frames)),
        ("padded", json!(padded)),
        ("targets", json!(targets)),
    ];
    row.parameters.extend(values.map(|(name, value)| (name.to_owned(), value)));
}

fn open(row: &Row) -> Corpus {
    Corpus::open(Path::new(&row.get::<String>("corpus"))).unwrap_or_else(|e| super::fail(&e.to_string()))
}

fn padded(corpus: &Corpus, indices: &[usize]) -> Padded {
    let frames: Vec<usize> = indices.iter().map(|&i| corpus.utterances()[i].frames as usize).collect();
    let longest = frames.iter().copied().max().unwrap_or(0);
    Padded { frames, padded: longest.next_multiple_of(16), indices: indices.to_vec() }
}

fn features(corpus: &Corpus, name: &str, indices: &[usize], padded: usize) -> Named {
    let mut values = Vec::new();
    let mut features = vec![0.0; indices.len() * BINS * padded];
    for (&index, out) in indices.iter().zip(features.chunks_exact_mut(BINS * padded)) {
        corpus.features(index, &mut values).expect("features");
        transpose(&values, BINS, out, (0, padded));
    }
    Named::new(name, &[indices.len(), BINS, padded], features)
}

/// Features of every batch of the corpus.
pub fn speech(row: &Row) -> Vec<Named> {
    let (corpus, batches): (Corpus, Vec<Padded>) = (open(row), row.get("batches"));
    let one = |(i, batch): (usize, &Padded)| {
        features(&corpus, &format!("features.{i}"), &batch.indices, batch.padded)
    };
    batches.iter().enumerate().map(one).collect()
}

/// Features, hidden states, frame weights and posteriors of a training step.
pub fn batch(row: &Row, model: &Model) -> Vec<Named> {
    let (corpus, indices): (Corpus, Vec<usize>) = (open(row), row.get("indices"));
    let padded: usize = row.get("padded");
    let mut values = Vec::new();
    let cache = Cache::open(Path::new(&row.get::<String>("cache")));
    let cache = cache.unwrap_or_else(|e| super::fail(&e.to_string()));
    let (width, labels) = (cache.identity().hidden_width as usize, cache.identity().labels.count());
    let outputs = model.output_frames(padded);
    let zeros = |width: usize| vec![0f32; indices.len() * width * outputs];
    let (mut hidden, mut weight, mut posterior) = (zeros(width), zeros(1), zeros(labels));
    for (row, &index) in indices.iter().enumerate() {
        let entry = cache.find(&corpus.utterances()[index].id).expect("the utterance is in the cache");
        cache.hidden(HiddenLayer::Last, entry, &mut values).expect("hidden states");
        transpose(&values, width, &mut hidden[row * width * outputs..][..width * outputs], (0, outputs));
        cache.frame_weight(HiddenLayer::Last, entry, &mut values).expect("frame weights");
        weight[row * outputs..][..values.len()].copy_from_slice(&values);
        cache.log_posterior(entry, &mut values).expect("posteriors");
        let place = &mut posterior[row * outputs * labels..][..values.len()];
        place.iter_mut().zip(&values).for_each(|(p, log)| *p = log.exp());
    }
    vec![
        features(&corpus, "features", &indices, padded),
        Named::new("hidden", &[indices.len(), width, outputs], hidden),
        Named::new("weight", &[indices.len(), 1, outputs], weight),
        Named::new("posterior", &[indices.len(), outputs, labels], posterior),
    ]
}
