//! Builds a small n-gram model: interpolated, modified Kneser-Ney (Chen and Goodman, 1998, section 4.3), as
//! KenLM's `lmplz` estimates it (Heafield et al., 2013).
//!
//! Of the highest order the counts are those of the text; of the others, how many different words stand before
//! an n-gram (its count where it begins a sentence, before which nothing stands). With discounts D_1, D_2, D_3+
//! by count, a(h w) the count and N_k(h) the number of words with count k after h,
//!
//! p(w | h) = (a(h w) - D(a)) / sum over x of a(h x) + g(h) p(w | h'), g(h) = sum over k of D_k N_k(h) / sum of a(h x)
//!
//! Below single words lies the even distribution over the vocabulary; `<unk>` gets its share of it. Word counts of
//! a larger text, where given, take the place of the single words' counts and widen the vocabulary.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use super::ngram::{END, MAX_ORDER, START, UNKNOWN};
use crate::error::{Error, Result};

/// Discounts where the counts of a small text give none (those of `lmplz --discount_fallback`).
const FALLBACK: [f64; 3] = [0.5, 1.0, 1.5];

const UNK: u32 = 0;
const BOS: u32 = 1;
const EOS: u32 = 2;

/// What was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// The model in the ARPA format.
    pub arpa: String,
    /// n-grams of every order.
    pub counts: Vec<usize>,
    /// Discounts of every order, and whether they are the fallback.
    pub discounts: Vec<([f64; 3], bool)>,
}

/// Builds a model of `order` from sentences (words between spaces) and word counts of another text.
///
/// # Errors
/// When the order is not one that can be built, or there is no sentence.
pub fn build<'a>(
    sentences: impl Iterator<Item = &'a str>,
    word_counts: &[(String, u64)],
    order: usize,
) -> Result<Built> {
    if !(1..=MAX_ORDER).contains(&order) {
        return Err(Error::invalid(format!("--order: expected 1 to {MAX_ORDER}, found {order}")));
    }
    let mut words: Vec<String> = [UNKNOWN, START, END].map(String::from).to_vec();
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut number_of = |word: &str, words: &mut Vec<String>| -> Result<u32> {
        if let Some(&number) = numbers.get(word) {
            return Ok(number);
        }
        let number = u32::try_from(words.len()).map_err(|_| Error::invalid("too many words"))?;
        numbers.insert(word.to_owned(), number);
        words.push(word.to_owned());
        Ok(number)
    };
    // Sorted maps: the same text gives the same file.
    let mut raw: Vec<BTreeMap<Vec<u32>, u64>> = vec![BTreeMap::new(); order];
    let mut any = false;
    for sentence in sentences {
        let mut line = vec![BOS];
        for word in sentence.split_whitespace() {
            line.push(number_of(word, &mut words)?);
        }
        if line.len() == 1 {
            continue;
        }
        line.push(EOS);
        any = true;
        for (n, counts) in (1..=order).zip(&mut raw) {
            for gram in line.windows(n) {
                *counts.entry(gram.to_vec()).or_default() += 1;
            }
        }
    }
    if !any {
        return Err(Error::invalid("expected at least one line with words in the text, found none"));
    }
    let mut adjusted: Vec<BTreeMap<Vec<u32>, u64>> = Vec::with_capacity(order);
    for n in 1..=order {
        if n == order {
            adjusted.push(raw[n - 1].clone());
            continue;
        }
        let mut counts: BTreeMap<Vec<u32>, u64> = BTreeMap::new();
        for gram in raw[n].keys() {
            *counts.entry(gram[1..].to_vec()).or_default() += 1;
        }
        for (gram, &count) in raw[n - 1].iter().filter(|(gram, _)| gram[0] == BOS) {
            counts.insert(gram.clone(), count);
        }
        adjusted.push(counts);
    }
    adjusted[0].remove([BOS].as_slice());
    if !word_counts.is_empty() {
        // Ends of sentences keep their rate a word of the text.
        let text: u64 = raw[0].iter().filter(|(gram, _)| gram[0] > EOS).map(|(_, count)| count).sum();
        let ends = raw[0].get([EOS].as_slice()).copied().unwrap_or(1);
        let mut merged: BTreeMap<Vec<u32>, u64> = BTreeMap::new();
        let mut total = 0;
        for (word, count) in word_counts {
            *merged.entry(vec![number_of(word, &mut words)?]).or_default() += count;
            total += count;
        }
        for (gram, &count) in raw[0].iter().filter(|(gram, _)| gram[0] > EOS) {
            merged.entry(gram.clone()).or_insert(count);
        }
        let scaled = u128::from(total) * u128::from(ends) / u128::from(text.max(1));
        merged.insert(vec![EOS], u64::try_from(scaled).unwrap_or(u64::MAX).max(1));
        adjusted[0] = merged;
    }
    estimate(&words, &adjusted)
}

