//! Entropy coder: range asymmetric numeral systems (Duda, 2013) over small integers, eight states in turn.
//!
//! A value of frequency f out of [`TOTAL`] costs log2(TOTAL / f) bits. Every value belongs to a class with a table of its
//! own. The states of neighbouring values do not depend on each other, so that a processor works on all of them at once;
//! they share one stream of 16-bit words, in the order in which the decoder asks for them. A value that its class
//! has no frequency for is escaped: it stands, as 16 bits, in a stream beside.

/// Frequencies of a class sum to this.
pub const TOTAL: u32 = 1 << BITS;
const BITS: u32 = 11;
/// Values beyond are always escaped.
pub const LARGEST: i16 = 120;
/// States in turn.
const STATES: usize = 8;
/// States lie in [LOW, 2^32).
const LOW: u32 = 1 << 16;
/// In a slot, in place of a value: it stands beside.
const ESCAPE: i8 = i8::MIN;

/// The frequencies of all classes and the tables that follow from them.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    /// Of every class: escape, 0, -1, 1, -2, 2 .. as far as the class goes; they sum to [`TOTAL`].
    frequencies: Vec<Vec<u16>>,
    /// What lies below each symbol of a class.
    starts: Vec<Vec<u16>>,
    /// TOTAL slots a class: value (bits 24 to 31), place within the value's slots (12 to 23), frequency (0 to 11).
    slots: Vec<u32>,
}

/// Values on their way into a payload.
#[derive(Debug, Default)]
pub struct Encoder {
    /// Frequency and start of every value, in order.
    symbols: Vec<(u16, u16)>,
    escaped: Vec<u8>,
}

/// Index of a value among the frequencies of its class.
fn symbol(value: i16) -> usize {
    let twice = 2 * usize::from(value.unsigned_abs());
    if value < 0 { twice } else { twice + 1 }
}

/// The value of a symbol but for the first, the escape.
fn value_of(symbol: usize) -> i8 {
    let half = i8::try_from(symbol / 2).unwrap_or(i8::MAX);
    if symbol.is_multiple_of(2) { -half } else { half }
}

impl Tables {
    /// Tables of classes that hold values as often as `counts` says: of every class escape, 0, -1, 1, -2, 2 ..
    pub fn from_counts(counts: &[Vec<u64>]) -> Option<Self> {
        Self::new(counts.iter().map(|counts| normalise(counts)).collect())
    }

    /// Tables of frequencies that sum to [`TOTAL`] in every class; `None` when they do not, or a class is too wide.
    pub fn new(frequencies: Vec<Vec<u16>>) -> Option<Self> {
        let mut slots = Vec::with_capacity(frequencies.len() * TOTAL as usize);
        let mut starts = Vec::with_capacity(frequencies.len());
        for frequencies in &frequencies {
            let mut below = 0u16;
            let mut own = Vec::with_capacity(frequencies.len());
            if frequencies.len() > 2 * LARGEST.unsigned_abs() as usize + 2 {
                return None;
            }
            for (symbol, &frequency) in frequencies.iter().enumerate() {
                own.push(below);
                below = below.checked_add(frequency).filter(|&sum| u32::from(sum) <= TOTAL)?;
                let value = if symbol == 0 { ESCAPE } else { value_of(symbol) };
                let value = u32::from(value.cast_unsigned()) << 24;
                slots.extend(
                    (0..u32::from(frequency)).map(|place| value | place << 12 | u32::from(frequency)),
                );
            }
            if u32::from(below) != TOTAL || frequencies.first() == Some(&0) {
                return None;
            }
            starts.push(own);
        }
        Some(Self { frequencies, starts, slots })
    }

    /// Of every class: escape, 0, -1, 1 ..
    pub fn frequencies(&self) -> &[Vec<u16>] {
        &self.frequencies
    }

    /// Bits that a value of a class costs.
    pub fn bits(&self, class: usize, value: i16) -> f64 {
        let frequencies = self.frequencies.get(class).map(Vec::as_slice).unwrap_or_default();
        let cost = |f: u16| f64::from(TOTAL).log2() - f64::from(f).log2();
        match frequencies.get(symbol(value)).filter(|&&f| f > 0 && value.abs() <= LARGEST) {
            Some(&frequency) => cost(frequency),
            None => cost(frequencies.first().copied().unwrap_or(1)) + 16.0,
        }
    }

