//! CTC prefix beam search (Hannun et al., 2014) with an n-gram model over words.
//!
//! A prefix is a text; its probability sums every alignment that spells it, kept apart by whether the last
//! frame was a blank. A finished word adds `weight * log10 p(word | words before) + bonus`: the scale of
//! OpenSeq2Seq's `ctc_beam_search_decoder.cpp`, where the weight multiplies KenLM's base-10 logarithm and
//! everything else is natural. As there, the last word is scored at the end and the sentence's end is not.
//! A space at the start, or after another, leaves the text as it is.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::lm::{History, NGram};

const LN_10: f64 = std::f64::consts::LN_10;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeamOptions {
    /// Prefixes kept after every frame.
    pub beam: usize,
    /// Factor of log10 p of the n-gram model.
    pub lm_weight: f64,
    /// Added for every word.
    pub word_bonus: f64,
    /// Only words that the n-gram model has.
    pub lexicon: bool,
}

impl Default for BeamOptions {
    /// The paper's search: beam 256, weight 2.0, bonus 1.5.
    fn default() -> Self {
        Self { beam: 256, lm_weight: 2.0, word_bonus: 1.5, lexicon: false }
    }
}

/// A text and what it scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// The text, single spaces between words.
    pub text: String,
    /// `acoustic + language`: what the search ranks by.
    pub score: f64,
    /// ln of the sum over the alignments that the beam kept.
    pub acoustic: f64,
    /// Weighted scores of the n-gram model, and word bonuses.
    pub language: f64,
}

/// A search that is ready to run.
#[derive(Debug, Clone)]
pub struct BeamSearch {
    options: BeamOptions,
    lm: Option<NGram>,
    /// The lexicon, sorted; empty without one.
    words: Vec<Box<str>>,
}

impl BeamSearch {
    /// A search with the words of a language model, or with the labels alone.
    ///
    /// # Errors
    /// When an option cannot work: a beam of nothing, a weight that is no number, a lexicon without a model.
    pub fn new(options: BeamOptions, lm: Option<NGram>) -> Result<Self> {
        if options.beam == 0 {
            return Err(Error::invalid("--beam: expected at least 1, found 0"));
        }
        for (name, value) in [("--lm-weight", options.lm_weight), ("--word-bonus", options.word_bonus)] {
            if !value.is_finite() {
                return Err(Error::invalid(format!("{name}: expected a finite number, found {value}")));
            }
        }
        let mut words: Vec<Box<str>> = match (&lm, options.lexicon) {
            (Some(lm), true) => lm.words().map(Box::from).collect(),
            (None, true) => return Err(Error::invalid("--lexicon: its words are those of --lm; give one")),
            _ => Vec::new(),
        };
        words.sort_unstable();
        Ok(Self { options, lm, words })
    }

    /// How it searches.
    pub fn options(&self) -> &BeamOptions {
        &self.options
    }

    /// The `count` best texts of one utterance, best first. `log_p` is [frames, labels]: ln softmax of the
    /// logits. With a lexicon that spells nothing of the beam, there may be none.
    pub fn run(&self, log_p: &[f32], labels: &Labels, count: usize) -> Vec<Hypothesis> {
        let lm = self.lm.as_ref();
        let mut search = Search {
            labels,
            lm,
            options: &self.options,
            space: (0..labels.count()).find(|&k| labels.symbol(k) == Some(" ")),
            nodes: vec![Node::root(lm, self.words.len())],
            words: &self.words,
            touched: Vec::new(),
        };
        let mut beam = vec![0];
        for frame in log_p.chunks_exact(labels.count()) {
            search.frame(frame, &mut beam);
        }
        search.finish(&beam, count)
    }
}

/// A prefix: its parent's text and one label more.
#[derive(Debug, Clone)]
struct Node {
    parent: usize,
    label: usize,
    children: Vec<(usize, usize)>,
    /// ln probability of the alignments that end in a blank, and of the others; of this frame and the next.
    blank: f64,
    label_last: f64,
    next_blank: f64,
    next_label: f64,
    /// Scores of the words finished so far.
    language: f64,
    history: History,
    /// Bytes of the unfinished word.
    open: u32,
    /// Words of the lexicon that begin with it.
    range: (usize, usize),
}

