//! `eval` and `transcribe` through the binary.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tutornet::corpus::Corpus;
use tutornet::device::DeviceChoice;
use tutornet::models::parameters::{export, import};
use tutornet::models::{self, Model, presets};
use tutornet::score::{Scores, read_utterance_scores};

use crate::flac::{flac, tone, wav};
use crate::harness::{documented, exits, fails, shared_data, succeeds, tutornet};

/// What is said in the tiny corpus, as far as its transcripts know.
const TEXTS: [&str; 5] = ["ONE TWO", "SIX", "TWO SIX TEN", "TEN", "ONE ONE ONE ONE"];
const WORDS: u64 = 11;
/// Samples of its utterances: lengths far apart, so that batches are padded.
const SAMPLES: [usize; 5] = [9_000, 24_000, 12_345, 4_000, 16_000];

struct Fixture {
    dir: TempDir,
    corpus: PathBuf,
    model: PathBuf,
}

impl Fixture {
    /// A corpus of five noises and a small model that was never trained.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Self { corpus: dir.path().join("corpus"), model: dir.path().join("model"), dir };
        let chapter = fixture.dir.path().join("tree/dev-tiny/7/1");
        std::fs::create_dir_all(&chapter).unwrap();
        let mut transcripts = String::new();
        for (number, (text, samples)) in (0..).zip(TEXTS.iter().zip(SAMPLES)) {
            transcripts += &format!("7-1-{number:04} {text}\n");
            std::fs::write(fixture.audio(number), flac(&tone(samples, number), 1, 16_000)).unwrap();
        }
        std::fs::write(chapter.join("7-1.trans.txt"), transcripts).unwrap();
        fixture.prep(&fixture.corpus, &[]);
        model(&fixture.model, |_, _| {});
        fixture
    }

    fn audio(&self, number: u32) -> PathBuf {
        self.dir.path().join(format!("tree/dev-tiny/7/1/7-1-{number:04}.flac"))
    }

    fn prep(&self, out: &Path, arguments: &[&str]) {
        let mut command = tutornet();
        command.args(["prep", "librispeech"]).arg(self.dir.path().join("tree"));
        succeeds(command.args(["--subset", "dev-tiny", "--out"]).arg(out).args(arguments));
    }

    fn eval(&self) -> std::process::Command {
        eval(&self.model, &self.corpus)
    }
}

fn eval(model: &Path, corpus: &Path) -> std::process::Command {
    let mut command = tutornet();
    command.args(["eval", "--device", "cpu", "--model"]).arg(model).arg("--corpus").arg(corpus);
    command
}

fn transcribe(model: &Path, files: &[PathBuf]) -> std::process::Command {
    let mut command = tutornet();
    command.args(["transcribe", "--device", "cpu", "--model"]).arg(model).args(files);
    command
}

/// Saves a jasper-nano with initial weights after `change` has seen every tensor (shape, values).
fn model(dir: &Path, change: impl Fn(&[usize], &mut [f32])) {
    let device = DeviceChoice::Cpu.open().unwrap();
    let mut model = Model::new(presets::find("jasper-nano").unwrap(), 7, &device).unwrap();
    let mut tensors = export(&model.network).unwrap();
    tensors.values_mut().for_each(|t| change(&t.shape, &mut t.values));
    model.network = import(model.network, tensors).unwrap();
    model.save(dir).unwrap();
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("stdout is one JSON object")
}

