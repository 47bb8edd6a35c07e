//! Reads a pipeline file: overrides, unknown keys with a suggestion.

use std::path::Path;

use super::check::validate;
use super::pipeline::{Pipeline, Stage};
use crate::error::{Error, Result};
use crate::files;

/// Every key with its default, as a pipeline that parses.
pub const REFERENCE: &str = include_str!("reference.toml");

/// Reads `path` and applies `overrides` (`key=value`, value in TOML or a bare word).
///
/// # Errors
/// Syntax, unknown keys, missing keys and impossible combinations, each with the file, the line
/// where there is one, and the likely fix.
pub fn read(path: &Path, overrides: &[String]) -> Result<Pipeline> {
    let text = files::read_text(path)?;
    parse(&text, overrides, path)
}

/// [`read`] on a text; `path` is for messages.
///
/// # Errors
/// See [`read`].
pub fn parse(text: &str, overrides: &[String], path: &Path) -> Result<Pipeline> {
    // The text as it was written first: its errors show lines.
    let mut document: toml::Value = toml::from_str(text).map_err(|e| explain(path, &e))?;
    if overrides.is_empty() {
        toml::from_str::<Pipeline>(text).map_err(|e| explain(path, &e))?;
    }
    for assignment in overrides {
        set(&mut document, assignment)?;
    }
    inherit_optimizer(&mut document);
    // Through text again, so that an error in a value shows the line that holds it.
    let text = toml::to_string(&document).map_err(|e| Error::format(path, e.to_string()))?;
    let mut pipeline: Pipeline = toml::from_str(&text).map_err(|e| match explain(path, &e) {
        Error::Format { path, detail } if !overrides.is_empty() => {
            Error::format(path, format!("with --set {}: {}", overrides.join(" --set "), detail.trim_end()))
        }
        error => error,
    })?;
    validate(&pipeline).map_err(|detail| Error::format(path, detail))?;
    pipeline.optimizer.settle();
    pipeline.stage.iter_mut().for_each(Stage::settle);
    Ok(pipeline)
}

/// The toml crate's message, with a suggestion where a name was misspelt.
fn explain(path: &Path, error: &toml::de::Error) -> Error {
    let message = error.to_string();
    let quoted: Vec<&str> = error.message().split('`').skip(1).step_by(2).collect();
    let known = ["unknown field", "unknown variant"].iter().any(|k| error.message().contains(k));
    let hint = match quoted.split_first() {
        Some((wrong, expected)) if known => {
            let distance = |name: &&&str| strsim::damerau_levenshtein(wrong, name);
            let near = expected.iter().min_by_key(distance).filter(|n| distance(n) <= 1 + wrong.len() / 4);
            near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default()
        }
        _ => String::new(),
    };
    let message = message.trim_end();
    Error::format(path, format!("{message}\n{hint}`tutornet train --help-pipeline` prints every key"))
}

