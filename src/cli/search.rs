//! Arguments of a beam search, the same wherever one can be run.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::decode::{BeamOptions, Decoder};

/// How to search for texts.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Beam search")]
pub struct SearchArgs {
    /// Search with this many prefixes instead of taking the best label of every frame [default with --lm: 256]
    #[arg(long, value_name = "N")]
    beam: Option<usize>,
    /// Weigh words by this n-gram model, an ARPA file (`tutornet lm build` makes one)
    #[arg(long, value_name = "FILE")]
    lm: Option<PathBuf>,
    /// Factor of the model's log10 probabilities; OpenSeq2Seq's scale, 0.43 times that of ln [default: 2]
    #[arg(long, value_name = "A", requires = "lm", allow_negative_numbers = true)]
    lm_weight: Option<f64>,
    /// Added to the score for every word [default: 1.5 with --lm, else 0]
    #[arg(long, value_name = "B", allow_negative_numbers = true)]
    word_bonus: Option<f64>,
    /// Admit only words that the model knows
    #[arg(long, requires = "lm")]
    lexicon: bool,
}

impl SearchArgs {
    /// Whether any of them was given.
    pub fn given(&self) -> bool {
        self.beam.is_some() || self.lm.is_some() || self.word_bonus.is_some()
    }

    /// The language model, where nothing else was given.
    ///
    /// # Errors
    /// With a word on what else was.
    pub fn lm_alone(&self) -> Result<Option<&Path>, String> {
        if self.beam.is_some() || self.word_bonus.is_some() || self.lm_weight.is_some() || self.lexicon {
            return Err(
                "--repair takes the search from cache.toml: give --lm alone, or --nbest with all options"
                    .to_owned(),
            );
        }
        Ok(self.lm.as_deref())
    }

    /// The search that was asked for, a search in any case when it is `needed`, otherwise greedy decoding without any argument.
    ///
    /// # Errors
    /// When the model cannot be read or an option cannot work.
    pub fn open(&self, needed: bool) -> Result<Decoder> {
        if !self.given() && !needed {
            return Ok(Decoder::Greedy);
        }
        let defaults = BeamOptions::default();
        let options = BeamOptions {
            beam: self.beam.unwrap_or(defaults.beam),
            lm_weight: self.lm_weight.unwrap_or(defaults.lm_weight),
            word_bonus: self.word_bonus.unwrap_or(if self.lm.is_some() { defaults.word_bonus } else { 0.0 }),
            lexicon: self.lexicon,
        };
        Decoder::beam(options, self.lm.as_deref())
    }
}