#[test]
fn eval_scores_a_corpus() {
    let fixture = Fixture::new();
    let out = fixture.dir.path().join("run/scores/dev-tiny.json");
    let answer = succeeds(fixture.eval().args(["--json", "--out"]).arg(&out));
    assert_eq!(answer.stdout.lines().count(), 1);
    let scores = json(&answer.stdout);
    documented(&answer.stdout);
    assert_eq!(scores["model"]["blake3"], models::identity(&fixture.model).unwrap());
    assert_eq!(scores["corpus"]["blake3"], Corpus::open(&fixture.corpus).unwrap().identity());
    let count = |key: &str| scores[key].as_u64().unwrap_or_else(|| panic!("{key} in {scores}"));
    let rate = |key: &str| scores[key].as_f64().unwrap_or_else(|| panic!("{key} in {scores}"));
    assert_eq!((count("words"), count("utterances")), (WORDS, 5));
    assert_eq!(count("errors"), count("substitutions") + count("insertions") + count("deletions"));
    assert!((rate("wer") - 100.0 * count("errors") as f64 / WORDS as f64).abs() < 1e-9);
    assert!(
        (rate("cer") - 100.0 * count("character_errors") as f64 / count("characters") as f64).abs() < 1e-9
    );
    assert!(count("errors") > 0, "noise and an untrained model give no perfect score");
    let interval = scores["wer_interval"].as_array().unwrap();
    assert!(interval[0].as_f64().unwrap() <= rate("wer") && rate("wer") <= interval[1].as_f64().unwrap());

    // The file has the same JSON, the table beside it every utterance.
    assert_eq!(std::fs::read_to_string(&out).unwrap(), answer.stdout);
    let table = read_utterance_scores(&out.with_extension("tsv")).unwrap();
    assert_eq!(
        table.iter().map(|u| u.0.as_str()).collect::<Vec<_>>(),
        (0..5).map(|i| format!("7-1-{i:04}")).collect::<Vec<_>>()
    );
    assert_eq!(table[2].1, "two six ten");
    let errors = std::fs::read_to_string(out.with_extension("tsv")).unwrap();
    let errors: u64 =
        errors.lines().skip(1).map(|l| l.split('\t').nth(1).unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(errors, count("errors"));

    // One utterance a batch or all in one: padding changes nothing.
    for seconds in ["0.1", "1000"] {
        let answer = succeeds(fixture.eval().args(["--json", "--batch-seconds", seconds]));
        assert_eq!(json(&answer.stdout), scores, "batches of {seconds} s");
    }
    // What `transcribe` hears is what `eval` heard.
    let files: Vec<PathBuf> = (0..5).map(|i| fixture.audio(i)).collect();
    let heard: Vec<String> =
        files.iter().zip(&table).map(|(file, row)| format!("{}\t{}", file.display(), row.2)).collect();
    let answer = succeeds(&mut transcribe(&fixture.model, &files));
    assert_eq!(answer.stdout.lines().collect::<Vec<_>>(), heard);
    assert!(table.iter().any(|row| !row.2.is_empty()), "an all-blank model would prove nothing");
}

#[test]
fn eval_prints_for_people_and_tables() {
    let fixture = Fixture::new();
    succeeds(&mut fixture.eval()).prints(&["WER", "CER", "errors in 11 words", "5 utterances", "the blank"]);
    let answer = succeeds(fixture.eval().args(["--per-utterance", "-", "--align"]));
    assert!(answer.stdout.starts_with("id\terrors\twords\treference\thypothesis\n7-1-0000\t"));
    assert!(answer.stdout.contains("\n# ref ") && answer.stdout.contains("\n# hyp "));
    let answer = answer.says(&["errors in 11 words"]);
    let file = fixture.dir.path().join("table.tsv");
    succeeds(fixture.eval().args(["--json", "--align", "--per-utterance"]).arg(&file));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), answer.stdout);

    exits(fixture.eval().args(["--json", "--per-utterance", "-"]), 2)
        .says(&["stdout", "Usage: tutornet eval"]);
    exits(fixture.eval().arg("--align"), 2).says(&["--per-utterance"]);
    exits(tutornet().args(["eval", "--device", "abacus"]), 2).says(&["abacus", "cpu"]);
    fails(fixture.eval().args(["--batch-seconds", "0"]), &["more than 0 seconds"]);
    fails(fixture.eval().args(["--out"]).arg(&file), &["table.tsv", "JSON"]);
}

#[test]
fn a_corpus_for_another_frontend_is_refused() {
    let fixture = Fixture::new();
    let other = fixture.dir.path().join("other");
    fixture.prep(&other, &["--frontend", "openseq2seq"]);
    let words = ["jasper-nano", "openseq2seq", "tutornet prep librispeech", " --frontend nemo --out DIR"];
    fails(&mut eval(&fixture.model, &other), &words);
    let other = fixture.dir.path().join("variant");
    fixture.prep(&other, &["--nemo-frames", "floor"]);
    fails(&mut eval(&fixture.model, &other), &["expected `--frontend nemo`", "--nemo-frames floor"]);
}

#[test]
fn corrupt_features_are_named() {
    let fixture = Fixture::new();
    let shard = fixture.corpus.join("shard-00000.parquet");
    let mut bytes = std::fs::read(&shard).unwrap();
    // The features of five utterances are most of the file: its middle is among them.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&shard, bytes).unwrap();
    fails(&mut fixture.eval(), &["shard-00000.parquet", "utterance 7-1-000", "features", "tutornet verify"]);
}

