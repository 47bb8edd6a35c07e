//! From rows of frames, as they lie on disk, to rows of channels, as the networks take them.

/// Frames that are handled together, so that both sides stay in the cache.
const BLOCK: usize = 16;

/// `values`, [frames, channels], into the first frames of `out`, [channels, padded]; what lies behind
/// them is left as it is.
pub fn transpose(values: &[f32], channels: usize, out: &mut [f32], padded: usize) {
    for (block, rows) in values.chunks(BLOCK * channels).enumerate() {
        for (channel, out) in out.chunks_exact_mut(padded).enumerate() {
            let source = rows.iter().skip(channel).step_by(channels);
            out[block * BLOCK..].iter_mut().zip(source).for_each(|(o, v)| *o = *v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_pads_with_what_was_there() {
        let (frames, channels, padded) = (37, 5, 48);
        let values: Vec<f32> = (0..frames * channels).map(|i| i as f32).collect();
        let mut out = vec![-1.0; channels * padded];
        transpose(&values, channels, &mut out, padded);
        for t in 0..padded {
            for c in 0..channels {
                let expected = if t < frames { values[t * channels + c] } else { -1.0 };
                assert_eq!(out[c * padded + t], expected);
            }
        }
    }
}
