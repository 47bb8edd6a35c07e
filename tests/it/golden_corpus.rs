//! Corpora and features held against files that were written before, and against real speech.

use std::path::{Path, PathBuf};

use tutornet::corpus::{Corpus, decode_audio};
use tutornet::features::Frontend;

use crate::flac::{flac, tone};
use crate::harness::{contents, shared_data, succeeds, tutornet};
use crate::tree::Tree;

/// A corpus that version 0.1.0 wrote: this version must read it, whatever it writes itself.
/// (`cargo test --release --test it golden -- --ignored` writes a new one into the temporary directory.)
#[test]
fn the_golden_corpus_is_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/corpus");
    assert_eq!(tutornet::corpus::verify(&golden, &mut |_, _| {}).unwrap(), []);
    let corpus = Corpus::open(&golden).unwrap();
    let rows: Vec<(&str, &str, &str, u64, u32)> = corpus
        .utterances()
        .iter()
        .map(|u| (u.id.as_str(), u.speaker.as_str(), u.text.as_str(), u.samples, u.frames))
        .collect();
    let expected = [
        ("1-2-0000", "1", "some words", 1600, 10),
        ("1-2-0001", "1", "some words", 1680, 11),
        ("3-4-0000", "3", "it's one more", 2000, 13),
    ];
    assert_eq!(rows, expected);
    assert_eq!((corpus.shard_count(), corpus.manifest().skipped.utterances), (2, 1));
    assert_eq!(corpus.manifest().frontend, Frontend::default());
    let mut values = Vec::new();
    for (index, seed) in [(0, 0), (1, 1), (2, 9)] {
        let utterance = &corpus.utterances()[index];
        corpus.features(index, &mut values).unwrap();
        let audio: Vec<f32> = tone(usize::try_from(utterance.samples).unwrap(), seed)
            .iter()
            .map(|&s| s as f32 / 32_768.0)
            .collect();
        let hash = blake3::hash(&audio.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>());
        assert_eq!(utterance.audio_hash, hash.as_bytes()[..16]);
        let now = Frontend::default().features(&audio).values;
        let worst = now.iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(now.len() == values.len() && worst < 1e-4, "{worst}");
    }
}

/// The command that made the golden corpus, from the same tree.
fn make(out: &Path) {
    let tree = Tree::new();
    tree.speech("dev", "1-2", 2)
        .add("dev", "3-4-0000", Some(&flac(&tone(2000, 9), 1, 16_000)), Some("IT'S ONE MORE"))
        .add("dev", "3-4-0001", Some(b""), Some("NOTHING"));
    let mut prep = tutornet();
    prep.args(["prep", "librispeech", "LibriSpeech", "--subset", "dev", "--shard-utterances", "2", "--out"]);
    succeeds(prep.arg(out).current_dir(tree.path("")));
}

/// Where a machine computes the features to the same bits, the corpus is the golden one byte for byte; on any other
/// its manifest differs in hashes and sizes of shards alone.
#[test]
fn the_golden_corpus_would_be_written_again() {
    let dir = tempfile::tempdir().unwrap();
    make(&dir.path().join("corpus"));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/corpus");
    let (found, expected) = (contents(&dir.path().join("corpus")), contents(&golden));
    assert!(found.keys().eq(expected.keys()));
    let shard = |files: &std::collections::BTreeMap<PathBuf, Vec<u8>>| -> Vec<Vec<u8>> {
        files
            .iter()
            .filter(|(name, _)| name.extension().is_some_and(|e| e == "parquet"))
            .map(|f| f.1.clone())
            .collect()
    };
    if shard(&found) == shard(&expected) {
        assert_eq!(found, expected);
    }
    let lines = |files: &std::collections::BTreeMap<PathBuf, Vec<u8>>| -> Vec<String> {
        let text = String::from_utf8(files[Path::new("corpus.toml")].clone()).unwrap();
        let varies = |line: &&str| ["blake3 =", "bytes =", "# blake3"].iter().any(|k| line.starts_with(k));
        text.lines().filter(|line| !varies(line)).map(str::to_owned).collect()
    };
    assert_eq!(lines(&found), lines(&expected));
    assert_eq!(found[Path::new("skipped.jsonl")], expected[Path::new("skipped.jsonl")]);
}

#[test]
#[ignore = "writes the golden corpus"]
fn write_the_golden_corpus() {
    let out = std::env::temp_dir().join("tutornet-golden-corpus");
    make(&out);
    println!("{}", out.display());
}

/// The features of two utterances as PyTorch computed them for the pre-trained model.
#[test]
fn features_are_those_of_the_golden_file() {
    let Some(data) = shared_data("features_are_those_of_the_golden_file") else { return };
    let golden = std::fs::read(data.join("quartznet15x5-en.golden.safetensors")).unwrap();
    let golden = safetensors::SafeTensors::deserialize(&golden).unwrap();
    let names: Vec<&str> = golden.names().into_iter().filter_map(|n| n.strip_suffix(".features")).collect();
    assert_eq!(names.len(), 2);
    for id in names {
        let tensor = golden.tensor(&format!("{id}.features")).unwrap();
        let expected: Vec<f32> =
            tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let audio = decode_audio(&flac_of(&data.join("LibriSpeech/dev-mini"), id)).unwrap();
        assert!(audio.verified && audio.rate == 16_000 && audio.channels == 1);
        let found = Frontend::default().features(&audio.samples);
        assert_eq!([found.frames, found.bins], tensor.shape());
        let worst = found.values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        println!("{id}: {} frames, max|diff| {worst:e}", found.frames);
        assert!(worst <= 1e-3, "{id}: {worst}");
    }
}

fn flac_of(subset: &Path, id: &str) -> PathBuf {
    let (speaker, rest) = id.split_once('-').unwrap();
    let chapter = rest.split_once('-').unwrap().0;
    subset.join(speaker).join(chapter).join(format!("{id}.flac"))
}

#[test]
fn real_speech_becomes_a_corpus_that_reads_back() {
    let Some(data) = shared_data("real_speech_becomes_a_corpus_that_reads_back") else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("corpus");
    let root = data.join("LibriSpeech");
    let mut prep = tutornet();
    prep.args(["prep", "librispeech"]).arg(&root).args(["--subset", "test-mini", "--out"]).arg(&out);
    succeeds(prep.args(["--shard-utterances", "25"])).prints(&[
        "58 utterances",
        "9 speakers",
        "3 shards",
        "0.12 hours",
        "skipped: none",
    ]);
    let corpus = Corpus::open(&out).unwrap();
    assert_eq!((corpus.utterances().len(), corpus.shard_count(), corpus.shard(2)), (58, 3, 50..58));
    assert!(corpus.utterances().windows(2).all(|w| w[0].id < w[1].id));
    let mut values = Vec::new();
    for index in [57, 0, 24, 25] {
        let utterance = &corpus.utterances()[index];
        corpus.features(index, &mut values).unwrap();
        let audio = decode_audio(&flac_of(&root.join("test-mini"), &utterance.id)).unwrap();
        assert_eq!((utterance.audio_hash, utterance.samples), (audio.audio_hash, audio.samples.len() as u64));
        assert_eq!(utterance.speaker, utterance.id.split('-').next().unwrap());
        let expected = Frontend::default().features(&audio.samples);
        assert_eq!((expected.frames, &expected.values), (utterance.frames as usize, &values));
    }
}