/// A stage's own `[optimizer]` takes what it does not say from the pipeline's; decays of the
/// moments only under the same rule.
fn inherit_optimizer(document: &mut toml::Value) {
    let Some(common) = document.get("optimizer").and_then(toml::Value::as_table).cloned() else { return };
    let stages = document.get_mut("stage").and_then(toml::Value::as_array_mut);
    for stage in stages.into_iter().flatten() {
        let Some(own) = stage.get_mut("optimizer").and_then(toml::Value::as_table_mut) else { continue };
        let same_rule = own.get("name").is_none_or(|name| common.get("name") == Some(name));
        for (key, value) in &common {
            if same_rule || !matches!(key.as_str(), "beta1" | "beta2") {
                own.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// Sets one key: `stage.0.epochs=2`, `data.train=["DIR"]`, `name=other`.
fn set(document: &mut toml::Value, assignment: &str) -> Result<()> {
    let bad = |detail: String| Error::invalid(format!("--set {assignment}: {detail}"));
    let (key, text) = assignment.split_once('=').ok_or_else(|| bad("expected key=value".into()))?;
    let value = toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let parts: Vec<&str> = key.trim().split('.').collect();
    let mut place = &mut *document;
    for (depth, part) in parts.iter().enumerate() {
        let last = depth + 1 == parts.len();
        place = match place {
            toml::Value::Array(items) => {
                let count = items.len();
                let item = part.parse::<usize>().ok().and_then(|i| items.get_mut(i));
                item.ok_or_else(|| bad(format!("`{part}` is no index into {count} item(s)")))?
            }
            toml::Value::Table(table) => {
                let empty = || toml::Value::Table(toml::Table::new());
                table.entry((*part).to_owned()).or_insert_with(empty)
            }
            other => return Err(bad(format!("`{part}` lies inside a {}", other.type_str()))),
        };
        if last {
            *place = value;
            break;
        }
    }
    // A stage has one length: setting it in one unit drops the other.
    if let ["stage", number, length @ ("epochs" | "max_updates")] = parts[..] {
        let other = if length == "epochs" { "max_updates" } else { "epochs" };
        let stage = number.parse::<usize>().ok().and_then(|i| document.get_mut("stage")?.get_mut(i));
        if let Some(stage) = stage.and_then(toml::Value::as_table_mut) {
            stage.remove(other);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::recipe::Rule;

    const SHORT: &str = "name = 'a'\nstudent = 'jasper-nano'\n[data]\ntrain = ['c']\n[[stage]]\nobjective = 'ctc'\nepochs = 1\n";

    fn error(text: &str, overrides: &[&str]) -> String {
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        parse(text, &overrides, Path::new("p.toml")).unwrap_err().to_string()
    }

    #[test]
    fn the_reference_spells_out_the_defaults() {
        let reference = parse(REFERENCE, &[], Path::new("reference")).unwrap();
        let short = parse(SHORT, &[], Path::new("p.toml")).unwrap();
        assert_eq!(reference.optimizer, short.optimizer);
        assert_eq!(reference.checkpoint, short.checkpoint);
        assert_eq!((reference.seed, reference.data.batch_seconds), (short.seed, short.data.batch_seconds));
        assert_eq!(reference.data.max_seconds, short.data.max_seconds);
        assert_eq!(reference.data.speed_copies, short.data.speed_copies);
        assert_eq!(reference.precision, short.precision);
        let (rkd, skd) = (&reference.stage[0], &reference.stage[1]);
        let bare = |objective: &str| {
            let overrides = [format!("stage.0.objective={objective}"), "stage.0.teacher=['c']".to_owned()];
            parse(SHORT, &overrides, Path::new("p.toml")).unwrap().stage.remove(0)
        };
        let key = |stage: &Stage| (stage.pairs(), stage.frame_weighting(), stage.bridge_kernel());
        assert_eq!(key(rkd), key(&bare("rkd")));
        let bare = bare("ctc+skd");
        assert_eq!((skd.lambda(), skd.temperature()), (bare.lambda(), bare.temperature()));
    }

    #[test]
    fn a_resolved_pipeline_reads_back_as_itself() {
        let pipeline = parse(REFERENCE, &[], Path::new("reference")).unwrap();
        let text = toml::to_string(&pipeline).unwrap();
        assert_eq!(parse(&text, &[], Path::new("again")).unwrap(), pipeline);
        for word in
            ["pairs = [[", "frame_weighting = true", "bridge_kernel = 1", "lambda = 0.25", "beta2 = 0.0"]
        {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn overrides_reach_lists_tables_and_new_keys() {
        let overrides =
            ["stage.0.epochs=7", "data.train=[\"x\", \"y\"]", "name=b-c", "optimizer.schedule.power=1"];
        let overrides: Vec<String> = overrides.iter().map(|s| (*s).to_owned()).collect();
        let p = parse(SHORT, &overrides, Path::new("p.toml")).unwrap();
        assert_eq!((p.stage[0].epochs, p.data.train.len(), p.name.as_str()), (Some(7), 2, "b-c"));
        assert_eq!(p.optimizer.schedule.power, 1.0);
        assert!(error(SHORT, &["stage.3.epochs=1"]).contains("no index into 1 item"));
        assert!(error(SHORT, &["name.x=1"]).contains("inside a string"));
    }

    #[test]
    fn a_stage_takes_the_rest_of_its_optimizer_from_the_pipeline() {
        let text = format!(
            "{SHORT}[stage.optimizer]\nlearning_rate = 0.5\n[optimizer]\nname = 'adamw'\nbeta1 = 0.8\n"
        );
        let p = parse(&text, &[], Path::new("p.toml")).unwrap();
        let own = p.stage[0].optimizer.as_ref().unwrap();
        assert_eq!((own.name, own.learning_rate, own.beta1), (Rule::AdamW, 0.5, Some(0.8)));
        let other = text.replace("learning_rate = 0.5", "name = 'novograd'");
        let p = parse(&other, &[], Path::new("p.toml")).unwrap();
        assert_eq!(p.stage[0].optimizer.as_ref().unwrap().betas(), (0.95, 0.0));
    }

    #[test]
    fn a_stage_has_one_length_and_an_override_replaces_it() {
        let both = SHORT.replace("epochs = 1", "epochs = 1\nmax_updates = 3");
        assert!(error(&both, &[]).contains("found both"));
        let p = parse(SHORT, &["stage.0.max_updates=3".to_owned()], Path::new("p.toml")).unwrap();
        assert_eq!((p.stage[0].epochs, p.stage[0].max_updates), (None, Some(3)));
    }

    #[test]
    fn a_misspelt_key_gets_line_and_suggestion() {
        let text = SHORT.replace("epochs = 1", "epoch = 1");
        let error = error(&text, &[]);
        for word in ["p.toml", "line 7", "`epoch`", "did you mean `epochs`?", "--help-pipeline"] {
            assert!(error.contains(word), "{word} is not in {error}");
        }
    }

    #[test]
    fn impossible_combinations_name_the_key() {
        for (overrides, words) in [
            (vec!["stage.0.objective=rkd"], "stage.0.teacher"),
            (
                vec!["stage.0.lambda=1.0"],
                "stage.0.lambda: `ctc` does not use it (only these do: ctc+skd, ctc+kd,",
            ),
            (
                vec!["stage.0.objective=ctc+sequence", "stage.0.teacher=['c']", "stage.0.lambda=1.5"],
                "0 to 1e0",
            ),
            (vec!["stage.0.objective=kd", "stage.0.guide_blank=true", "stage.0.teacher=['c']"], "ctc+guided"),
            (
                vec!["stage.0.objective=kd", "stage.0.fuse=[{teacher=['c'],weight=0.4}]"],
                "sum to 1, found 0.4",
            ),
            (vec!["stage.0.objective=rkd", "stage.0.fuse=[{teacher=['c'],weight=1.0}]"], "stage.0.fuse"),
            (
                vec!["stage.0.pairs=[[\"last\", 3]]"],
                "stage.0.pairs: `ctc` does not use it (only these do: rkd)",
            ),
            (vec!["stage.0.objective=rkd", "stage.0.teacher=['c']", "stage.0.pairs=[]"], "at least one pair"),
            (
                vec![
                    "stage.0.objective=rkd",
                    "stage.0.teacher=['c']",
                    "stage.0.pairs=[[1, 2], [3, 2], [1, 2]]",
                ],
                "found [1, 2] twice",
            ),
            (
                vec!["stage.0.objective=rkd", "stage.0.teacher=['c']", "stage.0.pairs=[[\"first\", 2]]"],
                "expected `last` or the number of a layer, found `first`",
            ),
            (
                vec!["stage.0.objective=rkd", "stage.0.teacher=['c']", "stage.0.pairs=[[1, 2, 3]]"],
                "expected [student's layer, teacher's layer], found 3 layers",
            ),
            (vec!["threads=1000000"], "threads: expected 1 to 1024"),
            (vec!["stage.0.epochs=0"], "N at least 1"),
            (vec!["data.train=[]"], "data.train"),
            (vec!["data.batch_seconds=-1"], "data.batch_seconds"),
            (vec!["optimizer.gradient_clip=nan"], "optimizer.gradient_clip"),
            (vec!["optimizer.schedule.min=1.0"], "optimizer.schedule.min"),
            (vec!["stage.0.epochs=100000000"], "stage.0.epochs"),
            (vec!["student.preset=x", "student.width=1e9"], "inside a string"),
            (vec!["optimizer.beta1=1.5"], "optimizer.beta1"),
            (vec!["optimizer.larc=-0.1"], "optimizer.larc: expected 0"),
            (vec!["optimizer.l2=nan"], "optimizer.l2: expected 0"),
            (
                vec!["optimizer.larc=0.001", "optimizer.gradient_clip=1"],
                "OpenSeq2Seq, which it is from, refuses",
            ),
            (vec!["optimizer.name=novograd-papr"], "did you mean `novograd-paper`?"),
            (vec!["data.batch_utterances=0"], "data.batch_utterances: expected 1"),
            (vec!["data.speed_copies=some"], "unknown variant `some`"),
            (vec!["student={preset='jasper-nano', dropout=1.0}"], "student.dropout: expected 0 <= p < 1"),
            (vec!["precision=f16"], "precision: expected f32, found f16"),
            (vec!["stage.0.objective=rdk"], "did you mean `rkd`?"),
            (vec!["student.preset=x", "student.widht=1"], "inside a string"),
        ] {
            let error = error(SHORT, &overrides);
            assert!(error.contains(words), "{words} is not in {error}");
        }
    }
}
