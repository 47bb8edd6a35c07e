//! The tables' files agree with each other: make reads them as text, so nothing else would notice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tutornet::report::Description;
use tutornet::train::parse::{parse, read};
use tutornet::train::pipeline::Pipeline;

fn pipelines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines")
}

/// `NAME := words` of a makefile, continued lines joined.
fn variables(file: &str) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(pipelines().join(file)).unwrap().replace("\\\n", " ");
    let assignments = text.lines().filter(|line| !line.starts_with(['#', '\t'])).filter_map(|line| {
        let (name, words) = line.split_once(":=")?;
        Some((name.trim().to_owned(), words.split_whitespace().map(str::to_owned).collect()))
    });
    assignments.collect()
}

/// The student, the pipeline and the keys of every run.
fn runs() -> BTreeMap<String, (String, String, Vec<String>)> {
    let runs = variables("tables.mk").into_iter().filter_map(|(name, words)| {
        let name = name.strip_prefix("RUN.")?.to_owned();
        let [student, pipeline, keys @ ..] = words.as_slice() else { panic!("{name}: {words:?}") };
        Some((name, (student.clone(), pipeline.clone(), keys.to_vec())))
    });
    runs.collect()
}

/// What make passes on a run at a scale.
fn resolved(scale: &str, student: &str, pipeline: &str, keys: &[String]) -> Pipeline {
    let variables = variables(&format!("tables/{scale}.mk"));
    let path = pipelines().join(format!("tables/{pipeline}.toml"));
    let stages = std::fs::read_to_string(&path).unwrap().matches("\n[[stage]]").count();
    let names = ["KEYS".to_owned(), format!("KEYS.{student}"), format!("KEYS.{student}.{stages}")];
    let scale = names.iter().filter_map(|name| variables.get(name)).flatten();
    let keys: Vec<String> = scale.chain(keys).filter(|key| !key.starts_with("$(")).cloned().collect();
    read(&path, &keys).unwrap_or_else(|e| panic!("{pipeline} for {student}: {e}"))
}

#[test]
fn every_run_is_a_pipeline_at_every_scale() {
    let runs = runs();
    assert!(runs.len() > 30, "{}", runs.len());
    for scale in ["demo", "mini", "librispeech"] {
        for (name, (student, pipeline, keys)) in &runs {
            assert!(name.starts_with(&format!("{student}-")), "{name} is of a {student}");
            let resolved = resolved(scale, student, pipeline, keys);
            // A cache is named after the run that teaches.
            for stage in &resolved.stage {
                let fused = stage.fuse.iter().flat_map(|part| &part.teacher);
                for cache in stage.teacher.iter().chain(fused) {
                    let taught = cache.strip_prefix("cache").unwrap().to_string_lossy().into_owned();
                    let known =
                        runs.contains_key(&taught) || ["teacher", "teacher-nbest"].contains(&&*taught);
                    assert!(known, "{name}: no run is called {taught}");
                }
            }
        }
    }
}

#[test]
fn every_row_is_a_run_and_every_run_stands_in_a_row() {
    let runs = runs();
    let mut shown = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(pipelines().join("tables")).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with("table-") {
            continue;
        }
        for row in Description::read(&path).unwrap().row {
            assert!(row.run == "teacher" || runs.contains_key(&row.run), "{}: {}", path.display(), row.run);
            if let Some(preset) = &row.preset {
                tutornet::models::presets::find(preset).unwrap();
            }
            shown.insert(row.run);
        }
    }
    let unseen: Vec<_> = runs.keys().filter(|run| !shown.contains(*run)).collect();
    // The scale's own lambda stands in its row under another name.
    assert!(unseen.is_empty(), "in no table: {unseen:?}");
}

#[test]
fn the_full_scale_has_the_recipes_of_the_presets() {
    for (student, preset) in [("cnn", "jasper-mini"), ("rnn", "deepspeech2")] {
        let path = pipelines().join(format!("presets/{preset}.toml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let preset = parse(&text, &[], &path).unwrap();
        let mut table = resolved("librispeech", student, "rkd-skd", &[]);
        // Names, paths and threads are each one's own, and the table leaves to defaults what the preset spells out.
        table.name.clone_from(&preset.name);
        table.threads = preset.threads;
        (table.data.train, table.data.dev) = (preset.data.train.clone(), preset.data.dev.clone());
        for (stage, of_preset) in table.stage.iter_mut().zip(&preset.stage) {
            stage.teacher.clone_from(&of_preset.teacher);
            if let Some(weighting) = of_preset.frame_weighting {
                assert_eq!(stage.frame_weighting(), weighting);
                stage.frame_weighting = Some(weighting);
            }
            if let Some(kernel) = of_preset.bridge_kernel {
                assert_eq!(stage.bridge_kernel(), kernel);
                stage.bridge_kernel = Some(kernel);
            }
            if of_preset.lambda.is_some() {
                assert_eq!(
                    (stage.lambda(), stage.temperature()),
                    (of_preset.lambda(), of_preset.temperature())
                );
                (stage.lambda, stage.temperature) = (of_preset.lambda, of_preset.temperature);
            }
        }
        assert_eq!(table, preset, "{student}");
    }
}
