//! Copies of utterances at other speeds: `prep --speed`, a teacher that hears them, a student that draws them.

use std::path::Path;

use tutornet::corpus::{Corpus, Speed, original};
use tutornet::features::Frontend;

use crate::fixture::{Fixture, stop_at, update_of};
use crate::flac::{flac, tone};
use crate::harness::{contents, exits, fails, run_contents, succeeds, tutornet};
use crate::tree::Tree;

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Three utterances, one that cannot be decoded, and one without a transcript.
fn tree() -> Tree {
    let tree = Tree::new();
    tree.speech("dev", "1-2", 3).add("dev", "1-2-0007", Some(b"not a flac"), Some("WORDS")).add(
        "dev",
        "1-2-0008",
        Some(&flac(&tone(2000, 8), 1, 16_000)),
        None,
    );
    tree
}

#[test]
fn copies_are_utterances_of_their_own() {
    let tree = tree();
    let prep = |speeds: &str| {
        let mut command = tree.prep("dev", "c");
        command.args(["--shard-utterances", "4", "--speed", speeds]);
        command
    };
    succeeds(&mut prep("1.1,0.9")).prints(&[
        "9 utterances, 1 speaker, 3 shards",
        "with copies of every utterance at speed 0.9 and 1.1",
        "skipped: 4 (1 transcript missing, 3 not FLAC or WAV)",
    ]);
    let corpus = Corpus::open(&tree.path("c")).unwrap();
    assert_eq!(corpus.manifest().speeds, ["0.9", "1.1"].map(|s| s.parse::<Speed>().unwrap()));
    let ids: Vec<&str> = corpus.utterances().iter().map(|u| u.id.as_str()).collect();
    let expected: Vec<String> =
        (0..3).flat_map(|i| ["", "@speed0.9", "@speed1.1"].map(|mark| format!("1-2-{i:04}{mark}"))).collect();
    assert_eq!(ids, expected);

    // Originals are those of a corpus without copies, byte for byte; copies have length, name and audio of their own.
    succeeds(&mut tree.prep("dev", "plain"));
    let plain = Corpus::open(&tree.path("plain")).unwrap();
    let mut hashes = std::collections::BTreeSet::new();
    let (mut values, mut expected) = (Vec::new(), Vec::new());
    for (index, utterance) in corpus.utterances().iter().enumerate() {
        let of = plain.utterances().iter().position(|u| u.id == original(&utterance.id)).unwrap();
        let source = &plain.utterances()[of];
        assert_eq!((&utterance.text, &utterance.speaker), (&source.text, &source.speaker));
        assert!(hashes.insert(utterance.audio_hash), "{} sounds like another", utterance.id);
        let speed = utterance.id.split_once("@speed").map_or(1.0, |(_, s)| s.parse::<f64>().unwrap());
        let length = (source.samples as f64 / speed).ceil();
        assert_eq!(utterance.samples as f64, length, "{}", utterance.id);
        corpus.features(index, &mut values).unwrap();
        assert_eq!(values.len(), utterance.frames as usize * 64);
        if utterance.id == source.id {
            plain.features(of, &mut expected).unwrap();
            assert_eq!((values == expected, utterance.audio_hash), (true, source.audio_hash));
        }
    }
    let skipped: Vec<String> = lines(&tree.path("c/skipped.jsonl"))
        .iter()
        .map(|line| format!("{} {}", line["utterance"].as_str().unwrap(), line["reason"].as_str().unwrap()))
        .collect();
    let expected = [
        "1-2-0007 format",
        "1-2-0007@speed0.9 format",
        "1-2-0007@speed1.1 format",
        "1-2-0008 transcript-missing",
    ];
    assert_eq!(skipped, expected);
    succeeds(tutornet().arg("verify").arg(tree.path("c")));
    let answer = succeeds(tutornet().args(["inspect", "--json"]).arg(tree.path("c")));
    let inspected: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(inspected["speeds"], serde_json::json!([0.9, 1.1]));

    // The speeds are part of what the corpus is, their order is not.
    let made = contents(&tree.path("c"));
    succeeds(&mut prep("0.9,1.1,0.9")).prints(&["already complete"]);
    fails(&mut prep("0.9"), &["begun with other arguments", "--speed 0.9,1.1", "--speed 0.9 --shard"]);
    fails(
        tree.prep("dev", "c").args(["--shard-utterances", "4"]),
        &["begun with other arguments", "--speed 0.9,1.1"],
    );
    fails(tree.prep("dev", "plain").args(["--speed", "1.1"]), &["begun with other arguments"]);
    for (speed, word) in [("1", "other than 1"), ("3", "0.5 to 2"), ("fast", "such as 0.9")] {
        exits(&mut prep(speed), 2).says(&[word]);
    }

    // A lost shard, the list of what was left out, a flipped bit: mended to the same bytes.
    std::fs::remove_file(tree.path("c/shard-00001.parquet")).unwrap();
    succeeds(&mut prep("0.9,1.1")).says(&["shard-00001.parquet: missing"]).prints(&["2 shards kept"]);
    assert_eq!(contents(&tree.path("c")), made);
    for name in ["skipped.jsonl", "shard-00002.parquet", "corpus.toml"] {
        let path = tree.path("c").join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        succeeds(&mut prep("0.9,1.1")).says(&[name]);
        assert_eq!(contents(&tree.path("c")), made, "{name}");
    }

    // Another frontend needs the same copies.
    let other = Frontend::OpenSeq2Seq;
    let error = corpus.require_frontend(&other, "m").unwrap_err().to_string();
    assert!(error.contains("--frontend openseq2seq --speed 0.9,1.1 --out"), "{error}");
}

