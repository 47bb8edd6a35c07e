//! `tutornet cache`, and `verify` and `inspect` on what it makes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use tutornet::cache::Cache;
use tutornet::files;
use tutornet::models::{Architecture, HiddenLayer, Model, ModelConfig, parameters, presets};
use tutornet::random::Random;

use crate::harness::{contents, exits, fails, run, succeeds, tutornet};

/// Utterances of the corpus under test, and how many of them share a shard.
const UTTERANCES: usize = 42;
const PER_SHARD: usize = 2;
const SHARDS: usize = UTTERANCES.div_ceil(PER_SHARD);

/// A corpus of synthetic speech, a teacher, and a directory for caches.
struct Work {
    directory: tempfile::TempDir,
}

/// The corpus and the teacher that all tests share.
fn shared() -> &'static Path {
    static SHARED: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = SHARED.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        prep(&directory.path().join("corpus"), &["--shard-utterances", &PER_SHARD.to_string()]);
        save_model(&directory.path().join("model"), 1, |_| {});
        directory
    });
    directory.path()
}

fn prep(out: &Path, extra: &[&str]) {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/LibriSpeech");
    let mut command = tutornet();
    command.args(["prep", "librispeech"]).arg(tree).args(["--subset", "dev-clean", "--out"]).arg(out);
    succeeds(command.args(extra));
}

/// Saves an untrained jasper-nano whose configuration `change` has seen.
fn save_model(out: &Path, seed: u64, change: impl FnOnce(&mut ModelConfig)) {
    let mut config = presets::find("jasper-nano").unwrap();
    change(&mut config);
    Model::new(config, seed, &Device::flex()).unwrap().save(out).unwrap();
}