struct Context {
    total: f64,
    /// Words after it by count 1, 2, 3 and more.
    kinds: [f64; 3],
}

fn estimate(words: &[String], adjusted: &[BTreeMap<Vec<u32>, u64>]) -> Result<Built> {
    let order = adjusted.len();
    let vocabulary = words.len() - 1; // <s> is never predicted
    let mut discounts = Vec::with_capacity(order);
    let mut probabilities: Vec<BTreeMap<&[u32], f64>> = Vec::with_capacity(order);
    let mut weights: Vec<HashMap<&[u32], f64>> = Vec::with_capacity(order);
    for (n, counts) in adjusted.iter().enumerate() {
        let (discount, fallback) = discounts_of(counts);
        let mut contexts: HashMap<&[u32], Context> = HashMap::new();
        for (gram, &count) in counts {
            let context = contexts.entry(&gram[..n]).or_insert(Context { total: 0.0, kinds: [0.0; 3] });
            context.total += count as f64;
            context.kinds[kind(count)] += 1.0;
        }
        let weight: HashMap<&[u32], f64> = contexts
            .iter()
            .map(|(&context, c)| {
                let freed: f64 = c.kinds.iter().zip(discount).map(|(n, d)| n * d).sum();
                (context, freed / c.total)
            })
            .collect();
        let mut level: BTreeMap<&[u32], f64> = BTreeMap::new();
        for (gram, &count) in counts {
            let context = &gram[..n];
            let lower = match n {
                0 => 1.0 / vocabulary as f64,
                _ => probabilities[n - 1].get(&gram[1..]).copied().unwrap_or(0.0),
            };
            let own = (count as f64 - discount[kind(count)]).max(0.0) / contexts[context].total;
            level.insert(gram, own + weight[context] * lower);
        }
        probabilities.push(level);
        weights.push(weight);
        discounts.push((discount, fallback));
    }
    let unknown = weights[0].get([].as_slice()).copied().unwrap_or(0.0) / vocabulary as f64;
    let mut counts: Vec<usize> = probabilities.iter().map(BTreeMap::len).collect();
    counts[0] += 2; // <unk> and <s>
    let mut arpa = String::from("\\data\\\n");
    // Writing to a String cannot fail.
    for (n, count) in counts.iter().enumerate() {
        let _ = writeln!(arpa, "ngram {}={count}", n + 1);
    }
    for (n, level) in probabilities.iter().enumerate() {
        let _ = writeln!(arpa, "\n\\{}-grams:", n + 1);
        let backoff = |gram: &[u32]| weights.get(n + 1).and_then(|w| w.get(gram)).map(|w| w.log10());
        let line = |arpa: &mut String, log_p: f64, gram: &[u32]| {
            let text: Vec<&str> = gram.iter().map(|&w| words[w as usize].as_str()).collect();
            let _ = match backoff(gram) {
                Some(weight) => writeln!(arpa, "{log_p:.7}\t{}\t{weight:.7}", text.join(" ")),
                None => writeln!(arpa, "{log_p:.7}\t{}", text.join(" ")),
            };
        };
        if n == 0 {
            line(&mut arpa, unknown.log10(), &[UNK]);
            line(&mut arpa, -99.0, &[BOS]);
        }
        for (gram, p) in level {
            line(&mut arpa, p.log10(), gram);
        }
    }
    arpa.push_str("\n\\end\\\n");
    Ok(Built { arpa, counts, discounts })
}

fn kind(count: u64) -> usize {
    if count >= 3 { 2 } else { usize::from(count == 2) }
}

