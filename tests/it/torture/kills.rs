//! SIGKILL at random moments, and the same command again until it is done.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{CODECS, Files, cache, everything, random, same, times};
use crate::fixture::{Fixture, THREE_STAGES};
use crate::harness::succeeds;
use tutornet::random::Random;

/// Starts `command` and kills it within about the time that it takes undisturbed; whether it was killed.
fn killed(command: &mut Command, random: &mut Random, undisturbed: Duration) -> bool {
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let micros = usize::try_from(undisturbed.as_micros()).unwrap();
    std::thread::sleep(Duration::from_micros(random.below(micros * 11 / 10 + 1) as u64));
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "{said}");
    if !running {
        assert!(output.status.success(), "after a kill: {said}");
    }
    // Between the two looks it may have come to its end.
    !output.status.success()
}

/// Kills until `kills` are reached, beginning anew whenever a run has come to its end.
fn torture(
    kills: usize,
    random: &mut Random,
    undisturbed: Duration,
    mut command: impl FnMut() -> Command,
    mut ended: impl FnMut(),
) -> (usize, usize) {
    let (mut count, mut rounds) = (0, 0);
    while count < kills {
        while killed(&mut command(), random, undisturbed) {
            count += 1;
        }
        ended();
        rounds += 1;
    }
    (count, rounds)
}

fn caches(workers: &str) {
    let fixture = Fixture::get();
    let purpose = format!("kills of cache, {workers} workers");
    let mut random = random(&purpose);
    let directory = fixture.fresh(&format!("kills-{workers}"));
    let (out, temporary) = (directory.join("killed"), directory.join("tmp"));
    std::fs::create_dir(&temporary).unwrap();
    let codecs = &CODECS[..3];
    for codec in codecs {
        let command = |out| {
            let mut command = cache(fixture, codec, out);
            command.args(["--workers", workers, "--batch-seconds", "5"]).env("TMPDIR", &temporary);
            command
        };
        let whole = directory.join(format!("whole-{codec}"));
        let started = Instant::now();
        succeeds(&mut command(&whole));
        let (undisturbed, expected) = (started.elapsed(), everything(&whole));
        let ended = || {
            same(&everything(&out), &expected, &purpose);
            assert!(everything(&temporary).is_empty(), "left in TMPDIR");
            std::fs::remove_dir_all(&out).unwrap();
        };
        let kills = times(2, 100_usize.div_ceil(codecs.len()));
        let (count, rounds) = torture(kills, &mut random, undisturbed, || command(&out), ended);
        println!("{purpose}, {codec}: {count} kills, {rounds} times done and byte-equal");
    }
}

#[test]
fn one_worker_killed_at_random_leaves_no_trace() {
    caches("1");
}

#[test]
fn four_workers_killed_at_random_leave_no_trace() {
    caches("4");
}

#[test]
fn training_killed_at_random_leaves_no_trace() {
    let fixture = Fixture::get();
    let mut random = random("kills of train");
    let pipeline = fixture.pipeline("killed", THREE_STAGES);
    let every = ["--set", "checkpoint.every_updates=2", "--resume"];
    for run in ["kills-whole", "kills-run"] {
        let _ = std::fs::remove_dir_all(fixture.at(run));
    }
    let started = Instant::now();
    succeeds(&mut fixture.train(&pipeline, "kills-whole", &every));
    let undisturbed = started.elapsed();
    // Times are of the machine, and a stretch that is killed notes none.
    let of = |run: &str| -> Files {
        let mut files = everything(&fixture.at(run));
        assert!(files.remove(std::path::Path::new("times.jsonl")).is_some(), "no times.jsonl");
        files
    };
    let expected = of("kills-whole");
    let ended = || {
        same(&of("kills-run"), &expected, "kills of train");
        std::fs::remove_dir_all(fixture.at("kills-run")).unwrap();
    };
    let command = || fixture.train(&pipeline, "kills-run", &every);
    let (count, rounds) = torture(times(3, 50), &mut random, undisturbed, command, ended);
    println!("kills of train: {count} kills, {rounds} times done and byte-equal");
}
