//! `report` through the binary, on made-up runs.

use std::path::Path;

use tutornet::decode::Transcript;
use tutornet::score::{Evaluation, Scores, UtteranceScore};

use crate::harness::{fails, succeeds, tutornet};

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
