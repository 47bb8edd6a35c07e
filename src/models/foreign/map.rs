//! A mapping file: where the tensors of a network lie in a file with names of its own.
//!
//! ```toml
//! ignore = ["*.num_batches_tracked"]        # tensors of the file that are no weights; * stands for anything
//!
//! [[tensor]]
//! ours = "blocks.{b}.layers.{r}.weight"     # a letter in braces stands for any number
//! theirs = "encoder.{b}.conv{2r+1}.kernel"  # and may be multiplied and shifted here
//! permute = [2, 1, 0]                       # which of their axes is our first, second and third
//! ```
//!
//! The first rule whose `ours` fits a tensor of the network says where it is. Axes of length 1 may be there or not. Every
//! tensor of the network and of the file has to be named by a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::axes;
use super::file::Found;
use super::take::{Pair, Taker, Tensors, few};
use crate::error::{Error, Result};
use crate::files;
use crate::models::parameters::TensorShape;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    ignore: Vec<String>,
    tensor: Vec<Line>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    ours: String,
    theirs: String,
    permute: Option<Vec<usize>>,
}

/// A parsed mapping file.
#[derive(Debug)]
pub(super) struct Map {
    ignore: Vec<String>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    ours: Vec<Part>,
    theirs: Vec<Part>,
    permute: Option<Vec<usize>>,
}

/// A piece of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// `factor` times the number of that name, plus `shift`.
    Number {
        name: String,
        factor: usize,
        shift: i64,
    },
}

impl Map {
    /// Reads a mapping file.
    ///
    /// # Errors
    /// With the rule that cannot be understood.
    pub fn read(path: &Path) -> Result<Self> {
        let text = files::read_text(path)?;
        let file: File =
            toml::from_str(&text).map_err(|e| Error::format(path, format!("not a mapping file: {e}")))?;
        let rules = file.tensor.into_iter().map(Rule::of).collect::<Result<_, _>>();
        Ok(Self { ignore: file.ignore, rules: rules.map_err(|e| Error::format(path, e))? })
    }

    /// The tensors of the network under our names.
    ///
    /// # Errors
    /// Names tensors of the network without a rule, rules without a tensor, and tensors that are missing, misshapen or
    /// unknown.
    pub fn translate(
        &self,
        found: Found,
        network: &[TensorShape],
        notes: &mut Vec<String>,
    ) -> Result<Tensors> {
        let mut taker = Taker::new(found);
        let ignored = taker.leave_out(|name| self.ignore.iter().any(|pattern| fits(pattern, name)));
        if ignored > 0 {
            notes.push(format!("{ignored} tensors ignored, as the mapping file says"));
        }
        let (mut used, mut without) = (BTreeSet::new(), Vec::new());
        for tensor in network {
            let rule = self.rules.iter().enumerate().find_map(|(number, rule)| {
                let numbers = capture(&rule.ours, &tensor.name)?;
                Some((number, rule, numbers))
            });
            let Some((number, rule, numbers)) = rule else {
                without.push(format!("{} {:?}", tensor.name, tensor.shape));
                continue;
            };
            used.insert(number);
            let theirs = rule.theirs(&numbers)?;
            take(&mut taker, theirs, rule.permute.as_deref(), tensor);
        }
        let idle = self.rules.iter().enumerate().find(|(number, _)| !used.contains(number));
        if !without.is_empty() {
            let names = few(&without, "more");
            return Err(Error::invalid(format!("no rule of the mapping file says where these lie: {names}")));
        }
        if let Some((_, rule)) = idle {
            return Err(Error::invalid(format!("no tensor of the network has a name like {}", rule.text)));
        }
        taker.finish()
    }
}

/// Takes the tensor `name` of a file for `ours`.
fn take(taker: &mut Taker, name: String, permute: Option<&[usize]>, ours: &TensorShape) {
    let Some(shape) = taker.shape(&name).map(<[usize]>::to_vec) else {
        taker.take(&name, &ours.shape);
        return;
    };
    let order = permute.map_or_else(|| (0..shape.len()).collect(), <[usize]>::to_vec);
    if !axes::is_order(&order, shape.len()) {
        taker.refuse(&name, format!("permute = {order:?} does not order the axes of {shape:?}"));
        return;
    }
    let turned: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
    let long = |shape: &[usize]| shape.iter().copied().filter(|&length| length != 1).collect::<Vec<_>>();
    if long(&turned) != long(&ours.shape) {
        taker.refuse(&name, format!("expected {:?} of {}, found {turned:?}", ours.shape, ours.name));
        return;
    }
    taker.pair(Pair { theirs: name, shape, order, ours: ours.name.clone(), becomes: ours.shape.clone() });
}

