//! `tutornet prep` and the corpora it makes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tutornet::corpus::Corpus;

use crate::flac::{MD5, flac, tone};
use crate::harness::{contents, exits, fails, succeeds, tutornet};
use crate::tree::Tree;

fn ids(corpus: &Path) -> Vec<String> {
    Corpus::open(corpus).unwrap().utterances().iter().map(|u| u.id.clone()).collect()
}

/// Lines of skipped.jsonl as (utterance, reason).
fn skipped(corpus: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(corpus.join("skipped.jsonl")).unwrap();
    let pair = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let word = |key: &str| value[key].as_str().unwrap().to_owned();
        assert!(!word("detail").is_empty() && word("file").starts_with("dev/"), "{line}");
        (word("utterance"), word("reason"))
    };
    text.lines().map(pair).collect()
}

#[test]
fn help_is_there_and_wrong_usage_exits_with_2() {
    succeeds(tutornet().args(["prep", "librispeech", "--help"])).prints(&["Examples:", "--shard-utterances"]);
    exits(tutornet().args(["prep", "nothing"]), 2);
    exits(&mut tutornet(), 2);
    let tree = Tree::new();
    tree.speech("dev", "1-2", 1);
    exits(tree.prep("dev", "c").args(["--shard-utterances", "0"]), 2).says(&["at least 1"]);
    exits(tree.prep("dev", "c").args(["--frontend", "openseq2seq", "--nemo-frames", "ceil"]), 2)
        .says(&["--frontend nemo only"]);
    let mut none = tutornet();
    none.args(["prep", "librispeech", "--out", "x"]).arg(tree.root());
    exits(&mut none, 2).says(&["--subset is missing", "holds dev"]);
}

#[test]
fn what_cannot_be_used_is_skipped_with_its_reason_and_strict_stops() {
    let tree = Tree::new();
    let good = flac(&tone(5000, 1), 1, 16_000);
    let text = Some("SOME WORDS");
    let truncated = &good[..good.len() * 3 / 5];
    let (mut flipped, mut md5) = (good.clone(), good.clone());
    flipped[good.len() / 2] ^= 4;
    md5[MD5.start] ^= 1;
    let stereo: Vec<i32> = tone(5000, 2).iter().zip(tone(5000, 3)).flat_map(|(&l, r)| [l, r]).collect();
    let silent = flac(&[0; 5000], 1, 16_000);
    tree.add("dev", "1-1-0000", Some(&good), text)
        .add("dev", "1-1-0001", Some(truncated), text)
        .add("dev", "1-1-0002", Some(&flipped), text)
        .add("dev", "1-1-0003", Some(&md5), text)
        .add("dev", "1-1-0004", Some(&silent), text)
        .add("dev", "1-1-0005", Some(b""), text)
        .add("dev", "1-1-0006", Some(&good[..42]), text)
        .add("dev", "1-1-0007", Some(b"no audio"), text)
        .add("dev", "2-1-0000", Some(&good), None)
        .add("dev", "2-1-0001", Some(&good), Some("CHAPTER 7"))
        .add("dev", "2-1-0002", Some(&good), Some("  "))
        .add("dev", "2-1-0003", None, text)
        .add("dev", "2-1-0004", Some(&flac(&tone(8000, 4), 1, 8000)), text)
        .add("dev", "2-1-0005", Some(&flac(&stereo, 2, 16_000)), text)
        .add("dev", "2-1-0006", Some(&flac(&tone(100, 5), 1, 16_000)), Some("IT\u{2019}S"));

    succeeds(&mut tree.prep("dev", "corpus")).prints(&[
        "4 utterances",
        "2 speakers",
        "skipped: 11",
        "2 audio truncated",
        "1 audio damaged",
        "1 MD5 mismatch",
        "1 silent",
        "1 zero length",
        "1 not FLAC or WAV",
        "1 transcript missing",
        "1 transcript empty",
        "1 characters outside the labels",
        "1 audio missing",
        "skipped.jsonl",
    ]);
    let corpus = tree.path("corpus");
    assert_eq!(ids(&corpus), ["1-1-0000", "2-1-0004", "2-1-0005", "2-1-0006"]);
    let expected = [
        ("1-1-0001", "truncated"),
        ("1-1-0002", "damaged"),
        ("1-1-0003", "md5"),
        ("1-1-0004", "silent"),
        ("1-1-0005", "empty"),
        ("1-1-0006", "truncated"),
        ("1-1-0007", "format"),
        ("2-1-0000", "transcript-missing"),
        ("2-1-0001", "transcript-characters"),
        ("2-1-0002", "transcript-empty"),
        ("2-1-0003", "audio-missing"),
    ];
    let found = skipped(&corpus);
    assert_eq!(found, expected.map(|(id, reason)| (id.to_owned(), reason.to_owned())));
    let open = Corpus::open(&corpus).unwrap();
    let samples: Vec<u64> = open.utterances().iter().map(|u| u.samples).collect();
    assert_eq!(samples, [5000, 16_000, 5000, 100], "8 kHz is resampled, stereo mixed");
    assert_eq!(open.utterances()[3].text, "it's");

    // The same input again, but nothing may be skipped.
    fails(tree.prep("dev", "strict").arg("--strict"), &["--strict", "utterance 2-1-0000", "and 3 more"]);
    fails(tree.prep("dev", "corpus").arg("--strict"), &["--strict", "1-1-0001", "and 10 more"]);
    let audio = Tree::new();
    audio.speech("dev", "1-1", 5).add("dev", "1-1-0003", Some(truncated), None);
    fails(audio.prep("dev", "strict").arg("--strict"), &["--strict", "utterance 1-1-0003", "truncated"]);
    assert!(!audio.path("strict/corpus.toml").exists());
    succeeds(&mut audio.prep("dev", "strict")).prints(&["4 utterances", "skipped: 1 (1 audio truncated)"]);

    // Shorter than a hop: with this rule there is no frame.
    succeeds(tree.prep("dev", "floor").args(["--nemo-frames", "floor"])).prints(&[
        "3 utterances",
        "1 shorter than one frame",
        "--nemo-frames floor",
    ]);
}

