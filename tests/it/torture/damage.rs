//! Bits that flip and files that end early: never read as data, never a panic, always found by `verify`, and mended by
//! `cache --repair`.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use tutornet::Result;
use tutornet::cache::{self, Cache, Entry};
use tutornet::models::HiddenLayer;
use tutornet::random::Random;

use super::{CODECS, Files, everything, orderly, random, same, times};
use crate::fixture::Fixture;
use crate::harness::{exits, run, succeeds, tutornet};

/// A cache with every kind of column.
fn rich(fixture: &Fixture, codec: &str, out: &Path) -> std::process::Command {
    let mut command = super::cache(fixture, codec, out);
    command.args(["--nbest", "2", "--beam", "4"]);
    if codec != "--repair" {
        command.args(["--layers", "1", "--temperature", "2"]);
    }
    command
}

/// Everything that a reader is told of a cache, bit for bit.
#[derive(PartialEq)]
struct Told {
    entries: Vec<Entry>,
    values: Vec<Vec<u32>>,
    texts: Vec<String>,
}

fn tell(dir: &Path) -> Result<Told> {
    let cache = Cache::open(dir)?;
    let mut told = Told { entries: cache.entries().to_vec(), values: Vec::new(), texts: Vec::new() };
    let mut out = Vec::new();
    let mut keep = |out: &[f32]| told.values.push(out.iter().map(|v| v.to_bits()).collect());
    for index in 0..told.entries.len() {
        for layer in [HiddenLayer::Last, HiddenLayer::Inner(1)] {
            cache.hidden(layer, index, &mut out)?;
            keep(&out);
            cache.frame_weight(layer, index, &mut out)?;
            keep(&out);
        }
        cache.log_posterior(index, &mut out)?;
        keep(&out);
        told.texts.push(format!("{:?}", cache.nbest(index)?));
    }
    Ok(told)
}

/// How damage came to light.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Reading,
    /// What was read was right: only `verify` can tell.
    VerifyOnly,
}

/// The damaged file must be found by `verify`, and either not be read or make no difference.
fn found(dir: &Path, file: &Path, expected: &Told, what: &str) -> Found {
    let read = catch_unwind(|| tell(dir)).unwrap_or_else(|_| panic!("{what}: reading panicked"));
    let problems = catch_unwind(|| cache::verify(dir, &mut |_, _| {}));
    let problems = problems.unwrap_or_else(|_| panic!("{what}: verify panicked")).unwrap();
    assert!(problems.iter().any(|p| p.path.ends_with(file)), "{what}: verify found {problems:?}");
    match read {
        Err(_) => Found::Reading,
        Ok(told) => {
            assert!(told == *expected, "{what}: damaged bytes were read as data");
            Found::VerifyOnly
        }
    }
}

/// A file under its name, anew: what was mapped before stays as it was.
fn replace(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// One of the files: shards, where almost all of the bytes are, no more often than the small ones together.
fn draw<'a>(random: &mut Random, files: &'a Files) -> (&'a PathBuf, &'a Vec<u8>) {
    let (shards, texts): (Vec<_>, Vec<_>) = files
        .iter()
        .filter(|(name, _)| !name.ends_with(".lock"))
        .partition(|(name, _)| name.extension().is_some_and(|e| e == "parquet"));
    let from = if random.below(2) == 0 { shards } else { texts };
    from[random.below(from.len())]
}

/// A place in a file; in a shard every other time in its last part, where the indexes and the footer are.
fn place(random: &mut Random, name: &Path, length: usize) -> usize {
    let shard = name.extension().is_some_and(|e| e == "parquet");
    let tail = length.min(8192);
    if shard && random.below(2) == 0 { length - tail + random.below(tail) } else { random.below(length) }
}

fn torture(what: &str, count: usize, damage: impl Fn(&mut Random, &Path, &mut Vec<u8>) -> String) {
    let fixture = Fixture::get();
    let mut random = random(what);
    let mut ways: BTreeMap<(String, Found), usize> = BTreeMap::new();
    for codec in CODECS {
        let directory = fixture.fresh(&format!("{}-{}", what.replace(' ', "-"), codec.replace(':', "-")));
        let dir = directory.join("cache");
        succeeds(&mut rich(fixture, codec, &dir));
        let (files, expected) = (everything(&dir), tell(&dir).unwrap());
        for number in 0..count.div_ceil(CODECS.len()) {
            let (name, good) = draw(&mut random, &files);
            let mut bytes = good.clone();
            let how = damage(&mut random, name, &mut bytes);
            let label = format!("{codec}, {}, {how}", name.display());
            replace(&dir.join(name), &bytes);
            let way = found(&dir, name, &expected, &label);
            // The program says the same as the library.
            if number % 25 == 0 {
                let answer = exits(tutornet().args(["verify", "--json"]).arg(&dir), 1);
                orderly(answer.code, &answer.stderr, &label);
                let report: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
                let state = |f: &serde_json::Value| {
                    f["file"] == name.display().to_string() && f["state"] == "damaged"
                };
                assert!(report["files"].as_array().unwrap().iter().any(state), "{label}: {report}");
                let inspected = run(tutornet().arg("inspect").arg(&dir));
                assert!(!inspected.stderr.contains("panicked"), "{label}: {}", inspected.stderr);
            }
            replace(&dir.join(name), good);
            let kind = name.extension().map_or(String::new(), |e| e.to_string_lossy().into_owned());
            *ways.entry((kind, way)).or_default() += 1;
        }
        assert!(tell(&dir).unwrap() == expected, "{codec}: put back, it is as it was");
    }
    println!("{what}: {ways:?}");
}

