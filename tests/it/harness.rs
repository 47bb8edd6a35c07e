//! What the integration tests share: the binary, its answers, the data beside the repository.

#![allow(dead_code, reason = "every part uses some of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program under test, with a neutral environment.
pub fn tutornet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tutornet"));
    command.env_remove("TUTORNET_LOG").env("NO_COLOR", "1");
    command
}

/// What a finished command said.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Answer {
    /// Every word must occur in stderr.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "stderr does not say {word:?}:\n{}", self.stderr);
        }
        self
    }

    /// Every word must occur in stdout.
    #[track_caller]
    pub fn prints(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stdout.contains(word), "stdout does not say {word:?}:\n{}", self.stdout);
        }
        self
    }
}

/// Runs to the end, whatever that is.
pub fn run(command: &mut Command) -> Answer {
    command.output().expect("the program starts").into()
}

/// Runs and demands an exit code.
#[track_caller]
pub fn exits(command: &mut Command, code: i32) -> Answer {
    let answer = run(command);
    assert_eq!(
        answer.code,
        Some(code),
        "{command:?}\nstdout:\n{}\nstderr:\n{}",
        answer.stdout,
        answer.stderr
    );
    answer
}

/// Runs and demands success.
#[track_caller]
pub fn succeeds(command: &mut Command) -> Answer {
    exits(command, 0)
}

/// Runs and demands failure (exit code 1) with one error line that has these words.
#[track_caller]
pub fn fails(command: &mut Command, words: &[&str]) -> Answer {
    let answer = exits(command, 1).says(words);
    let errors = answer.stderr.lines().filter(|l| l.starts_with("error: ")).count();
    assert_eq!(errors, 1, "expected one error line:\n{}", answer.stderr);
    assert!(!answer.stderr.contains("panicked"), "{}", answer.stderr);
    answer
}

/// The data beside the repository (`TUTORNET_SHARED`, else `../shared`), which a clone alone does
/// not have. Without it the test `name` notes that it did not run.
pub fn shared_data(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("TUTORNET_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let data = shared.join("data");
    if data.is_dir() {
        return Some(data);
    }
    not_run(name, "no ../shared/data");
    None
}

/// Notes that a test did not run, and why, for the end of `make test`.
pub fn not_run(name: &str, why: &str) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("not-run.txt");
    let file = std::fs::File::options().create(true).append(true).open(path);
    let mut file = file.expect("the note can be written");
    writeln!(file, "{name}: {why}").expect("the note can be written");
}

/// Files by relative path.
pub type Files = std::collections::BTreeMap<PathBuf, Vec<u8>>;

/// Every file below `root` with its bytes, except locks.
pub fn contents(root: &Path) -> Files {
    let mut found = everything(root);
    found.retain(|name, _| name.file_name().is_some_and(|name| name != ".lock"));
    found
}

/// Puts the files of one directory, all but locks, into another, which then holds nothing else.
pub fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for (name, bytes) in contents(from) {
        std::fs::write(to.join(name), bytes).unwrap();
    }
}

/// Every file below `root` with its bytes, hidden and temporary ones included.
pub fn everything(root: &Path) -> Files {
    let mut found = Files::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(root).expect("below the root").to_path_buf();
                found.insert(name, std::fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

/// What a run's directory holds but for `times.jsonl`, whose times are of the machine; that is there, with
/// as many `stretches` as ended in order, each going on where the one before had left a checkpoint.
#[track_caller]
pub fn run_contents(run: &Path, stretches: usize) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut found = contents(run);
    let lines = found.remove(Path::new("times.jsonl")).expect("every run notes its stretches");
    let lines = String::from_utf8(lines).expect("JSON");
    assert_eq!(lines.lines().count(), stretches, "{lines}");
    lines.lines().for_each(documented);
    found
}

/// Every key of a JSON object must be documented in `schemas/run.md`.
#[track_caller]
pub fn documented(json: &str) {
    let page = include_str!("../../schemas/run.md");
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).expect("JSON");
    for key in object.keys() {
        assert!(page.contains(&format!("`{key}`")), "schemas/run.md does not explain {key}");
    }
}
