//! `tutornet train`: what it refuses, what it survives, and that a resumed run is the same run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::harness::{contents, exits, fails, succeeds, tutornet};

/// A corpus, a teacher and its cache, made once through the program.
struct Fixture {
    root: PathBuf,
}

impl Fixture {
    fn get() -> &'static Self {
        static FIXTURE: OnceLock<Fixture> = OnceLock::new();
        FIXTURE.get_or_init(|| {
            let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("train-fixture");
            let _ = std::fs::remove_dir_all(&root);
            std::fs::create_dir_all(&root).unwrap();
            let fixture = Self { root };
            let speech = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/LibriSpeech");
            for subset in ["dev-clean", "test-clean"] {
                succeeds(
                    tutornet()
                        .args(["prep", "librispeech"])
                        .arg(&speech)
                        .args(["--subset", subset, "--shard-utterances", "8", "--out"])
                        .arg(fixture.at(subset)),
                );
            }
            let pipeline = fixture.pipeline("teacher", "objective = \"ctc\"\nmax_updates = 2");
            fixture.train(&pipeline, "teacher", &[]).status().unwrap();
            for subset in ["dev-clean", "test-clean"] {
                fixture.cache(&fixture.at("teacher/student"), subset, &format!("cache-{subset}"));
            }
            fixture
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn cache(&self, model: &Path, corpus: &str, out: &str) {
        let mut command = tutornet();
        command.arg("cache").arg("--model").arg(model).arg("--corpus").arg(self.at(corpus));
        succeeds(command.args(["--device", "cpu", "--out"]).arg(self.at(out)));
    }

    /// Writes a pipeline over the dev-clean corpus with these stages.
    fn pipeline(&self, name: &str, stages: &str) -> PathBuf {
        let stages: String = stages.split("---").map(|s| format!("[[stage]]\n{s}\n")).collect();
        let stages = stages.replace("CACHE", &self.at("cache-dev-clean").display().to_string());
        let text = format!(
            "name = \"{name}\"\nstudent = \"jasper-nano\"\nthreads = 2\n[data]\ntrain = [{:?}]\ndev = [{:?}]\n\
             batch_seconds = 20.0\nspec_augment = {{ freq_masks = 1, freq_width = 6, time_masks = 1, time_width = 6 }}\n\
             {stages}[optimizer]\nname = \"adamw\"\nlearning_rate = 0.003\n",
            self.at("dev-clean"),
            self.at("test-clean")
        );
        let path = self.root.join(format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn train(&self, pipeline: &Path, out: &str, more: &[&str]) -> std::process::Command {
        let mut command = tutornet();
        command.arg("train").arg(pipeline).args(["--device", "cpu", "--out"]).arg(self.at(out)).args(more);
        command
    }
}

const THREE_STAGES: &str = "objective = \"rkd\"\nteacher = [\"CACHE\"]\nepochs = 1\n---\nobjective = \"ctc+skd\"\n\
                            teacher = [\"CACHE\"]\nlambda = 1.0\nepochs = 2\n";

fn update_of(metrics: &Path) -> usize {
    let text = std::fs::read_to_string(metrics).unwrap_or_default();
    text.lines().filter(|l| l.contains("\"event\":\"step\"")).count()
}

/// Starts a run, waits until it has logged `updates`, and sends `signal`.
fn stop_at(
    fixture: &Fixture,
    pipeline: &Path,
    out: &str,
    updates: usize,
    signal: &str,
    more: &[&str],
) -> Option<i32> {
    let mut child =
        fixture.train(pipeline, out, more).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let metrics = fixture.at(out).join("metrics.jsonl");
    let deadline = Instant::now() + Duration::from_secs(120);
    while update_of(&metrics) < updates && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "no progress");
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
    child.wait().unwrap().code()
}

#[test]
fn a_killed_and_resumed_run_ends_byte_equal_without_any_teacher() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("exact", THREE_STAGES);
    let every = ["--set", "checkpoint.every_updates=2"];
    succeeds(&mut fixture.train(&pipeline, "exact-whole", &every));
    let total = update_of(&fixture.at("exact-whole/metrics.jsonl"));
    assert!(total >= 9, "{total} updates are too few to be stopped in the middle of epochs");
    // Killed inside the first stage, inside the second, and stopped in order once.
    let resume = ["--set", "checkpoint.every_updates=2", "--resume"];
    for (updates, signal) in [(2, "-KILL"), (total / 2, "-TERM"), (total - 2, "-KILL")] {
        let code = stop_at(fixture, &pipeline, "exact-stopped", updates, signal, &resume);
        assert_eq!(code, if signal == "-TERM" { Some(1) } else { None });
    }
    succeeds(&mut fixture.train(&pipeline, "exact-stopped", &resume));
    let (whole, stopped) = (contents(&fixture.at("exact-whole")), contents(&fixture.at("exact-stopped")));
    assert_eq!(whole.keys().collect::<Vec<_>>(), stopped.keys().collect::<Vec<_>>());
    for (name, bytes) in &whole {
        assert!(*bytes == stopped[name], "{} differs", name.display());
    }
    // On a finished run, --resume says so.
    let again = succeeds(&mut fixture.train(&pipeline, "exact-stopped", &resume));
    again.says(&["finished before"]).prints(&["student"]);
}

#[test]
fn sigterm_leaves_a_checkpoint_and_says_how_to_go_on() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("term", "objective = \"ctc\"\nepochs = 50");
    let out = fixture.at("term");
    let child = fixture.train(&pipeline, "term", &[]).stderr(Stdio::piped()).spawn().unwrap();
    while update_of(&out.join("metrics.jsonl")) < 3 {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("error: interrupted") && stderr.contains("--resume"), "{stderr}");
    assert!(std::fs::read_dir(out.join("checkpoints")).unwrap().count() >= 1);
    // The same command without --resume does not overwrite the run.
    fails(&mut fixture.train(&pipeline, "term", &[]), &["holds a run already", "--resume"]);
    // Nor does another pipeline continue it.
    fails(
        &mut fixture.train(&pipeline, "term", &["--resume", "--set", "seed=9"]),
        &["pipeline of the run", "seed = 1", "seed = 9"],
    );
}

#[test]
fn a_loss_that_stays_non_finite_stops_the_run_with_the_utterances() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("diverge", "objective = \"ctc\"\nepochs = 60");
    let more = [
        "--set",
        "optimizer.learning_rate=1e30",
        "--set",
        "checkpoint.max_rejected=3",
        "--set",
        "optimizer.schedule.name=constant",
        "--set",
        "checkpoint.every_updates=1",
    ];
    let answer = fails(
        &mut fixture.train(&pipeline, "diverge", &more),
        &["not finite in 3 updates in a row", "utterances", "learning_rate", "rejected"],
    );
    let id = answer.stderr.split("with utterances ").nth(1).unwrap().split([' ', ';']).next().unwrap();
    assert!(id.contains('-'), "{id} is no utterance");
    // The newest checkpoint is whole: resuming reads it and meets the same loss.
    let mut more = more.to_vec();
    more.push("--resume");
    fails(&mut fixture.train(&pipeline, "diverge", &more), &["going on from update", "not finite"]);
}

