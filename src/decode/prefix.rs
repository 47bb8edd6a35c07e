//! The prefixes of a beam search: a tree of texts, one label longer at every step.

use std::cmp::Ordering;

use super::beam::{BeamOptions, Hypothesis};
use crate::labels::Labels;
use crate::lm::{History, NGram};

const LN_10: f64 = std::f64::consts::LN_10;

/// See [`super::BeamSearch::run`]; `words` is the sorted lexicon, empty without one.
pub(super) fn search(
    log_p: &[f32],
    labels: &Labels,
    lm: Option<&NGram>,
    words: &[Box<str>],
    options: &BeamOptions,
    count: usize,
) -> Vec<Hypothesis> {
    let mut search = Search {
        labels,
        lm,
        options,
        space: (0..labels.count()).find(|&k| labels.symbol(k) == Some(" ")),
        nodes: vec![Node::root(lm, words.len())],
        words,
        touched: Vec::new(),
    };
    let mut beam = vec![0];
    for frame in log_p.chunks_exact(labels.count()) {
        search.frame(frame, &mut beam);
    }
    search.finish(&beam, count)
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
        // A new prefix that cannot reach the beam's worst member, were that to see a blank, is not tried. To one
        // that is in the beam every alignment adds.
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
                if label == self.labels.blank || p == f64::NEG_INFINITY {
                    continue;
                }
                if score + p >= floor || self.leads_to_the_beam(node, label) {
                    self.emit(node, label, p, total);
                }
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

    /// Whether the label after a prefix gives a text that the beam has: the prefix itself, or a longer one.
    fn leads_to_the_beam(&self, node: usize, label: usize) -> bool {
        let Node { label: last, children, .. } = &self.nodes[node];
        let child = children.iter().find(|(l, _)| *l == label);
        *last == label || child.is_some_and(|&(_, child)| self.nodes[child].acoustic() > f64::NEG_INFINITY)
    }

    /// Lets a label follow a prefix.
    fn emit(&mut self, node: usize, label: usize, p: f64, total: f64) {
        let Node { label: last, label_last, blank, .. } = self.nodes[node];
        if label == last {
            // The same label again is the same letter, unless a blank lies between.
            self.add(node, label_last + p, false);
        }
        if self.space == Some(label) && self.nodes[node].open == 0 {
            // No text begins with a space, or has two in a row.
            return;
        }
        if label == last {
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

    fn texts<'n>(&self, nodes: impl Iterator<Item = &'n usize>) -> Vec<Hypothesis> {
        let hypothesis = |&node: &usize| {
            let (language, _) = self.finished(node)?;
            let (text, acoustic) = (self.text(node).trim_end().to_owned(), self.nodes[node].acoustic());
            Some(Hypothesis { text, score: acoustic + language, acoustic, language })
        };
        nodes.filter_map(hypothesis).collect()
    }

    fn finish(&self, beam: &[usize], count: usize) -> Vec<Hypothesis> {
        let whole = |node: &&usize| self.space != Some(self.nodes[**node].label);
        let mut found = self.texts(beam.iter().filter(whole));
        if found.is_empty() {
            // Better the texts of those that a space follows than none.
            found = self.texts(beam.iter());
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(count);
        found
    }
}

pub(super) fn log_add(a: f64, b: f64) -> f64 {
    let (top, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { top } else { top + (low - top).exp().ln_1p() }
}
