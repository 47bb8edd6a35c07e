//! The caches of format version 1 that lie in `tests/golden`: `cache`, whose manifest has neither `version` nor `rows_blake3`,
//! is read for ever; `cache-rows`, whose has, is read and written byte for byte.
//!
//! Its values are made up (`value`), so that they depend on no model and no processor. When the format
//! version is raised, this directory stays as it is and must still be read; the new version gets a directory
//! of its own (`cargo test --release --test it write_the_golden_cache -- --ignored --nocapture` writes one) and
//! only the newest is compared byte for byte. When the bytes differ while the format does not (another zstd,
//! another Parquet writer), raise `shard::WRITER` and write the directory again.

use std::path::{Path, PathBuf};

use tutornet::cache::encode::{Extras, Hidden, Raw, encode};
use tutornet::cache::identity::{CorpusIdentity, Teacher};
use tutornet::cache::schema::{Key, write_shard};
use tutornet::cache::{self, Cache, Identity, Manifest, ShardEntry};
use tutornet::corpus::Corpus;
use tutornet::features::Frontend;
use tutornet::files;
use tutornet::labels::Labels;
use tutornet::models::HiddenLayer;

use crate::harness::contents;

const WIDTH: usize = 20;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A whole number in 0..256 from a place; no pattern that a wrong order would keep.
fn hash(utterance: usize, frame: usize, channel: usize) -> u8 {
    let mixed = (utterance * 7919 + frame * 104_729 + channel * 1_299_709 + 12_345) * 2_654_435_761;
    u8::try_from(mixed >> 24 & 0xFF).unwrap()
}

/// Hidden state: half zeros, else a multiple of 1/32 that half precision holds exactly.
fn value(utterance: usize, frame: usize, channel: usize) -> f32 {
    let hash = hash(utterance, frame, channel);
    if hash < 128 { 0.0 } else { f32::from(hash - 128) / 32.0 }
}

/// Logit: -8 to 8 in steps of 1/16.
fn logit(utterance: usize, frame: usize, label: usize) -> f32 {
    f32::from(hash(utterance, frame, 1000 + label)) / 16.0 - 8.0
}

fn write(dir: &Path) {
    let corpus = Corpus::open(&golden("corpus")).unwrap();
    let labels = Labels::english().count();
    let mut identity = Identity::new(
        Teacher { name: "made-up".to_owned(), hash: "0123456789abcdef".repeat(4) },
        CorpusIdentity::new(corpus.identity()),
        Frontend::default(),
        Labels::english(),
        2,
        u32::try_from(WIDTH).unwrap(),
    );
    identity.temperature = Some(2.0);
    identity.save(dir).unwrap();
    let hash = files::blake3_file(&dir.join("cache.toml")).unwrap();
    let mut entries = Vec::new();
    for (shard, entry) in corpus.manifest().shards.iter().enumerate() {
        let rows: Vec<_> = corpus
            .shard(shard)
            .map(|index| {
                let utterance = &corpus.utterances()[index];
                let frames = utterance.frames.div_ceil(2);
                let (valid, padded) = (frames as usize, frames as usize + 3);
                let hidden: Vec<f32> =
                    (0..WIDTH * padded).map(|at| value(index, at % padded, at / padded)).collect();
                let logits: Vec<f32> =
                    (0..labels * padded).map(|at| logit(index, at / labels, at % labels)).collect();
                let key = Key {
                    utterance: utterance.id.clone(),
                    samples: utterance.samples,
                    audio_hash: utterance.audio_hash,
                    frames,
                };
                let hidden = Hidden { layer: HiddenLayer::Last, values: &hidden, width: WIDTH };
                let raw = Raw { hidden, inner: &[], logits: &logits, frames: valid, padded, labels };
                encode(key, raw, Extras { temperature: identity.temperature, ..Extras::default() }).unwrap()
            })
            .collect();
        let frames = rows.iter().map(|r| u64::from(r.key.frames)).sum();
        let summary = write_shard(&dir.join(&entry.file), &identity, &hash, &rows).unwrap();
        entries.push(ShardEntry::new(&entry.file, frames, summary));
    }
    Manifest::new(dir, entries).unwrap().save(dir).unwrap();
}

