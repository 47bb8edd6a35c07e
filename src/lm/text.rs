//! Text and word counts on disk to a model on disk.

use std::path::{Path, PathBuf};

use super::kneser_ney::{Built, build};
use crate::corpus::{Corpus, MANIFEST, normalise_transcript};
use crate::error::{Error, Result};
use crate::files;
use crate::labels::Labels;

/// What to build a model from.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// Text files, one sentence a line, or corpus directories, whose transcripts are taken.
    pub text: Vec<PathBuf>,
    /// Whether the first word of every line names an utterance, as in LibriSpeech's `*.trans.txt`.
    pub ids: bool,
    /// Word counts of a larger text: a word and a number a line.
    pub counts: Option<PathBuf>,
    /// Longest n-gram.
    pub order: usize,
    /// The ARPA file.
    pub out: PathBuf,
}

/// What was built.
#[derive(Debug, Clone)]
pub struct BuildSummary {
    /// Sentences counted.
    pub sentences: usize,
    /// Lines left out, as they hold what is no label; and the first of them with its reason.
    pub skipped: (usize, Option<String>),
    /// n-grams of every order.
    pub counts: Vec<usize>,
    /// Discounts of every order, and whether they are the fallback.
    pub discounts: Vec<([f64; 3], bool)>,
}

/// Builds a model and writes it as an ARPA file, whole or not at all. Text goes the way of transcripts: lower
/// case, the English labels; a line with anything else is left out and counted.
///
/// # Errors
/// When a file cannot be read, holds no sentence, or cannot be written.
pub fn build_file(options: &BuildOptions) -> Result<BuildSummary> {
    let mut source = Source { labels: Labels::english(), sentences: Vec::new(), skipped: (0, None) };
    for path in &options.text {
        source.take(path, options.ids)?;
    }
    let counts = options.counts.as_deref().map(|path| source.counts(path)).transpose()?.unwrap_or_default();
    if source.sentences.is_empty()
        && let (count, Some(first)) = &source.skipped
    {
        return Err(Error::invalid(format!(
            "expected at least one line of text in the {} labels, found {count} with something else; the first: {first}; \
             remove punctuation and spell numbers out{}",
            source.labels.symbols.len(),
            if options.ids { "" } else { " (--ids when every line begins with the name of an utterance)" }
        )));
    }
    let Built { arpa, counts, discounts } =
        build(source.sentences.iter().map(String::as_str), &counts, options.order)?;
    if let Some(directory) = options.out.parent().filter(|d| !d.as_os_str().is_empty()) {
        files::create_dir(directory)?;
    }
    files::write(&options.out, arpa.as_bytes())?;
    Ok(BuildSummary { sentences: source.sentences.len(), skipped: source.skipped, counts, discounts })
}

struct Source {
    labels: Labels,
    sentences: Vec<String>,
    skipped: (usize, Option<String>),
}

impl Source {
    fn take(&mut self, path: &Path, ids: bool) -> Result<()> {
        if path.join(MANIFEST).exists() {
            let corpus = Corpus::open(path)?;
            self.sentences.extend(corpus.utterances().iter().map(|u| u.text.clone()));
            return Ok(());
        }
        if path.is_dir() {
            let detail = "expected a text file or a corpus directory, found another directory";
            return Err(Error::format(path, detail));
        }
        for (number, line) in files::read_text(path)?.lines().enumerate() {
            let line = line.trim();
            let text =
                if ids { line.split_once(char::is_whitespace).map_or("", |(_, rest)| rest) } else { line };
            if text.is_empty() {
                continue;
            }
            if let Some(text) = self.normalised(text, path, number) {
                self.sentences.push(text);
            }
        }
        Ok(())
    }

    fn counts(&mut self, path: &Path) -> Result<Vec<(String, u64)>> {
        let mut counts = Vec::new();
        for (number, line) in files::read_text(path)?.lines().enumerate() {
            let mut fields = line.split_whitespace();
            let (Some(word), Some(count), None) = (fields.next(), fields.next(), fields.next()) else {
                if line.trim().is_empty() {
                    continue;
                }
                let line = number + 1;
                return Err(Error::format(path, format!("line {line}: expected a word and its count")));
            };
            let count: u64 = count.parse().map_err(|_| {
                Error::format(path, format!("line {}: expected a whole number, found `{count}`", number + 1))
            })?;
            if let Some(word) = self.normalised(word, path, number)
                && count > 0
            {
                counts.push((word, count));
            }
        }
        Ok(counts)
    }

    fn normalised(&mut self, text: &str, path: &Path, number: usize) -> Option<String> {
        match normalise_transcript(text, &self.labels) {
            Ok(text) => Some(text),
            Err(error) => {
                let (count, first) = &mut self.skipped;
                *count += 1;
                first.get_or_insert_with(|| format!("{}, line {}: {error}", path.display(), number + 1));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::NGram;

    #[test]
    fn text_is_read_as_transcripts_are() {
        let dir = tempfile::tempdir().unwrap();
        let (text, counts) = (dir.path().join("text"), dir.path().join("counts"));
        std::fs::write(&text, "1-2-3 THE CAT\n1-2-4 THE 7 CATS\n\n1-2-5 a cat\u{2019}s\n").unwrap();
        std::fs::write(&counts, "the\t9\nzebra 2\n").unwrap();
        let out = dir.path().join("new/lm.arpa");
        let options =
            BuildOptions { text: vec![text], ids: true, counts: Some(counts.clone()), order: 2, out };
        let summary = build_file(&options).unwrap();
        assert_eq!((summary.sentences, summary.skipped.0), (2, 1));
        assert!(summary.skipped.1.unwrap().contains("line 2: "));
        let model = NGram::read(&options.out).unwrap();
        let mut words: Vec<&str> = model.words().collect();
        words.sort_unstable();
        assert_eq!(words, ["a", "cat", "cat's", "the", "zebra"]);
        std::fs::write(&options.text[0], "u Hello, world.\nu 7\n").unwrap();
        let error = build_file(&options).unwrap_err().to_string();
        assert!(error.contains("found 2 with something else") && error.contains("line 1"), "{error}");
        std::fs::write(&options.text[0], "1-2-3 THE CAT\n").unwrap();
        std::fs::write(&counts, "the 9\nzebra many\n").unwrap();
        let error = build_file(&options).unwrap_err().to_string();
        assert!(error.contains("line 2: expected a whole number, found `many`"), "{error}");
    }
}