impl Node {
    fn root(lm: Option<&NGram>, words: usize) -> Self {
        Self {
            parent: 0,
            label: usize::MAX,
            children: Vec::new(),
            blank: 0.0,
            label_last: f64::NEG_INFINITY,
            next_blank: f64::NEG_INFINITY,
            next_label: f64::NEG_INFINITY,
            language: 0.0,
            history: lm.map(NGram::start).unwrap_or_default(),
            open: 0,
            range: (0, words),
        }
    }

    fn acoustic(&self) -> f64 {
        log_add(self.blank, self.label_last)
    }

    fn score(&self) -> f64 {
        self.acoustic() + self.language
    }
}

struct Search<'a> {
    labels: &'a Labels,
    lm: Option<&'a NGram>,
    options: &'a BeamOptions,
    space: Option<usize>,
    nodes: Vec<Node>,
    /// The lexicon, sorted; empty without one.
    words: &'a [Box<str>],
    /// Nodes with a probability in the next frame.
    touched: Vec<usize>,
}

impl Search<'_> {
    fn frame(&mut self, log_p: &[f32], beam: &mut Vec<usize>) {
        let blank = f64::from(log_p[self.labels.blank]);
        // What cannot reach the beam's worst member, were it to see a blank, is not tried.
        let floor = if beam.len() < self.options.beam {
            f64::NEG_INFINITY
        } else {
            let worst = beam.last().map_or(f64::NEG_INFINITY, |&node| self.nodes[node].score());
            worst + blank - self.options.word_bonus.max(0.0)
        };
        for &node in beam.iter() {
            let (total, score) = (self.nodes[node].acoustic(), self.nodes[node].score());
            self.add(node, total + blank, true);
            for (label, &p) in log_p.iter().enumerate() {
                let p = f64::from(p);
                if label == self.labels.blank || score + p < floor || p == f64::NEG_INFINITY {
                    continue;
                }
                self.emit(node, label, p, total);
            }
        }
        let mut next = std::mem::take(&mut self.touched);
        for &node in beam.iter() {
            let node = &mut self.nodes[node];
            (node.blank, node.label_last) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
        }
        for &node in &next {
            let node = &mut self.nodes[node];
            (node.blank, node.label_last) = (node.next_blank, node.next_label);
            (node.next_blank, node.next_label) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
        }
        // Ties go to the older prefix, so that the order never depends on the way here.
        let better = |nodes: &[Node], a: usize, b: usize| -> Ordering {
            nodes[b].score().total_cmp(&nodes[a].score()).then(a.cmp(&b))
        };
        if next.len() > self.options.beam {
            next.select_nth_unstable_by(self.options.beam, |&a, &b| better(&self.nodes, a, b));
            for &gone in &next[self.options.beam..] {
                let node = &mut self.nodes[gone];
                (node.blank, node.label_last) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
            }
            next.truncate(self.options.beam);
        }
        next.sort_unstable_by(|&a, &b| better(&self.nodes, a, b));
        *beam = next;
    }

    /// Lets a label follow a prefix.
    fn emit(&mut self, node: usize, label: usize, p: f64, total: f64) {
        let Node { label: last, label_last, blank, .. } = self.nodes[node];
        if self.space == Some(label) && self.nodes[node].open == 0 {
            // At the start, or after a space: the text stays. Without a word to end there is nothing to add.
            let fresh = node == 0;
            self.add(node, total + p, fresh);
            return;
        }
        if label == last {
            // The same label again is the same letter, unless a blank lies between.
            self.add(node, label_last + p, false);
            if let Some(child) = self.child(node, label) {
                self.add(child, blank + p, false);
            }
        } else if let Some(child) = self.child(node, label) {
            self.add(child, total + p, false);
        }
    }

    fn add(&mut self, node: usize, p: f64, blank: bool) {
        if p == f64::NEG_INFINITY {
            return;
        }
        let target = &mut self.nodes[node];
        if target.next_blank == f64::NEG_INFINITY && target.next_label == f64::NEG_INFINITY {
            self.touched.push(node);
        }
        let sum = if blank { &mut target.next_blank } else { &mut target.next_label };
        *sum = log_add(*sum, p);
    }

    /// The prefix with one label more; `None` when the lexicon has no such word.
    fn child(&mut self, node: usize, label: usize) -> Option<usize> {
        if let Some(&(_, child)) = self.nodes[node].children.iter().find(|(l, _)| *l == label) {
            return Some(child);
        }
        let symbol = self.labels.symbol(label)?;
        let parent = &self.nodes[node];
        let mut child = Node {
            parent: node,
            label,
            children: Vec::new(),
            blank: f64::NEG_INFINITY,
            label_last: f64::NEG_INFINITY,
            next_blank: f64::NEG_INFINITY,
            next_label: f64::NEG_INFINITY,
            language: parent.language,
            history: parent.history,
            open: parent.open,
            range: parent.range,
        };
        if self.space == Some(label) {
            let (language, history) = self.finished(node)?;
            (child.language, child.history) = (language, history);
            (child.open, child.range) = (0, (0, self.words.len()));
        } else {
            if self.options.lexicon {
                child.range = self.narrow(parent.range, parent.open as usize, symbol)?;
            }
            child.open += u32::try_from(symbol.len()).unwrap_or(0);
        }
        self.nodes.push(child);
        let number = self.nodes.len() - 1;
        self.nodes[node].children.push((label, number));
        Some(number)
    }

    /// Language score and history once the open word is finished; `None` when it is no word of the lexicon.
    fn finished(&self, node: usize) -> Option<(f64, History)> {
        let Node { language, history, open, range, .. } = self.nodes[node];
        if open == 0 {
            return Some((language, history));
        }
        if self.options.lexicon && self.words.get(range.0).is_none_or(|word| word.len() != open as usize) {
            return None;
        }
        let Some(lm) = self.lm else { return Some((language + self.options.word_bonus, history)) };
        let text = self.text(node);
        let word = text.rsplit(' ').next().unwrap_or_default();
        let (score, history) = lm.score(&history, word);
        let score = self.options.lm_weight * f64::from(score) / LN_10 + self.options.word_bonus;
        Some((language + score, history))
    }

    /// Words of `range`, equal in their first `open` bytes, that go on with `symbol`.
    fn narrow(&self, range: (usize, usize), open: usize, symbol: &str) -> Option<(usize, usize)> {
        let words = &self.words[range.0..range.1];
        let rest = |word: &str| -> Ordering {
            let rest = word.as_bytes().get(open..).unwrap_or_default();
            rest[..rest.len().min(symbol.len())].cmp(symbol.as_bytes())
        };
        let from = words.partition_point(|word| rest(word) == Ordering::Less);
        let to = words.partition_point(|word| rest(word) != Ordering::Greater);
        (from < to).then_some((range.0 + from, range.0 + to))
    }

    fn text(&self, mut node: usize) -> String {
        let mut labels = Vec::new();
        while node != 0 {
            labels.push(self.nodes[node].label);
            node = self.nodes[node].parent;
        }
        labels.iter().rev().filter_map(|&label| self.labels.symbol(label)).collect()
    }

    fn finish(&self, beam: &[usize], count: usize) -> Vec<Hypothesis> {
        let mut found: Vec<Hypothesis> = Vec::new();
        for &node in beam {
            let Some((language, _)) = self.finished(node) else { continue };
            let text = self.text(node).trim_end().to_owned();
            let acoustic = self.nodes[node].acoustic();
            // "a" and "a " are one text by two ways.
            match found.iter_mut().find(|h| h.text == text) {
                Some(same) => {
                    same.acoustic = log_add(same.acoustic, acoustic);
                    same.score = same.acoustic + same.language;
                }
                None => found.push(Hypothesis { text, score: acoustic + language, acoustic, language }),
            }
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(count);
        found
    }
}

