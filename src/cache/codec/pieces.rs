//! Decoded frames on their way out, some at a time, so that they are still in the processor's second-level cache when they
//! are turned into rows of channels or copied: an utterance's single precision as a whole is not.

/// Frames that are decoded at a time where the codec itself asks for no other number; a multiple of what
/// [`crate::features::transpose`] takes at a time.
pub(super) const PIECE: usize = 32;
/// Bytes of a line of the processor's cache: vectors that lie across two cost twice as much to store.
const LINE: usize = 64;

std::thread_local! {
    static BUFFER: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Takes decoded frames in order: number of the first, values `[frames, width]`.
pub struct Pieces<'a> {
    take: &'a mut dyn FnMut(usize, &[f32]),
    first: usize,
}

impl std::fmt::Debug for Pieces<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pieces from frame {}", self.first)
    }
}

impl<'a> Pieces<'a> {
    /// Hands them to `take`.
    pub fn new(take: &'a mut dyn FnMut(usize, &[f32])) -> Self {
        Self { take, first: 0 }
    }

    /// The next `frames` frames of `width` values: `fill` overwrites all of them, or says that it cannot.
    pub(super) fn next(
        &mut self,
        frames: usize,
        width: usize,
        fill: impl FnOnce(&mut [f32]) -> Option<()>,
    ) -> Option<()> {
        let mut buffer = BUFFER.take();
        let spare = LINE / size_of::<f32>();
        if buffer.len() < frames * width + spare {
            buffer.resize(frames * width + spare, 0.0);
        }
        let from = buffer.as_ptr().align_offset(LINE).min(spare);
        let values = &mut buffer[from..from + frames * width];
        let filled = fill(values);
        if filled.is_some() {
            (self.take)(self.first, values);
            self.first += frames;
        }
        BUFFER.set(buffer);
        filled
    }
}

/// All frames one behind the other; replaces `out`.
pub fn whole<T>(out: &mut Vec<f32>, decode: impl FnOnce(&mut Pieces<'_>) -> T) -> T {
    out.clear();
    decode(&mut Pieces::new(&mut |_, values| out.extend_from_slice(values)))
}
