//! From rows of frames, as they lie on disk, to rows of channels, as the networks take them.

/// Frames and channels that change places together: a line of the processor's cache on both sides.
const SIDE: usize = 16;

/// `values`, [frames, channels], into the frames from `first` on of `out`, [channels, padded]; what lies before and behind
/// them is left as it is.
pub fn transpose(values: &[f32], channels: usize, out: &mut [f32], (first, padded): (usize, usize)) {
    if channels == 0 {
        return;
    }
    for (block, rows) in values.chunks(SIDE * channels).enumerate() {
        let first = first + SIDE * block;
        let (mut groups, mut channel) = (out.chunks_exact_mut(padded), 0);
        let whole = if rows.len() == SIDE * channels { channels / SIDE } else { 0 };
        for _ in 0..whole {
            let mut tile = [[0f32; SIDE]; SIDE];
            for (tile, row) in tile.iter_mut().zip(rows.chunks_exact(channels)) {
                tile.copy_from_slice(&row[channel..channel + SIDE]);
            }
            for (at, out) in groups.by_ref().take(SIDE).enumerate() {
                out[first..first + SIDE].iter_mut().zip(&tile).for_each(|(out, row)| *out = row[at]);
            }
            channel += SIDE;
        }
        for (channel, out) in (channel..channels).zip(groups) {
            let source = rows.iter().skip(channel).step_by(channels);
            out[first..].iter_mut().zip(source).for_each(|(o, v)| *o = *v);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_pads_with_what_was_there() {
        for (frames, channels, padded) in
            [(37, 5, 48), (37, 53, 48), (32, 16, 32), (16, 64, 17), (3, 40, 3), (0, 7, 2)]
        {
            let values: Vec<f32> = (0..frames * channels).map(|i| i as f32).collect();
            let mut out = vec![-1.0; channels * padded];
            let mut first = 0;
            for piece in values.chunks(SIDE * channels) {
                transpose(piece, channels, &mut out, (first, padded));
                first += piece.len() / channels;
            }
            let mut at_once = vec![-1.0; channels * padded];
            transpose(&values, channels, &mut at_once, (0, padded));
            assert_eq!(out, at_once);
            for t in 0..padded {
                for c in 0..channels {
                    let expected = if t < frames { values[t * channels + c] } else { -1.0 };
                    assert_eq!(out[c * padded + t], expected, "{frames} {channels} {padded}: {t} {c}");
                }
            }
        }
    }
}
