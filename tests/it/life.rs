//! What becomes of caches that are there: merged, added to, exported, listed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tutornet::cache::Cache;
use tutornet::cache::column::payloads;
use tutornet::files;

use crate::fixture::{Fixture, merge};
use crate::harness::{contents, copy, exits, fails, succeeds, tutornet};

fn cache(fixture: &Fixture, corpus: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = fixture.teach(corpus, out);
    command.args(more);
    command
}

/// Starts a command and kills it after some milliseconds.
fn killed(command: &mut Command, milliseconds: u64) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(milliseconds));
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
fn caches_of_several_corpora_become_one_whatever_their_order() {
    let fixture = Fixture::get();
    let root = fixture.fresh("merge");
    let (a, b, c) = (fixture.at("cache-dev-clean"), fixture.at("cache-test-clean"), root.join("c"));
    let speech = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/LibriSpeech");
    let mut prep = tutornet();
    prep.args(["prep", "librispeech"]).arg(speech).args([
        "--subset",
        "dev-other",
        "--shard-utterances",
        "30",
        "--out",
    ]);
    succeeds(prep.arg(root.join("dev-other")));
    succeeds(&mut cache(fixture, &root.join("dev-other"), &c, &[]));

    // All at once, in another order, in steps.
    succeeds(&mut merge(&[&a, &b, &c], &root.join("abc"))).says(&["3 corpora"]);
    succeeds(&mut merge(&[&c, &a, &b], &root.join("cab")));
    succeeds(&mut merge(&[&b, &c], &root.join("bc")));
    succeeds(&mut merge(&[&root.join("bc"), &a], &root.join("bca"))).says(&["3 corpora"]);
    let whole = contents(&root.join("abc"));
    assert!(whole == contents(&root.join("cab")) && whole == contents(&root.join("bca")));
    succeeds(tutornet().arg("verify").arg(root.join("abc")));

    // Every payload is the one that it was.
    let merged = Cache::open(&root.join("abc")).unwrap();
    let mut count = 0;
    for part in [&a, &b, &c] {
        let part = Cache::open(part).unwrap();
        for (index, entry) in part.entries().iter().enumerate() {
            let found = merged.find(&entry.utterance).unwrap();
            for column in payloads(part.identity()) {
                assert_eq!(merged.raw(column, found).unwrap(), part.raw(column, index).unwrap());
            }
            let there = &merged.entries()[found];
            assert_eq!(
                (there.samples, there.audio_hash, there.frames),
                (entry.samples, entry.audio_hash, entry.frames)
            );
        }
        count += part.entries().len();
    }
    assert_eq!(merged.entries().len(), count);

    // What is missing or bad comes back as it was; a killed run is gone on with.
    std::fs::remove_file(root.join("abc/shard-00001.parquet")).unwrap();
    let path = root.join("abc/shard-00000.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    succeeds(&mut merge(&[&b, &c, &a], &root.join("abc"))).says(&["2 of"]);
    assert!(contents(&root.join("abc")) == whole);
    for delay in [3, 6, 10, 15, 20, 30, 40] {
        killed(&mut merge(&[&a, &b, &c], &root.join("killed")), delay);
    }
    succeeds(&mut merge(&[&a, &b, &c], &root.join("killed")));
    assert!(contents(&root.join("killed")) == whole);

    // It is a cache like any other.
    succeeds(tutornet().args(["inspect"]).arg(root.join("abc"))).prints(&["jasper-nano"]);
    succeeds(
        tutornet()
            .args(["cache", "recode", "--codec", "klt:0.2"])
            .arg(root.join("abc"))
            .arg("--out")
            .arg(root.join("klt")),
    );
    succeeds(tutornet().arg("verify").arg(root.join("klt")));
    let stages = format!("objective = \"rkd\"\nteacher = [{:?}]\nmax_updates = 4", root.join("abc"));
    let both = format!("data.train=[{:?}, {:?}]", fixture.at("dev-clean"), fixture.at("test-clean"));
    succeeds(&mut fixture.train(
        &fixture.pipeline("merged", &stages),
        "merge/run",
        &["--set", &both, "--set", "data.dev=[]"],
    ));
    succeeds(tutornet().arg("report").arg(root.join("run")).arg("--out").arg(root.join("report")))
        .prints(&["RKD"]);

    // Listed by each of its corpora.
    let list = |more: &[&str]| -> Vec<Value> {
        let listed = succeeds(tutornet().args(["cache", "ls", "--json"]).args(more).arg(&root));
        serde_json::from_str(&listed.stdout).unwrap()
    };
    let names = |rows: &[Value]| -> Vec<String> {
        rows.iter().map(|row| row["cache"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()).collect()
    };
    let corpus = fixture.at("dev-clean");
    let of_corpus = list(&["--corpus", corpus.to_str().unwrap()]);
    assert_eq!(names(&of_corpus), ["abc", "bca", "cab", "killed", "klt"]);
    assert_eq!(
        (of_corpus[0]["corpora"].as_u64(), of_corpus[0]["state"].as_str()),
        (Some(3), Some("complete"))
    );
    assert_eq!(
        names(&list(&["--corpus", of_corpus[0]["corpus"].as_str().unwrap()])),
        ["abc", "bca", "cab", "killed", "klt"]
    );
    let other = root.join("dev-other");
    assert_eq!(
        names(&list(&["--corpus", other.to_str().unwrap()])),
        ["abc", "bc", "bca", "c", "cab", "killed", "klt"]
    );
    let teacher = fixture.at("teacher/student");
    assert_eq!(list(&["--teacher", teacher.to_str().unwrap()]).len(), 7);
    assert_eq!((list(&["--teacher", "jasper-nano"]).len(), list(&["--teacher", "quartznet"]).len()), (7, 0));
}

#[test]
fn what_does_not_belong_together_is_not_merged() {
    let fixture = Fixture::get();
    let root = fixture.fresh("merge-refused");
    let (a, b) = (fixture.at("cache-dev-clean"), fixture.at("cache-test-clean"));
    let own = Cache::open(&a).unwrap();
    fails(
        &mut merge(&[&b, &a, &a], &root.join("x")),
        &[
            "cache-dev-clean and",
            "share 42 utterance(s)",
            &own.entries()[0].utterance,
            "and 39 more",
            "none in common",
        ],
    );
    let warm = root.join("warm");
    succeeds(&mut cache(fixture, &fixture.at("test-clean"), &warm, &["--temperature", "2"]));
    fails(
        &mut merge(&[&a, &warm], &root.join("x")),
        &["cannot be merged: temperature", "no softmax column", "differ in their corpora only"],
    );
    for (corpus, name) in [("dev-clean", "klt-a"), ("test-clean", "klt-b")] {
        succeeds(&mut cache(fixture, &fixture.at(corpus), &root.join(name), &["--codec", "klt:0.2"]));
    }
    fails(
        &mut merge(&[&root.join("klt-a"), &root.join("klt-b")], &root.join("x")),
        &["learned codec", "--codec-from the other"],
    );
    assert!(!root.join("x").exists(), "nothing is begun");
    let mut shared = cache(fixture, &fixture.at("test-clean"), &root.join("klt-c"), &["--codec", "klt:0.2"]);
    succeeds(shared.arg("--codec-from").arg(root.join("klt-a")));
    succeeds(&mut merge(&[&root.join("klt-a"), &root.join("klt-c")], &root.join("klt")));
    succeeds(tutornet().arg("verify").arg(root.join("klt")));
    exits(&mut merge(&[&a], &root.join("x")), 2).says(&["CACHE"]);

    // Another cache, or the caches themselves, are not written over.
    fails(&mut merge(&[&a, &b], &warm), &["is another cache", "corpus"]);
    let before = contents(&a);
    fails(&mut merge(&[&a, &b], &a), &["--out", "is one of the caches to merge: give a new directory"]);
    assert!(contents(&a) == before);
    succeeds(&mut merge(&[&a, &b], &root.join("ab")));
    fails(
        &mut cache(fixture, &fixture.at("dev-clean"), &root.join("ab"), &[]),
        &["`tutornet cache merge`", "2 corpora"],
    );

    // A damaged source is named and not taken over.
    copy(&b, &root.join("bad"));
    let path = root.join("bad/shard-00001.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    fails(
        &mut merge(&[&a, &root.join("bad")], &root.join("from-bad")),
        &["bad/shard-00001.parquet", "expected BLAKE3", "merge again"],
    );
    succeeds(tutornet().args(["cache", "ls"]).arg(root.join("from-bad"))).prints(&["incomplete"]);
    succeeds(tutornet().arg("inspect").arg(root.join("from-bad"))).prints(&["incomplete", "jasper-nano"]);
    succeeds(&mut merge(&[&a, &b], &root.join("from-bad")));
    assert!(contents(&root.join("from-bad")) == contents(&root.join("ab")));
}

#[test]
fn texts_are_added_as_if_they_had_been_there_from_the_start() {
    let fixture = Fixture::get();
    let root = fixture.fresh("add");
    let dev = fixture.at("dev-clean");
    let nbest = ["--nbest", "2", "--beam", "8"];
    let other = ["--temperature", "2", "--layers", "1"];
    let add = |dir: &str, more: &[&str]| {
        let mut command = tutornet();
        command.args(["cache", "add"]).arg(root.join(dir)).args(more);
        command
    };
    succeeds(&mut cache(fixture, &dev, &root.join("whole"), &[&nbest[..], &other].concat()));
    let whole = contents(&root.join("whole"));
    succeeds(&mut cache(fixture, &dev, &root.join("before"), &other));
    let before = contents(&root.join("before"));

    copy(&root.join("before"), &root.join("added"));
    succeeds(&mut add("added", &nbest)).says(&["42 utterances with up to 2 texts", "6 of 6 shards"]);
    assert!(contents(&root.join("added")) == whole);
    succeeds(&mut add("added", &nbest)).says(&["0 of 6 shards"]);
    fails(
        &mut add("added", &["--nbest", "3", "--beam", "8"]),
        &["N best texts already", "3 of", "2 of", "another search"],
    );
    assert!(contents(&root.join("added")) == whole);

    // Records that a kill left behind are of the cache as it was.
    copy(&root.join("before"), &root.join("left"));
    let manifest = std::fs::read_to_string(root.join("left/manifest.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    for shard in manifest["shards"].as_array().unwrap() {
        let file = root.join("left").join(shard["file"].as_str().unwrap()).with_extension("done");
        files::write_sealed(&file, &toml::to_string(shard).unwrap()).unwrap();
    }
    succeeds(&mut add("left", &nbest)).says(&["6 of 6 shards"]);
    assert!(contents(&root.join("left")) == whole);

    // Killed again and again.
    copy(&root.join("before"), &root.join("killed"));
    for delay in [2, 4, 6, 8, 10, 12, 15, 18, 22, 26, 30] {
        killed(&mut add("killed", &nbest), delay);
    }
    succeeds(&mut add("killed", &nbest));
    assert!(contents(&root.join("killed")) == whole);

    // At the places between two files: the journal alone; no manifest; a shard without its record; all but the journal's end.
    let broken = |name: &str| root.join("before").join(name);
    copy(&root.join("before"), &root.join("stopped"));
    let shard = root.join("stopped/shard-00003.parquet");
    let mut bytes = std::fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    fails(
        &mut add("stopped", &nbest),
        &["a shard is not as written: shard-00003.parquet (expected BLAKE3", "put back a copy"],
    );
    let journal = std::fs::read(root.join("stopped/adding.toml")).unwrap();
    fails(tutornet().arg("verify").arg(root.join("stopped")), &["problem(s)"]);
    assert!(
        Cache::open(&root.join("stopped")).unwrap_err().to_string().contains("`tutornet cache add` command")
    );
    succeeds(tutornet().args(["cache", "ls"]).arg(root.join("stopped"))).prints(&["incomplete"]);
    // A teacher completes it as well.
    copy(&root.join("stopped"), &root.join("taught"));
    succeeds(&mut cache(fixture, &dev, &root.join("taught"), &[&nbest[..], &other].concat()));
    succeeds(&mut add("taught", &nbest)).says(&["0 of 6 shards"]);
    assert!(contents(&root.join("taught")) == whole);
    std::fs::copy(broken("shard-00003.parquet"), &shard).unwrap();
    std::fs::remove_file(root.join("stopped/shard-00000.done")).unwrap();
    succeeds(&mut add("stopped", &nbest)).says(&["1 of 6 shards"]);
    assert!(contents(&root.join("stopped")) == whole);
    std::fs::write(root.join("stopped/adding.toml"), &journal).unwrap();
    succeeds(&mut add("stopped", &nbest)).says(&["0 of 6 shards"]);
    assert!(contents(&root.join("stopped")) == whole);
    for missing in [false, true] {
        let dir = root.join(format!("journal-{missing}"));
        copy(&root.join("before"), &dir);
        std::fs::write(dir.join("adding.toml"), &journal).unwrap();
        if missing {
            std::fs::remove_file(dir.join("manifest.toml")).unwrap();
        }
        succeeds(&mut add(&format!("journal-{missing}"), &nbest)).says(&["6 of 6 shards"]);
        assert!(contents(&dir) == whole, "{missing}");
    }

    // Layers are not in a cache that was made without them.
    copy(&root.join("before"), &root.join("layers"));
    fails(
        &mut add("layers", &["--layers", "2"]),
        &["layers 2 of", "need the teacher", "--model MODEL --corpus CORPUS --layers 2"],
    );
    exits(&mut add("layers", &[]), 2).says(&["--nbest"]);
    std::fs::remove_file(root.join("layers/manifest.toml")).unwrap();
    fails(&mut add("layers", &nbest), &["the cache is not complete"]);
    assert!(before.iter().all(
        |(name, bytes)| name.ends_with("manifest.toml") || contents(&root.join("layers"))[name] == *bytes
    ));
}

#[test]
fn an_export_is_gone_on_with_and_says_where_everything_is() {
    let fixture = Fixture::get();
    let root = fixture.fresh("export");
    let from = fixture.at("cache-dev-clean");
    for (format, file) in
        [("arrow", "shard-00002.arrow"), ("npy", "shard-00002"), ("safetensors", "shard-00002")]
    {
        let export = |out: &str| {
            let mut command = tutornet();
            command
                .args(["cache", "export"])
                .arg(&from)
                .args(["--format", format, "--out"])
                .arg(root.join(out));
            command
        };
        succeeds(&mut export(format)).says(&["42 utterances", "6 of 6 shards"]);
        let whole = contents(&root.join(format));
        let index = std::fs::read_to_string(root.join(format).join("index.jsonl")).unwrap();
        let lines: Vec<Value> = index.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let entries = Cache::open(&from).unwrap().entries().to_vec();
        assert_eq!(lines.len(), entries.len());
        for (line, entry) in lines.iter().zip(entries) {
            assert_eq!(
                (line["utterance"].as_str(), line["frames"].as_u64()),
                (Some(&*entry.utterance), Some(u64::from(entry.frames)))
            );
            let named = line["file"]
                .as_str()
                .map(str::to_owned)
                .or_else(|| line["files"]["hidden"].as_str().map(str::to_owned));
            assert!(root.join(format).join(named.unwrap()).is_file(), "{line}");
        }
        for delay in [3, 6, 10, 15, 25, 40] {
            killed(&mut export(&format!("{format}-killed")), delay);
        }
        succeeds(&mut export(&format!("{format}-killed")));
        assert!(contents(&root.join(format!("{format}-killed"))) == whole, "{format}");
        assert!(root.join(format).join(file).exists());
        fails(
            export(format).args(["--dtype", "f32"]),
            &["is another export", "dtype = \"f32\"", "dtype = \"f16\""],
        );
        fails(
            export("x").args(["--utterances", "first:3", "--columns", "hidden,softmax"]),
            &["no column softmax"],
        );
    }
    exits(tutornet().args(["cache", "export"]).arg(&from).args(["--format", "csv", "--out", "x"]), 2)
        .says(&["safetensors"]);
}
