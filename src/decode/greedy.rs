//! Greedy CTC decoding: the best label of every frame, repeats collapsed, blanks dropped.

use crate::labels::Labels;

/// What greedy decoding made of one utterance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transcript {
    /// The text, as the labels spell it (spaces are neither trimmed nor joined).
    pub text: String,
    /// Frames decoded.
    pub frames: usize,
    /// Frames whose best label is the blank.
    pub blank_frames: usize,
}

impl Transcript {
    /// Decodes the first `frames` rows of `logits` ([frames, labels], row-major; any monotone
    /// transform of the posterior does). The blank is `labels.blank`. Of equal logits the lowest
    /// index wins, as in PyTorch and NumPy; a NaN never wins. Rows that `logits` lacks are not there.
    pub fn greedy(logits: &[f32], frames: usize, labels: &Labels) -> Self {
        let mut transcript = Self::default();
        let mut previous = labels.blank;
        for frame in logits.chunks_exact(labels.count()).take(frames) {
            let best = argmax(frame);
            transcript.frames += 1;
            if best == labels.blank {
                transcript.blank_frames += 1;
            } else if best != previous {
                transcript.text.push_str(labels.symbol(best).unwrap_or_default());
            }
            previous = best;
        }
        transcript
    }
}

/// The text alone of [`Transcript::greedy`].
pub fn greedy(logits: &[f32], frames: usize, labels: &Labels) -> String {
    Transcript::greedy(logits, frames, labels).text
}

fn argmax(frame: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, &value) in frame.iter().enumerate() {
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits whose best label in frame t is `path[t]`.
    fn logits(path: &[usize], count: usize) -> Vec<f32> {
        path.iter().flat_map(|&p| (0..count).map(move |k| if k == p { 1.0 } else { -1.0 })).collect()
    }

    #[test]
    fn repeats_collapse_and_a_blank_separates_equal_labels() {
        let labels = Labels::english();
        let blank = labels.blank;
        // h h _ e l l _ l o o _ : the l on both sides of a blank is two letters.
        let path = [8, 8, blank, 5, 12, 12, blank, 12, 15, 15, blank];
        let found = Transcript::greedy(&logits(&path, 29), path.len(), &labels);
        assert_eq!(found, Transcript { text: "hello".into(), frames: 11, blank_frames: 3 });
    }

    #[test]
    fn the_blank_may_be_any_index() {
        let mut labels = Labels::english();
        labels.blank = 0;
        // With blank 0 the space is 1 and a is 2.
        let path = [0, 2, 0, 1, 3, 3, 0];
        assert_eq!(greedy(&logits(&path, 29), path.len(), &labels), "a b");
    }

    #[test]
    fn padding_frames_are_not_decoded() {
        let labels = Labels::english();
        let path = [1, 28, 2, 2];
        let found = Transcript::greedy(&logits(&path, 29), 2, &labels);
        assert_eq!(found, Transcript { text: "a".into(), frames: 2, blank_frames: 1 });
        assert_eq!(greedy(&[], 5, &labels), "");
    }

    #[test]
    fn ties_go_to_the_lowest_index_and_nan_never_wins() {
        assert_eq!(argmax(&[0.5, 2.0, 2.0]), 1);
        assert_eq!(argmax(&[f32::NAN, -3.0, -4.0]), 1);
    }
}