#[test]
fn a_corpus_of_nothing_is_a_failure() {
    let tree = Tree::new();
    tree.add("dev", "1-1-0000", Some(b""), Some("WORDS"));
    fails(&mut tree.prep("dev", "corpus"), &["no utterance can be used", "1 zero length", "skipped.jsonl"]);
    assert!(!tree.path("corpus/corpus.toml").exists());
    std::fs::create_dir_all(tree.root().join("empty")).unwrap();
    fails(&mut tree.prep("empty", "other"), &["no utterance in empty", "speaker/chapter"]);
}

#[test]
fn a_missing_root_or_subset_lists_what_is_there() {
    let tree = Tree::new();
    tree.speech("dev-clean", "1-2", 1).speech("test-clean", "3-4", 1);
    fails(&mut tree.prep("dev", "c"), &["no subset dev", "subsets there: dev-clean, test-clean"]);
    let mut missing = tutornet();
    missing.args(["prep", "librispeech"]).arg(tree.root().join("no"));
    missing.args(["--subset", "dev", "--out"]).arg(tree.path("c"));
    fails(&mut missing, &["no such directory", "holds the subsets dev-clean, test-clean"]);
    let mut above = tutornet();
    above.args(["prep", "librispeech"]).arg(tree.path(""));
    above.args(["--subset", "dev-clean", "--out"]).arg(tree.path("c"));
    fails(&mut above, &["LibriSpeech as ROOT, which holds dev-clean, test-clean"]);
    let mut below = tutornet();
    below.args(["prep", "librispeech"]).arg(tree.root().join("dev-clean"));
    below.args(["--subset", "dev-clean", "--out"]).arg(tree.path("c"));
    fails(&mut below, &["no subset dev-clean", "directory above it"]);
    assert!(!tree.path("c").exists(), "nothing was begun");
}

