//! `tutornet train` under kills, stops, damage and divergence: what was complete stays, and a resumed run
//! is the same run.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::fixture::{Fixture, THREE_STAGES, stop_at, update_of};
use crate::harness::{contents, documented, exits, fails, run_contents, succeeds, tutornet};

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
    // The two stretches that were killed left no line: only an orderly stop and the end do.
    let (whole, stopped) =
        (run_contents(&fixture.at("exact-whole"), 1), run_contents(&fixture.at("exact-stopped"), 2));
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
fn a_run_is_verified_to_its_last_file_and_stays_out_of_other_directories() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("whole", "objective = \"ctc\"\nmax_updates = 2");
    succeeds(&mut fixture.train(&pipeline, "whole", &[])).prints(&["update 2 of 2"]);
    let run = fixture.at("whole");
    succeeds(tutornet().arg("verify").arg(&run));
    std::fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().for_each(documented);
    for name in [
        "pipeline.toml",
        "inputs.toml",
        "metrics.jsonl",
        "done.toml",
        "student/model.toml",
        "student/weights.safetensors",
    ] {
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

/// A run goes on only on what it was started on: paths say where, not what.
#[test]
fn a_corpus_or_cache_made_anew_is_not_resumed_on() {
    let fixture = Fixture::get();
    let copy = |from: &str, to: &str| {
        let to = fixture.at(to);
        let _ = std::fs::remove_dir_all(&to);
        std::fs::create_dir(&to).unwrap();
        for entry in std::fs::read_dir(fixture.at(from)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    };
    let stages = "objective = \"ctc+skd\"\nteacher = [\"CACHE\"]\nepochs = 8";
    let pipeline = fixture.pipeline("moved", stages);
    let text = std::fs::read_to_string(&pipeline).unwrap();
    let cache = fixture.at("cache-dev-clean").display().to_string();
    let moved = fixture.at("cache-moved").display().to_string();
    std::fs::write(&pipeline, text.replace(&cache, &moved)).unwrap();
    copy("cache-dev-clean", "cache-moved");
    assert_eq!(stop_at(fixture, &pipeline, "moved", 2, "-TERM", &[]), Some(1));
    // The same corpus, another teacher: weights differ, so does the cache.
    std::fs::remove_dir_all(&moved).unwrap();
    let other = fixture.pipeline("other-teacher", "objective = \"ctc\"\nmax_updates = 1");
    succeeds(&mut fixture.train(&other, "other-teacher", &["--set", "seed=5"]));
    fixture.cache(&fixture.at("other-teacher/student"), "dev-clean", "cache-moved");
    fails(
        &mut fixture.train(&pipeline, "moved", &["--resume"]),
        &["cache ", "cache-moved", "was started on", "made anew", "another --out"],
    );
    std::fs::remove_dir_all(&moved).unwrap();
    copy("cache-dev-clean", "cache-moved");
    succeeds(&mut fixture.train(&pipeline, "moved", &["--resume"]));
}

/// SIGTERM while the student is being scored: the epoch's updates are kept, and resuming scores again.
#[test]
fn a_stop_during_scoring_keeps_the_epoch() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("scoring", "objective = \"ctc\"\nmax_updates = 2");
    // Large enough for its scoring to take a while.
    let student = ["--set", "student={ preset = \"jasper-mini\", width = 0.5 }"];
    let whole = fixture.at("scoring-whole");
    succeeds(&mut fixture.train(&pipeline, "scoring-whole", &student));
    let last = update_of(&whole.join("metrics.jsonl"));
    // The last step is logged right before the student is scored. On a busy machine the run may end before
    // the signal arrives: then it is tried again.
    let stopped = (0..10).any(|_| {
        let _ = std::fs::remove_dir_all(fixture.at("scoring"));
        stop_at(fixture, &pipeline, "scoring", last, "-TERM", &student) == Some(1)
    });
    assert!(stopped, "no signal arrived in time");
    let names = |run: &str| -> Vec<String> {
        let entries = std::fs::read_dir(fixture.at(run).join("checkpoints")).unwrap();
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
    };
    assert!(names("scoring").iter().any(|n| n.contains(&format!("{last:09}"))), "{:?}", names("scoring"));
    assert!(!fixture.at("scoring/done.toml").exists());
    succeeds(&mut fixture.train(&pipeline, "scoring", &[&student[..], &["--resume"]].concat()));
    assert_eq!(run_contents(&whole, 1), run_contents(&fixture.at("scoring"), 2));
}

/// What is lost of a finished run comes back, and a damaged newest checkpoint gives way to the one before.
#[test]
fn a_damaged_run_goes_on_from_what_is_whole() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("mended", "objective = \"ctc\"\nepochs = 3");
    let every = ["--set", "checkpoint.every_updates=2", "--resume"];
    succeeds(&mut fixture.train(&pipeline, "mended", &every));
    let run = fixture.at("mended");
    let whole = run_contents(&run, 1);

    std::fs::remove_dir_all(run.join("student")).unwrap();
    succeeds(&mut fixture.train(&pipeline, "mended", &every)).says(&["student is written again"]);
    assert_eq!(run_contents(&run, 2), whole);

    let mut checkpoints: Vec<PathBuf> =
        std::fs::read_dir(run.join("checkpoints")).unwrap().map(|e| e.unwrap().path()).collect();
    checkpoints.sort();
    let newest = checkpoints.last().unwrap();
    let mut bytes = std::fs::read(newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(newest, bytes).unwrap();
    std::fs::remove_file(run.join("done.toml")).unwrap();
    succeeds(&mut fixture.train(&pipeline, "mended", &every))
        .says(&["passed over a checkpoint", "going on from update"]);
    assert_eq!(run_contents(&run, 3), whole);
}

/// A log that was changed, or cut, before a checkpoint does not go on as if nothing had been.
#[test]
fn a_damaged_log_is_not_resumed_on() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("log", "objective = \"ctc\"\nepochs = 30");
    let every = ["--set", "checkpoint.every_updates=2", "--set", "checkpoint.keep=3"];
    assert_eq!(stop_at(fixture, &pipeline, "log", 7, "-TERM", &every), Some(1));
    let log = fixture.at("log/metrics.jsonl");
    let whole = std::fs::read(&log).unwrap();
    let resume = [&every[..], &["--resume"]].concat();
    // Cut in the last line: an older checkpoint fits what is left.
    std::fs::write(&log, &whole[..whole.len() - 20]).unwrap();
    exits(tutornet().arg("verify").arg(fixture.at("log")), 1);
    let stopped = stop_at(fixture, &pipeline, "log", 9, "-TERM", &resume);
    assert_eq!(stopped, Some(1));
    // Changed in the first line: none does.
    let mut bytes = std::fs::read(&log).unwrap();
    let at = bytes.iter().position(u8::is_ascii_digit).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    exits(tutornet().arg("verify").arg(fixture.at("log")), 1).prints(&["metrics.jsonl"]);
    fails(&mut fixture.train(&pipeline, "log", &resume), &["metrics.jsonl", "fits the log", "another --out"]);
}
