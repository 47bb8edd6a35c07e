//! What lies in `pipelines/`: every file can be read, and the recipes of `pipelines/presets/` train.

use std::path::{Path, PathBuf};

use tutornet::models::presets;
use tutornet::train::parse;

use crate::fixture::{Fixture, update_of};
use crate::harness::succeeds;

/// Every TOML file below `pipelines/`.
fn pipelines(below: &str) -> Vec<PathBuf> {
    let mut pending = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    let mut found = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == "toml") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_pipeline_can_be_read_and_names_a_student_that_there_is() {
    // What begins with `table-` says which runs stand in which rows: `tables.rs` reads it.
    let table = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("table-");
    let found: Vec<PathBuf> = pipelines("pipelines").into_iter().filter(|path| !table(path)).collect();
    assert!(found.len() >= 22, "{found:?}");
    for path in found {
        let pipeline = parse::read(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
        let student = presets::find(&pipeline.student.preset);
        student
            .and_then(|s| s.with_width(pipeline.student.width))
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// With the corpora and caches that they name, narrow and for two updates a stage.
#[test]
fn the_recipes_of_the_paper_train() {
    let fixture = Fixture::get();
    let recipes = pipelines("pipelines/presets");
    assert!(recipes.len() >= 3, "{recipes:?}");
    for path in recipes {
        let mut pipeline = parse::read(&path, &[]).unwrap();
        pipeline.threads = 2;
        pipeline.student.width = 0.03;
        pipeline.data.train = vec![fixture.at("dev-clean")];
        pipeline.data.dev = vec![fixture.at("test-clean")];
        for stage in &mut pipeline.stage {
            stage.teacher.iter_mut().for_each(|dir| *dir = fixture.at("cache-dev-clean"));
            stage.teacher.truncate(1);
            (stage.epochs, stage.max_updates) = (None, Some(2));
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let scaled = fixture.root.join(format!("preset-{name}.toml"));
        std::fs::write(&scaled, toml::to_string(&pipeline).unwrap()).unwrap();
        let out = format!("preset-{name}");
        succeeds(&mut fixture.train(&scaled, &out, &[]));
        let log = std::fs::read_to_string(fixture.at(&out).join("metrics.jsonl")).unwrap();
        assert!(!log.contains("rejected\":true"), "{name}: {log}");
        assert_eq!(update_of(&fixture.at(&out).join("metrics.jsonl")), 2 * pipeline.stage.len());
    }
}
