//! `tutornet prep` and the corpora it makes.

use tutornet::corpus::{Corpus, decode_audio};
use tutornet::features::Frontend;

use crate::harness::{exits, shared_data, succeeds, tutornet};

#[test]
fn help_is_there_and_wrong_usage_exits_with_2() {
    exits(tutornet().args(["prep", "librispeech", "--help"]), 0);
    exits(tutornet().args(["prep", "nothing"]), 2);
    exits(&mut tutornet(), 2);
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
        let (speaker, rest) = id.split_once('-').unwrap();
        let chapter = rest.split_once('-').unwrap().0;
        let path = data.join(format!("LibriSpeech/dev-mini/{speaker}/{chapter}/{id}.flac"));
        let audio = decode_audio(&path).unwrap();
        assert!(audio.verified && audio.rate == 16_000 && audio.channels == 1);
        let found = Frontend::default().features(&audio.samples);
        assert_eq!([found.frames, found.bins], tensor.shape());
        let worst = found.values.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        println!("{id}: {} frames, max|diff| {worst:e}", found.frames);
        assert!(worst <= 1e-3, "{id}: {worst}");
    }
}

#[test]
fn real_speech_becomes_a_corpus_that_reads_back() {
    let Some(data) = shared_data("real_speech_becomes_a_corpus_that_reads_back") else { return };
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("corpus");
    let root = data.join("LibriSpeech");
    succeeds(
        tutornet()
            .args(["prep", "librispeech"])
            .arg(&root)
            .args(["--subset", "test-mini", "--shard-utterances", "25", "--out"])
            .arg(&out),
    )
    .prints(&["58 utterances", "9 speakers", "3 shards", "0.12 hours", "skipped: none"]);
    let corpus = Corpus::open(&out).unwrap();
    assert_eq!((corpus.utterances().len(), corpus.shard_count(), corpus.shard(2)), (58, 3, 50..58));
    assert!(corpus.utterances().windows(2).all(|w| w[0].id < w[1].id));
    let mut values = Vec::new();
    for index in [57, 0, 24, 25] {
        let utterance = &corpus.utterances()[index];
        corpus.features(index, &mut values).unwrap();
        let (speaker, rest) = utterance.id.split_once('-').unwrap();
        let chapter = rest.split_once('-').unwrap().0;
        let path = root.join(format!("test-mini/{speaker}/{chapter}/{}.flac", utterance.id));
        let audio = decode_audio(&path).unwrap();
        assert_eq!((utterance.audio_hash, utterance.samples), (audio.audio_hash, audio.samples.len() as u64));
        assert_eq!(utterance.speaker, speaker);
        let expected = Frontend::default().features(&audio.samples);
        assert_eq!((expected.frames, expected.values), (utterance.frames as usize, values.clone()));
    }
}
