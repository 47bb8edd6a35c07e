//! Which values of a frame are there: one bit a channel, every frame XORed with the frame before it, since a channel that
//! is on tends to stay on.

/// XORs every frame's bits with those of the frame before.
pub fn difference(mask: &mut [u8], width: usize) {
    let row = width.div_ceil(8);
    // Backwards, so that every frame meets its predecessor as it was.
    for at in (row..mask.len()).rev() {
        mask[at] ^= mask[at - row];
    }
}

/// How many bits are set in all frames.
///
/// # Errors
/// When a bit is set beyond the width.
pub fn count(differences: &[u8], width: usize) -> Result<usize, String> {
    let mut row = vec![0u8; width.div_ceil(8)];
    let mut present = 0;
    for delta in differences.chunks_exact(row.len().max(1)) {
        row.iter_mut().zip(delta).for_each(|(bits, delta)| *bits ^= delta);
        present += row.iter().map(|bits| bits.count_ones() as usize).sum::<usize>();
        let spare = row.last().filter(|_| !width.is_multiple_of(8)).map_or(0, |last| last >> (width % 8));
        if spare != 0 {
            return Err("a bit is set beyond the width".to_owned());
        }
    }
    Ok(present)
}