#[test]
fn again_with_the_same_arguments_does_nothing_and_with_others_is_refused() {
    let tree = Tree::new();
    tree.speech("dev", "1-2", 5).speech("test", "3-4", 2);
    let both = |out: &str, first: &str, second: &str| {
        let mut command = tree.prep(first, out);
        command.args(["--subset", second, "--shard-utterances", "3"]);
        command
    };
    succeeds(&mut both("c", "dev", "test")).prints(&["7 utterances", "2 speakers", "3 shards"]);
    let made = contents(&tree.path("c"));
    succeeds(&mut both("c", "test", "dev")).prints(&["already complete"]);
    let mut elsewhere = tutornet();
    elsewhere.args(["prep", "librispeech"]).arg(tree.path("./LibriSpeech/")).current_dir(tree.path(""));
    elsewhere.args(["--subset", "dev", "--subset", "test", "--shard-utterances", "3", "--out", "c"]);
    succeeds(&mut elsewhere).prints(&["already complete"]);
    let words = ["begun with other arguments", "--shard-utterances 3", "another --out"];
    fails(&mut tree.prep("dev", "c"), &words);
    fails(both("c", "dev", "test").args(["--frontend", "openseq2seq"]), &["--frontend openseq2seq"]);
    tree.speech("dev", "9-9", 1);
    fails(&mut both("c", "dev", "test"), &["is complete, made from", "now holds other", "(8 with a"]);
    assert_eq!(contents(&tree.path("c")), made);
    std::fs::remove_dir_all(tree.root()).unwrap();
    succeeds(&mut both("c", "dev", "test")).prints(&["already complete"]);
    let mut gone = tutornet();
    gone.args(["prep", "librispeech", "nowhere", "--subset", "dev", "--subset", "test"]);
    fails(
        gone.args(["--shard-utterances", "3", "--out"]).arg(tree.path("c")),
        &["nowhere, which is not there"],
    );

    let other = Tree::new();
    other.speech("dev", "1-2", 1);
    std::fs::create_dir(other.path("full")).unwrap();
    std::fs::write(other.path("full/thesis.tex"), "").unwrap();
    fails(&mut other.prep("dev", "full"), &["thesis.tex", "expected a new, empty or corpus directory"]);
}

/// Damage of every kind: only what is bad is written again, and the corpus is then the same to the byte.
#[test]
fn a_damaged_corpus_is_mended_by_the_same_command() {
    let tree = Tree::new();
    tree.speech("dev", "1-2", 7).add("dev", "1-2-0004", Some(b"not a flac"), None);
    let prep = || {
        let mut command = tree.prep("dev", "c");
        command.args(["--shard-utterances", "3"]);
        command
    };
    succeeds(&mut prep()).prints(&["6 utterances", "3 shards", "skipped: 1"]);
    let made = contents(&tree.path("c"));
    let shard = |i: u32| tree.path(&format!("c/shard-{i:05}.parquet"));
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(path, bytes).unwrap();
    };

    std::fs::remove_file(shard(1)).unwrap();
    succeeds(&mut prep())
        .says(&["shard-00001.parquet: missing; writing it again"])
        .prints(&["2 shards kept"]);
    assert_eq!(contents(&tree.path("c")), made);

    flip(&shard(0));
    std::fs::write(shard(2), b"short").unwrap();
    succeeds(&mut prep()).says(&["expected BLAKE3", "found 5; writing"]).prints(&["1 shard kept"]);
    assert_eq!(contents(&tree.path("c")), made);

    for name in ["skipped.jsonl", "corpus.toml"] {
        flip(&tree.path("c").join(name));
        succeeds(&mut prep()).says(&[name]);
        assert_eq!(contents(&tree.path("c")), made, "{name}");
    }

    flip(&shard(0));
    std::fs::remove_dir_all(tree.root()).unwrap();
    fails(&mut prep(), &["c is damaged, and its source", "which is not there"]);
}

#[test]
fn bytes_depend_on_neither_threads_nor_time_and_json_is_json() {
    let tree = Tree::new();
    tree.speech("dev", "1-2", 20);
    let run = |out: &str, workers: &str| {
        let mut command = tree.prep("dev", out);
        command.args(["--workers", workers, "--shard-utterances", "6", "--json"]);
        let answer = succeeds(&mut command);
        let summary: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!((summary["utterances"].as_u64(), summary["shards"].as_u64()), (Some(20), Some(4)));
    };
    run("one", "1");
    run("many", "7");
    let one = contents(&tree.path("one"));
    assert_eq!(one.len(), 6, "{:?}", one.keys());
    assert_eq!(one, contents(&tree.path("many")));
}

#[test]
fn killed_at_any_moment_it_goes_on_to_the_same_bytes() {
    killed_at_any_moment(150, &[], 1);
}

#[test]
fn killed_at_any_moment_it_goes_on_with_copies_as_well() {
    killed_at_any_moment(150, &["--speed", "0.9,1.1"], 3);
}