impl Rule {
    fn of(line: Line) -> Result<Self, String> {
        let (ours, theirs) = (parts(&line.ours)?, parts(&line.theirs)?);
        let mut known = BTreeSet::new();
        for part in &ours {
            match part {
                Part::Number { factor: 1, shift: 0, name } if known.insert(name.clone()) => {}
                Part::Number { .. } => {
                    return Err(format!(
                        "ours = {:?}: expected each number once and plain, as {{b}}",
                        line.ours
                    ));
                }
                Part::Text(_) => {}
            }
        }
        for part in &theirs {
            if let Part::Number { name, .. } = part
                && !known.contains(name)
            {
                return Err(format!(
                    "theirs = {:?}: {{{name}}} does not occur in ours = {:?}",
                    line.theirs, line.ours
                ));
            }
        }
        Ok(Self { text: line.ours, ours, theirs, permute: line.permute })
    }

    /// Their name for these numbers.
    fn theirs(&self, numbers: &BTreeMap<String, usize>) -> Result<String> {
        let mut name = String::new();
        for part in &self.theirs {
            match part {
                Part::Text(text) => name += text,
                Part::Number { name: letter, factor, shift } => {
                    let number = numbers.get(letter).copied().unwrap_or_default();
                    let place = number.checked_mul(*factor).and_then(|n| i64::try_from(n).ok());
                    let place =
                        place.and_then(|n| n.checked_add(*shift)).filter(|&n| n >= 0).ok_or_else(|| {
                            Error::invalid(format!(
                                "the rule for {}: {letter} = {number} gives no place",
                                self.text
                            ))
                        })?;
                    name += &place.to_string();
                }
            }
        }
        Ok(name)
    }
}

/// Splits a pattern at its braces.
fn parts(pattern: &str) -> Result<Vec<Part>, String> {
    let wrong = |what: &str| format!("{pattern:?}: {{{what}}} is none of {{b}}, {{b+1}}, {{4b}}, {{4b+1}}");
    let mut parts = Vec::new();
    let mut rest = pattern;
    while let Some((text, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}').ok_or_else(|| wrong(after))?;
        let digits = inside.len() - inside.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (factor, inside_rest) = inside.split_at(digits);
        let end = inside_rest.find(['+', '-']).unwrap_or(inside_rest.len());
        let (name, shift) = inside_rest.split_at(end);
        let factor = if factor.is_empty() { Ok(1) } else { factor.parse() };
        let shift = if shift.is_empty() { Ok(0) } else { shift.parse() };
        let (Ok(factor), Ok(shift)) = (factor, shift) else { return Err(wrong(inside)) };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphabetic()) {
            return Err(wrong(inside));
        }
        parts.push(Part::Text(text.to_owned()));
        parts.push(Part::Number { name: name.to_owned(), factor, shift });
        rest = after;
    }
    parts.push(Part::Text(rest.to_owned()));
    Ok(parts)
}

/// The numbers in `name`, if it is like `pattern`.
fn capture(pattern: &[Part], name: &str) -> Option<BTreeMap<String, usize>> {
    let mut numbers = BTreeMap::new();
    let mut rest = name;
    for part in pattern {
        match part {
            Part::Text(text) => rest = rest.strip_prefix(text.as_str())?,
            Part::Number { name, .. } => {
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                let (digits, after) = rest.split_at(end);
                numbers.insert(name.clone(), digits.parse().ok()?);
                rest = after;
            }
        }
    }
    rest.is_empty().then_some(numbers)
}

/// Whether `name` is like `pattern`, where a star stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| fits(tail, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(ours: &str, theirs: &str) -> Result<Rule, String> {
        Rule::of(Line { ours: ours.to_owned(), theirs: theirs.to_owned(), permute: None })
    }

    #[test]
    fn numbers_go_from_our_names_to_theirs() {
        let rule = rule("blocks.{b}.layers.{r}.weight", "enc.{b+1}{r-1}/mconv.{4r+2}").unwrap();
        let numbers = capture(&rule.ours, "blocks.10.layers.3.weight").unwrap();
        assert_eq!(rule.theirs(&numbers).unwrap(), "enc.112/mconv.14");
        let numbers = capture(&rule.ours, "blocks.10.layers.0.weight").unwrap();
        assert!(rule.theirs(&numbers).unwrap_err().to_string().contains("r = 0 gives no place"));
        for other in
            ["blocks.10.layers.3.weights", "blocks.x.layers.3.weight", "blocks..layers.3.weight", "head"]
        {
            assert_eq!(capture(&rule.ours, other), None, "{other}");
        }
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        for (ours, theirs, word) in [
            ("a.{b}", "a.{c}", "{c} does not occur"),
            ("a.{b}.{b}", "a", "each number once"),
            ("a.{b+1}", "a", "each number once"),
            ("a.{b", "a", "is none of"),
            ("a.{}", "a", "is none of"),
            ("a.{b}", "a.{b*2}", "is none of"),
            ("a.{b}", "a.{99999999999999999999b}", "is none of"),
        ] {
            let error = rule(ours, theirs).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_star_stands_for_anything() {
        assert!(fits("*.num_batches_tracked", "a.b.num_batches_tracked") && fits("a*b*c", "axxbyc"));
        assert!(fits("*", "") && !fits("a*b", "a") && !fits("a", "ab") && fits("ä*", "äö"));
    }
}
