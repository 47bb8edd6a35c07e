//! Scores on disk: one flat JSON object an evaluation, one line of a table an utterance.
//!
//! `RUNDIR/scores/NAME.json` and `NAME.tsv` are where `tutornet report` looks for the scores of a
//! run on the corpus NAME.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::bootstrap::Interval;
use super::{Evaluation, UtteranceScore, aligned};
use crate::decode::SearchSettings;
use crate::error::{Error, Result};
use crate::files;

/// What was scored, or what it was scored on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Name of the model; directory of the corpus.
    pub name: String,
    /// BLAKE3 identity, as caches and runs record it.
    pub blake3: String,
}

/// What `tutornet eval --json` prints. Rates and intervals are percentages; the counts are those
/// of word errors unless their name says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Subject>,
    /// The corpus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<Subject>,
    /// The beam search that found the texts; absent for greedy decoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchSettings>,
    /// Word error rate.
    pub wer: f64,
    /// Character error rate.
    pub cer: f64,
    /// Words of the references.
    pub words: u64,
    /// Substitutions, insertions and deletions.
    pub errors: u64,
    /// Words recognised as others.
    pub substitutions: u64,
    /// Words recognised that were not said.
    pub insertions: u64,
    /// Words said that were not recognised.
    pub deletions: u64,
    /// Utterances scored.
    pub utterances: usize,
    /// Characters of the references.
    pub characters: u64,
    /// Character errors.
    pub character_errors: u64,
    /// Output frames whose best label is the blank, in percent.
    pub blank_rate: f64,
    /// Whether every hypothesis is empty.
    pub all_blank: bool,
    /// 95 % bootstrap interval over utterances of the word error rate.
    pub wer_interval: Interval,
    /// 95 % bootstrap interval over utterances of the character error rate.
    pub cer_interval: Interval,
    /// Seconds of audio scored.
    pub audio_seconds: f64,
}

impl Scores {
    /// The object in one line.
    ///
    /// # Errors
    /// Never in practice: every field is a number or a text.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::invalid(format!("scores do not fit into JSON: {e}")))
    }

    /// Writes the JSON atomically, and the per-utterance table beside it under the same name
    /// with the extension `tsv`.
    ///
    /// # Errors
    /// When the path ends in `.tsv` itself, or the system refuses a file.
    pub fn save(evaluation: &Evaluation, path: &Path) -> Result<()> {
        let table = path.with_extension("tsv");
        if table == path {
            return Err(Error::invalid(format!(
                "{}: expected a name for a JSON file, the table of utterances goes to the same name with .tsv",
                path.display()
            )));
        }
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            files::create_dir(directory)?;
        }
        files::write(&table, write_utterance_scores(&evaluation.per_utterance, false).as_bytes())?;
        files::write(path, format!("{}\n", evaluation.scores.to_json()?).as_bytes())
    }

    /// Reads what [`Scores::save`] wrote (or a shell redirected from `eval --json`).
    ///
    /// # Errors
    /// When the file cannot be read or a key is missing.
    pub fn load(path: &Path) -> Result<Self> {
        serde_json::from_str(&files::read_text(path)?).map_err(|e| {
            Error::format(
                path,
                format!("expected the JSON of `tutornet eval --json`, found otherwise ({e}); evaluate again"),
            )
        })
    }
}

impl std::fmt::Display for Scores {
    /// Three lines for people, and one more about a beam search.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { wer_interval: w, cer_interval: c, .. } = self;
        writeln!(
            f,
            "WER {:.2} % [{:.2}, {:.2}]: {} errors in {} words ({} substitutions, {} insertions, {} deletions)",
            self.wer,
            w.low,
            w.high,
            self.errors,
            self.words,
            self.substitutions,
            self.insertions,
            self.deletions
        )?;
        writeln!(
            f,
            "CER {:.2} % [{:.2}, {:.2}]: {} errors in {} characters",
            self.cer, c.low, c.high, self.character_errors, self.characters
        )?;
        write!(
            f,
            "{} utterances, {:.1} min; the blank is the best label of {:.1} % of the frames",
            self.utterances,
            self.audio_seconds / 60.0,
            self.blank_rate
        )?;
        self.search.as_ref().map_or(Ok(()), |search| write!(f, "\ndecoded with {search}"))
    }
}

/// Columns of the per-utterance table.
const COLUMNS: [&str; 5] = ["id", "errors", "words", "reference", "hypothesis"];

