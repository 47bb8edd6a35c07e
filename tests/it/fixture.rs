//! A corpus, a teacher and its cache, made once through the program for the tests of `train`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::harness::{succeeds, tutornet};

/// A corpus, a teacher and its cache, made once through the program.
pub struct Fixture {
    pub root: PathBuf,
}

impl Fixture {
    pub fn get() -> &'static Self {
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

    pub fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// An empty directory.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let directory = self.at(name);
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    pub fn cache(&self, model: &Path, corpus: &str, out: &str) {
        succeeds(&mut cache(model, &self.at(corpus), &self.at(out)));
    }

    /// `tutornet cache` of the teacher.
    pub fn teach(&self, corpus: &Path, out: &Path) -> Command {
        cache(&self.at("teacher/student"), corpus, out)
    }

    /// Writes a pipeline over the dev-clean corpus with these stages.
    pub fn pipeline(&self, name: &str, stages: &str) -> PathBuf {
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

    pub fn train(&self, pipeline: &Path, out: &str, more: &[&str]) -> Command {
        let mut command = tutornet();
        command.arg("train").arg(pipeline).args(["--device", "cpu", "--out"]).arg(self.at(out)).args(more);
        command
    }
}

fn cache(model: &Path, corpus: &Path, out: &Path) -> Command {
    let mut command = tutornet();
    command.arg("cache").arg("--model").arg(model).arg("--corpus").arg(corpus);
    command.args(["--device", "cpu", "--out"]).arg(out);
    command
}

/// `tutornet cache merge`.
pub fn merge(from: &[&Path], out: &Path) -> Command {
    let mut command = tutornet();
    command.args(["cache", "merge"]).args(from).arg("--out").arg(out);
    command
}

pub const THREE_STAGES: &str = "objective = \"rkd\"\nteacher = [\"CACHE\"]\nepochs = 1\n---\nobjective = \"ctc+skd\"\n\
                            teacher = [\"CACHE\"]\nlambda = 1.0\nepochs = 2\n";

pub fn update_of(metrics: &Path) -> usize {
    let text = std::fs::read_to_string(metrics).unwrap_or_default();
    text.lines().filter(|l| l.contains("\"event\":\"step\"")).count()
}

/// Starts a run, waits until it has logged `updates`, and sends `signal`.
pub fn stop_at(
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
