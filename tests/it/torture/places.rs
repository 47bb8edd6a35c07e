//! A disk that is full, a place that takes no writing, a clock that jumps: a clear error or none, and when the trouble is
//! gone the same command ends as if it had not been.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::{CODECS, cache, everything, orderly, random, same, times, undisturbed};
use crate::fixture::{Fixture, THREE_STAGES};
use crate::harness::{Answer, not_run, run, succeeds, tutornet};

/// The command that runs a script where mounting is its own affair: as root, or as the root of a user namespace.
fn namespace(test: &str) -> Option<Vec<&'static str>> {
    for flags in [&["-m"][..], &["-r", "-m"]] {
        let mut command = Command::new("unshare");
        let probe =
            "mount -t tmpfs -o size=4k tmpfs /tmp && mount --bind /tmp /tmp && mount -o remount,ro,bind /tmp";
        if command.args(flags).args(["sh", "-c", probe]).output().is_ok_and(|o| o.status.success()) {
            return Some(flags.to_vec());
        }
    }
    not_run(test, "no mount namespace (unshare -m) to be had");
    None
}

/// Runs `script`, in which $dir is `directory` and `first` and `second` are what these commands are, one after the other;
/// their answers, `first`'s and `second`'s.
fn act(flags: &[&str], directory: &Path, script: &str, commands: [&Command; 2]) -> [Answer; 2] {
    let mut shell = Command::new("unshare");
    let mut text = String::from("set -e\n");
    for (name, command) in ["first", "second"].into_iter().zip(commands) {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<String> = words.map(|w| format!("'{}'", w.to_str().unwrap())).collect();
        let at = directory.with_extension(name).display().to_string();
        text += &format!(
            "{name}() {{ code=0; {} > '{at}.out' 2> '{at}.err' || code=$?; echo $code > '{at}.code'; }}\n",
            words.join(" ")
        );
    }
    text += &format!("dir='{}'\n{script}", directory.display());
    shell.args(flags).args(["bash", "-c", &text]).env_remove("TUTORNET_LOG").env("NO_COLOR", "1");
    let whole = run(&mut shell);
    assert_eq!(whole.code, Some(0), "{text}\n{}", whole.stderr);
    ["first", "second"].map(|name| {
        let at = directory.with_extension(name).display().to_string();
        let read = |what: &str| std::fs::read_to_string(format!("{at}.{what}")).unwrap();
        Answer { code: read("code").trim().parse().ok(), stdout: read("out"), stderr: read("err") }
    })
}

/// A disk of `bytes` that fills up, and grows.
fn full_disk(flags: &[&str], directory: &Path, bytes: usize, command: &Command) -> Answer {
    let kept = directory.with_extension("kept");
    let _ = std::fs::remove_dir_all(&kept);
    let script = format!(
        "mount -t tmpfs -o size={bytes} tmpfs $dir\nfirst\nfind $dir -name '.tutornet-tmp-*' > $dir.left\n\
         mount -o remount,size=256m $dir\nsecond\ncp -a $dir '{}'\n",
        kept.display()
    );
    let [first, second] = act(flags, directory, &script, [command, command]);
    assert_eq!(second.code, Some(0), "with room again: {}", second.stderr);
    if first.code != Some(0) {
        orderly(first.code, &first.stderr, &format!("a disk of {bytes} bytes"));
        assert!(first.stderr.contains("No space left on device"), "{}", first.stderr);
        let left = std::fs::read_to_string(directory.with_extension("left")).unwrap_or_default();
        assert_eq!(left, "", "temporary files left behind");
    }
    first
}

