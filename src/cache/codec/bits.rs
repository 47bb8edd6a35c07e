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
    let mut row = Row::new(width);
    let mut present = 0;
    for delta in differences.chunks_exact(width.div_ceil(8).max(1)) {
        present += row.next(delta);
        let spare =
            row.bits.last().filter(|_| !width.is_multiple_of(8)).map_or(0, |last| last >> (width % 8));
        if spare != 0 {
            return Err("a bit is set beyond the width".to_owned());
        }
    }
    Ok(present)
}

/// The bits of one frame after the other.
#[derive(Debug)]
pub struct Row {
    bits: Vec<u8>,
}

impl Row {
    /// Before the first frame.
    pub fn new(width: usize) -> Self {
        Self { bits: vec![0; width.div_ceil(8)] }
    }

    /// Turns the bits of one frame into those of the next; returns how many are set.
    pub fn next(&mut self, delta: &[u8]) -> usize {
        for (bit, delta) in self.bits.iter_mut().zip(delta) {
            *bit ^= delta;
        }
        self.bits.iter().map(|b| b.count_ones() as usize).sum()
    }

    /// Calls `of` with every channel whose bit is set, ascending.
    pub fn each(&self, mut of: impl FnMut(usize)) {
        for (start, bytes) in self.bits.chunks(8).enumerate() {
            let mut word = [0u8; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            let mut word = u64::from_le_bytes(word);
            while word != 0 {
                of(64 * start + word.trailing_zeros() as usize);
                word &= word - 1;
            }
        }
    }
}
