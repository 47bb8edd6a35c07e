//! What is said of a cache that is damaged, unfinished or another: the command that helps is named, it helps, and those that
//! do not write nothing.

use std::path::Path;
use std::process::Command;

use tutornet::files;

use crate::fixture::{Fixture, merge};
use crate::harness::{Answer, contents, copy, everything, exits, fails, succeeds, tutornet};

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// `tutornet cache` of the fixture's teacher over one of its corpora.
fn cache(corpus: &str, out: &Path, more: &[&str]) -> Command {
    let fixture = Fixture::get();
    let mut command = fixture.teach(&fixture.at(corpus), out);
    command.args(more);
    command
}

fn recode(from: &Path, codec: &str, out: &Path) -> Command {
    let mut command = tutornet();
    command.args(["cache", "recode"]).arg(from).args(["--codec", codec, "--out"]).arg(out);
    command
}

fn add(dir: &Path, more: &[&str]) -> Command {
    let mut command = tutornet();
    command.args(["cache", "add"]).arg(dir).args(more);
    command
}

#[track_caller]
fn verify(dir: &Path, words: &[&str]) -> Answer {
    fails(tutornet().arg("verify").arg(dir), words)
}

#[test]
fn a_recoded_cache_is_mended_by_recode_and_not_by_a_teacher() {
    let (exact, root) = (Fixture::get().at("cache-dev-clean"), Fixture::get().fresh("remedy-recode"));
    for (codec, bad) in [("u8", "shard-00001.parquet"), ("klt:0.2", "codec.safetensors")] {
        let dir = root.join(codec);
        succeeds(&mut recode(&exact, codec, &dir));
        let whole = contents(&dir);
        flip(&dir.join(bad));
        let damaged = everything(&dir);
        let hint = format!("`tutornet cache recode CACHE --codec {codec} --out {}`", dir.display());
        let said = verify(&dir, &["1 problem(s)", &hint, "the exact cache that it was made of"]);
        assert!(!said.stderr.contains("--repair"), "{}", said.stderr);
        fails(
            &mut cache("dev-clean", &dir, &["--repair"]),
            &["not made with a teacher", &hint, "nothing was changed"],
        );
        assert!(everything(&dir) == damaged);
        succeeds(&mut recode(&exact, codec, &dir));
        assert!(contents(&dir) == whole, "{codec}");
        succeeds(tutornet().arg("verify").arg(&dir));
    }
    // Made before there was a file that says so: both ways are named, and other bytes are written only where that is wanted.
    let dir = root.join("u8");
    std::fs::remove_file(dir.join("maker.toml")).unwrap();
    flip(&dir.join("shard-00001.parquet"));
    let damaged = contents(&dir);
    verify(&dir, &["`tutornet cache --repair", "if that made it, `tutornet cache recode CACHE"]);
    let words = [
        "shard-00001.parquet, made again: expected BLAKE3",
        "manifest.toml",
        "was left as it is",
        "--other-bytes",
    ];
    fails(&mut cache("dev-clean", &dir, &["--repair"]), &words);
    fails(&mut cache("dev-clean", &dir, &["--codec", "u8"]), &words);
    assert!(contents(&dir) == damaged);
    succeeds(&mut recode(&exact, "u8", &dir));
    assert!(!dir.join("maker.toml").exists(), "nobody knows who made it");
    flip(&dir.join("shard-00001.parquet"));
    succeeds(&mut cache("dev-clean", &dir, &["--repair", "--other-bytes"]))
        .says(&["other bytes than before"]);
    succeeds(tutornet().arg("verify").arg(&dir));
    exits(&mut cache("dev-clean", &dir, &["--other-bytes"]), 2).says(&["--repair"]);
    exits(recode(&exact, "u8", &root.join("x")).arg("--codec-from").arg(root.join("klt:0.2")), 2)
        .says(&["--codec-from goes with a learned --codec"]);
}

#[test]
fn a_merged_cache_is_mended_by_merge() {
    let (fixture, root) = (Fixture::get(), Fixture::get().fresh("remedy-merge"));
    let parts = ["dev-clean", "test-clean"].map(|name| fixture.at(&format!("cache-{name}")));
    let dir = root.join("merged");
    succeeds(&mut merge(&[&parts[0], &parts[1]], &dir));
    let whole = contents(&dir);
    flip(&dir.join("shard-00001.parquet"));
    let hint = format!("`tutornet cache merge CACHE.. --out {}`", dir.display());
    verify(&dir, &[&hint]);
    fails(&mut cache("dev-clean", &dir, &["--repair"]), &[&hint, "nothing was changed"]);
    succeeds(&mut merge(&[&parts[0], &parts[1]], &dir));
    assert!(contents(&dir) == whole);

    // With texts added since, as parts with the same texts.
    let texts = ["--nbest", "2", "--beam", "4"];
    succeeds(&mut add(&dir, &texts));
    let whole = contents(&dir);
    flip(&dir.join("shard-00001.parquet"));
    verify(&dir, &[&hint, "each with the same N best texts (2 of a beam of 4", "`tutornet cache add`"]);
    let copies = ["a", "b"].map(|name| root.join(name));
    for (part, to) in parts.iter().zip(&copies) {
        copy(part, to);
        succeeds(&mut add(to, &texts));
    }
    succeeds(&mut merge(&[&copies[0], &copies[1]], &dir));
    assert!(contents(&dir) == whole);
}

