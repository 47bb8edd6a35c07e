//! Made-up caches: what the writer writes, the reader reads, and nothing else passes.

use std::path::Path;

use super::encode::{Extras, Hidden, Raw, encode};
use super::identity::InnerLayer;
use super::identity::tests::example;
use super::manifest::{Manifest, ShardEntry};
use super::schema::{self, Key};
use super::{Cache, Identity};
use crate::error::Error;
use crate::files;
use crate::models::HiddenLayer;
use crate::random::Random;

/// One utterance's values: hidden `[width, frames]`, logits `[frames, labels]`.
pub(super) struct Values {
    pub key: Key,
    pub hidden: Vec<f32>,
    pub logits: Vec<f32>,
}

/// Half zeros, the rest normal: what a post-ReLU layer looks like.
#[expect(clippy::cast_possible_truncation, reason = "test data")]
pub(super) fn made_up(index: u8, frames: u32, width: usize, labels: usize) -> Values {
    let mut random = Random::new(u64::from(index), "made-up cache", &[]);
    let mut noise = |count: usize| -> Vec<f32> { (0..count).map(|_| random.normal() as f32).collect() };
    let hidden = noise(width * frames as usize).into_iter().map(|v| v.max(0.0)).collect();
    let logits = noise(labels * frames as usize);
    let key = Key { utterance: format!("utt-{index}"), samples: 320, audio_hash: [index; 16], frames };
    Values { key, hidden, logits }
}

/// Writes a complete cache of `shards` shards of three utterances.
pub(super) fn write_cache(dir: &Path, identity: &Identity, shards: u8) -> Vec<Values> {
    let (width, labels) = (identity.hidden_width as usize, identity.labels.count());
    identity.save(dir).unwrap();
    let cache = files::blake3_file(&dir.join("cache.toml")).unwrap();
    let mut all = Vec::new();
    let mut entries = Vec::new();
    for shard in 0..shards {
        let values: Vec<_> =
            (0..3).map(|i| made_up(3 * shard + i, 20 + u32::from(i) * 7, width, labels)).collect();
        let rows: Vec<_> = values
            .iter()
            .map(|v| {
                let frames = v.key.frames as usize;
                // An inner layer is made up of the last one's first channels.
                let layer =
                    |layer, width: usize| Hidden { layer, values: &v.hidden[..width * frames], width };
                let inner: Vec<Hidden> = identity
                    .layers
                    .iter()
                    .map(|l| layer(HiddenLayer::Inner(l.layer), l.width as usize))
                    .collect();
                let hidden = layer(HiddenLayer::Last, width);
                let raw = Raw { hidden, inner: &inner, logits: &v.logits, frames, padded: frames, labels };
                encode(v.key.clone(), raw, Extras { temperature: identity.temperature, ..Extras::default() })
                    .unwrap()
            })
            .collect();
        let file = format!("shard-{shard:05}.parquet");
        let summary = schema::write_shard(&dir.join(&file), identity, &cache, &rows).unwrap();
        entries.push(ShardEntry::new(&file, values.iter().map(|v| u64::from(v.key.frames)).sum(), summary));
        all.extend(values);
    }
    Manifest::new(dir, entries).unwrap().save(dir).unwrap();
    all
}

#[test]
fn what_was_written_is_read_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut identity = example(40);
    identity.temperature = Some(3.0);
    identity.layers = vec![InnerLayer { layer: 0, width: 24 }, InnerLayer { layer: 7, width: 9 }];
    let values = write_cache(dir.path(), &identity, 2);
    let cache = Cache::open(dir.path()).unwrap();
    assert_eq!((cache.identity(), cache.entries().len()), (&identity, 6));
    assert_eq!(cache.find("utt-9"), None);
    let mut out = Vec::new();
    for expected in values {
        let frames = expected.key.frames as usize;
        let index = cache.find(&expected.key.utterance).unwrap();
        let entry = &cache.entries()[index];
        assert_eq!(
            (entry.frames, entry.samples, entry.audio_hash[0]),
            (expected.key.frames, 320, u8::try_from(index).unwrap())
        );
        assert_eq!((entry.shard as usize, entry.row as usize), (index / 3, index % 3));
        cache.hidden(HiddenLayer::Last, index, &mut out).unwrap();
        assert_eq!(out.len(), frames * 40);
        for (at, value) in out.iter().enumerate() {
            let single = expected.hidden[at % 40 * frames + at / 40];
            assert_eq!(*value, half::f16::from_f32(single).to_f32());
        }
        let (mut pieces, mut next) = (Vec::new(), 0);
        let take = |first: usize, piece: &[f32]| {
            assert_eq!(first, next);
            next += piece.len() / 40;
            pieces.extend_from_slice(piece);
        };
        cache.hidden_in_pieces(HiddenLayer::Last, index, take).unwrap();
        assert_eq!(pieces, out);
        cache.frame_weight(HiddenLayer::Last, index, &mut out).unwrap();
        assert_eq!(out.len(), frames);
        for (number, width) in [(0, 24), (7, 9)] {
            let layer = HiddenLayer::Inner(number);
            cache.hidden(layer, index, &mut out).unwrap();
            assert_eq!(out.len(), frames * width);
            for (at, value) in out.iter().enumerate() {
                let single = expected.hidden[at % width * frames + at / width];
                assert_eq!(*value, half::f16::from_f32(single).to_f32());
            }
            cache.frame_weight(layer, index, &mut out).unwrap();
            let first: f64 = (0..width).map(|d| f64::from(expected.hidden[d * frames])).sum();
            assert!((f64::from(out[0]) - 1.0 / (1.0 + (-first / width as f64).exp())).abs() < 1e-7);
        }
        let missing = cache.hidden(HiddenLayer::Inner(1), index, &mut out).unwrap_err().to_string();
        assert!(missing.contains("hidden_1"), "{missing}");
        cache.log_posterior(index, &mut out).unwrap();
        for frame in out.chunks_exact(29) {
            let sum: f32 = frame.iter().map(|l| l.exp()).sum();
            assert!((sum - 1.0).abs() < 2e-3, "{sum}");
        }
    }
    assert!(cache.hidden(HiddenLayer::Last, 6, &mut out).unwrap_err().to_string().contains("6 utterances"));
    assert!(cache.hidden_bytes_per_frame(HiddenLayer::Last).unwrap() > 30.0);
}