    /// Adds a value of a class, an existing one.
    pub fn put(&self, encoder: &mut Encoder, class: u8, value: i16) {
        let class = usize::from(class);
        let mut symbol = symbol(value);
        let frequencies = &self.frequencies[class];
        if value.abs() > LARGEST || frequencies.get(symbol).is_none_or(|&f| f == 0) {
            encoder.escaped.extend(value.to_le_bytes());
            symbol = 0;
        }
        encoder.symbols.push((frequencies[symbol], self.starts[class][symbol]));
    }

    /// Starts reading what [`Encoder::finish`] has made of `count` values.
    ///
    /// # Errors
    /// When the parts of the payload cannot be of its length.
    pub fn decoder<'a>(&'a self, payload: &'a [u8]) -> Result<Decoder<'a>, String> {
        let short =
            || format!("expected the {} bytes of {STATES} states, found {}", 4 * STATES + 4, payload.len());
        let (words, rest) = payload.split_first_chunk::<4>().ok_or_else(short)?;
        let (states, rest) = rest.split_at_checked(4 * STATES).ok_or_else(short)?;
        let words = u32::from_le_bytes(*words) as usize;
        let (words, escaped) = rest
            .split_at_checked(2 * words)
            .ok_or_else(|| format!("expected {words} words, found {} bytes", rest.len()))?;
        let mut all = [0u32; STATES];
        for (state, bytes) in all.iter_mut().zip(states.chunks_exact(4)) {
            *state = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Ok(Decoder { tables: self, states: all, turn: 0, words, at: 0, escaped, overrun: false })
    }
}

/// Frequencies that sum to [`TOTAL`], at least 1 each, as near to `counts` as that allows.
fn normalise(counts: &[u64]) -> Vec<u16> {
    let all: u64 = counts.iter().sum::<u64>().max(1);
    let spare = u64::from(TOTAL) - counts.len() as u64;
    let mut out: Vec<u16> =
        counts.iter().map(|&count| u16::try_from(1 + count * spare / all).unwrap_or(u16::MAX)).collect();
    let sum: u32 = out.iter().map(|&f| u32::from(f)).sum();
    // What rounding left goes to the most frequent, where it changes least.
    let most = (0..counts.len()).max_by_key(|&index| (counts[index], std::cmp::Reverse(index)));
    if let Some(place) = most.and_then(|index| out.get_mut(index)) {
        *place += u16::try_from(TOTAL.saturating_sub(sum)).unwrap_or(0);
    }
    out
}

impl Encoder {
    /// The payload: number of words, states, words, escaped values.
    pub fn finish(self) -> Vec<u8> {
        let mut states = [LOW; STATES];
        let mut words: Vec<u16> = Vec::with_capacity(self.symbols.len() / 4);
        // Last in, first out: what the decoder reads first is written last.
        for (index, &(frequency, start)) in self.symbols.iter().enumerate().rev() {
            let state = &mut states[index % STATES];
            let (frequency, start) = (u32::from(frequency), u32::from(start));
            if *state >= frequency << (32 - BITS) {
                words.push((*state & 0xFFFF) as u16);
                *state >>= 16;
            }
            *state = ((*state / frequency) << BITS) + *state % frequency + start;
        }
        let mut payload = Vec::with_capacity(4 + 4 * STATES + 2 * words.len() + self.escaped.len());
        payload.extend(u32::try_from(words.len()).unwrap_or(u32::MAX).to_le_bytes());
        payload.extend(states.iter().flat_map(|state| state.to_le_bytes()));
        payload.extend(words.iter().rev().flat_map(|word| word.to_le_bytes()));
        payload.extend(self.escaped);
        payload
    }
}

/// Values on their way out of a payload.
#[derive(Debug)]
pub struct Decoder<'a> {
    tables: &'a Tables,
    states: [u32; STATES],
    /// State of the next value.
    turn: usize,
    words: &'a [u8],
    /// Next word, in bytes.
    at: usize,
    escaped: &'a [u8],
    /// Whether more was asked for than there is.
    overrun: bool,
}

