//! `report` through the binary, on made-up runs.

use std::path::Path;

use tutornet::decode::Transcript;
use tutornet::score::{Evaluation, Scores, UtteranceScore};

use crate::fixture::Fixture;
use crate::harness::{exits, fails, succeeds, tutornet};

/// A run directory as `train` leaves it, with made-up numbers. `stages` holds an objective, its
/// updates and further keys of its pipeline.
fn run_directory(dir: &Path, stages: &[(&str, u64, &str)], dev_cer: f64) {
    std::fs::create_dir_all(dir.join("scores")).unwrap();
    let mut pipeline = "name = \"made-up\"\nstudent = \"jasper-nano\"\n[data]\ntrain = [\"x\"]\n".to_owned();
    let mut metrics = String::new();
    let mut update = 0;
    for (stage, (objective, updates, keys)) in stages.iter().enumerate() {
        pipeline += &format!("[[stage]]\nobjective = \"{objective}\"\n{keys}\n");
        for _ in 0..*updates {
            update += 1;
            let terms = objective.split('+').map(|term| {
                format!("\"{term}\":{}", 100.0 + 300.0 / f64::from(u32::try_from(update).unwrap()))
            });
            let terms = terms.collect::<Vec<_>>().join(",");
            metrics += &format!(
                "{{\"event\":\"step\",\"stage\":{stage},\"objective\":\"{objective}\",\"update\":{update},\"epoch\":1,\"loss\":1.0,{terms},\"learning_rate\":0.1}}\n"
            );
        }
        metrics += &format!(
            "{{\"event\":\"epoch\",\"stage\":{stage},\"epoch\":1,\"update\":{update},\"dev_wer\":100.0,\"dev_cer\":{dev_cer},\"dev_blank_rate\":80.0}}\n"
        );
    }
    metrics += &format!("{{\"event\":\"done\",\"update\":{update}}}\n");
    std::fs::write(dir.join("pipeline.toml"), pipeline).unwrap();
    std::fs::write(dir.join("done.toml"), "").unwrap();
    std::fs::write(dir.join("metrics.jsonl"), metrics).unwrap();
}

/// Writes the scores of `run` on `corpus`: ten utterances, of whose four words `wrong` or one more are
/// wrong; with four, the output is all blank.
fn scores(run: &Path, corpus: &str, wrong: usize) {
    let score = |utterance: usize| {
        let words = ["one", "two", "six", "ten"];
        let wrong = wrong + utterance % 2;
        let heard: Vec<&str> = (0..4).map(|i| if i < wrong { "the" } else { words[i] }).collect();
        let (text, blank_frames) = if wrong >= 4 { (String::new(), 100) } else { (heard.join(" "), 80) };
        let transcript = Transcript { text, frames: 100, blank_frames };
        UtteranceScore::new(&format!("u-{utterance}"), &words.join(" "), &transcript)
    };
    let evaluation = Evaluation::from_utterances((0..10).map(score).collect(), 20.0);
    Scores::save(&evaluation, &run.join(format!("scores/{corpus}.json"))).unwrap();
}

/// Four runs: a baseline, two better ones and one that is stuck; test-mini was run with two.
fn four_runs(root: &Path) -> [std::path::PathBuf; 4] {
    let runs = ["ctc", "ctc-skd", "rkd-skd", "stuck"].map(|name| root.join(name));
    run_directory(&runs[0], &[("ctc", 1200, "epochs = 1")], 60.0);
    run_directory(&runs[1], &[("ctc+skd", 1200, "lambda = 0.25")], 50.0);
    run_directory(
        &runs[2],
        &[("rkd", 400, "frame_weighting = false"), ("ctc+skd", 800, "lambda = 0.25")],
        40.0,
    );
    run_directory(&runs[3], &[("ctc", 1200, "")], 100.0);
    for (run, wrong) in runs.iter().zip([2, 1, 1, 4]) {
        scores(run, "dev-clean", wrong);
    }
    for (run, wrong) in runs.iter().zip([2, 1]) {
        scores(run, "test-mini", wrong);
    }
    runs
}