#[test]
fn a_cache_on_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    let Some(flags) = namespace("torture: disk full (cache)") else { return };
    let fixture = Fixture::get();
    let mut random = random("disk full, cache");
    for codec in &CODECS[..3] {
        let directory = fixture.fresh(&format!("full-{}", codec.replace(':', "-")));
        let expected = undisturbed(fixture, codec, &directory);
        let size: usize = expected.values().map(|bytes| bytes.len().div_ceil(4096) * 4096).sum();
        let disk = directory.join("disk");
        std::fs::create_dir(&disk).unwrap();
        let mut failed = 0;
        for _ in 0..times(2, 14) {
            let bytes = 4096 * (1 + random.below(size / 4096));
            let first = full_disk(&flags, &disk, bytes, &cache(fixture, codec, &disk.join("cache")));
            failed += usize::from(first.code != Some(0));
            same(&everything(&disk.with_extension("kept").join("cache")), &expected, "disk full");
        }
        assert!(failed > 0, "no disk was too small");
        println!("disk full, cache {codec}: {failed} times");
    }
}

#[test]
fn a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    let Some(flags) = namespace("torture: disk full (train)") else { return };
    let fixture = Fixture::get();
    let mut random = random("disk full, train");
    let directory = fixture.fresh("full-train");
    let pipeline = fixture.pipeline("full", THREE_STAGES);
    let every = ["--set", "checkpoint.every_updates=2", "--resume"];
    succeeds(&mut fixture.train(&pipeline, "full-train/undisturbed", &every));
    let without_times = |run: &Path| {
        let mut files = everything(run);
        files.remove(Path::new("times.jsonl")).expect("every run notes its stretches");
        files
    };
    let expected = without_times(&directory.join("undisturbed"));
    let size: usize = expected.values().map(|bytes| bytes.len().div_ceil(4096) * 4096).sum();
    let disk = directory.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mut failed = 0;
    for _ in 0..times(2, 10) {
        let bytes = 4096 * (1 + random.below(size * 5 / 4 / 4096));
        let first = full_disk(&flags, &disk, bytes, &fixture.train(&pipeline, "full-train/disk/run", &every));
        failed += usize::from(first.code != Some(0));
        same(&without_times(&disk.with_extension("kept").join("run")), &expected, "disk full");
    }
    assert!(failed > 0, "no disk was too small");
    println!("disk full, train: {failed} times");
}

#[test]
fn a_place_that_takes_no_writing_is_named_and_read_from() {
    let Some(flags) = namespace("torture: read-only directory") else { return };
    let fixture = Fixture::get();
    let directory = fixture.fresh("closed");
    let expected = undisturbed(fixture, "klt:0.1", &directory);
    let closed = "mount --bind $dir $dir\nmount -o remount,ro,bind $dir\nfirst\numount $dir\nsecond\n";
    // Nothing there yet; half of it; all but the manifest.
    for left in [0, 3, usize::MAX] {
        let place = directory.join("place");
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir(&place).unwrap();
        if left > 0 {
            std::fs::create_dir(place.join("cache")).unwrap();
            let kept = expected.iter().filter(|(name, _)| !name.ends_with("manifest.toml")).take(left);
            kept.for_each(|(name, bytes)| std::fs::write(place.join("cache").join(name), bytes).unwrap());
        }
        let command = cache(fixture, "klt:0.1", &place.join("cache"));
        let [first, second] = act(&flags, &place, closed, [&command, &command]);
        orderly(first.code, &first.stderr, "read-only");
        assert!(first.stderr.contains("Read-only file system"), "{}", first.stderr);
        assert_eq!(second.code, Some(0), "{}", second.stderr);
        same(&everything(&place.join("cache")), &expected, "read-only");
    }
    // A complete cache is verified and trained from where nothing can be written.
    let place = directory.join("place");
    let mut verify = tutornet();
    verify.arg("verify").arg(place.join("cache"));
    let stage = format!("objective = \"rkd\"\nteacher = [{:?}]\nmax_updates = 2", place.join("cache"));
    let pipeline = fixture.pipeline("closed", &stage);
    let _ = std::fs::remove_dir_all(fixture.at("closed-run"));
    let train = fixture.train(&pipeline, "closed-run", &[]);
    let both = "mount --bind $dir $dir\nmount -o remount,ro,bind $dir\nfirst\nsecond\n";
    let again = cache(fixture, "klt:0.1", &place.join("cache"));
    for commands in [[&verify, &train], [&again, &verify]] {
        for answer in act(&flags, &place, both, commands) {
            assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        }
    }
}