#[test]
fn two_trainers_do_not_share_a_directory() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("two", "objective = \"ctc\"\nepochs = 50");
    let mut first = fixture.train(&pipeline, "two", &[]).stderr(Stdio::null()).spawn().unwrap();
    while update_of(&fixture.at("two/metrics.jsonl")) < 1 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let holder = format!("process {}", first.id());
    fails(
        &mut fixture.train(&pipeline, "two", &["--resume"]),
        &["being written by another process", &holder],
    );
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn a_damaged_shard_stops_the_run_or_costs_its_utterances() {
    let fixture = Fixture::get();
    let broken = fixture.at("cache-broken");
    let _ = std::fs::remove_dir_all(&broken);
    std::fs::create_dir(&broken).unwrap();
    for (name, bytes) in contents(&fixture.at("cache-dev-clean")) {
        std::fs::write(broken.join(name), bytes).unwrap();
    }
    // Flip bits inside the first pages of the first shard: payload bytes, not the footer.
    let shard = broken.join("shard-00000.parquet");
    let mut bytes = std::fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 8] {
        *byte ^= 0x55;
    }
    std::fs::write(&shard, bytes).unwrap();
    let stages = "objective = \"ctc+skd\"\nteacher = [\"CACHE\"]\nepochs = 1\n---\nobjective = \"rkd\"\nteacher = [\"CACHE\"]\nepochs = 1";
    let pipeline = fixture.pipeline("broken", stages);
    let text = std::fs::read_to_string(&pipeline).unwrap().replace("cache-dev-clean", "cache-broken");
    std::fs::write(&pipeline, text).unwrap();
    fails(
        &mut fixture.train(&pipeline, "broken", &[]),
        &["shard-00000.parquet", "utterance", "column", "tutornet verify"],
    );
    let skip = ["--set", "data.skip_corrupt=true"];
    succeeds(&mut fixture.train(&pipeline, "broken-skip", &skip)).says(&["left out utterance"]);
}