fn log_add(a: f64, b: f64) -> f64 {
    let (top, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { top } else { top + (low - top).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Labels: space, a, b; the blank is 3.
    fn labels() -> Labels {
        Labels { symbols: [" ", "a", "b"].map(String::from).to_vec(), blank: 3 }
    }

    /// ln softmax of numbers that look random and are the same everywhere.
    fn log_p(frames: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut rows = Vec::new();
        for _ in 0..frames {
            let row: Vec<f64> = (0..4)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) as f64 / 2f64.powi(31) * 3.0
                })
                .collect();
            let sum = row.iter().map(|z| z.exp()).sum::<f64>().ln();
            rows.extend(row.iter().map(|z| (z - sum) as f32));
        }
        rows
    }

    /// ln p of every text, over all 4^frames alignments.
    fn every_text(log_p: &[f32], labels: &Labels) -> BTreeMap<String, f64> {
        let frames = log_p.len() / 4;
        let mut texts: BTreeMap<String, f64> = BTreeMap::new();
        for path in 0..4usize.pow(u32::try_from(frames).unwrap()) {
            let at = |t: usize| path >> (2 * t) & 3;
            let spelled: String = (0..frames)
                .filter(|&t| t == 0 || at(t) != at(t - 1))
                .filter_map(|t| labels.symbol(at(t)))
                .collect();
            let text = spelled.split_whitespace().collect::<Vec<_>>().join(" ");
            let p: f64 = (0..frames).map(|t| f64::from(log_p[t * 4 + at(t)])).sum();
            let sum = texts.entry(text).or_insert(f64::NEG_INFINITY);
            *sum = log_add(*sum, p);
        }
        texts
    }

    const ALL: BeamOptions = BeamOptions { beam: 100_000, lm_weight: 2.0, word_bonus: 0.0, lexicon: false };

    fn beam_search(
        log_p: &[f32],
        labels: &Labels,
        lm: Option<NGram>,
        options: &BeamOptions,
    ) -> Vec<Hypothesis> {
        BeamSearch::new(*options, lm).unwrap().run(log_p, labels, usize::MAX)
    }

    #[test]
    fn a_wide_beam_finds_the_probability_of_every_text() {
        let labels = labels();
        for seed in 1..4 {
            let log_p = log_p(6, seed);
            let texts = every_text(&log_p, &labels);
            let found = beam_search(&log_p, &labels, None, &ALL);
            assert_eq!(found.len(), texts.len());
            assert!(found.windows(2).all(|w| w[0].score >= w[1].score));
            for h in &found {
                assert!((h.acoustic - texts[&h.text]).abs() < 1e-9, "{h:?} {}", texts[&h.text]);
            }
            // A narrow beam keeps the order of what it keeps, and never claims more than there is.
            for h in beam_search(&log_p, &labels, None, &BeamOptions { beam: 8, ..ALL }) {
                assert!(h.acoustic <= texts[&h.text] + 1e-9);
            }
        }
        assert_eq!(beam_search(&[], &labels, None, &ALL)[0].text, "");
    }

    fn model() -> NGram {
        let built = crate::lm::build(["a ab", "ab ba a", "a a"].into_iter(), &[], 3).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &built.arpa).unwrap();
        NGram::read(file.path()).unwrap()
    }

    #[test]
    fn words_are_weighed_by_the_model() {
        let (labels, lm, log_p) = (labels(), model(), log_p(6, 5));
        let options = BeamOptions { word_bonus: 1.5, ..ALL };
        let texts = every_text(&log_p, &labels);
        let found = beam_search(&log_p, &labels, Some(lm.clone()), &options);
        assert_eq!(found.len(), texts.len());
        for h in &found {
            let (mut history, mut language) = (lm.start(), 0.0);
            for word in h.text.split_whitespace() {
                let (score, next) = lm.score(&history, word);
                language += 2.0 * f64::from(score) / LN_10 + 1.5;
                history = next;
            }
            assert!((h.language - language).abs() < 1e-6, "{h:?} {language}");
            assert!((h.score - texts[&h.text] - language).abs() < 1e-6);
        }
        let best =
            texts.keys().map(|t| found.iter().find(|h| h.text == *t).unwrap().score).fold(f64::MIN, f64::max);
        assert!((found[0].score - best).abs() < 1e-12);
    }

    #[test]
    fn a_lexicon_admits_its_words_only() {
        let (labels, lm, log_p) = (labels(), model(), log_p(7, 6));
        let options = BeamOptions { lexicon: true, ..ALL };
        let found = beam_search(&log_p, &labels, Some(lm.clone()), &options);
        let words = ["a", "ab", "ba"];
        let allowed = |text: &str| text.split_whitespace().all(|w| words.contains(&w));
        assert!(found.len() > 5 && found.iter().all(|h| allowed(&h.text)), "{found:?}");
        let texts = every_text(&log_p, &labels);
        assert_eq!(found.len(), texts.keys().filter(|t| allowed(t)).count());
    }
}
