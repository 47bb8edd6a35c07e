//! What the program answers to those who ask amiss, and what it lists.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::fixture::Fixture;
use crate::harness::{copy, everything, exits, fails, succeeds, tutornet};

fn cache(more: &[&str], out: &Path) -> Command {
    let fixture = Fixture::get();
    let mut command = fixture.teach(&fixture.at("dev-clean"), out);
    command.args(more);
    command
}

#[test]
fn a_list_says_what_is_there_and_what_is_not() {
    let root = Fixture::get().fresh("answers-list");
    let from = Fixture::get().at("cache-dev-clean");
    for name in ["bad", "begun", "tasks", "texts"] {
        copy(&from, &root.join(name));
    }
    std::fs::remove_file(root.join("bad/shard-00002.parquet")).unwrap();
    std::fs::write(root.join("bad/shard-00003.parquet"), "short").unwrap();
    let mut add = tutornet();
    succeeds(add.args(["cache", "add", "--nbest", "2", "--beam", "4"]).arg(root.join("texts")));
    std::fs::remove_dir_all(root.join("tasks")).unwrap();
    succeeds(&mut cache(&["--shard", "0", "--of", "2", "--temperature", "3"], &root.join("tasks")));
    std::fs::remove_file(root.join("begun/manifest.toml")).unwrap();
    let list = |more: &[&str]| {
        let mut command = tutornet();
        command.args(["cache", "ls"]).args(more).arg(&root);
        succeeds(&mut command)
    };
    let rows: Vec<Value> = serde_json::from_str(&list(&["--json"]).stdout).unwrap();
    let of = |name: &str, key: &str| {
        let row = rows.iter().find(|row| row["cache"].as_str().unwrap().ends_with(name)).unwrap();
        row[key].clone()
    };
    assert_eq!(of("bad", "state"), "damaged: 2 of 6 shards are missing or of another size");
    assert_eq!((of("bad", "shards"), of("bad", "of")), (4.into(), 6.into()));
    assert_eq!((of("texts", "state"), of("texts", "nbest")), ("complete".into(), 2.into()));
    assert_eq!((of("tasks", "temperature"), of("tasks", "of")), (3.0.into(), 6.into()));
    assert_eq!((of("begun", "shards"), of("begun", "of")), (0.into(), Value::Null));
    list(&["--teacher", "jasper"]).prints(&["4 of 6", "3 of 6", "0 of ?"]);
    list(&["--teacher", "quartz"]).says(&["none match; there are 4"]);
    list(&["--corpus", "ffff"]).says(&["none match; there are 4"]);
}