impl Work {
    fn new() -> Self {
        shared();
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `tutornet cache` of the shared model and corpus into `out`.
    fn cache(&self, out: &str) -> Command {
        self.cache_of(&shared().join("model"), &shared().join("corpus"), out)
    }

    fn cache_of(&self, model: &Path, corpus: &Path, out: &str) -> Command {
        let mut command = self.in_batches(model, corpus, out);
        command.args(["--batch-seconds", "5"]);
        command
    }

    fn in_batches(&self, model: &Path, corpus: &Path, out: &str) -> Command {
        let mut command = tutornet();
        command.args(["cache", "--device", "cpu", "--model"]).arg(model);
        command.arg("--corpus").arg(corpus).arg("--out").arg(self.path(out));
        command
    }
}

fn verify(path: &Path) -> Command {
    let mut command = tutornet();
    command.arg("verify").arg(path);
    command
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn flip(path: &Path, at: impl FnOnce(usize) -> usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_cache_is_built_described_and_whole() {
    let work = Work::new();
    let answer = succeeds(work.cache("cache").arg("--json")).says(&[
        "42 utterances",
        "bytes a frame",
        "times real time",
        "in the forward pass",
    ]);
    let built = json(&answer.stdout);
    assert_eq!((built["utterances"].as_u64(), built["shards_written"].as_u64()), (Some(42), Some(21)));

    let inspect = |what: &Path| json(&succeeds(tutornet().arg("inspect").arg(what).arg("--json")).stdout);
    let found = inspect(&work.path("cache"));
    assert_eq!((found["kind"].as_str(), found["utterances"].as_u64()), (Some("cache"), Some(42)));
    assert_eq!(
        (found["hidden"]["codec"].as_str(), found["hidden"]["width"].as_u64()),
        (Some("f16"), Some(128))
    );
    let per_frame = found["hidden"]["bytes_per_frame"].as_f64().unwrap();
    assert!(per_frame > 32.0 && per_frame < 256.0, "{per_frame}");
    let corpus = inspect(&shared().join("corpus"));
    assert_eq!(corpus["utterances"].as_u64(), Some(42));
    let (frames, features) = (found["frames"].as_u64().unwrap(), corpus["frames"].as_u64().unwrap());
    assert!(frames >= features / 2 && frames <= features / 2 + 42, "{frames} of {features}");
    assert_eq!(inspect(&shared().join("model"))["parameters"].as_u64(), Some(90_941));
    assert_eq!(inspect(Path::new("jasper-mini"))["parameters"].as_u64(), Some(8_192_733));
    succeeds(tutornet().arg("inspect").arg(work.path("cache"))).prints(&["hidden.bytes_per_frame"]);

    succeeds(&mut verify(&work.path("cache"))).prints(&["ok"]);
    let whole = json(&succeeds(verify(&work.path("cache")).arg("--json")).stdout);
    assert_eq!((whole["ok"].as_bool(), whole["kind"].as_str()), (Some(true), Some("cache")));
    succeeds(&mut verify(&shared().join("corpus")));
    succeeds(&mut verify(&shared().join("model")));

    // Again: nothing to do, and nothing done.
    let before = contents(&work.path("cache"));
    assert!(before.keys().all(|name| name.extension().is_some_and(|e| e == "parquet" || e == "toml")));
    succeeds(&mut work.cache("cache")).says(&["complete already"]);
    assert_eq!(contents(&work.path("cache")), before);
}

#[test]
fn bytes_depend_on_neither_workers_nor_the_run() {
    let work = Work::new();
    succeeds(work.cache("one").args(["--workers", "1"]));
    succeeds(work.cache("three").args(["--workers", "3"]));
    assert_eq!(contents(&work.path("one")), contents(&work.path("three")));
}

#[test]
fn batches_change_no_more_than_the_last_bits() {
    let work = Work::new();
    prep(&work.path("corpus"), &["--shard-utterances", "20"]);
    let [mut together, mut alone] =
        ["together", "alone"].map(|out| work.in_batches(&shared().join("model"), &work.path("corpus"), out));
    succeeds(&mut together);
    succeeds(alone.args(["--batch-seconds", "0.01", "--temperature", "2"]));
    let [together, alone] = ["together", "alone"].map(|name| Cache::open(&work.path(name)).unwrap());
    assert_eq!(together.entries(), alone.entries());
    assert_eq!(alone.identity().temperature, Some(2.0));
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for index in 0..together.entries().len() {
        type Read = fn(&Cache, usize, &mut Vec<f32>) -> tutornet::error::Result<()>;
        let all: [Read; 3] = [
            |cache, index, out| cache.hidden(HiddenLayer::Last, index, out),
            |cache, index, out| cache.frame_weight(HiddenLayer::Last, index, out),
            Cache::log_posterior,
        ];
        for read in all {
            read(&together, index, &mut a).unwrap();
            read(&alone, index, &mut b).unwrap();
            assert!(!a.is_empty() && a.len() == b.len());
            let difference: f32 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
            let size: f32 = a.iter().map(|a| a.powi(2)).sum();
            assert!(difference.sqrt() <= 1e-3 * size.sqrt(), "utterance {index}: {difference} of {size}");
        }
    }
    // A frame weight is the sigmoid of the mean of the frame.
    together.hidden(HiddenLayer::Last, 0, &mut a).unwrap();
    together.frame_weight(HiddenLayer::Last, 0, &mut b).unwrap();
    for (frame, weight) in a.chunks_exact(128).zip(&b) {
        let mean = frame.iter().sum::<f32>() / 128.0;
        assert!((weight - 1.0 / (1.0 + (-mean).exp())).abs() < 1e-3);
    }
}

/// Shards that lie finished in a cache directory.
fn shards(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.file_name());
    names
        .filter(|n| n.to_string_lossy().starts_with("shard-") && n.to_string_lossy().ends_with(".parquet"))
        .count()
}

/// Kills a job that writes `out` five times; false when it was done before a signal reached it.
fn survives_five_kills(work: &Work, out: &str) -> bool {
    let dir = work.path(out);
    let mut random = Random::new(std::process::id().into(), out, &[]);
    for (round, signal) in ["-KILL", "-KILL", "-TERM", "-KILL", "-KILL"].into_iter().enumerate() {
        let before = shards(&dir);
        let mut child = work.cache(out).stderr(Stdio::piped()).spawn().unwrap();
        // The first at its very beginning, the others after another shard, so that the rounds get on.
        let started = Instant::now();
        while round > 0 && shards(&dir) == before && child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(120), "no shard is finished");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random.below(5_000) as u64));
        let sent = Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap();
        // It had ended, and has been waited for.
        if !sent.success() {
            return false;
        }
        let answer = child.wait_with_output().unwrap();
        if answer.status.success() || dir.join("manifest.toml").exists() {
            return false;
        }
        if signal == "-TERM" {
            let said = String::from_utf8_lossy(&answer.stderr).into_owned();
            assert_eq!(answer.status.code(), Some(1), "{said}");
            assert!(said.contains("error: interrupted") && said.contains("goes on"), "{said}");
        }
        let error = Cache::open(&dir).unwrap_err().to_string();
        assert!(error.contains("not complete") || error.contains("expected a cache directory"), "{error}");
    }
    true
}