#[test]
fn a_report_puts_runs_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("report");
    let mut command = tutornet();
    command
        .arg("report")
        .args(four_runs(dir.path()))
        .arg("--out")
        .arg(&out)
        .args(["--title", "Made-up runs"]);
    let answer = succeeds(&mut command).says(&["report.md", "losses.svg", "dev-cer.svg"]);
    let markdown = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert_eq!(answer.stdout.trim_end(), markdown.trim_end(), "stdout has the report, and only that");
    insta::assert_snapshot!(markdown);

    for name in ["losses.svg", "dev-cer.svg"] {
        let svg = std::fs::read_to_string(out.join(name)).unwrap();
        for method in
            ["CTC (ctc)", "RKD without frame weight, then CTC + SKD (rkd-skd)", "CTC (stuck, blank plateau)"]
        {
            assert!(svg.contains(method), "{name} has no legend for {method}");
        }
        assert!(svg.contains("updates"), "{name} has no axis label");
    }
    let losses = std::fs::read_to_string(out.join("losses.svg")).unwrap();
    // One panel a term, one curve for each run that has it: two runs with CTC alone, two with CTC and SKD, one with RKD.
    // Curves are the polylines of width 2; the legend has one for each run.
    let wide = losses
        .split("<polyline")
        .skip(1)
        .filter(|p| p[..p.find('>').unwrap()].contains("stroke-width=\"2\""));
    assert_eq!(wide.count(), 4 + 4 + 2 + 1);
    assert!(losses.contains("CTC loss") && losses.contains("SKD loss") && losses.contains("RKD loss"));
    let before = std::fs::read(out.join("losses.svg")).unwrap();
    succeeds(&mut command);
    assert_eq!(before, std::fs::read(out.join("losses.svg")).unwrap(), "the same runs give the same picture");
}

#[test]
fn a_report_refuses_what_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let runs = four_runs(dir.path());
    let report = |run: &Path| {
        let mut command = tutornet();
        command.arg("report").arg(&runs[0]).arg(run).arg("--out").arg(dir.path().join("report"));
        command
    };
    fails(
        &mut report(&dir.path().join("nothing")),
        &["nothing", "expected a run directory with pipeline.toml"],
    );
    std::fs::write(runs[1].join("scores/dev-clean.json"), "{\"wer\": 3}").unwrap();
    fails(&mut report(&runs[1]), &["dev-clean.json", "cer", "evaluate again"]);
    // Scores of other utterances under the same name.
    let table = std::fs::read_to_string(runs[2].join("scores/dev-clean.tsv")).unwrap();
    std::fs::write(runs[2].join("scores/dev-clean.tsv"), table.replace("u-7", "u-77")).unwrap();
    fails(&mut report(&runs[2]), &["u-7", "u-77", "same corpus"]);
    // A table that is not the JSON's.
    std::fs::write(
        runs[2].join("scores/dev-clean.tsv"),
        table.replace("\tthe two six ten", "\tone two six ten"),
    )
    .unwrap();
    fails(&mut report(&runs[2]), &["15 errors in 10 utterances", "10 errors in 10", "evaluate again"]);
    assert!(!dir.path().join("report/report.md").exists());
}

/// A table's file with a row for a teacher that is not there, a baseline, two that are compared with it and
/// one that was not run.
const TABLE: &str = r#"
title = "Table V. Objectives"
note = "Made-up numbers."
inferred = true
baseline = "ctc"
mask = true
counts = true
curves = "Losses by objective"
[[row]]
label = "Teacher"
run = "teacher"
reference = true
preset = "quartznet15x5"
paper = { dev-clean = 3.61, dev-other = 11.37 }
[[row]]
label = "CTC"
run = "ctc"
preset = "jasper-mini"
paper = { parameters = "8.2M", dev-clean = 8.66, dev-other = 23.28 }
[[row]]
label = "CTC + SKD"
run = "ctc-skd"
[[row]]
label = "RKD, then CTC + SKD"
run = "rkd-skd"
[[row]]
label = "RKD, then CTC + SKD, beam"
run = "rkd-skd"
scores = "beam"
baseline = "rkd-skd"
[[row]]
label = "Stuck"
run = "stuck"
[[row]]
label = "Not run"
run = "sequence"
"#;