#[test]
fn a_description_without_a_seal_is_noted_and_an_export_is_known() {
    let (fixture, root) = (Fixture::get(), Fixture::get().fresh("answers-verify"));
    let model = root.join("model");
    copy(&fixture.at("teacher/student"), &model);
    let path = model.join("model.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.lines().filter(|l| !l.starts_with("# blake3")).collect::<Vec<_>>().join("\n"))
        .unwrap();
    let verify = |dir: &Path| {
        let mut command = tutornet();
        command.arg("verify").arg(dir);
        command
    };
    succeeds(&mut verify(&model)).prints(&["model: ok (model.toml is not sealed"]);
    let json: Value = serde_json::from_str(&succeeds(verify(&model).arg("--json")).stdout).unwrap();
    assert_eq!((json["ok"].as_bool(), json["notes"].as_array().map(Vec::len)), (Some(true), Some(1)));
    std::fs::write(&path, text.replace("# blake3 ", "# blake3 0")).unwrap();
    fails(&mut verify(&model), &["1 problem(s)"]).prints(&["was changed after it was sealed"]);
    std::fs::write(&path, text).unwrap();
    let weights = model.join("weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    fails(&mut verify(&model), &["1 problem(s)"]).prints(&["weights.safetensors"]);

    let export = root.join("export");
    let mut command = tutornet();
    command.args([
        "cache",
        "export",
        "--format",
        "npy",
        "--columns",
        "frame_weight",
        "--utterances",
        "first:9",
    ]);
    succeeds(command.arg(fixture.at("cache-dev-clean")).arg("--out").arg(&export));
    succeeds(&mut verify(&export)).prints(&["export: ok (every file is there; an export has no hashes"]);
    succeeds(tutornet().arg("inspect").arg(&export)).prints(&[
        "export",
        "jasper-nano",
        "frame_weight",
        "complete",
    ]);
    let file =
        everything(&export).into_keys().find(|name| name.extension().is_some_and(|e| e == "npy")).unwrap();
    std::fs::remove_file(export.join(&file)).unwrap();
    fails(&mut verify(&export), &["1 problem(s)"]).prints(&[file.to_str().unwrap(), "missing"]);
    std::fs::remove_file(export.join("index.jsonl")).unwrap();
    fails(&mut verify(&export), &["1 problem(s)"]).prints(&["the export is not complete"]);
    // Of another export, only what differs is named.
    let mut other = tutornet();
    other.args([
        "cache",
        "export",
        "--format",
        "npy",
        "--columns",
        "frame_weight",
        "--utterances",
        "first:8",
    ]);
    let said = fails(
        other.arg(fixture.at("cache-dev-clean")).arg("--out").arg(&export),
        &["is another export: expected utterances = 8", "found utterances = 9"],
    );
    assert!(!said.stderr.contains("format ="), "{}", said.stderr);
}

#[test]
fn what_is_no_model_is_called_by_its_name() {
    let fixture = Fixture::get();
    let (corpus, model) = (fixture.at("dev-clean"), fixture.at("teacher/student"));
    let eval = |model: &Path, corpus: &Path| {
        let mut command = tutornet();
        command.args(["eval", "--device", "cpu", "--model"]).arg(model).arg("--corpus").arg(corpus);
        command
    };
    fails(
        &mut eval(Path::new("nosuch"), &corpus),
        &["nosuch: expected a model directory", "no such directory"],
    );
    fails(&mut eval(Path::new("jasper-dr"), &corpus), &["the name of a preset, which has no weights"]);
    fails(&mut eval(&fixture.at("cache-dev-clean"), &corpus), &["expected a model directory, found a cache"]);
    let swapped = "are --model and --corpus swapped?";
    fails(&mut eval(&corpus, &model), &[swapped]);
    fails(&mut eval(&model, &model), &["is a model and no corpus", swapped]);
}

#[test]
fn a_task_of_a_complete_cache_says_so_and_nothing_is_less_than_nothing() {
    let root = Fixture::get().fresh("answers-task");
    let dir = root.join("cache");
    copy(&Fixture::get().at("cache-dev-clean"), &dir);
    let said =
        succeeds(&mut cache(&["--shard", "0", "--of", "2"], &dir)).says(&["the cache is complete already"]);
    assert!(!said.stderr.contains("`tutornet cache seal`"), "{}", said.stderr);
    exits(&mut cache(&["--shard", "0", "--of", "0"], &dir), 2).says(&["--of", "1.."]);
    let said = succeeds(&mut cache(&["--json"], &dir)).stdout;
    let json: Value = serde_json::from_str(&said).unwrap();
    assert!(!said.contains("-0.0"), "{said}");
    assert_eq!(json["padding"].as_f64(), Some(0.0));
}

#[test]
fn cheaper_ways_are_named_and_buckets_are_refused_first() {
    let fixture = Fixture::get();
    let own = fixture.at("cache-dev-clean");
    let stage = format!("objective = \"ctc+sequence\"\nteacher = [{own:?}]\nlambda = 1.0\nmax_updates = 1");
    let pipeline = fixture.pipeline("answers-sequence", &stage);
    let add = format!("`tutornet cache add {} --nbest 5`", own.display());
    fails(
        &mut fixture.train(&pipeline, "answers-sequence", &[]),
        &["N best texts", &add, "without the teacher"],
    );
    // The same network under another name is another teacher.
    let root = Fixture::get().fresh("answers-cheaper");
    copy(&fixture.at("teacher/student"), &root.join("model"));
    let text = std::fs::read_to_string(root.join("model/model.toml")).unwrap();
    let text: String =
        text.lines().filter(|line| !line.starts_with("# blake3")).map(|line| format!("{line}\n")).collect();
    std::fs::write(
        root.join("model/model.toml"),
        text.replace("name = \"jasper-nano\"", "name = \"second\""),
    )
    .unwrap();
    fixture.cache(&root.join("model"), "test-clean", "answers-cheaper/cache");
    let both = [own.clone(), root.join("cache")];
    let pipeline = fixture.pipeline(
        "answers-two",
        &format!("objective = \"ctc+skd\"\nteacher = {both:?}\nlambda = 1.0\nmax_updates = 1"),
    );
    fails(
        &mut fixture.train(&pipeline, "answers-two", &[]),
        &["ONE teacher", "found second (", "with `fuse = [{ teacher ="],
    );
    let bucket = "nothing is written to a bucket";
    fails(tutornet().args(["cache", "add", "s3://none/cache", "--nbest", "2"]), &[bucket]);
    fails(tutornet().args(["cache", "seal", "s3://none/cache"]), &[bucket]);
    let mut merge = tutornet();
    merge.args(["cache", "merge", "s3://none/cache"]).arg(&own).args(["--out", "x"]);
    fails(&mut merge, &["merging copies shards from a disk; copy that cache there first"]);
    // Whatever else is wrong with what it would read.
    let missing =
        fixture.pipeline("answers-bucket", "objective = \"rkd\"\nteacher = [\"nosuch\"]\nmax_updates = 1");
    fails(
        tutornet().arg("train").arg(&missing).args(["--device", "cpu", "--out", "s3://none/run"]),
        &[bucket],
    );
}
