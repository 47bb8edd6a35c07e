//! Kills, full disks, closed places, wrong clocks and changed bits: what is left is gone on from, or refused, and ends with
//! the bytes of an undisturbed run.
//!
//! A few of each in `make test`; `make torture` (TUTORNET_TORTURE=full) runs them in full. TUTORNET_TORTURE_SEED draws
//! others.

mod damage;
mod kills;
mod places;

use std::path::Path;
use std::process::Command;

use tutornet::random::Random;

use crate::fixture::Fixture;
use crate::harness::{Files, everything, succeeds};

/// Codecs that a cache is tortured with.
const CODECS: [&str; 4] = ["f16", "klt:0.1", "pq:8", "u8"];

/// So many in `make test`, or so many in full.
fn times(few: usize, full: usize) -> usize {
    match std::env::var("TUTORNET_TORTURE").as_deref() {
        Ok("full") => full,
        Ok(other) => panic!("TUTORNET_TORTURE: expected full, found {other}"),
        Err(_) => few,
    }
}

/// Random numbers for one purpose; the seed is printed, as a failure shows it.
fn random(purpose: &str) -> Random {
    let seed = std::env::var("TUTORNET_TORTURE_SEED").map_or(1, |seed| seed.parse().expect("a whole number"));
    println!("{purpose}: TUTORNET_TORTURE_SEED={seed}");
    Random::new(seed, purpose, &[])
}

/// `tutornet cache` of the fixture's teacher over its corpus into `out`.
fn cache(fixture: &Fixture, codec: &str, out: &Path) -> Command {
    let mut command = fixture.teach(&fixture.at("dev-clean"), out);
    if codec != "--repair" {
        command.arg("--codec");
    }
    command.arg(codec);
    command
}

/// The cache that nothing disturbs.
fn undisturbed(fixture: &Fixture, codec: &str, directory: &Path) -> Files {
    let out = directory.join("undisturbed");
    succeeds(&mut cache(fixture, codec, &out));
    everything(&out)
}

/// The same files with the same bytes, and nothing beside them.
#[track_caller]
fn same(found: &Files, expected: &Files, what: &str) {
    let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}: other files");
    for (name, bytes) in expected {
        assert!(found[name] == *bytes, "{what}: {} differs", name.display());
    }
}

/// No panic, and one clear error line.
#[track_caller]
fn orderly(code: Option<i32>, stderr: &str, what: &str) {
    assert_eq!(code, Some(1), "{what}: {stderr}");
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    assert_eq!(stderr.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{what}: {stderr}");
}
