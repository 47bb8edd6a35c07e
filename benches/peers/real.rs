//! A batch of real utterances with a teacher's cached targets, for the rows of whole networks.

use std::path::Path;

use serde_json::json;
use tutornet::cache::Cache;
use tutornet::corpus::Corpus;
use tutornet::features::{BINS, transpose};
use tutornet::labels::Labels;
use tutornet::models::Model;

use super::Row;
use super::tensors::Named;

/// Utterances of a batch.
const COUNT: usize = 16;

/// Gives the row the lengths and transcripts of the batch that [`batch`] then reads: neighbours in length,
/// three quarters up from the shortest.
pub fn describe(row: &mut Row) {
    let corpus = open(row);
    let utterances = corpus.utterances();
    let mut order: Vec<usize> = (0..utterances.len()).collect();
    order.sort_by_key(|&i| (utterances[i].frames, i));
    let from = (order.len() * 3 / 4).min(order.len().saturating_sub(COUNT));
    let chosen = &order[from..order.len().min(from + COUNT)];
    let frames: Vec<u32> = chosen.iter().map(|&i| utterances[i].frames).collect();
    let longest = frames.iter().copied().max().unwrap_or(0);
    let labels = Labels::english();
    let targets: Vec<Vec<u32>> =
        chosen.iter().map(|&i| labels.encode(&utterances[i].text).expect("a transcript")).collect();
    let values = [
        ("indices", json!(chosen)),
        ("frames", json!(frames)),
        ("padded", json!(longest.next_multiple_of(16))),
        ("targets", json!(targets)),
    ];
    row.parameters.extend(values.map(|(name, value)| (name.to_owned(), value)));
}

fn open(row: &Row) -> Corpus {
    Corpus::open(Path::new(&row.get::<String>("corpus"))).unwrap_or_else(|e| super::fail(&e.to_string()))
}

/// Features, and for a training step hidden states, frame weights and posteriors.
pub fn batch(row: &Row, model: &Model) -> Vec<Named> {
    let (corpus, indices): (Corpus, Vec<usize>) = (open(row), row.get("indices"));
    let padded: usize = row.get("padded");
    let mut values = Vec::new();
    let mut features = vec![0.0; indices.len() * BINS * padded];
    for (&index, out) in indices.iter().zip(features.chunks_exact_mut(BINS * padded)) {
        corpus.features(index, &mut values).expect("features");
        transpose(&values, BINS, out, padded);
    }
    let features = Named::new("features", &[indices.len(), BINS, padded], features);
    if row.kind == "forward" {
        return vec![features];
    }
    let cache = Cache::open(Path::new(&row.get::<String>("cache")));
    let cache = cache.unwrap_or_else(|e| super::fail(&e.to_string()));
    let (width, labels) = (cache.identity().hidden_width as usize, cache.identity().labels.count());
    let outputs = model.output_frames(padded);
    let zeros = |width: usize| vec![0f32; indices.len() * width * outputs];
    let (mut hidden, mut weight, mut posterior) = (zeros(width), zeros(1), zeros(labels));
    for (row, &index) in indices.iter().enumerate() {
        let entry = cache.find(&corpus.utterances()[index].id).expect("the utterance is in the cache");
        cache.hidden(entry, &mut values).expect("hidden states");
        transpose(&values, width, &mut hidden[row * width * outputs..][..width * outputs], outputs);
        cache.frame_weight(entry, &mut values).expect("frame weights");
        weight[row * outputs..][..values.len()].copy_from_slice(&values);
        cache.log_posterior(entry, &mut values).expect("posteriors");
        let place = &mut posterior[row * outputs * labels..][..values.len()];
        place.iter_mut().zip(&values).for_each(|(p, log)| *p = log.exp());
    }
    vec![
        features,
        Named::new("hidden", &[indices.len(), width, outputs], hidden),
        Named::new("weight", &[indices.len(), 1, outputs], weight),
        Named::new("posterior", &[indices.len(), outputs, labels], posterior),
    ]
}