#[test]
fn caches_that_do_not_fit_are_refused_before_the_first_batch() {
    let fixture = Fixture::get();
    let rkd = |cache: &str| format!("objective = \"rkd\"\nteacher = [{:?}]\nepochs = 1", fixture.at(cache));
    // A cache of another corpus.
    let pipeline = fixture.pipeline("other-corpus", &rkd("cache-test-clean"));
    fails(&mut fixture.train(&pipeline, "refused", &[]), &["are in none of the caches", "tutornet cache"]);
    // The same utterances twice.
    let twice =
        format!("objective = \"rkd\"\nteacher = [{0:?}, {0:?}]\nepochs = 1", fixture.at("cache-dev-clean"));
    let pipeline = fixture.pipeline("twice", &twice);
    fails(&mut fixture.train(&pipeline, "refused", &[]), &["must not overlap"]);
    // Two teachers in one stage.
    let other = fixture.pipeline("teacher2", "objective = \"ctc\"\nmax_updates = 1");
    succeeds(&mut fixture.train(&other, "teacher2", &["--set", "seed=2"]));
    fixture.cache(&fixture.at("teacher2/student"), "test-clean", "cache-teacher2");
    let two = format!(
        "objective = \"rkd\"\nteacher = [{:?}, {:?}]\nepochs = 1",
        fixture.at("cache-dev-clean"),
        fixture.at("cache-teacher2")
    );
    let pipeline = fixture.pipeline("two-teachers", &two);
    fails(&mut fixture.train(&pipeline, "refused", &[]), &["ONE teacher", "teacher of"]);
    // A cache that was never finished.
    let unfinished = fixture.at("cache-unfinished");
    let _ = std::fs::remove_dir_all(&unfinished);
    std::fs::create_dir(&unfinished).unwrap();
    for (name, bytes) in contents(&fixture.at("cache-dev-clean")) {
        if name != Path::new("manifest.toml") {
            std::fs::write(unfinished.join(name), bytes).unwrap();
        }
    }
    let pipeline = fixture.pipeline("unfinished", &rkd("cache-unfinished"));
    fails(&mut fixture.train(&pipeline, "refused", &[]), &["cache-unfinished", "tutornet cache"]);
    assert!(!fixture.at("refused").join("metrics.jsonl").exists(), "no work before the refusal");
}

#[test]
fn pipelines_that_cannot_work_are_refused_by_key_and_line() {
    let fixture = Fixture::get();
    let good = fixture.pipeline("good", "objective = \"ctc\"\nepochs = 1");
    let text = std::fs::read_to_string(&good).unwrap();
    let bad = fixture.root.join("bad.toml");
    for (from, to, words) in [
        ("epochs = 1", "epoch = 1", vec!["bad.toml", "line", "did you mean `epochs`?"]),
        ("objective = \"ctc\"", "objective = \"rkd\"", vec!["stage.0.teacher", "CACHEDIR"]),
        ("objective = \"ctc\"", "objective = \"ctc\"\nlambda = 1.0", vec!["stage.0.lambda", "ctc+skd"]),
        ("jasper-nano", "jasper-nan", vec!["jasper-nan", "jasper-nano"]),
        ("dev-clean", "dev-cleen", vec!["dev-cleen", "tutornet prep"]),
        ("name = \"adamw\"", "name = \"novogard\"", vec!["did you mean `novograd`?"]),
        ("[data]", "[data", vec!["bad.toml", "line"]),
    ] {
        std::fs::write(&bad, text.replacen(from, to, 1)).unwrap();
        fails(&mut fixture.train(&bad, "refused-pipeline", &[]), &words);
        assert!(!fixture.at("refused-pipeline").exists(), "{to}: nothing is written before the refusal");
    }
    fails(
        &mut fixture.train(Path::new("missing.toml"), "refused-pipeline", &[]),
        &["missing.toml", "cannot read"],
    );
    exits(tutornet().arg("train"), 2).says(&["PIPELINE.toml"]);
    succeeds(tutornet().args(["train", "--help-pipeline"])).prints(&["[[stage]]", "lambda = 0.25"]);
}

#[test]
fn overlong_and_impossible_utterances_are_left_out_and_counted() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("long", "objective = \"ctc\"\nmax_updates = 1");
    let more = ["--set", "data.max_seconds=2.5"];
    succeeds(&mut fixture.train(&pipeline, "long", &more))
        .says(&["longer than data.max_seconds", "left out"]);
    fails(
        &mut fixture.train(&pipeline, "none", &["--set", "data.max_seconds=0.01"]),
        &["no utterance within data.max_seconds"],
    );
}

#[test]
fn a_run_is_verified_to_its_last_file_and_stays_out_of_other_directories() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("whole", "objective = \"ctc\"\nmax_updates = 2");
    succeeds(&mut fixture.train(&pipeline, "whole", &[])).prints(&["update 2 of 2"]);
    let run = fixture.at("whole");
    succeeds(tutornet().arg("verify").arg(&run));
    for name in
        ["pipeline.toml", "metrics.jsonl", "done.toml", "student/model.toml", "student/weights.safetensors"]
    {
        let path = run.join(name);
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let answer = exits(tutornet().arg("verify").arg(&run), 1);
        let said = format!("{}{}", answer.stdout, answer.stderr);
        assert!(said.contains(name.rsplit('/').next().unwrap()), "{name}: {said}");
        std::fs::write(&path, whole).unwrap();
    }
    succeeds(tutornet().arg("verify").arg(&run));
    for taken in ["dev-clean", "cache-dev-clean", "whole/student"] {
        fails(
            &mut fixture.train(&pipeline, taken, &[]),
            &["expected a new, empty or run directory", "--out"],
        );
    }
}