impl Decoder<'_> {
    /// The next `classes.len()` values, of these classes, of which there are tables; `out` is as long.
    pub fn values(&mut self, classes: &[u8], out: &mut [i16]) {
        let slots = self.tables.slots.as_slice();
        let mut turn = self.turn;
        for (out, &class) in out.iter_mut().zip(classes) {
            let state = &mut self.states[turn % STATES];
            turn += 1;
            let slot = slots[usize::from(class) * TOTAL as usize + (*state & (TOTAL - 1)) as usize];
            let mut next = (slot & 0xFFF) * (*state >> BITS) + (slot >> 12 & 0xFFF);
            if next < LOW {
                let word = match self.words.get(self.at..self.at + 2) {
                    Some(bytes) => u16::from_le_bytes([bytes[0], bytes[1]]),
                    None => {
                        self.overrun = true;
                        0
                    }
                };
                self.at += 2;
                next = next << 16 | u32::from(word);
            }
            *state = next;
            let value = (slot >> 24) as u8 as i8;
            *out = i16::from(value);
            if value == ESCAPE {
                match self.escaped.split_first_chunk::<2>() {
                    Some((bytes, rest)) => {
                        *out = i16::from_le_bytes(*bytes);
                        self.escaped = rest;
                    }
                    None => self.overrun = true,
                }
            }
        }
        self.turn = turn;
    }

    /// Whether exactly what was written has been read.
    ///
    /// # Errors
    /// When something is missing or left over.
    pub fn finish(self) -> Result<(), String> {
        if self.overrun || self.at != self.words.len() || !self.escaped.is_empty() {
            return Err("the coded values end early, or late".to_owned());
        }
        if self.states != [LOW; STATES] {
            return Err("the coded values do not end as they began".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn tables() -> Tables {
        let wide: Vec<u64> = (0..60).map(|s| 10_000 / (1 + s * s)).collect();
        Tables::from_counts(&[vec![0, 1_000_000, 3, 2], wide, vec![1, 1]]).unwrap()
    }

    fn made_up(count: usize) -> (Vec<u8>, Vec<i16>) {
        let mut random = Random::new(3, "rans", &[]);
        let pairs = (0..count).map(|_| {
            let class = random.below(3) as u8;
            let spread = [0.3, 6.0, 0.1][usize::from(class)];
            let value = (random.normal() * spread).round() as i16;
            (class, if random.below(200) == 0 { value * 300 } else { value })
        });
        pairs.unzip()
    }

    #[test]
    fn every_value_comes_back_whatever_the_number() {
        let tables = tables();
        for count in [0, 1, 7, 8, 9, 1000, 40_000] {
            let (classes, values) = made_up(count);
            let mut encoder = Encoder::default();
            classes.iter().zip(&values).for_each(|(&class, &value)| tables.put(&mut encoder, class, value));
            let payload = encoder.finish();
            let mut out = vec![0; count];
            let mut decoder = tables.decoder(&payload).unwrap();
            let (first, second) = out.split_at_mut(count / 3);
            decoder.values(&classes[..count / 3], first);
            decoder.values(&classes[count / 3..], second);
            decoder.finish().unwrap();
            assert_eq!(out, values);
            // Within a few words of what the frequencies say.
            let bits: f64 = classes.iter().zip(&values).map(|(&c, &v)| tables.bits(usize::from(c), v)).sum();
            let ideal = bits / 8.0 + 36.0;
            assert!((payload.len() as f64 - ideal).abs() < 20.0 + ideal / 500.0, "{} {ideal}", payload.len());
        }
    }

    #[test]
    fn frequencies_fill_the_table_and_follow_the_counts() {
        for counts in [vec![0u64], vec![0, 0, 0], vec![5, 1 << 40, 7], (0..240).map(|c| c * c).collect()] {
            let found = normalise(&counts);
            assert_eq!(found.iter().map(|&f| u32::from(f)).sum::<u32>(), TOTAL);
            assert!(found.iter().all(|&f| f > 0));
        }
        assert!(normalise(&[1, 3, 1])[1] > 1200);
        assert!(Tables::new(vec![vec![1; 100]]).is_none(), "too few");
        assert!(Tables::new(vec![vec![2000, 48, 1]]).is_none(), "too many");
        assert!(Tables::new(vec![vec![0, 2048]]).is_none(), "no escape");
    }

    #[test]
    fn damage_is_noticed_or_gives_other_values_but_never_panics() {
        let tables = tables();
        let (classes, values) = made_up(500);
        let mut encoder = Encoder::default();
        classes.iter().zip(&values).for_each(|(&class, &value)| tables.put(&mut encoder, class, value));
        let good = encoder.finish();
        let read = |payload: &[u8], count: usize| -> Result<Vec<i16>, String> {
            let mut out = vec![0; count];
            let mut decoder = tables.decoder(payload)?;
            decoder.values(&classes[..count], &mut out);
            decoder.finish().map(|()| out)
        };
        assert_eq!(read(&good, 500).unwrap(), values);
        assert!(read(&good, 499).is_err());
        for length in 0..good.len() {
            assert!(read(&good[..length], 500).is_err(), "{length}");
        }
        let mut random = Random::new(4, "flips", &[]);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << random.below(8);
            let _ = read(&bad, 500);
        }
    }
}