/// `rows` is how many utterances of the corpus an utterance of the tree is.
fn killed_at_any_moment(utterances: u32, more: &[&str], rows: usize) {
    let tree = Tree::new();
    tree.speech("dev", "1-2", utterances);
    let prep = |out: &str| {
        let mut command = tree.prep("dev", out);
        command.args(["--shard-utterances", "1"]).args(more);
        command
    };
    succeeds(&mut prep("whole"));
    for (kill, shards) in [("-KILL", 5), ("-KILL", 60), ("-TERM", 100)] {
        // A pipe in the place of a file holds the program there for as long as it takes to kill it.
        let file = tree.root().join(format!("dev/1/2/1-2-{shards:04}.flac"));
        let bytes = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        let mut child = prep("killed").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let records = tree.path("killed/.prep");
        let started = Instant::now();
        while std::fs::read_dir(&records).map_or(0, Iterator::count) < shards * rows + 1 {
            assert!(started.elapsed() < Duration::from_secs(60), "the shards before the pipe are not made");
            std::thread::sleep(Duration::from_millis(1));
        }
        let sent = Command::new("kill").arg(kill).arg(child.id().to_string()).status().unwrap();
        assert!(sent.success());
        if kill == "-TERM" {
            // Ends every read of it, so that the threads that wait there can end.
            while child.try_wait().unwrap().is_none() {
                drop(std::fs::File::options().read(true).write(true).open(&file).unwrap());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let status = child.wait().unwrap();
        if kill == "-TERM" {
            assert_eq!(status.code(), Some(1));
            let mut said = String::new();
            std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
            assert!(said.contains("error: interrupted") && said.contains("goes on"), "{said}");
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, bytes).unwrap();
        assert!(!tree.path("killed/corpus.toml").exists());
        let error = Corpus::open(&tree.path("killed")).unwrap_err().to_string();
        assert!(error.contains("goes on where it stopped"), "{error}");
    }
    let other = ["begun with other arguments"];
    fails(prep("killed").args(["--frontend", "openseq2seq"]), &other);

    // A finished shard whose bytes changed, and one whose input was touched, are made again.
    let shard = tree.path("killed/shard-00000.parquet");
    let mut bytes = std::fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let input = tree.root().join("dev/1/2/1-2-0001.flac");
    std::fs::write(&input, std::fs::read(&input).unwrap()).unwrap();
    let finished = std::fs::read_dir(tree.path("killed/.prep")).unwrap().count() - 1;
    let total = utterances as usize * rows;
    let words = [format!("going on: {} of {total} shards", finished - 1 - rows)];
    succeeds(&mut prep("killed")).says(&words.each_ref().map(String::as_str)).prints(&["kept from the run"]);
    assert_eq!(contents(&tree.path("killed")), contents(&tree.path("whole")));
}

#[test]
fn the_second_writer_is_told_who_holds_the_lock() {
    let tree = Tree::new();
    tree.speech("dev", "1-2", 1);
    std::fs::create_dir(tree.path("corpus")).unwrap();
    let lock = tutornet::files::DirectoryLock::acquire(&tree.path("corpus")).unwrap();
    let holder = format!("process {}", std::process::id());
    fails(&mut tree.prep("dev", "corpus"), &["being written by another process", &holder]);
    drop(lock);
    succeeds(&mut tree.prep("dev", "corpus"));
}

#[test]
fn a_place_that_takes_no_files_and_a_full_disk_are_named() {
    let tree = Tree::new();
    tree.speech("dev", "1-2", 30);
    std::fs::write(tree.path("file"), "").unwrap();
    fails(&mut tree.prep("dev", "file/corpus"), &["cannot create directory", "file/corpus"]);
    // No file of more than 20 blocks: what a full disk gives, without one.
    let mut prep = tree.prep("dev", "corpus");
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 20; exec \"$0\" \"$@\""]).arg(prep.get_program());
    limited.args(prep.get_args());
    fails(&mut limited, &["shard-00000.parquet", "File too large"]);
    let left: Vec<PathBuf> = contents(&tree.path("corpus")).into_keys().collect();
    assert_eq!(left, [Path::new(".prep/plan.toml")], "nothing half-written is left");
    succeeds(&mut prep).prints(&["30 utterances"]);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let tree = Tree::new();
    tree.speech("dev", "1-2", 1);
    let mut child = tree.prep("dev", "c").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