#[test]
fn killed_five_times_at_random_it_ends_with_the_same_bytes() {
    let work = Work::new();
    succeeds(&mut work.cache("whole"));
    // On a busy machine the job may be faster than the one who watches it: then it is tried again.
    let killed = (0..10).map(|n| format!("killed-{n}")).find(|out| survives_five_kills(&work, out));
    let killed = killed.expect("a job that was killed five times");
    let kept = shards(&work.path(&killed));
    assert!(kept >= 4, "{kept}");
    succeeds(&mut work.cache(&killed)).says(&[&format!("{kept} of {SHARDS} shards are there already")]);
    assert_eq!(contents(&work.path(&killed)), contents(&work.path("whole")));
}

#[test]
fn bad_bytes_are_listed_and_only_those_shards_are_written_again() {
    let work = Work::new();
    succeeds(&mut work.cache("cache"));
    let dir = work.path("cache");
    let good = contents(&dir);
    let modified = |file: &str| std::fs::metadata(dir.join(file)).unwrap().modified().unwrap();
    let untouched = modified("shard-00000.parquet");
    // (file, how it is damaged, what `verify` says)
    type Damage = fn(&Path);
    let payload: Damage = |path| flip(path, |_| 2000);
    let footer: Damage = |path| flip(path, |length| length - 60);
    let half: Damage = |path| {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let gone: Damage = |path| std::fs::remove_file(path).unwrap();
    let text: Damage = |path| flip(path, |length| length / 2);
    for (file, damage, words) in [
        ("shard-00002.parquet", payload, &["shard-00002", "utterance 201-1-", "column hidden"][..]),
        ("shard-00003.parquet", footer, &["shard-00003"]),
        ("shard-00004.parquet", half, &["shard-00004", "truncated"]),
        ("shard-00005.parquet", gone, &["shard-00005", "missing"]),
        ("manifest.toml", text, &["manifest.toml", "changed after it was sealed"]),
        ("cache.toml", text, &["cache.toml", "changed after it was sealed"]),
    ] {
        damage(&dir.join(file));
        exits(&mut verify(&dir), 1).prints(words).says(&["error: ", "problem(s)", "rewrites what is bad"]);
        let report = json(&exits(verify(&dir).arg("--json"), 1).stdout);
        assert_eq!(report["ok"].as_bool(), Some(false));
        assert!(!report["problems"].as_array().unwrap().is_empty());
        succeeds(&mut work.cache("cache")).says(&["warning: "]);
        assert!(contents(&dir) == good, "{file}");
        assert_eq!(modified("shard-00000.parquet"), untouched, "{file}");
    }
    // Several at once, all listed.
    payload(&dir.join("shard-00001.parquet"));
    payload(&dir.join("shard-00007.parquet"));
    exits(&mut verify(&dir), 1).prints(&["shard-00001", "shard-00007"]);
    let error = Cache::open(&dir)
        .unwrap()
        .hidden(HiddenLayer::Last, PER_SHARD, &mut Vec::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("shard-00001") && error.contains("tutornet verify"), "{error}");
}

#[test]
fn another_cache_is_refused_by_name_and_left_alone() {
    let work = Work::new();
    succeeds(&mut work.cache("cache"));
    let before = contents(&work.path("cache"));
    let (model, corpus) = (shared().join("model"), shared().join("corpus"));
    save_model(&work.path("teacher"), 2, |_| {});
    save_model(&work.path("labels"), 1, |config| config.labels.symbols.swap(1, 2));
    save_model(&work.path("stride"), 1, |config| match &mut config.architecture {
        Architecture::Jasper(jasper) => jasper.blocks[0].stride = 4,
        other => panic!("{other:?} is no Jasper"),
    });
    prep(&work.path("corpus"), &["--shard-utterances", "5"]);
    for (model, corpus, words) in [
        (
            &work.path("teacher"),
            &corpus,
            &["another cache: teacher", "expected jasper-nano", "found jasper-nano"],
        ),
        (&work.path("labels"), &corpus, &["labels", "\" bac", "\" abc"]),
        (&work.path("stride"), &corpus, &["stride 4", "stride 2", "give another --out"]),
        (&model, &work.path("corpus"), &["another cache: corpus", "expected corpus ", "found corpus "]),
    ] {
        fails(&mut work.cache_of(model, corpus, "cache"), words);
    }
    fails(work.cache("cache").args(["--temperature", "2"]), &["another cache: temperature", "expected 2"]);
    assert_eq!(contents(&work.path("cache")), before);

    let version = work.path("version");
    std::fs::create_dir(&version).unwrap();
    let text = String::from_utf8(before[Path::new("cache.toml")].clone()).unwrap();
    let text = text.split("# blake3").next().unwrap().replace("version = 1", "version = 2");
    files::write_sealed(&version.join("cache.toml"), &text).unwrap();
    let words = ["cache format", "expected version 1, found version 2"];
    fails(&mut work.cache("version"), &words);
    fails(tutornet().arg("inspect").arg(&version), &words);
    exits(&mut verify(&version), 1).prints(&words);
    fails(
        &mut work.cache_of(&model, &corpus, "corpus"),
        &["expected a new, empty or cache directory", "corpus.toml"],
    );
}

#[test]
fn what_does_not_fit_is_refused_before_any_work() {
    let work = Work::new();
    let (model, corpus) = (shared().join("model"), shared().join("corpus"));
    prep(&work.path("other"), &["--frontend", "openseq2seq"]);
    fails(
        &mut work.cache_of(&model, &work.path("other"), "cache"),
        &[
            "frontend of corpus",
            "--frontend nemo",
            "--frontend openseq2seq",
            "tutornet prep librispeech",
            "--subset dev-clean",
        ],
    );
    fails(&mut work.cache_of(&work.path("none"), &corpus, "cache"), &["none"]);
    fails(&mut work.cache_of(&model, &work.path("none"), "cache"), &["none"]);
    fails(work.cache("cache").args(["--precision", "f16"]), &["half precision", "--device"]);
    assert!(!work.path("cache").exists());
    for wrong in [["--temperature", "0"], ["--workers", "0"], ["--batch-seconds", "nan"], ["--device", "tpu"]]
    {
        exits(work.cache("cache").args(wrong), 2).says(&[wrong[0]]);
    }
    exits(tutornet().arg("cache"), 2).says(&["--model", "--corpus", "--out"]);
    exits(tutornet().args(["cache", "--help"]), 0);
    fails(&mut verify(&work.path("none")), &["no such directory"]);
    fails(&mut verify(work.directory.path()), &["expected a corpus", "a cache"]);
    fails(tutornet().args(["inspect", "jasper-nanno"]), &["jasper-nano"]);
}

#[test]
fn a_teacher_that_overflows_half_precision_is_named_with_the_utterance() {
    let work = Work::new();
    let device = Device::flex();
    let mut model = Model::load(&shared().join("model"), &device).unwrap();
    let mut tensors = parameters::export(&model.network).unwrap();
    // The last batch norm before the head scales the hidden states.
    let last = tensors.keys().filter(|name| name.ends_with("gamma")).next_back();
    let last = last.cloned().unwrap_or_else(|| panic!("{:?}", tensors.keys()));
    tensors.get_mut(&last).unwrap().values.fill(1e6);
    model.network = parameters::import(model.network, tensors).unwrap();
    model.save(&work.path("loud")).unwrap();
    fails(
        &mut work.cache_of(&work.path("loud"), &shared().join("corpus"), "cache"),
        &["teacher jasper-nano", "utterance 20", "half precision ends at 65504"],
    );
    assert!(!work.path("cache/manifest.toml").exists());
    // The directory is this teacher's now; another one says so.
    fails(&mut work.cache("cache"), &["another cache: teacher"]);
}

#[test]
fn a_second_writer_a_full_disk_and_a_closed_place_are_named() {
    let work = Work::new();
    std::fs::create_dir(work.path("cache")).unwrap();
    let lock = files::DirectoryLock::acquire(&work.path("cache")).unwrap();
    let holder = format!("process {}", std::process::id());
    fails(&mut work.cache("cache"), &["being written by another process", &holder]);
    drop(lock);

    std::fs::write(work.path("file"), "").unwrap();
    fails(&mut work.cache("file/cache"), &["cannot create directory", "file/cache"]);

    // No file of more than 40 blocks: what a full disk gives, without one.
    let whole = work.cache("cache");
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 40; exec \"$0\" \"$@\""]).arg(whole.get_program());
    limited.args(whole.get_args()).env_remove("TUTORNET_LOG");
    let answer = run(&mut limited);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    let answer = answer.says(&["error: ", "shard-", "too large"]);
    assert!(!answer.stderr.contains("panicked"), "{}", answer.stderr);
    assert_eq!(shards(&work.path("cache")), 0);
    assert!(!work.path("cache/manifest.toml").exists());
    let left = std::fs::read_dir(work.path("cache")).unwrap().flatten();
    let left: Vec<_> = left.map(|e| e.file_name()).filter(|n| n != ".lock" && n != "cache.toml").collect();
    assert!(left.is_empty(), "{left:?}");

    // With room again the same command goes on.
    succeeds(&mut work.cache("cache"));
    succeeds(&mut verify(&work.path("cache")));
}

#[test]
fn a_changed_corpus_or_model_stops_it() {
    let work = Work::new();
    prep(&work.path("corpus"), &["--shard-utterances", "50"]);
    flip(&work.path("corpus/shard-00000.parquet"), |length| length / 2);
    let model = shared().join("model");
    fails(&mut work.cache_of(&model, &work.path("corpus"), "cache"), &["shard-00000", "column features"]);
    assert_eq!(shards(&work.path("cache")), 0);
    exits(&mut verify(&work.path("corpus")), 1).prints(&["shard-00000", "features"]);

    save_model(&work.path("model"), 1, |_| {});
    flip(&work.path("model/weights.safetensors"), |length| length / 2);
    let corpus = shared().join("corpus");
    fails(&mut work.cache_of(&work.path("model"), &corpus, "other"), &["weights.safetensors", "BLAKE3"]);
    exits(&mut verify(&work.path("model")), 1).prints(&["weights.safetensors", "BLAKE3"]);

    std::fs::remove_file(work.path("corpus/corpus.toml")).unwrap();
    fails(&mut work.cache_of(&model, &work.path("corpus"), "cache"), &["corpus.toml"]);
}
