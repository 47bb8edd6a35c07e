//! What a stage minimises, and what it reads of a teacher for that.

use serde::{Deserialize, Serialize};

/// What a stage minimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Objective {
    /// Equation (7): frame-weighted distance of hidden states.
    #[serde(rename = "rkd")]
    Rkd,
    /// Equation (3): CTC against the transcript.
    #[serde(rename = "ctc")]
    Ctc,
    /// Equation (9): CTC + lambda * distance of softmax outputs.
    #[serde(rename = "ctc+skd")]
    CtcSkd,
    /// Equation (5): cross-entropy against the teacher's softmax.
    #[serde(rename = "kd")]
    Kd,
    /// CTC + lambda * equation (5).
    #[serde(rename = "ctc+kd")]
    CtcKd,
    /// CTC + lambda * guided CTC (Kurata and Audhkhasi, 2019).
    #[serde(rename = "ctc+guided")]
    CtcGuided,
    /// (1 - lambda) * CTC + lambda * CTC against the teacher's N best texts (Takashima et al., 2018).
    #[serde(rename = "ctc+sequence")]
    CtcSequence,
}

/// What an objective reads of a teacher's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Nothing.
    None,
    /// Hidden states and frame weights.
    Hidden,
    /// The softmax of every frame.
    Posterior,
    /// The N best texts.
    Nbest,
}

impl Objective {
    /// Every objective, in the order of the documentation.
    pub const ALL: [Self; 7] =
        [Self::Rkd, Self::Ctc, Self::CtcSkd, Self::Kd, Self::CtcKd, Self::CtcGuided, Self::CtcSequence];

    /// What the stage reads of a teacher's cache.
    pub fn target(self) -> Target {
        match self {
            Self::Ctc => Target::None,
            Self::Rkd => Target::Hidden,
            Self::CtcSkd | Self::Kd | Self::CtcKd | Self::CtcGuided => Target::Posterior,
            Self::CtcSequence => Target::Nbest,
        }
    }

    /// Whether the stage reads a teacher's cache.
    pub fn needs_teacher(self) -> bool {
        self.target() != Target::None
    }

    /// Whether the stage trains on transcripts.
    pub fn needs_text(self) -> bool {
        !matches!(self, Self::Rkd | Self::Kd)
    }

    /// Whether the stage trains the layer that gives the logits: scores mean something then.
    pub fn trains_logits(self) -> bool {
        self != Self::Rkd
    }

    /// Whether the stage softens both sides with a temperature.
    pub fn has_temperature(self) -> bool {
        matches!(self, Self::CtcSkd | Self::Kd | Self::CtcKd)
    }

    /// Weight of the term beside CTC where the pipeline gives none; `None` where there is no such term. The
    /// paper's for SKD, the original's for guided CTC; for the others no published value was found.
    pub fn default_lambda(self) -> Option<f64> {
        match self {
            Self::Rkd | Self::Ctc | Self::Kd => None,
            Self::CtcSkd => Some(0.25),
            Self::CtcKd | Self::CtcGuided => Some(1.0),
            Self::CtcSequence => Some(0.5),
        }
    }

    /// Name of the teacher's term in the log.
    pub fn term(self) -> Option<&'static str> {
        match self {
            Self::Ctc => None,
            Self::Rkd => Some("rkd"),
            Self::CtcSkd => Some("skd"),
            Self::Kd | Self::CtcKd => Some("kd"),
            Self::CtcGuided => Some("guided"),
            Self::CtcSequence => Some("sequence"),
        }
    }
}

impl std::fmt::Display for Objective {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rkd => "rkd",
            Self::Ctc => "ctc",
            Self::CtcSkd => "ctc+skd",
            Self::Kd => "kd",
            Self::CtcKd => "ctc+kd",
            Self::CtcGuided => "ctc+guided",
            Self::CtcSequence => "ctc+sequence",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_messages_is_the_name_in_files() {
        for objective in Objective::ALL {
            assert_eq!(serde_json::to_value(objective).unwrap(), objective.to_string());
        }
    }
}
