//! `tutornet train`: what it refuses before any work, and what it leaves out.

use std::path::Path;

use crate::fixture::{Fixture, THREE_STAGES, update_of};
use crate::harness::{contents, exits, fails, succeeds, tutornet};

#[test]
fn caches_that_do_not_fit_are_refused_before_the_first_batch() {
    let fixture = Fixture::get();
    let rkd = |cache: &str| format!("objective = \"rkd\"\nteacher = [{:?}]\nepochs = 1", fixture.at(cache));
    // A cache of another corpus.
    let pipeline = fixture.pipeline("other-corpus", &rkd("cache-test-clean"));
    fails(&mut fixture.train(&pipeline, "refused", &[]), &["are in none of the caches", "tutornet cache"]);
    // The same utterances twice.
    let twice =
        format!("objective = \"rkd\"\nteacher = [{0:?}, {0:?}]\nepochs = 1", fixture.at("cache-dev-clean"));
    let pipeline = fixture.pipeline("twice", &twice);
    fails(&mut fixture.train(&pipeline, "refused", &[]), &["must not overlap"]);
    // Two teachers in one stage.
    let other = fixture.pipeline("teacher2", "objective = \"ctc\"\nmax_updates = 1");
    succeeds(&mut fixture.train(&other, "teacher2", &["--set", "seed=2"]));
    fixture.cache(&fixture.at("teacher2/student"), "test-clean", "cache-teacher2");
    let two = format!(
        "objective = \"rkd\"\nteacher = [{:?}, {:?}]\nepochs = 1",
        fixture.at("cache-dev-clean"),
        fixture.at("cache-teacher2")
    );
    let pipeline = fixture.pipeline("two-teachers", &two);
    fails(&mut fixture.train(&pipeline, "refused", &[]), &["ONE teacher", "teacher of"]);
    // A cache that was never finished.
    let unfinished = fixture.at("cache-unfinished");
    let _ = std::fs::remove_dir_all(&unfinished);
    std::fs::create_dir(&unfinished).unwrap();
    for (name, bytes) in contents(&fixture.at("cache-dev-clean")) {
        if name != Path::new("manifest.toml") {
            std::fs::write(unfinished.join(name), bytes).unwrap();
        }
    }
    let pipeline = fixture.pipeline("unfinished", &rkd("cache-unfinished"));
    fails(&mut fixture.train(&pipeline, "refused", &[]), &["cache-unfinished", "tutornet cache"]);
    assert!(!fixture.at("refused").join("metrics.jsonl").exists(), "no work before the refusal");
}

#[test]
fn pipelines_that_cannot_work_are_refused_by_key_and_line() {
    let fixture = Fixture::get();
    let good = fixture.pipeline("good", "objective = \"ctc\"\nepochs = 1");
    let text = std::fs::read_to_string(&good).unwrap();
    let bad = fixture.root.join("bad.toml");
    for (from, to, words) in [
        ("epochs = 1", "epoch = 1", vec!["bad.toml", "line", "did you mean `epochs`?"]),
        ("objective = \"ctc\"", "objective = \"rkd\"", vec!["stage.0.teacher", "CACHEDIR"]),
        ("objective = \"ctc\"", "objective = \"ctc\"\nlambda = 1.0", vec!["stage.0.lambda", "ctc+skd"]),
        ("jasper-nano", "jasper-nan", vec!["jasper-nan", "jasper-nano"]),
        ("dev-clean", "dev-cleen", vec!["dev-cleen", "tutornet prep"]),
        ("name = \"adamw\"", "name = \"novogard\"", vec!["did you mean `novograd`?"]),
        ("[data]", "[data", vec!["bad.toml", "line"]),
    ] {
        std::fs::write(&bad, text.replacen(from, to, 1)).unwrap();
        fails(&mut fixture.train(&bad, "refused-pipeline", &[]), &words);
        assert!(!fixture.at("refused-pipeline").exists(), "{to}: nothing is written before the refusal");
    }
    fails(
        &mut fixture.train(Path::new("missing.toml"), "refused-pipeline", &[]),
        &["missing.toml", "cannot read"],
    );
    exits(tutornet().arg("train"), 2).says(&["PIPELINE.toml"]);
    succeeds(tutornet().args(["train", "--help-pipeline"])).prints(&["[[stage]]", "lambda = 0.25"]);
}