/// Four runs, two more seeds of the second, scores of the third under a beam search, times, and the table's file.
fn a_table(root: &Path) -> std::path::PathBuf {
    let runs = root.join("runs");
    let made = four_runs(&runs);
    for (seed, wrong) in [("ctc-skd.seed2", 2), ("ctc-skd.seed10", 1)] {
        let run = runs.join(seed);
        run_directory(&run, &[("ctc+skd", 1200, "lambda = 0.25")], 50.0);
        scores(&run, "dev-clean", wrong);
    }
    // Neither a seed nor anything else that counts.
    std::fs::create_dir(runs.join("ctc.previous.1")).unwrap();
    std::fs::create_dir(runs.join("ctc-skd.seed3")).unwrap();
    std::fs::create_dir_all(made[2].join("scores/beam")).unwrap();
    scores(&made[2], "beam/dev-clean", 1);
    let stretch = |from, to| {
        format!("{{\"from\":{from},\"to\":{to},\"seconds\":90.0,\"device\":\"cpu\",\"threads\":2}}\n")
    };
    std::fs::write(made[0].join("times.jsonl"), stretch(0, 700) + &stretch(600, 1200)).unwrap();
    std::fs::write(made[1].join("times.jsonl"), stretch(500, 1200)).unwrap();
    let table = root.join("table-v.toml");
    std::fs::write(&table, TABLE).unwrap();
    table
}

fn report_table(table: &Path, out: &Path) -> std::process::Command {
    let mut command = tutornet();
    command.arg("report").arg("--table").arg(table).arg("--out").arg(out);
    command.arg("--runs").arg(table.parent().unwrap().join("runs"));
    command
}

#[test]
fn a_table_has_the_papers_numbers_seeds_marks_and_empty_cells() {
    let dir = tempfile::tempdir().unwrap();
    let (table, out) = (a_table(dir.path()), dir.path().join("report"));
    let answer = succeeds(report_table(&table, &out).args(["--note", "Scale: made-up."]));
    let markdown = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert_eq!(answer.stdout.trim_end(), markdown.trim_end(), "stdout has the report, and only that");
    insta::assert_snapshot!(markdown);
    let row = |label: &str| {
        let line = markdown.lines().find(|l| l.starts_with(&format!("| {label} "))).unwrap();
        line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    // A row that was not run has a label and nothing else.
    assert!(row("Not run")[2..].iter().all(String::is_empty), "{:?}", row("Not run"));
    // Single seeds and three of them; the mean of 37.5, 62.5 and 37.5 %.
    assert!(row("CTC + SKD")[5].starts_with("45.8 ± 14.4"), "{:?}", row("CTC + SKD"));
    // The beam changed nothing: within the interval, for words and for characters.
    assert!(markdown.contains("37.50≈ (20.00≈)"), "{markdown}");

    let html = std::fs::read_to_string(out.join("report.html")).unwrap();
    for part in [
        "<title>Table V. Objectives</title>",
        "Losses by objective\" ",
        "<del>",
        "<mark>the</mark>",
        "viewport",
    ] {
        assert!(html.contains(part), "{part} is not in the page");
    }
    // One file: it loads nothing.
    for foreign in ["<script", "<link", "<img", "url(", "@import", " src="] {
        assert!(!html.contains(foreign), "{foreign} is in the page");
    }
    // The teacher is no curve: its row is a reference.
    let losses = std::fs::read_to_string(out.join("losses.svg")).unwrap();
    assert!(losses.contains("Stuck (blank plateau)") && !losses.contains("Teacher"));
}

#[test]
fn several_tables_share_a_page_and_its_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (table, out) = (a_table(dir.path()), dir.path().join("report"));
    let second = dir.path().join("table-vi.toml");
    std::fs::write(&second, TABLE.replace("Table V.", "Table VI.").replace("mask = true\n", "")).unwrap();
    succeeds(report_table(&table, &out).arg("--table").arg(&second).args(["--title", "All"]));
    let markdown = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(markdown.starts_with("# All\n") && markdown.contains("\n## Table VI. Objectives\n"));
    assert_eq!(markdown.matches("\n## Runs\n").count(), 1);
    let listed = markdown.lines().filter(|line| line.starts_with("| stuck ")).count();
    assert_eq!(listed, 1, "a run of two tables is listed once");
    for name in ["table-v-losses.svg", "table-vi-dev-cer.svg"] {
        assert!(out.join(name).is_file() && markdown.contains(name), "{name}");
    }
}