#[test]
fn each_cache_is_told_what_helps() {
    let (exact, root) = (Fixture::get().at("cache-dev-clean"), Fixture::get().fresh("remedy-others"));
    let whole = contents(&exact);
    let dir = root.join("cache");
    let anew = || copy(&exact, &dir);

    anew();
    flip(&dir.join("shard-00001.parquet"));
    let hint = format!("`tutornet cache --repair --model MODEL --corpus CORPUS --out {}`", dir.display());
    let said = verify(&dir, &[&hint, "MODEL is teacher jasper-nano ("]);
    assert!(!said.stderr.contains("recode"), "an exact cache is not recoded: {}", said.stderr);
    // With another corpus than its own.
    let damaged = contents(&dir);
    fails(
        &mut cache("test-clean", &dir, &["--repair"]),
        &[
            "is another cache: corpus",
            "that cache is of teacher jasper-nano (",
            "give those, or give another --out",
        ],
    );
    assert!(contents(&dir) == damaged);
    succeeds(&mut cache("dev-clean", &dir, &["--repair"]));
    assert!(contents(&dir) == whole);

    // Not complete: the line and the summary say the same.
    std::fs::remove_file(dir.join("manifest.toml")).unwrap();
    let once_more = "run the `tutornet cache` command that began it once more";
    let said = verify(&dir, &[once_more]).prints(&[once_more]);
    assert!(!said.stderr.contains("--repair"), "{}", said.stderr);
    std::fs::write(dir.join("plan.toml"), "").unwrap();
    let seal = format!("`tutornet cache seal {}`", dir.display());
    verify(&dir, &[&seal]).prints(&[&seal]);

    // A changed cache.toml is written again by the same command, without the teacher.
    anew();
    let path = dir.join("cache.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("stride = 2", "stride = 4")).unwrap();
    let said = verify(&dir, &["without --repair, rewrites what is bad", "no teacher runs for what is whole"]);
    assert!(!said.stdout.contains("cache the corpus again"), "{}", said.stdout);
    succeeds(&mut cache("dev-clean", &dir, &[])).says(&["complete already"]);
    assert!(contents(&dir) == whole);

    // Other programs write no hashes of rows.
    let manifest = files::read_sealed(&dir.join("manifest.toml")).unwrap();
    let lines = manifest.lines().filter(|line| !line.starts_with("rows_blake3"));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    files::write_sealed(&dir.join("manifest.toml"), &text).unwrap();
    flip(&dir.join("shard-00001.parquet"));
    verify(&dir, &["put back a copy of what is bad, or let the program that wrote the cache write it anew"]);
}

#[test]
fn a_repair_takes_the_search_from_the_cache() {
    let (fixture, root) = (Fixture::get(), Fixture::get().fresh("remedy-search"));
    let arpa = root.join("lm.arpa");
    let mut build = tutornet();
    build
        .args(["lm", "build", "--order", "2", "--text"])
        .arg(fixture.at("dev-clean"))
        .arg("--out")
        .arg(&arpa);
    succeeds(&mut build);
    let arpa = arpa.to_str().unwrap();
    for lm in [&[][..], &["--lm", arpa]] {
        let dir = root.join(format!("cache-{}", lm.len()));
        copy(&fixture.at("cache-dev-clean"), &dir);
        succeeds(&mut add(&dir, &[&["--nbest", "3", "--beam", "5"][..], lm].concat()));
        let whole = contents(&dir);
        flip(&dir.join("shard-00002.parquet"));
        if !lm.is_empty() {
            verify(&dir, &["--lm FILE (the ARPA file of BLAKE3 "]);
            let words =
                ["language model of the N best texts", "the ARPA file of BLAKE3 ", "give that with --lm"];
            fails(&mut cache("dev-clean", &dir, &["--repair"]), &words);
            exits(&mut cache("dev-clean", &dir, &["--repair", "--lm", arpa, "--lm-weight", "1"]), 2)
                .says(&["--repair takes the search from cache.toml: give --lm alone"]);
        }
        succeeds(&mut cache("dev-clean", &dir, &[&["--repair"][..], lm].concat()));
        assert!(contents(&dir) == whole);
        let mut wrong = cache("dev-clean", &dir, &["--repair", "--beam", "9"]);
        exits(&mut wrong, 2).says(&["--repair takes the search from cache.toml"]);
    }
}

#[test]
fn a_directory_that_is_refused_is_not_written_to() {
    let (fixture, root) = (Fixture::get(), Fixture::get().fresh("not-written-to"));
    let parts = ["dev-clean", "test-clean"].map(|name| fixture.at(&format!("cache-{name}")));
    let (corpus, notes, other) = (root.join("corpus"), root.join("notes"), root.join("other"));
    copy(&fixture.at("dev-clean"), &corpus);
    std::fs::write(corpus.join(".lock"), "process 1234").unwrap();
    std::fs::create_dir(&notes).unwrap();
    std::fs::write(notes.join("a.txt"), "").unwrap();
    copy(&fixture.at("cache-test-clean"), &other);
    for dir in [&corpus, &notes, &other] {
        let before = everything(dir);
        for codec in ["f16", "klt:0.2"] {
            fails(&mut cache("dev-clean", dir, &["--codec", codec]), &["give another --out"]);
        }
        fails(&mut cache("dev-clean", dir, &["--shard", "0", "--of", "2"]), &["give another --out"]);
        fails(&mut recode(&parts[0], "u8", dir), &["give another --out"]);
        fails(&mut merge(&[&parts[0], &parts[1]], dir), &["give another --out"]);
        let mut export = tutornet();
        export.args(["cache", "export", "--format", "npy"]).arg(&parts[0]).arg("--out").arg(dir);
        fails(&mut export, &["give another --out"]);
        assert!(everything(dir) == before, "{}", dir.display());
    }
    // What is read is no place to write to.
    let before = everything(&other);
    fails(&mut merge(&[&parts[0], &other], &other), &["is one of the caches to merge: give a new directory"]);
    fails(&mut recode(&other, "u8", &other), &["is the cache to recode: give a new directory"]);
    // The way that needs no teacher is named.
    let exact = ["--nbest", "2", "--beam", "4"];
    fails(&mut cache("test-clean", &other, &exact), &["`tutornet cache add", "without the teacher"]);
    let codec = ["--codec", "klt:0.2"];
    fails(
        &mut cache("test-clean", &other, &codec),
        &["`tutornet cache recode", "--codec klt:0.2", "without the teacher"],
    );
    assert!(everything(&other) == before);
    succeeds(&mut recode(&parts[0], "u8", &root.join("u8")));
    fails(
        &mut merge(&[&root.join("u8"), &other], &root.join("x")),
        &["caches to be merged have one codec", "recode"],
    );
}

#[test]
fn what_lies_beside_the_data_is_looked_at_as_well() {
    let (exact, root) = (Fixture::get().at("cache-dev-clean"), Fixture::get().fresh("remedy-beside"));
    let whole = root.join("whole");
    succeeds(&mut recode(&exact, "u8", &whole));
    let dir = root.join("copy");
    copy(&whole, &dir);
    flip(&dir.join("maker.toml"));
    verify(&dir, &[]).prints(&["maker.toml"]);
    succeeds(&mut recode(&exact, "u8", &dir));
    succeeds(tutornet().arg("verify").arg(&dir));
    // A shard too many is nobody's to rewrite.
    std::fs::copy(dir.join("shard-00000.parquet"), dir.join("shard-00007.parquet")).unwrap();
    verify(&dir, &["remove the rest"]).prints(&["shard-00007.parquet", "remove it"]);
    std::fs::remove_file(dir.join("shard-00007.parquet")).unwrap();
    succeeds(tutornet().arg("verify").arg(&dir));
    // A manifest that is sealed and yet says other things than the shards, or of other directories.
    let manifest = files::read_sealed(&dir.join("manifest.toml")).unwrap();
    let first =
        manifest.find("frames = ").map(|at| &manifest[at..]).and_then(|rest| rest.lines().next()).unwrap();
    let entry =
        manifest.rfind("frames = ").map(|at| &manifest[at..]).and_then(|rest| rest.lines().next()).unwrap();
    assert_ne!(first, entry, "the whole and a shard");
    for (from, to, word) in [
        (entry, "frames = 7", "expected 7 frames"),
        ("\"shard-00000.parquet\"", "\"../whole/shard-00000.parquet\"", "expected a plain file name"),
    ] {
        assert!(manifest.contains(from), "{from} in {manifest}");
        files::write_sealed(&dir.join("manifest.toml"), &manifest.replace(from, to)).unwrap();
        verify(&dir, &[]).prints(&[word]);
        fails(
            tutornet().args(["cache", "export", "--format", "npy", "--out"]).arg(root.join("out")).arg(&dir),
            &[word],
        );
    }
}
