//! LibriSpeech trees: ROOT/SUBSET/speaker/chapter/ with ID.flac files and one *.trans.txt.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::reason::{Fault, Reason, Skipped};
use super::speed::{Speed, original};
use super::text;
use crate::error::{Error, Result};
use crate::files;
use crate::labels::Labels;

/// Levels of directories below a subset: speaker, chapter.
const DEPTH: usize = 2;
/// What the name of a transcript file ends in.
const TRANSCRIPT: &str = ".trans.txt";

/// An utterance found in the tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// Utterance id: the file's name without `.flac`, for a copy with the mark of its speed.
    pub id: String,
    /// The audio file, relative to the root.
    pub file: PathBuf,
    /// Normalised transcript.
    pub text: String,
    /// Of a copy; `None` for what lies in the file.
    pub speed: Option<Speed>,
}

impl Found {
    /// The reader: the id of the original up to its first hyphen.
    pub fn speaker(&self) -> &str {
        let id = original(&self.id);
        id.split('-').next().unwrap_or(id)
    }
}

/// The utterances of some subsets sorted by id, and those that cannot be used.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub found: Vec<Found>,
    pub skipped: Vec<Skipped>,
}

/// Names of the subsets of `root`: its directories that hold transcripts.
///
/// # Errors
/// When the root cannot be listed.
pub fn subsets(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in sorted(root)? {
        if path.is_dir() && holds_transcripts(&path, DEPTH) {
            names.extend(path.file_name().map(|n| n.to_string_lossy().into_owned()));
        }
    }
    Ok(names)
}

/// Whether some directory exactly `depth` levels below has a transcript file.
fn holds_transcripts(directory: &Path, depth: usize) -> bool {
    let entries = sorted(directory).unwrap_or_default();
    match depth {
        0 => entries.iter().any(|p| name(p).ends_with(TRANSCRIPT)),
        depth => entries.iter().any(|p| p.is_dir() && holds_transcripts(p, depth - 1)),
    }
}

/// Lists the utterances of `names` below `root`.
///
/// # Errors
/// When the root or a subset is not there (with those that are), or a directory cannot be read.
pub(super) fn list(root: &Path, names: &[String], labels: &Labels) -> Result<Listing> {
    check(root, names)?;
    let mut listing = Listing::default();
    for subset in names {
        walk(root, &root.join(subset), DEPTH, labels, &mut listing)?;
    }
    listing.found.sort();
    let mut unique: Vec<Found> = Vec::with_capacity(listing.found.len());
    for found in std::mem::take(&mut listing.found) {
        match unique.last() {
            Some(first) if first.id == found.id => {
                let detail = format!("the id was met in {} already", first.file.display());
                listing.skipped.push(skipped(&found.id, &found.file, Fault::new(Reason::Duplicate, detail)));
            }
            _ => unique.push(found),
        }
    }
    listing.found = unique;
    listing.skipped.sort();
    if listing.found.is_empty() && listing.skipped.is_empty() {
        let detail = format!("{}: no utterance in {}", root.display(), names.join(", "));
        return Err(Error::invalid(format!(
            "{detail}; expected SUBSET/speaker/chapter/*.flac with *{TRANSCRIPT}"
        )));
    }
    Ok(listing)
}

/// Demands that the root and every subset are directories.
fn check(root: &Path, names: &[String]) -> Result<()> {
    if !root.is_dir() {
        let near = root.ancestors().skip(1).find(|p| p.is_dir() && !p.as_os_str().is_empty());
        let near = near.map(|p| (p, subsets(p).unwrap_or_default())).filter(|(_, s)| !s.is_empty());
        let hint = match near {
            Some((p, there)) => format!("{} holds the subsets {}", p.display(), there.join(", ")),
            None => {
                "expected the directory that holds the subsets (dev-clean, train-clean-100, ...)".to_owned()
            }
        };
        return Err(Error::invalid(format!("{}: no such directory; {hint}", root.display())));
    }
    let missing: Vec<&str> = names.iter().filter(|s| !root.join(s).is_dir()).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let there = subsets(root)?;
    let detail = format!("{}: no subset {}", root.display(), missing.join(", "));
    let inner = root.join("LibriSpeech");
    let hint = if !there.is_empty() {
        format!("subsets there: {}", there.join(", "))
    } else if inner.is_dir() {
        format!("give {} as ROOT, which holds {}", inner.display(), subsets(&inner)?.join(", "))
    } else if holds_transcripts(root, DEPTH) {
        "this is itself a subset: give the directory above it as ROOT".to_owned()
    } else {
        "no subset is there (expected SUBSET/speaker/chapter/*.trans.txt)".to_owned()
    };
    Err(Error::invalid(format!("{detail}; {hint}")))
}

fn walk(root: &Path, directory: &Path, depth: usize, labels: &Labels, listing: &mut Listing) -> Result<()> {
    let mut audio = BTreeMap::new();
    let mut transcripts = BTreeMap::new();
    for path in sorted(directory)? {
        if path.is_dir() {
            if depth > 0 {
                walk(root, &path, depth - 1, labels, listing)?;
            }
        } else if name(&path).ends_with(TRANSCRIPT) {
            read_transcripts(root, &path, &mut transcripts, listing)?;
        } else if let Some(id) = name(&path).strip_suffix(".flac") {
            audio.insert(id.to_owned(), relative(root, &path));
        }
    }
    for (id, file) in audio {
        let normalised = match transcripts.remove(&id) {
            Some((_, transcript)) => text::normalise(&transcript, labels),
            None => {
                let detail = format!("no line {id} in a *{TRANSCRIPT} beside it");
                Err(Fault::new(Reason::TranscriptMissing, detail))
            }
        };
        match normalised {
            Ok(text) => listing.found.push(Found { id, file, text, speed: None }),
            Err(fault) => listing.skipped.push(skipped(&id, &file, fault)),
        }
    }
    for (id, (file, _)) in transcripts {
        let detail = format!("{id}.flac is not beside the transcript");
        listing.skipped.push(skipped(&id, &file, Fault::new(Reason::AudioMissing, detail)));
    }
    Ok(())
}

/// Lines `ID TRANSCRIPT`; a second line of the same id is skipped.
fn read_transcripts(
    root: &Path,
    path: &Path,
    into: &mut BTreeMap<String, (PathBuf, String)>,
    listing: &mut Listing,
) -> Result<()> {
    let file = relative(root, path);
    // Bytes that are no UTF-8 become U+FFFD, which is no label: that utterance is skipped by name.
    let bytes = files::read(path)?;
    // Some editors put a byte order mark first.
    for line in String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes)).lines() {
        let line = line.trim();
        let (id, transcript) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if id.is_empty() {
            continue;
        }
        if into.contains_key(id) {
            let fault = Fault::new(Reason::Duplicate, "a second transcript of the id; the first is used");
            listing.skipped.push(skipped(id, &file, fault));
            continue;
        }
        into.insert(id.to_owned(), (file.clone(), transcript.to_owned()));
    }
    Ok(())
}

pub(super) fn skipped(id: &str, file: &Path, fault: Fault) -> Skipped {
    let file = file.to_string_lossy().into_owned();
    Skipped { utterance: id.to_owned(), file, reason: fault.reason, detail: fault.detail }
}

fn sorted(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory).map_err(|e| Error::io("list", directory, e))?;
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|e| e.map(|e| e.path())).collect();
    let mut paths = paths.map_err(|e| Error::io("list", directory, e))?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn relative(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_path_buf()
}