#[test]
fn a_model_that_emits_only_blanks_is_marked() {
    let fixture = Fixture::new();
    // The head's bias is the only tensor with one value for each of the 29 labels.
    model(&fixture.model, |shape, values| {
        if shape == [29] {
            values[28] = 1e6;
        }
    });
    let answer = succeeds(fixture.eval().arg("--json")).says(&["warning", "blank"]);
    let scores = json(&answer.stdout);
    assert_eq!((&scores["all_blank"], &scores["blank_rate"]), (&Value::Bool(true), &Value::from(100.0)));
    assert_eq!((&scores["wer"], &scores["cer"]), (&Value::from(100.0), &Value::from(100.0)));
    assert_eq!(scores["deletions"], WORDS);
    let answer = succeeds(&mut transcribe(&fixture.model, &[fixture.audio(0)]));
    assert_eq!(answer.stdout, format!("{}\t\n", fixture.audio(0).display()));
}

#[test]
fn a_diverged_model_is_an_error() {
    let fixture = Fixture::new();
    model(&fixture.model, |shape, values| {
        if shape == [29] {
            values[3] = f32::NAN;
        }
    });
    fails(&mut fixture.eval(), &["jasper-nano", "logits of 7-1-000", "not finite"]);
    let answer = exits(&mut transcribe(&fixture.model, &[fixture.audio(0)]), 1);
    assert_eq!(answer.says(&["not finite", "7-1-0000.flac"]).stdout, "");
}

#[test]
fn transcribe_goes_on_after_a_bad_file() {
    let fixture = Fixture::new();
    let at = |name: &str| fixture.dir.path().join(name);
    // The same tone at 8 kHz, and in stereo at 44.1 kHz.
    let pcm: Vec<u8> = tone(8_000, 3).iter().flat_map(|&s| i16::try_from(s).unwrap().to_le_bytes()).collect();
    std::fs::write(at("slow.wav"), wav(&pcm, 1, 8_000)).unwrap();
    let stereo: Vec<i32> = tone(44_100, 4).iter().flat_map(|&s| [s, s / 2]).collect();
    std::fs::write(at("stereo.flac"), flac(&stereo, 2, 44_100)).unwrap();
    std::fs::write(at("text.wav"), "no audio at all").unwrap();
    let good = std::fs::read(fixture.audio(1)).unwrap();
    std::fs::write(at("cut.flac"), &good[..good.len() / 2]).unwrap();

    let names = ["slow.wav", "text.wav", "missing.wav", "stereo.flac", "cut.flac"].map(at);
    let answer = exits(&mut transcribe(&fixture.model, &names), 1);
    let printed: Vec<&str> = answer.stdout.lines().map(|l| l.split('\t').next().unwrap()).collect();
    assert_eq!(printed, [&names[0], &names[3]].map(|p| p.to_str().unwrap()));
    for name in ["text.wav", "missing.wav", "cut.flac"] {
        let lines = answer.stderr.lines().filter(|l| l.starts_with("error: ") && l.contains(name)).count();
        assert_eq!(lines, 1, "{name}:\n{}", answer.stderr);
    }
    answer.says(&["3 of 5 files could not be transcribed"]);
    exits(&mut transcribe(&fixture.model, &[]), 2).says(&["FILE"]);
    fails(&mut transcribe(&at("nowhere"), &names), &["nowhere"]);
}

/// The published checkpoint, imported and scored: PyTorch has 15 errors in 1,485 words.
#[test]
fn the_imported_teacher_recognises_real_speech() {
    let Some(data) = shared_data("the_imported_teacher_recognises_real_speech") else { return };
    let dir = tempfile::tempdir().unwrap();
    let [model, corpus, out] = ["model", "corpus", "scores.json"].map(|name| dir.path().join(name));
    succeeds(tutornet().arg("import").arg(data.join("quartznet15x5-en.nemo")).arg("--out").arg(&model));
    let mut prep = tutornet();
    prep.args(["prep", "librispeech"]).arg(data.join("LibriSpeech"));
    succeeds(prep.args(["--subset", "dev-mini", "--out"]).arg(&corpus));
    succeeds(eval(&model, &corpus).arg("--out").arg(&out));
    let scores = Scores::load(&out).unwrap();
    assert_eq!((scores.words, scores.utterances, scores.all_blank), (1485, 52, false));
    assert!((13..=17).contains(&scores.errors), "{scores}");
}