#[test]
fn no_flipped_bit_is_read_as_data() {
    torture("bit flips", times(80, 2000), |random, name, bytes| {
        let (at, bit) = (place(random, name, bytes.len()), random.below(8));
        bytes[at] ^= 1 << bit;
        format!("bit {bit} of byte {at}")
    });
}

#[test]
fn no_file_that_ends_early_is_read_as_data() {
    torture("truncations", times(24, 500), |random, name, bytes| {
        let length = place(random, name, bytes.len());
        bytes.truncate(length);
        format!("cut to {length} bytes")
    });
}

/// Which file lies under every name.
fn inodes(dir: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let of = |name: &PathBuf| {
        let of = std::fs::metadata(dir.join(name)).unwrap();
        (of.ino(), of.mtime(), of.mtime_nsec())
    };
    everything(dir).keys().map(|name| (name.clone(), of(name))).collect()
}

#[test]
fn repair_writes_what_is_bad_and_nothing_else() {
    let fixture = Fixture::get();
    let mut random = random("repairs");
    for codec in CODECS {
        let directory = fixture.fresh(&format!("repair-{}", codec.replace(':', "-")));
        let dir = directory.join("cache");
        let repair = || rich(fixture, "--repair", &dir);
        super::orderly(Some(1), &exits(&mut repair(), 1).stderr, "nothing to repair");
        succeeds(&mut rich(fixture, codec, &dir));
        let whole = everything(&dir);
        let before = inodes(&dir);
        succeeds(&mut repair()).says(&["nothing to repair"]);
        assert!(inodes(&dir) == before, "a whole cache was touched");
        for _ in 0..times(2, 25) {
            let before = inodes(&dir);
            let mut bad: BTreeMap<PathBuf, &str> = BTreeMap::new();
            for _ in 0..1 + random.below(4) {
                let (name, good) = draw(&mut random, &whole);
                // What the cache is of must be told by something; see below.
                if name.ends_with("cache.toml") {
                    continue;
                }
                let mut bytes = good.clone();
                let at = place(&mut random, name, bytes.len());
                let how = ["flipped", "cut", "gone"][random.below(3)];
                match how {
                    "flipped" => bytes[at] ^= 1,
                    _ => bytes.truncate(at),
                }
                replace_or_remove(&dir.join(name), (how != "gone").then_some(&bytes));
                bad.insert(name.clone(), how);
            }
            if random.below(4) == 0 {
                std::fs::write(dir.join("shard-00099.parquet"), b"of something else").unwrap();
                bad.insert(PathBuf::from("shard-00099.parquet"), "surplus");
            }
            if bad.is_empty() {
                continue;
            }
            let told = format!("{codec}: {bad:?}");
            let answer = succeeds(repair().arg("--json"));
            let report: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
            same(&everything(&dir), &whole, &told);
            let list = |key: &str| -> Vec<String> {
                report[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
            };
            let wrong: Vec<String> = bad
                .iter()
                .filter(|(_, how)| **how != "surplus")
                .map(|(name, _)| name.display().to_string())
                .collect();
            assert_eq!(list("written"), wrong, "{told}");
            assert_eq!(
                list("removed").len(),
                usize::from(bad.values().any(|how| *how == "surplus")),
                "{told}"
            );
            assert!(list("other_bytes").is_empty(), "{told}");
            for (name, file) in inodes(&dir) {
                let kept =
                    bad.contains_key(&name) || name.ends_with("manifest.toml") || name.ends_with(".lock");
                assert!(kept || before[&name] == file, "{told}: {} was touched", name.display());
            }
            succeeds(tutornet().arg("verify").arg(&dir));
        }
        // Without cache.toml it says so, and the command that made the cache mends it.
        replace(&dir.join("cache.toml"), &whole[Path::new("cache.toml")][1..]);
        let answer = run(&mut repair());
        orderly(answer.code, &answer.stderr, "cache.toml");
        assert!(answer.stderr.contains("without --repair"), "{}", answer.stderr);
        succeeds(&mut rich(fixture, codec, &dir));
        same(&everything(&dir), &whole, "cache.toml");
        exits(repair().args(["--codec", "u8"]), 2).says(&["--repair", "--codec"]);
    }
}

fn replace_or_remove(path: &Path, bytes: Option<&Vec<u8>>) {
    let _ = std::fs::remove_file(path);
    if let Some(bytes) = bytes {
        std::fs::write(path, bytes).unwrap();
    }
}

/// Without a manifest a shard speaks for itself: where only what no checksum covers has changed, it is written again from its
/// own rows.
#[test]
fn a_shard_without_a_manifest_is_what_its_rows_make_or_is_written_again() {
    let fixture = Fixture::get();
    let mut random = random("without a manifest");
    let directory = fixture.fresh("unlisted");
    let dir = directory.join("cache");
    succeeds(&mut rich(fixture, "klt:0.1", &dir));
    let whole = everything(&dir);
    for _ in 0..times(4, 100) {
        std::fs::remove_file(dir.join("manifest.toml")).unwrap();
        let mut told = String::new();
        for (name, good) in whole.iter().filter(|(name, _)| name.extension().is_some_and(|e| e == "parquet"))
        {
            if random.below(2) == 0 {
                let mut bytes = good.clone();
                let (at, bit) = (place(&mut random, name, bytes.len()), random.below(8));
                bytes[at] ^= 1 << bit;
                replace(&dir.join(name), &bytes);
                told += &format!("{} bit {bit} of byte {at}; ", name.display());
            }
        }
        succeeds(&mut rich(fixture, "klt:0.1", &dir));
        same(&everything(&dir), &whole, &told);
    }
}