#[test]
fn overlong_and_impossible_utterances_are_left_out_and_counted() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("long", "objective = \"ctc\"\nmax_updates = 1");
    let more = ["--set", "data.max_seconds=2.5"];
    succeeds(&mut fixture.train(&pipeline, "long", &more))
        .says(&["longer than data.max_seconds", "left out"]);
    fails(
        &mut fixture.train(&pipeline, "none", &["--set", "data.max_seconds=0.01"]),
        &["no utterance within data.max_seconds"],
    );
}

#[test]
fn values_beyond_all_measure_are_refused_by_key() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("extreme", "objective = \"ctc\"\nmax_updates = 1");
    for (set, words) in [
        ("data.batch_seconds=-1", "data.batch_seconds"),
        ("data.max_seconds=nan", "data.max_seconds"),
        ("checkpoint.every_updates=0", "every_updates"),
        ("data.dev_every_epochs=0", "dev_every_epochs"),
        ("threads=1000000", "threads"),
        ("optimizer.learning_rate=-1", "learning_rate"),
        ("optimizer.accumulate=0", "accumulate"),
        ("student.width=1e9", "width"),
        ("seed=9223372036854775808", "seed"),
    ] {
        fails(&mut fixture.train(&pipeline, "extreme", &["--set", set]), &[words]);
        assert!(!fixture.at("extreme").exists(), "{set}");
    }
}

#[test]
fn a_profile_names_every_part_and_leaves_a_trace() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("profile", THREE_STAGES);
    let answer = succeeds(&mut fixture.train(&pipeline, "profile", &["--profile"]));
    let answer =
        answer.says(&["data wait", "forward", "loss", "backward", "optimizer", "dev scores", "trace.json"]);
    let sum = answer.stderr.lines().find(|l| l.starts_with("sum ")).unwrap();
    let share: f64 = sum.split_whitespace().last().unwrap().parse().unwrap();
    assert!((50.0..100.01).contains(&share), "{sum}");
    let trace = std::fs::read(fixture.at("profile/trace.json")).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    let named =
        |name: &str| trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["name"] == name).count();
    let steps = update_of(&fixture.at("profile/metrics.jsonl"));
    assert_eq!((named("forward"), named("backward"), named("assemble")), (steps, steps, steps));
    succeeds(tutornet().arg("verify").arg(fixture.at("profile")));
}

/// A preset has heard nothing: it takes the frontend of its corpus. A description and trained weights keep their own.
#[test]
fn a_preset_takes_the_frontend_of_its_corpus() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("frontend", "objective = \"ctc\"\nmax_updates = 1");
    let student =
        |run: &str, student: &str| fixture.train(&pipeline, run, &["--set", &format!("student={student}")]);
    for (run, padding, expected) in
        [("frontend-same", "", "same"), ("frontend-symmetric", ", padding = \"symmetric\"", "symmetric")]
    {
        succeeds(&mut student(run, &format!("{{ preset = \"jasper-mini\", width = 0.03{padding} }}")));
        let mut inspect = tutornet();
        let text = succeeds(inspect.args(["inspect", "--json"]).arg(fixture.at(run).join("student"))).stdout;
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((found["frontend"].as_str(), found["padding"].as_str()), (Some("nemo"), Some(expected)));
    }
    let trained = fixture.at("frontend-same/student");
    let words = ["student.padding", "weights trained with padding same"];
    let table = format!("{{ preset = {:?}, padding = \"symmetric\" }}", trained.display().to_string());
    fails(&mut student("refused", &table), &words);

    let description = fixture.at("description.toml");
    let text = succeeds(tutornet().args(["inspect", "jasper-mini", "--toml"])).stdout;
    std::fs::write(&description, text).unwrap();
    fails(
        &mut student("refused", &format!("{:?}", description.display().to_string())),
        &["--frontend openseq2seq", "tutornet prep librispeech"],
    );
    assert!(!fixture.at("refused").exists());
}