/// Reads everything; the first error, if any.
fn read_all(dir: &Path) -> Result<Vec<f32>, Error> {
    let cache = Cache::open(dir)?;
    let (mut out, mut all) = (Vec::new(), Vec::new());
    for index in 0..cache.entries().len() {
        cache.hidden(HiddenLayer::Last, index, &mut out)?;
        all.extend_from_slice(&out);
        cache.frame_weight(HiddenLayer::Last, index, &mut out)?;
        all.extend_from_slice(&out);
        cache.log_posterior(index, &mut out)?;
        all.extend_from_slice(&out);
    }
    Ok(all)
}

#[test]
fn no_flipped_bit_of_a_shard_reaches_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), &example(16), 1);
    let expected = read_all(dir.path()).unwrap();
    let path = dir.path().join("shard-00000.parquet");
    let good = std::fs::read(&path).unwrap();
    let mut random = Random::new(1, "flips", &[]);
    let (mut refused, mut harmless) = (0, 0);
    // The footer and the indexes more densely than the rest.
    let footer = good.len() - 3000;
    for at in (0..good.len()).filter(|at| at % if *at >= footer { 5 } else { 17 } == 0) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(&path, &bytes).unwrap();
        match read_all(dir.path()) {
            Err(_) => refused += 1,
            Ok(values) => {
                assert!(values == expected, "byte {at}: other values were read");
                harmless += 1;
            }
        }
    }
    // Harmless: the writer's name, encodings nobody asks for ... `verify` finds these too.
    assert!(refused > 5 * harmless, "{refused} refused, {harmless} harmless");
}

#[test]
fn a_corrupt_payload_names_shard_utterance_and_column() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), &example(16), 1);
    let path = dir.path().join("shard-00000.parquet");
    let good = std::fs::read(&path).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for at in (0..good.len() - 3000).step_by(5) {
        let mut bytes = good.clone();
        bytes[at] ^= 16;
        std::fs::write(&path, &bytes).unwrap();
        if let Err(Error::Corrupt { path: shard, utterance, column, .. }) = read_all(dir.path()) {
            assert_eq!(shard, path);
            seen.insert((utterance, column));
        }
    }
    for utterance in ["utt-0", "utt-1", "utt-2"] {
        for column in ["hidden", "frame_weight", "posterior"] {
            assert!(seen.contains(&(utterance.to_owned(), column.to_owned())), "{utterance} {column}");
        }
    }
}

#[test]
fn truncated_swapped_and_foreign_shards_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), &example(16), 2);
    let [first, second] = ["shard-00000.parquet", "shard-00001.parquet"].map(|f| dir.path().join(f));
    let good = std::fs::read(&first).unwrap();
    for length in [0, 4, good.len() / 2, good.len() - 1] {
        std::fs::write(&first, &good[..length]).unwrap();
        let error = Cache::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("shard-00000") && error.contains("truncated"), "{error}");
    }
    std::fs::copy(&second, &first).unwrap();
    assert!(Cache::open(dir.path()).is_err());
    std::fs::remove_file(&first).unwrap();
    assert!(Cache::open(dir.path()).unwrap_err().to_string().contains("missing"));

    let other = tempfile::tempdir().unwrap();
    let mut identity = example(16);
    identity.teacher.hash = "ef".repeat(32);
    write_cache(other.path(), &identity, 1);
    std::fs::copy(other.path().join("shard-00000.parquet"), &first).unwrap();
    let error = Cache::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("of another cache"), "{error}");
}

#[test]
fn a_flipped_seal_closes_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), &example(16), 1);
    for file in ["cache.toml", "manifest.toml"] {
        let path = dir.path().join(file);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 2;
            std::fs::write(&path, &bytes).unwrap();
            let error = Cache::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(file), "{file} byte {at}: {error}");
        }
        std::fs::write(&path, &good).unwrap();
    }
    Cache::open(dir.path()).unwrap();
}
