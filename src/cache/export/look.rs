//! What an export is, and whether all of it is there. Its files have no hashes: what they hold is not looked at.

use std::path::Path;

use serde_json::{Value, json};

use super::{EXPORT, ExportIdentity, INDEX};
use crate::error::{Error, Result};
use crate::files;
use crate::shard::Problem;

/// What `export.toml` says, and whether the export is complete.
///
/// # Errors
/// When `export.toml` is missing or was changed.
pub fn describe(dir: &Path) -> Result<Value> {
    let identity = ExportIdentity::read(&dir.join(EXPORT))?;
    let mut value = json!({ "kind": "export" });
    let of = serde_json::to_value(identity).map_err(|e| Error::format(dir.join(EXPORT), e.to_string()))?;
    if let (Some(value), Value::Object(of)) = (value.as_object_mut(), of) {
        value.extend(of);
        let state = if dir.join(INDEX).exists() { "complete" } else { "incomplete" };
        value.insert("state".to_owned(), state.into());
    }
    Ok(value)
}

/// The seal of `export.toml`, the number of utterances in `index.jsonl`, and whether every file that it names is there.
pub fn verify(dir: &Path) -> Vec<Problem> {
    let identity = match ExportIdentity::read(&dir.join(EXPORT)) {
        Ok(identity) => identity,
        Err(error) => return vec![Problem::of(dir.join(EXPORT), &error)],
    };
    let index = dir.join(INDEX);
    if !index.exists() {
        let detail = "missing: the export is not complete; the `tutornet cache export` command that began it completes it";
        return vec![Problem::file(index, detail)];
    }
    let text = match files::read_text(&index) {
        Ok(text) => text,
        Err(error) => return vec![Problem::of(index, &error)],
    };
    let mut problems = Vec::new();
    let mut missing: Vec<String> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            problems.push(Problem::file(&index, format!("line {}: expected a JSON object", number + 1)));
            continue;
        };
        let files = line.get("files").and_then(Value::as_object).into_iter().flat_map(|files| files.values());
        let named = files.chain(line.get("file")).filter_map(Value::as_str);
        missing.extend(named.filter(|name| !dir.join(name).is_file()).map(str::to_owned));
    }
    let found = text.lines().count();
    if found != identity.utterances {
        let detail = format!("expected {} utterances (from {EXPORT}), found {found}", identity.utterances);
        problems.push(Problem::file(&index, detail));
    }
    missing.dedup();
    problems.extend(missing.into_iter().map(|name| Problem::file(dir.join(name), "missing")));
    problems
}