#[test]
fn an_utterance_named_like_a_copy_is_refused() {
    let tree = tree();
    tree.add("dev", "1-2-0001@speed1.1", Some(&flac(&tone(2000, 8), 1, 16_000)), Some("WORDS"));
    fails(tree.prep("dev", "c").args(["--speed", "0.9"]), &["named like a copy", "1-2-0001@speed1.1"]);
    succeeds(&mut tree.prep("dev", "c")).prints(&["4 utterances"]);
}

#[test]
fn one_bad_file_is_as_many_utterances_as_it_has_copies() {
    let tree = tree();
    let mut strict = tree.prep("dev", "c");
    fails(strict.args(["--speed", "0.9", "--strict"]), &["--strict", "1-2-0008"]);
    let file = tree.root().join("dev/1/2/1-2-0008.flac");
    std::fs::remove_file(file).unwrap();
    let mut strict = tree.prep("dev", "c");
    fails(strict.args(["--speed", "0.9", "--strict"]), &["--strict", "1-2-0007"]);
}

/// The teacher hears the copies, and a student that draws one of them an epoch ends, stopped or not, at the same bytes.
#[test]
fn a_student_draws_copies_that_its_teacher_heard() {
    let fixture = Fixture::get();
    let speech = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/LibriSpeech");
    let _ = std::fs::remove_dir_all(fixture.at("speed"));
    let mut prep = tutornet();
    prep.args(["prep", "librispeech"]).arg(speech).args(["--subset", "dev-clean", "--speed", "0.9,1.1"]);
    succeeds(prep.args(["--shard-utterances", "32", "--out"]).arg(fixture.at("speed")));
    let _ = std::fs::remove_dir_all(fixture.at("cache-speed"));
    fixture.cache(&fixture.at("teacher/student"), "speed", "cache-speed");
    succeeds(tutornet().arg("verify").arg(fixture.at("cache-speed")));

    let stages = "objective = \"rkd\"\nteacher = [\"CACHE\"]\nepochs = 1\n---\nobjective = \"ctc+skd\"\nteacher = [\"CACHE\"]\nepochs = 2\n";
    let plain = fixture.pipeline("drawn", stages);
    let text = std::fs::read_to_string(&plain).unwrap();
    let rule = "name = \"novograd\"\nlarc = 0.001\nl2 = 0.0005\nlearning_rate = 0.02\n";
    let text = text.replace("name = \"adamw\"\nlearning_rate = 0.003\n", rule);
    assert!(text.contains("larc"));
    std::fs::write(&plain, &text).unwrap();
    let pipeline = fixture.root.join("drawn-speed.toml");
    let text = text.replace("/dev-clean", "/speed").replace("cache-dev-clean", "cache-speed");
    std::fs::write(&pipeline, text).unwrap();

    // A cache that never heard the copies does not do.
    let missing = format!("stage.0.teacher=[{:?}]", fixture.at("cache-dev-clean"));
    fails(
        &mut fixture.train(&pipeline, "refused-speed", &["--set", &missing]),
        &["in none of the caches", "@speed0.9"],
    );
    let dev = format!("data.dev=[{:?}]", fixture.at("speed"));
    fails(&mut fixture.train(&plain, "refused-speed", &["--set", &dev]), &["data.dev", "without --speed"]);

    let every = ["--set", "checkpoint.every_updates=2"];
    succeeds(&mut fixture.train(&pipeline, "drawn-whole", &every))
        .says(&["42 different utterances", "one copy of each"]);
    let total = update_of(&fixture.at("drawn-whole/metrics.jsonl"));
    let resume = [&every[..], &["--resume"]].concat();
    for (updates, signal) in [(2, "-KILL"), (total / 2, "-TERM"), (total - 2, "-KILL")] {
        stop_at(fixture, &pipeline, "drawn-stopped", updates, signal, &resume);
    }
    succeeds(&mut fixture.train(&pipeline, "drawn-stopped", &resume));
    let (whole, stopped) = (fixture.at("drawn-whole"), fixture.at("drawn-stopped"));
    assert!(run_contents(&whole, 1) == run_contents(&stopped, 2), "the stopped run is another");

    // As long an epoch as without copies, give or take what their lengths change; all of them are three times that.
    succeeds(&mut fixture.train(&plain, "drawn-plain", &[]));
    let without = update_of(&fixture.at("drawn-plain/metrics.jsonl"));
    assert!(total.abs_diff(without) <= without / 5, "{total} updates, {without} without copies");
    let all = ["--set", "data.speed_copies=all", "--set", "stage.1.epochs=1"];
    succeeds(&mut fixture.train(&pipeline, "drawn-all", &all)).says(&["all copies of each"]);
    let all = update_of(&fixture.at("drawn-all/metrics.jsonl"));
    assert!(all.abs_diff(2 * without) <= without / 3, "{all} updates in two epochs, {without} in three");

    // Scoring says what it scores.
    let mut eval = tutornet();
    eval.arg("eval")
        .arg("--model")
        .arg(fixture.at("drawn-whole/student"))
        .arg("--corpus")
        .arg(fixture.at("speed"));
    succeeds(eval.args(["--device", "cpu"])).says(&["copies of its utterances"]);
}
