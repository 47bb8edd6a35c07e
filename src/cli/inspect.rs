//! `tutornet inspect`: what a directory or a preset is, in figures.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Context;
use super::kind::{Kind, STUDENT};
use crate::cache::CodecName;
use crate::report::RunRecord;
use crate::train::times::Stretches;
use crate::{cache, corpus, models, store};

/// Arguments of `tutornet inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A corpus, model, cache, export or run directory (corpora and caches also as s3://BUCKET/PREFIX), a model.toml, or the name of a preset (such as jasper-dr)
    what: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Of a cache with exact hidden states: what every codec would make of them (or those given, as klt:0.2,pq:32): bytes a
    /// frame, error, speed
    #[arg(long, value_name = "CODEC,..", num_args = 0.., value_delimiter = ',', conflicts_with = "toml")]
    rate: Option<Vec<CodecName>>,
    /// Print the model.toml of a preset or model, to be changed and used as a student or with `import --like`
    #[arg(long, conflicts_with = "json")]
    toml: bool,
}

/// Runs `tutornet inspect`.
///
/// # Errors
/// When `what` is none of ours, is not complete, or was changed.
pub fn run(args: Args, _context: &Context) -> anyhow::Result<()> {
    if args.toml {
        return super::print(&models::ModelConfig::find(&args.what.to_string_lossy())?.to_toml()?);
    }
    let value = match args.rate {
        None => describe(&args.what)?,
        Some(codecs) => {
            let rates = cache::rate::rate(&cache::Cache::open(&args.what)?, &codecs)?;
            json!({ "rate": rates })
        }
    };
    if args.json {
        return super::print(&value.to_string());
    }
    super::print(&lines(&value).join("\n"))
}

/// A JSON object as aligned lines of `path  value`.
pub(super) fn lines(value: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    list("", value, &mut lines);
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.into_iter().map(|(name, value)| format!("{name:width$}  {value}")).collect()
}

fn describe(what: &Path) -> anyhow::Result<Value> {
    // A name without a separator that is no path is a preset's, or a mistake that lists them.
    if !what.exists() && what.components().count() == 1 {
        return model(&what.to_string_lossy());
    }
    if what.is_file() && what.extension().is_some_and(|extension| extension == "toml") {
        return model(&what.to_string_lossy());
    }
    Ok(match Kind::of(what)? {
        Kind::Corpus => serde_json::to_value(corpus::describe(what)?)?,
        Kind::Cache if !store::is_remote(what) && !what.join(cache::manifest::MANIFEST).exists() => {
            cache_being_made(what)?
        }
        Kind::Cache => serde_json::to_value(cache::describe(what)?)?,
        Kind::Model => model(&what.to_string_lossy())?,
        Kind::Run => run_directory(what)?,
        Kind::Export => cache::export::describe(what)?,
    })
}

fn model(what: &str) -> anyhow::Result<Value> {
    let mut value = json!({ "kind": "model" });
    let summary = serde_json::to_value(models::describe(what)?)?;
    if let (Some(value), Value::Object(summary)) = (value.as_object_mut(), summary) {
        value.extend(summary);
    }
    Ok(value)
}

/// What can be said of a cache that is not complete.
fn cache_being_made(dir: &Path) -> anyhow::Result<Value> {
    cache::Identity::load(dir)?;
    let mut value = json!({ "kind": "cache" });
    if let (Some(value), Value::Object(listed)) =
        (value.as_object_mut(), serde_json::to_value(cache::listed(dir)?)?)
    {
        value.extend(listed);
    }
    Ok(value)
}

fn run_directory(dir: &Path) -> anyhow::Result<Value> {
    let record = RunRecord::read(dir)?;
    let student = dir.join(STUDENT);
    let last = |points: &[(u64, f64)]| points.last().map(|point| point.1);
    let scores: Value = record
        .scores
        .iter()
        .map(|(name, scored)| Ok((name.clone(), serde_json::to_value(&scored.scores)?)))
        .collect::<Result<serde_json::Map<_, _>, serde_json::Error>>()?
        .into();
    Ok(json!({
        "kind": "run",
        "name": record.name,
        "method": record.method,
        "finished": record.finished,
        "updates": record.metrics.updates,
        "seconds": record.stretches.as_ref().map(Stretches::seconds),
        "dev_cer": last(&record.metrics.dev_cer),
        "scores": scores,
        "student": student.exists().then(|| models::describe(&student.to_string_lossy())).transpose()?,
    }))
}

/// Rows of objects as aligned columns under the names of the first row's keys; numbers to the right.
pub(super) fn table(rows: &[Value]) -> Vec<String> {
    let rows: Vec<_> = rows.iter().filter_map(Value::as_object).collect();
    let Some(first) = rows.first() else { return Vec::new() };
    let mut lines = vec![String::new(); rows.len() + 1];
    for (column, sample) in first.iter() {
        let cell = |row: &&serde_json::Map<String, Value>| row.get(column).map(plain).unwrap_or_default();
        let cells: Vec<String> = std::iter::once(column.clone()).chain(rows.iter().map(cell)).collect();
        let width = cells.iter().map(String::len).max().unwrap_or(0);
        for (line, cell) in lines.iter_mut().zip(cells) {
            let aligned =
                if sample.is_number() { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line.push_str(&aligned);
            line.push_str("  ");
        }
    }
    lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

/// Flattens a JSON value into `path  value` lines; a table begins with the names of its columns.
fn list(path: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    let under = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                list(&under(name), value, lines);
            }
        }
        Value::Array(rows) if rows.iter().any(Value::is_object) => {
            for (number, row) in table(rows).into_iter().enumerate() {
                lines.push((if number == 0 { path.to_owned() } else { String::new() }, row));
            }
        }
        Value::Array(values) => {
            lines.push((path.to_owned(), values.iter().map(plain).collect::<Vec<_>>().join(" ")));
        }
        Value::Null => {}
        value => lines.push((path.to_owned(), plain(value))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            format!("{number:.4}").trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        Value::Number(number) if number.as_u64().is_some_and(|n| n > 9_999) => grouped(&number.to_string()),
        value => value.to_string(),
    }
}

/// Digits in groups of three.
fn grouped(digits: &str) -> String {
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let groups = tail.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let head = (first > 0).then(|| head.to_owned());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_lines() {
        let value = json!({
            "kind": "model", "none": null, "hidden": { "codec": "f16", "bytes": 985.25 },
            "seconds": [1.5, 2.0], "counts": [9999, 10000, 332632349u64], "layers": [{ "name": "a", "kernel": 3 }, { "name": "b", "kernel": 5 }],
        });
        let mut lines = Vec::new();
        list("", &value, &mut lines);
        let lines: Vec<_> = lines.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        assert_eq!(
            lines,
            [
                ("kind", "model"),
                ("hidden.codec", "f16"),
                ("hidden.bytes", "985.25"),
                ("seconds", "1.5 2"),
                ("counts", "9999 10,000 332,632,349"),
                ("layers", "name  kernel"),
                ("", "a          3"),
                ("", "b          5"),
            ]
        );
    }
}