#[test]
fn the_golden_caches_are_read() {
    for name in ["cache", "cache-rows"] {
        is_read(&golden(name));
        let manifest = std::fs::read_to_string(golden(name).join("manifest.toml")).unwrap();
        assert_eq!(manifest.contains("rows_blake3 = "), name == "cache-rows");
    }
}

fn is_read(dir: &Path) {
    assert_eq!(cache::verify(dir, &mut |_, _| {}).unwrap(), []);
    let cache = Cache::open(dir).unwrap();
    assert_eq!(cache.identity().teacher.name, "made-up");
    assert_eq!((cache.identity().stride, cache.identity().temperature), (2, Some(2.0)));
    let names: Vec<(&str, u32, u32, u32)> =
        cache.entries().iter().map(|e| (e.utterance.as_str(), e.frames, e.shard, e.row)).collect();
    assert_eq!(names, [("1-2-0000", 5, 0, 0), ("1-2-0001", 6, 0, 1), ("3-4-0000", 7, 1, 0)]);

    // It belongs to the golden corpus.
    let corpus = Corpus::open(&golden("corpus")).unwrap();
    assert_eq!(cache.identity().corpus.hash, corpus.identity());
    let mut out = Vec::new();
    for (index, utterance) in corpus.utterances().iter().enumerate() {
        assert_eq!(cache.find(&utterance.id), Some(index));
        let entry = &cache.entries()[index];
        assert_eq!((entry.samples, entry.audio_hash), (utterance.samples, utterance.audio_hash));

        cache.hidden(HiddenLayer::Last, index, &mut out).unwrap();
        let expected: Vec<f32> =
            (0..entry.frames as usize * WIDTH).map(|at| value(index, at / WIDTH, at % WIDTH)).collect();
        assert_eq!(out, expected);
        cache.frame_weight(HiddenLayer::Last, index, &mut out).unwrap();
        for (frame, weight) in out.iter().enumerate() {
            let mean = (0..WIDTH).map(|d| f64::from(value(index, frame, d))).sum::<f64>() / WIDTH as f64;
            assert!((f64::from(*weight) - 1.0 / (1.0 + (-mean).exp())).abs() < 1e-6);
        }
        cache.log_posterior(index, &mut out).unwrap();
        for (frame, log_p) in out.chunks_exact(29).enumerate() {
            let sum: f64 = (0..29).map(|label| f64::from(logit(index, frame, label)).exp()).sum();
            for (label, log_p) in log_p.iter().enumerate() {
                let expected = f64::from(logit(index, frame, label)) - sum.ln();
                assert!((f64::from(*log_p) - expected).abs() < 8e-3, "{log_p} {expected}");
            }
        }
    }
    // And three values as they were read when the file was made.
    cache.hidden(HiddenLayer::Last, 0, &mut out).unwrap();
    assert_eq!(out[..4], FIRST_HIDDEN);
    cache.frame_weight(HiddenLayer::Last, 0, &mut out).unwrap();
    assert_eq!(out[0], FIRST_WEIGHT);
    cache.log_posterior(0, &mut out).unwrap();
    assert_eq!(out[..2], FIRST_LOG_POSTERIOR);
}

const FIRST_HIDDEN: [f32; 4] = [1.03125, 3.6875, 0.0, 1.0625];
const FIRST_WEIGHT: f32 = 0.849_771_8;
const FIRST_LOG_POSTERIOR: [f32; 2] = [-8.054_687_5, -2.681_640_6];

#[test]
fn todays_writer_writes_the_golden_bytes() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let (today, golden) = (contents(dir.path()), contents(&golden("cache-rows")));
    assert_eq!(today.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    for (name, bytes) in &golden {
        assert!(today[name] == *bytes, "{}: other bytes; see the head of {}", name.display(), file!());
    }
}

#[test]
#[ignore = "writes the golden cache"]
fn write_the_golden_cache() {
    let dir = std::env::temp_dir().join("tutornet-golden-cache");
    std::fs::create_dir_all(&dir).unwrap();
    write(&dir);
    println!("{}", dir.display());
}