/// Gives every file below `root` a time of change.
fn age(root: &Path, to: SystemTime) {
    for name in everything(root).keys() {
        std::fs::File::options().append(true).open(root.join(name)).unwrap().set_modified(to).unwrap();
    }
}

#[test]
fn files_of_another_time_change_nothing() {
    let fixture = Fixture::get();
    let directory = fixture.fresh("aged");
    let expected = undisturbed(fixture, "pq:8", &directory);
    let year = Duration::from_secs(31_556_952);
    let out = directory.join("cache");
    for to in [SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + 130 * year] {
        let _ = std::fs::remove_dir_all(&out);
        std::fs::create_dir(&out).unwrap();
        // Some shards, of which one is bad, without record or manifest.
        for (name, bytes) in expected.iter().filter(|(name, _)| !name.ends_with("manifest.toml")).take(5) {
            let mut bytes = bytes.clone();
            if name.ends_with("shard-00001.parquet") {
                bytes[1000] ^= 1;
            }
            std::fs::write(out.join(name), bytes).unwrap();
        }
        age(&out, to);
        succeeds(&mut cache(fixture, "pq:8", &out));
        same(&everything(&out), &expected, "files of another time");
        age(&out, to);
        succeeds(&mut cache(fixture, "pq:8", &out)).says(&["complete already"]);
        succeeds(tutornet().arg("verify").arg(&out));
        same(&everything(&out), &expected, "files of another time");
    }
}

/// The clock that jumps, as a library to load first.
fn clock(directory: &Path) -> Option<PathBuf> {
    let (source, library) = (directory.join("clock.c"), directory.join("clock.so"));
    std::fs::write(&source, include_str!("clock.c")).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status();
    match built {
        Ok(status) => {
            assert!(status.success(), "clock.c does not compile");
            Some(library)
        }
        Err(error) => {
            not_run("torture: clock jumps", &format!("no C compiler (cc): {error}"));
            None
        }
    }
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let fixture = Fixture::get();
    let directory = fixture.fresh("clock");
    let Some(clock) = clock(&directory) else { return };
    // It does jump.
    let seen = succeeds(Command::new("date").args(["+%Y", "--date=now"]).env("LD_PRELOAD", &clock));
    let years: std::collections::BTreeSet<String> = (0..4)
        .map(|_| {
            run(Command::new("bash")
                .args(["-c", "for i in 1 2 3 4 5 6 7 8; do printf '%(%Y)T ' -1; done"])
                .env("LD_PRELOAD", &clock))
            .stdout
        })
        .collect();
    assert!(years.iter().any(|y| y.contains("1970") || y.contains("2100")), "{years:?} {}", seen.stdout);
    for codec in &CODECS[..3] {
        let expected = undisturbed(fixture, codec, &fixture.fresh("clock-whole"));
        let out = directory.join(codec);
        for words in ["shards written", "complete already"] {
            let answer = succeeds(cache(fixture, codec, &out).env("LD_PRELOAD", &clock));
            if words == "complete already" {
                answer.says(&[words]);
            }
            same(&everything(&out), &expected, "a clock that jumps");
        }
    }
    let pipeline = fixture.pipeline("clocked", THREE_STAGES);
    for run in ["clock-run", "clock-run-whole"] {
        let _ = std::fs::remove_dir_all(fixture.at(run));
    }
    succeeds(&mut fixture.train(&pipeline, "clock-run-whole", &[]));
    succeeds(fixture.train(&pipeline, "clock-run", &[]).env("LD_PRELOAD", &clock));
    let of = |run: &str| {
        let mut files = everything(&fixture.at(run));
        files.remove(Path::new("times.jsonl")).expect("every run notes its stretches");
        files
    };
    same(&of("clock-run"), &of("clock-run-whole"), "a clock that jumps");
}
