//! Reads the ARPA format: counts, then one section of lines an order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;

use super::ngram::{END, Entry, LN_10, MAX_ORDER, NGram, START, Table, UNKNOWN, Word, first_key, longer_key};
use crate::error::{Error, Result};

/// log10 p of an unknown word where the model has none.
const NO_UNKNOWN: f32 = -100.0;

/// What rounding may leave of log10 p = 0.
const MOST: f32 = 1e-3;

/// Reads a model.
pub(super) fn read(path: &Path) -> Result<NGram> {
    Reader::open(path)?.model()
}

struct Reader<'a> {
    path: &'a Path,
    lines: Lines<BufReader<File>>,
    number: usize,
}

impl<'a> Reader<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let failed = |e| Error::io("read", path, e);
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(failed)?);
        let begin = file.fill_buf().map_err(failed)?;
        if begin.starts_with(&[0x1F, 0x8B]) {
            let detail = "expected an ARPA model as text, found gzip; gunzip it first";
            return Err(Error::format(path, detail));
        }
        if begin.starts_with("\u{FEFF}".as_bytes()) {
            file.consume("\u{FEFF}".len());
        }
        Ok(Self { path, lines: file.lines(), number: 0 })
    }

    fn wrong(&self, detail: &str) -> Error {
        Error::format(self.path, format!("line {}: {detail}; not a whole ARPA model", self.number))
    }

    fn next(&mut self) -> Result<String> {
        self.number += 1;
        match self.lines.next() {
            Some(Ok(line)) => Ok(line),
            Some(Err(e)) => Err(Error::io("read", self.path, e)),
            None => Err(self.wrong("expected more, found the end of the file")),
        }
    }

    /// The next line that is not blank.
    fn text(&mut self) -> Result<String> {
        loop {
            let line = self.next()?;
            if !line.trim().is_empty() {
                return Ok(line);
            }
        }
    }

    fn model(mut self) -> Result<NGram> {
        while self.text()?.trim() != "\\data\\" {}
        let mut counts: Vec<usize> = Vec::new();
        let mut line = self.text()?;
        while let Some(rest) = line.trim().strip_prefix("ngram ") {
            let parsed = rest.split_once('=').and_then(|(order, count)| {
                Some((order.trim().parse::<usize>().ok()?, count.trim().parse::<usize>().ok()?))
            });
            let (order, count) = parsed.ok_or_else(|| self.wrong("expected `ngram ORDER=COUNT`"))?;
            if order != counts.len() + 1 || order > MAX_ORDER {
                return Err(self.wrong(&format!("expected orders from 1 to at most {MAX_ORDER} in turn")));
            }
            counts.push(count);
            line = self.text()?;
        }
        if counts.is_empty() {
            return Err(self.wrong("expected `ngram 1=COUNT`"));
        }
        let mut model = NGram {
            words: HashMap::new(),
            singles: Vec::new(),
            tables: Vec::new(),
            gaps: false,
            unknown: 0,
            start: None,
            end: None,
        };
        for (index, &count) in counts.iter().enumerate() {
            let order = index + 1;
            if line.trim() != format!("\\{order}-grams:") {
                return Err(self.wrong(&format!("expected `\\{order}-grams:`, found `{}`", line.trim())));
            }
            // A file may promise more than it holds: memory grows with what is there.
            let mut found = Vec::with_capacity(count.min(1 << 20));
            for _ in 0..count {
                let line = self.text()?;
                found.push(self.entry(&line, order, &mut model)?);
            }
            if order > 1 {
                let mut table = Table::new(found.len());
                found.into_iter().for_each(|entry| table.insert(entry));
                model.tables.push(table);
            }
            line = self.text()?;
        }
        if line.trim() != "\\end\\" {
            return Err(self.wrong(&format!("expected `\\end\\`, found `{}`", line.trim())));
        }
        let special = |name: &str| model.words.get(name).copied();
        (model.start, model.end) = (special(START), special(END));
        model.unknown = match special(UNKNOWN).or_else(|| special("<UNK>")) {
            Some(unknown) => unknown,
            None => {
                let number = self.word_number(model.singles.len())?;
                model.singles.push((NO_UNKNOWN * LN_10, 0.0));
                model.words.insert(UNKNOWN.to_owned(), number);
                number
            }
        };
        Ok(model)
    }

    fn word_number(&self, count: usize) -> Result<Word> {
        Word::try_from(count).map_err(|_| self.wrong("too many words"))
    }

    /// One n-gram: log10 p, words, and log10 of its back-off weight where it has one.
    fn entry(&self, line: &str, order: usize, model: &mut NGram) -> Result<Entry> {
        let mut fields = line.split_whitespace();
        let number =
            |text: Option<&str>| -> Option<f32> { text?.parse().ok().filter(|v: &f32| v.is_finite()) };
        let shape = || {
            self.wrong(&format!(
                "expected a finite number, {order} word(s) and perhaps another number, found `{line}`"
            ))
        };
        let probability = number(fields.next()).ok_or_else(shape)?;
        if probability > MOST {
            return Err(self.wrong(&format!("expected log10 p of at most 0, found `{line}`")));
        }
        let probability = probability * LN_10;
        let mut key = 0;
        let mut words = [0; MAX_ORDER];
        for slot in words.iter_mut().take(order) {
            let word = fields.next().ok_or_else(shape)?;
            *slot = match (order, model.words.get(word)) {
                (_, Some(&number)) if order > 1 => number,
                (1, None) => {
                    let number = self.word_number(model.singles.len())?;
                    model.words.insert(word.to_owned(), number);
                    number
                }
                (1, Some(_)) => return Err(self.wrong(&format!("`{word}` twice"))),
                _ => return Err(self.wrong(&format!("`{word}` is not among the 1-grams"))),
            };
        }
        for (from_right, &word) in words[..order].iter().rev().enumerate() {
            if from_right > 1 && from_right + 1 == order {
                model.gaps |= model.tables.get(order - 3).is_some_and(|shorter| shorter.find(key).is_none());
            }
            key = if from_right == 0 { first_key(word) } else { longer_key(key, word) };
        }
        let backoff = match fields.next() {
            None => 0.0,
            text => number(text).ok_or_else(shape)? * LN_10,
        };
        if fields.next().is_some() {
            return Err(shape());
        }
        if order == 1 {
            model.singles.push((probability, backoff));
        }
        Ok(Entry { key, probability, backoff })
    }
}

