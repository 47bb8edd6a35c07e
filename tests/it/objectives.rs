//! Every objective through the binary, and what each needs of a cache.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::fixture::Fixture;
use crate::harness::{contents, documented, exits, fails, succeeds, tutornet};

/// Keys of the first step that a run logged, beyond those that every step has.
fn parts(fixture: &Fixture, run: &str) -> BTreeSet<String> {
    let log = std::fs::read_to_string(fixture.at(run).join("metrics.jsonl")).unwrap();
    let line = log.lines().next().unwrap();
    documented(line);
    let step: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
    let common = ["event", "stage", "objective", "update", "epoch", "loss", "gradient_norm", "learning_rate"];
    step.keys().filter(|k| !common.contains(&k.as_str())).cloned().collect()
}

#[test]
fn every_objective_trains_and_logs_its_parts() {
    let fixture = Fixture::get();
    let mut cache = tutornet();
    cache.arg("cache").arg("--model").arg(fixture.at("teacher/student"));
    cache
        .arg("--corpus")
        .arg(fixture.at("dev-clean"))
        .args(["--device", "cpu", "--nbest", "3", "--beam", "8"]);
    succeeds(cache.arg("--out").arg(fixture.at("cache-nbest")));
    let before = contents(&fixture.at("cache-nbest"));
    succeeds(&mut cache).says(&["complete already"]);
    assert_eq!(contents(&fixture.at("cache-nbest")), before);
    let inspected = succeeds(tutornet().arg("inspect").arg(fixture.at("cache-nbest")));
    inspected.prints(&["3 of a beam of 8", "no language model"]);
    succeeds(tutornet().arg("verify").arg(fixture.at("cache-nbest")));

    let one = "teacher = [\"CACHE\"]";
    let nbest = format!("teacher = [{:?}]", fixture.at("cache-nbest"));
    let fused = format!(
        "fuse = [{{ teacher = [\"CACHE\"], weight = 0.25 }}, {{ teacher = [{:?}], weight = 0.75 }}]",
        fixture.at("cache-nbest")
    );
    for (run, objective, keys, expected) in [
        ("o-ctc", "ctc", "", vec!["ctc"]),
        ("o-rkd", "rkd", one, vec!["rkd"]),
        ("o-skd", "ctc+skd", one, vec!["ctc", "skd"]),
        ("o-fused", "ctc+skd", fused.as_str(), vec!["ctc", "skd"]),
        ("o-kd", "kd", one, vec!["kd"]),
        ("o-ctc-kd", "ctc+kd", one, vec!["ctc", "kd"]),
        ("o-guided", "ctc+guided", one, vec!["ctc", "guided"]),
        ("o-blanks", "ctc+guided", "guide_blank = true\nteacher = [\"CACHE\"]", vec!["ctc", "guided"]),
        ("o-sequence", "ctc+sequence", nbest.as_str(), vec!["ctc", "sequence"]),
    ] {
        let stage = format!("objective = \"{objective}\"\n{keys}\nmax_updates = 2");
        let pipeline = fixture.pipeline(run, &stage);
        let _ = std::fs::remove_dir_all(fixture.at(run));
        succeeds(&mut fixture.train(&pipeline, run, &[]));
        assert_eq!(parts(fixture, run), expected.iter().map(|s| (*s).to_owned()).collect(), "{objective}");
        succeeds(tutornet().arg("verify").arg(fixture.at(run)));
    }
    // The caches are of one model: the average is that model's output, so is the training.
    let student = |run: &str| std::fs::read(fixture.at(run).join("student/weights.safetensors")).unwrap();
    assert!(student("o-guided") != student("o-blanks") && student("o-skd") != student("o-guided"));
    let pipeline =
        fixture.pipeline("no-nbest", &format!("objective = \"ctc+sequence\"\n{one}\nmax_updates = 1"));
    let refused = fixture.train(&pipeline, "no-nbest-run", &[]);
    fails(&mut { refused }, &["cache-dev-clean", "--nbest 5"]);
}

#[test]
fn a_search_is_asked_for_with_its_results() {
    let fixture = Fixture::get();
    let text = fixture.root.join("sentences.txt");
    std::fs::write(&text, "THE CAT SAT\nthe cat ran\nthe 7 cats\n").unwrap();
    let arpa = fixture.at("lm/small.arpa");
    let mut build = tutornet();
    build.args(["lm", "build", "--order", "2", "--text"]).arg(&text).arg(fixture.at("dev-clean"));
    succeeds(build.arg("--out").arg(&arpa)).says(&[
        "1 lines were left out",
        "line 3",
        "order 2:",
        "small.arpa",
    ]);
    let first = std::fs::read(&arpa).unwrap();
    succeeds(&mut build);
    assert_eq!(std::fs::read(&arpa).unwrap(), first, "the same text gives the same file");
    fails(
        tutornet().args(["lm", "build", "--text"]).arg(&fixture.root).arg("--out").arg(fixture.at("x.arpa")),
        &["expected a text file or a corpus directory"],
    );

    let eval = |more: &[&str]| {
        let mut command = tutornet();
        command.args(["eval", "--device", "cpu", "--json", "--model"]).arg(fixture.at("teacher/student"));
        command.arg("--corpus").arg(fixture.at("test-clean")).args(more);
        command
    };
    let answer = succeeds(eval(&["--beam", "8", "--lexicon", "--lm"]).arg(&arpa));
    documented(&answer.stdout);
    let scores: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!((&scores["search"]["beam"], &scores["search"]["lexicon"]), (&8.into(), &true.into()));
    let greedy: Value = serde_json::from_str(&succeeds(&mut eval(&[])).stdout).unwrap();
    assert!(greedy.get("search").is_none());
    fails(&mut eval(&["--lm", "nowhere.arpa"]), &["nowhere.arpa"]);
    fails(eval(&["--lm"]).arg(&text), &["sentences.txt", "ARPA"]);
    exits(&mut eval(&["--lexicon"]), 2).says(&["--lm"]);
    let mut cache = tutornet();
    cache.args(["cache", "--beam", "8", "--out", "nowhere", "--model"]).arg(fixture.at("teacher/student"));
    exits(cache.arg("--corpus").arg(fixture.at("dev-clean")), 2).says(&["--nbest"]);
}