/// The per-utterance table: a heading, then one line an utterance, columns separated by tabs.
/// With `align`, three lines that begin with `#` follow each utterance that has errors: both
/// texts with their words in columns, and the marks S, I, D.
pub fn write_utterance_scores(utterances: &[UtteranceScore], align: bool) -> String {
    let mut table = COLUMNS.join("\t");
    table.push('\n');
    for u in utterances {
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "{}\t{}\t{}\t{}\t{}",
            u.id, u.words.errors, u.words.reference, u.reference, u.hypothesis
        );
        if align && u.words.errors > 0 {
            for (name, line) in ["ref", "hyp", "   "].iter().zip(aligned(&u.reference, &u.hypothesis)) {
                let _ = writeln!(table, "# {name} {line}");
            }
        }
    }
    table
}

/// Reads (id, reference, hypothesis) of every utterance from a table of [`write_utterance_scores`].
///
/// # Errors
/// When the file cannot be read, or a line has not five columns (the line is named).
pub fn read_utterance_scores(path: &Path) -> Result<Vec<(String, String, String)>> {
    let text = files::read_text(path)?;
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with('#'));
    if lines.next().map(|(_, heading)| heading) != Some(COLUMNS.join("\t").as_str()) {
        return Err(Error::format(path, format!("expected the heading `{}`", COLUMNS.join(" "))));
    }
    lines
        .map(|(number, line)| match line.split('\t').collect::<Vec<_>>()[..] {
            [id, _, _, reference, hypothesis] => Ok((id.into(), reference.into(), hypothesis.into())),
            ref columns => Err(Error::format(
                path,
                format!("line {}: expected 5 columns, found {}; evaluate again", number + 1, columns.len()),
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Transcript;

    fn evaluation() -> Evaluation {
        let score = |id: &str, reference: &str, hypothesis: &str| {
            let transcript = Transcript { text: hypothesis.into(), frames: 10, blank_frames: 4 };
            UtteranceScore::new(id, reference, &transcript)
        };
        Evaluation::from_utterances(
            vec![score("u-1", "the cat sat", " the bat  sat"), score("u-2", "on a mat", "")],
            2.5,
        )
    }

    #[test]
    fn utterances_add_up() {
        let Evaluation { scores: e, per_utterance } = evaluation();
        assert_eq!((e.words, e.errors, e.substitutions, e.insertions, e.deletions), (6, 4, 1, 0, 3));
        assert_eq!((e.characters, e.character_errors), (19, 9));
        assert!((e.wer - 400.0 / 6.0).abs() < 1e-9 && (e.blank_rate - 40.0).abs() < 1e-9);
        assert!(!e.all_blank);
        assert_eq!(per_utterance[0].hypothesis, "the bat sat");
        assert!(Evaluation::from_utterances(vec![per_utterance[1].clone()], 1.0).scores.all_blank);
    }

    #[test]
    fn json_and_table_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores/dev-clean.json");
        let e = evaluation();
        Scores::save(&e, &path).unwrap();
        let scores = Scores::load(&path).unwrap();
        assert_eq!(scores, e.scores);
        let json: serde_json::Value = serde_json::from_str(&scores.to_json().unwrap()).unwrap();
        assert_eq!(json["errors"], 4);
        assert_eq!(json["wer_interval"].as_array().unwrap().len(), 2);
        let table = read_utterance_scores(&path.with_extension("tsv")).unwrap();
        assert_eq!(table[0], ("u-1".into(), "the cat sat".into(), "the bat sat".into()));
        assert_eq!(table[1].2, "");
        let message = Scores::save(&e, &dir.path().join("x.tsv")).unwrap_err().to_string();
        assert!(message.contains("JSON"), "{message}");
    }

    #[test]
    fn aligned_lines_are_comments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table.tsv");
        let text = write_utterance_scores(&evaluation().per_utterance, true);
        assert!(text.contains("# ref the cat sat\n# hyp the bat sat\n#         S\n"), "{text}");
        std::fs::write(&path, text).unwrap();
        assert_eq!(read_utterance_scores(&path).unwrap().len(), 2);
        std::fs::write(&path, "id\terrors\twords\treference\thypothesis\nu-1\t3\n").unwrap();
        let message = read_utterance_scores(&path).unwrap_err().to_string();
        assert!(message.contains("line 2") && message.contains("found 2"), "{message}");
    }
}
