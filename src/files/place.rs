//! What a directory is by its names, and whether it may be written into.

use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};

/// The files that say what a directory is.
const MARKS: [&str; 5] = ["corpus.toml", "cache.toml", "model.toml", "pipeline.toml", "export.toml"];

/// What a directory is by its mark, in words; `None` when it has none.
pub fn kind_of(directory: &Path) -> Option<&'static str> {
    const WORDS: [&str; 5] = ["a corpus", "a cache", "a model", "a run", "an export"];
    MARKS.iter().zip(WORDS).find(|(mark, _)| directory.join(mark).exists()).map(|(_, word)| word)
}

/// Refuses to write into a directory that is not ours: `out` must be new, empty (hidden files do not
/// count) or hold one of `own`, the files that mark a directory of this `kind`, and no other mark.
///
/// # Errors
/// With the name of what lies there.
pub fn require_own(out: &Path, own: &[&str], kind: &str) -> Result<()> {
    let entries = match std::fs::read_dir(out) {
        // What is no directory is for the one who creates it to say.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        entries => entries.map_err(|e| Error::io("list", out, e))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Error::io("list", out, e))?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    let is_own = |name: &str| own.contains(&name);
    let foreign = match names.iter().find(|n| MARKS.contains(&n.as_str()) && !is_own(n)) {
        None if names.iter().any(|n| is_own(n)) => None,
        None => names.iter().filter(|n| !n.starts_with('.')).min(),
        mark => mark,
    };
    foreign.map_or(Ok(()), |name| {
        Err(Error::format(
            out,
            format!("expected a new, empty or {kind} directory, found {name} in it; give another --out"),
        ))
    })
}

/// Refuses `out` where it is `input`, which `what` says in words.
///
/// # Errors
/// When both are the same directory.
pub fn require_apart(out: &Path, input: &Path, what: &str) -> Result<()> {
    match (std::fs::canonicalize(out), std::fs::canonicalize(input)) {
        (Ok(a), Ok(b)) if a == b => {
            Err(Error::invalid(format!("--out {} is {what}: give a new directory", out.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_empty_and_own_directories_are_written_into() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let allowed = || require_own(&out, &["model.toml"], "model").map_err(|e| e.to_string());
        assert_eq!(allowed(), Ok(()));
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join(".lock"), "").unwrap();
        assert_eq!(allowed(), Ok(()));
        std::fs::write(out.join("notes"), "").unwrap();
        assert!(allowed().unwrap_err().contains("or model directory, found notes in it; give another --out"));
        std::fs::write(out.join("model.toml"), "").unwrap();
        assert_eq!(allowed(), Ok(()));
        std::fs::write(out.join("cache.toml"), "").unwrap();
        assert!(allowed().unwrap_err().contains("found cache.toml"));
    }
}