#[test]
fn a_table_refuses_what_it_cannot_read() {
    let dir = tempfile::tempdir().unwrap();
    let (table, out) = (a_table(dir.path()), dir.path().join("report"));
    std::fs::write(&table, TABLE.replace("baseline = \"ctc\"\n", "baseline = \"cct\"\n")).unwrap();
    fails(&mut report_table(&table, &out), &["table-v.toml", "baseline", "found `cct`"]);
    std::fs::write(&table, TABLE.replace("quartznet15x5", "quartznet")).unwrap();
    fails(&mut report_table(&table, &out), &["quartznet", "quartznet15x5"]);
    let mut nowhere = tutornet();
    nowhere.arg("report").arg("--table").arg(&table).arg("--out").arg(&out);
    exits(&mut nowhere, 2).says(&["--runs"]);
    fails(
        nowhere.arg("--runs").arg(dir.path().join("nothing")),
        &["nothing", "directory that holds the runs"],
    );
    assert!(!out.exists());
}

#[test]
fn a_mask_is_judged_by_the_weights_in_the_cache() {
    let (fixture, dir) = (Fixture::get(), tempfile::tempdir().unwrap());
    let (run, out) = (dir.path().join("runs/masked"), dir.path().join("report"));
    let cache = fixture.at("cache-dev-clean");
    run_directory(&run, &[("rkd", 10, &format!("teacher = [{cache:?}, \"cache/gone\"]"))], 50.0);
    let table = dir.path().join("table.toml");
    let row = "[[row]]\nlabel = \"RKD\"\nrun = \"masked\"\n";
    std::fs::write(&table, format!("title = \"T\"\nmask = true\n{row}")).unwrap();
    succeeds(&mut report_table(&table, &out));
    let markdown = std::fs::read_to_string(out.join("report.md")).unwrap().replace('\n', " ");
    assert!(markdown.contains("the cache `cache/gone` is not there"), "{markdown}");
    // The same words and figures as `inspect` prints.
    let answer = succeeds(tutornet().arg("inspect").arg(&cache).arg("--json"));
    let found: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    let weights = &found["frame_weight"];
    assert!(markdown.contains(weights["meaning"].as_str().unwrap()), "{markdown}");
    let [low, middle, high] = [0, 1, 2].map(|i| weights["quantiles"][i].as_f64().unwrap());
    assert!(0.5 <= low && low <= middle && middle <= high && high < 1.0, "{weights}");
    assert!((weights["ratio"].as_f64().unwrap() - (high / low).powi(2)).abs() < 1e-6);
    assert!(markdown.contains(&format!("half below {middle:.3}")), "{markdown}");
}

#[test]
fn a_reference_is_shown_but_not_compared() {
    let dir = tempfile::tempdir().unwrap();
    let runs = four_runs(dir.path());
    let out = dir.path().join("report");
    let mut command = tutornet();
    command.arg("report").args(&runs[..2]).arg("--reference").arg(&runs[3]).arg("--out").arg(&out);
    succeeds(&mut command);
    let markdown = std::fs::read_to_string(out.join("report.md")).unwrap();
    let line = markdown.lines().find(|l| l.contains("| stuck ")).unwrap();
    assert!(line.contains("100.00 (100.00)") && !line.contains("-60.0"), "{line}");
    assert!(!std::fs::read_to_string(out.join("losses.svg")).unwrap().contains("stuck"));
}