#[cfg(test)]
mod tests {
    use super::super::ngram::History;
    use super::*;

    const MODEL: &str = "noise before\n\\data\\\nngram 1=5\nngram 2=4\nngram 3=1\n\n\\1-grams:\n-1.0\t<unk>\n-99\t<s>\t-0.5\n\
        -0.7\t</s>\n-0.4\ta\t-0.3\n-0.9\tb\t-0.2\n\n\\2-grams:\n-0.2\t<s> a\t-0.1\n-0.6\ta b\t-0.05\n-0.3\tb </s>\n\
        -0.8\tb a\n\n\\3-grams:\n-0.15\t<s> a b\n\n\\end\\\n";

    fn read(text: &str) -> Result<NGram> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        NGram::read(file.path())
    }

    #[test]
    fn probabilities_back_off_as_the_format_says() {
        let model = read(MODEL).unwrap();
        assert_eq!((model.order(), model.vocabulary()), (3, 5));
        let log10 = |words: &[&str]| {
            let mut history = model.start();
            let mut last = 0.0;
            for word in words {
                (last, history) = model.score(&history, word);
            }
            last / LN_10
        };
        for (words, expected) in [
            (&["a"][..], -0.2),              // <s> a
            (&["a", "b"], -0.15),            // <s> a b
            (&["a", "a"], -0.1 - 0.3 - 0.4), // neither <s> a a nor a a
            (&["b"], -0.5 - 0.9),            // no <s> b
            (&["b", "a"], -0.8),             // no history <s> b, so no weight of it
            (&["b", "zebra"], -0.2 - 1.0),
            (&["zebra", "a"], -0.4), // <unk> has no weight
            (&["a", "b", "a"], -0.05 - 0.8),
        ] {
            assert!((log10(words) - expected).abs() < 1e-6, "{words:?}: {} {expected}", log10(words));
        }
        let sentence = (-0.15f64 - 0.2 - 0.05 - 0.3) * f64::from(LN_10);
        assert!((model.sentence("a b") - sentence).abs() < 1e-5);
        assert!(model.knows("a") && !model.knows("zebra"));
        let mut words: Vec<&str> = model.words().collect();
        words.sort_unstable();
        assert_eq!(words, ["a", "b"]);
    }

    #[test]
    fn a_pruned_model_may_hold_an_n_gram_without_its_shorter_ending() {
        // <s> a b without a b: the longer one is found all the same, as KenLM does.
        let pruned = MODEL.replace("ngram 2=4", "ngram 2=3").replace("-0.6\ta b\t-0.05\n", "");
        let model = read(&pruned).unwrap();
        let (_, history) = model.score(&model.start(), "a");
        assert!((model.score(&history, "b").0 / LN_10 + 0.15).abs() < 1e-6);
        // Without it, both histories are given up.
        let (_, history) = model.score(&History::default(), "a");
        assert!((model.score(&history, "b").0 / LN_10 + 0.3 + 0.9).abs() < 1e-6);
        assert!(model.gaps && !read(MODEL).unwrap().gaps);
    }

    #[test]
    fn marks_and_blank_lines_of_editors_do_not_matter_and_gzip_is_named() {
        let text = format!("\u{FEFF}{}", MODEL.replacen("noise before\n", "", 1)).replace('\n', "\r\n\r\n");
        assert_eq!(read(&text).unwrap().vocabulary(), 5);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0x1F, 0x8B, 8, 0, 0, 0]).unwrap();
        assert!(NGram::read(file.path()).unwrap_err().to_string().contains("gunzip"));
    }

    #[test]
    fn broken_files_are_refused_by_line() {
        for (from, to, words) in [
            ("\\data\\", "\\date\\", "found the end of the file"),
            ("ngram 2=4", "ngram 2=five", "line 4: expected `ngram ORDER=COUNT`"),
            ("ngram 2=4", "ngram 7=4", "orders from 1"),
            ("ngram 2=4", "ngram 2=5", "line 20: expected a finite number, 2 word(s)"),
            ("ngram 2=4", "ngram 2=3", "line 18: expected `\\3-grams:`"),
            ("-0.6\ta b", "-0.6\ta c", "`c` is not among the 1-grams"),
            ("-0.6\ta b", "x\ta b", "expected a finite number"),
            ("-0.6\ta b", "-inf\ta b", "expected a finite number"),
            ("-0.6\ta b", "0.6\ta b", "line 16: expected log10 p of at most 0"),
            ("a b\t-0.05", "a b\tinf", "expected a finite number"),
            ("-0.9\tb\t", "-0.9\ta\t", "`a` twice"),
            ("-0.9\tb\t-0.2", "-0.9\tb\t-0.2 7", "expected a finite number, 1 word(s)"),
            ("\\end\\", "", "found the end of the file"),
        ] {
            assert!(MODEL.contains(from));
            let error = read(&MODEL.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("ARPA"), "{to}: {error}");
        }
    }
}