/// Chen and Goodman's estimate from the numbers of n-grams with counts 1 to 4, or the fallback.
fn discounts_of(counts: &BTreeMap<Vec<u32>, u64>) -> ([f64; 3], bool) {
    let mut of = [0f64; 5];
    for &count in counts.values() {
        if let Some(n) = usize::try_from(count).ok().and_then(|count| of.get_mut(count)) {
            *n += 1.0;
        }
    }
    if of[1..].contains(&0.0) {
        return (FALLBACK, true);
    }
    let y = of[1] / (of[1] + 2.0 * of[2]);
    let estimate = [1, 2, 3].map(|k| k as f64 - (k + 1) as f64 * y * of[k + 1] / of[k]);
    let usable = estimate.iter().zip([1.0, 2.0, 3.0]).all(|(d, most)| *d >= 0.0 && *d <= most);
    if usable { (estimate, false) } else { (FALLBACK, true) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::NGram;

    const TEXT: &str = "the cat sat on the mat\nthe dog sat on the log\na cat and a dog\nthe cat ate\n\nthe mat the cat sat on";

    fn model(built: &Built) -> NGram {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &built.arpa).unwrap();
        NGram::read(file.path()).unwrap()
    }

    /// After every history, seen or not, the vocabulary's probabilities sum to one.
    #[test]
    fn probabilities_sum_to_one_after_every_history() {
        let counts: Vec<(String, u64)> =
            [("the", 900), ("cat", 20), ("zebra", 7)].map(|(w, n)| (w.to_owned(), n)).to_vec();
        for order in 1..=4 {
            for counts in [&counts[..0], &counts] {
                let built = build(TEXT.lines(), counts, order).unwrap();
                let model = model(&built);
                assert_eq!(model.order(), order);
                let words: Vec<String> = model.words().map(String::from).collect();
                assert_eq!(words.len(), if counts.is_empty() { 10 } else { 11 });
                for history in ["", "the", "the cat", "sat on the", "zebra", "the the mat", "log"] {
                    let mut state = model.start();
                    for word in history.split_whitespace() {
                        state = model.score(&state, word).1;
                    }
                    let all = words.iter().map(|w| f64::from(model.score(&state, w).0).exp());
                    let rest = f64::from(model.score(&state, UNKNOWN).0).exp()
                        + f64::from(model.score_end(&state)).exp();
                    let total = all.sum::<f64>() + rest;
                    assert!((total - 1.0).abs() < 1e-5, "order {order}, after `{history}`: {total}");
                }
            }
        }
    }

    /// A bigram model small enough for the formula by hand: counts with the fallback's discounts.
    #[test]
    fn a_bigram_model_is_the_formula() {
        let built = build(["a b", "a b", "a c"].into_iter(), &[], 2).unwrap();
        assert!(built.discounts.iter().all(|(d, fallback)| *fallback && *d == FALLBACK));
        assert_eq!(built.counts, [6, 5]); // <unk> <s> a b c </s>; <s>a ab ac b</s> c</s>
        let model = model(&built);
        // Single words by how many words stand before them: a 1, b 1, c 1, </s> 2; total 5, freed 0.5 * 3 + 1.
        let single = |count: f64, discount: f64| (count - discount) / 5.0 + 2.5 / 5.0 / 5.0;
        let (history_a, b) = (model.score(&model.start(), "a").1, single(1.0, 0.5));
        // After a: b twice, c once; freed (1.0 + 0.5) / 3.
        let expected = (2.0 - 1.0) / 3.0 + 1.5 / 3.0 * b;
        let found = f64::from(model.score(&history_a, "b").0).exp();
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }

    /// Transcripts of the committed corpus, in the order of their files.
    fn transcripts() -> Vec<String> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/LibriSpeech/train");
        let mut pending = vec![root];
        let mut files = Vec::new();
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => pending.push(path),
                    false if path.to_string_lossy().ends_with(".trans.txt") => files.push(path),
                    false => {}
                }
            }
        }
        files.sort();
        let lines = files
            .iter()
            .flat_map(|f| std::fs::read_to_string(f).unwrap().lines().map(String::from).collect::<Vec<_>>());
        lines.map(|line| line.split_once(' ').unwrap().1.to_lowercase()).collect()
    }

    /// Against probabilities computed by the definition (`tests/golden/lm/make.py`).
    #[test]
    fn probabilities_and_discounts_equal_the_definition() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/lm/kneser_ney.json")).unwrap();
        let texts = transcripts();
        assert_eq!(texts.len() as u64, golden["sentences"].as_u64().unwrap());
        let built = build(texts.iter().map(String::as_str), &[], 3).unwrap();
        for (ours, golden) in built.discounts.iter().zip(golden["discounts"].as_array().unwrap()) {
            assert_eq!(ours.1, golden[1].as_bool().unwrap());
            for (ours, golden) in ours.0.iter().zip(golden[0].as_array().unwrap()) {
                assert!((ours - golden.as_f64().unwrap()).abs() < 1e-12);
            }
        }
        assert!(
            built.discounts.iter().any(|(_, fallback)| !fallback),
            "the corpus is large enough to estimate some"
        );
        let model = model(&built);
        let samples = golden["samples"].as_array().unwrap();
        assert!(samples.len() > 100);
        for sample in samples {
            let mut history = model.start();
            for word in sample["before"].as_array().unwrap() {
                history = model.score(&history, word.as_str().unwrap()).1;
            }
            let ours = match sample["word"].as_str().unwrap() {
                "</s>" => model.score_end(&history),
                word => model.score(&history, word).0,
            };
            let (ours, expected) =
                (f64::from(ours) / std::f64::consts::LN_10, sample["log10"].as_f64().unwrap());
            // The file holds seven decimals of every order's part.
            assert!((ours - expected).abs() < 2e-6, "{sample}: {ours}");
        }
    }

    #[test]
    fn nothing_to_count_is_an_error() {
        assert!(build(["", "  "].into_iter(), &[], 3).unwrap_err().to_string().contains("at least one line"));
        assert!(build(["a"].into_iter(), &[], 7).unwrap_err().to_string().contains("--order"));
    }
}
