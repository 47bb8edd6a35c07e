//! Entropy coder: range asymmetric numeral systems (Duda, 2013) over small integers, 32 states in turn (Giesen, 2014).
//!
//! A value of frequency f out of [`TOTAL`] costs log2(TOTAL / f) bits. Every value belongs to a class with a table of its
//! own. The states of neighbouring values do not depend on each other, so that a processor works on all of them at once;
//! they share one stream of 16-bit words, in the order in which the decoder asks for them. A value that its class
//! has no frequency for is escaped: it stands, as 16 bits, in a stream beside. [`super::rans_encoder`] writes it,
//! [`super::rans_decoder`] reads it.

use super::instructions::Instructions;
use super::rans_decoder::Decoder;
use super::rans_encoder::encode;

/// Frequencies of a class sum to this.
pub const TOTAL: u32 = 1 << BITS;
pub(super) const BITS: u32 = 11;
/// Values beyond are always escaped.
pub const LARGEST: i16 = 120;
/// States in turn of what is written today: two vectors of 16.
pub const STATES: usize = 32;
/// States in turn of what was written first.
pub const FEW_STATES: usize = 8;
/// States lie in [LOW, 2^32).
pub(super) const LOW: u32 = 1 << 16;
/// Values of a class that an entry stands for; those beyond share the entries of the outermost, which are escaped.
pub(super) const NAMES: usize = 256;
/// In an entry: the value stands beside.
pub(super) const ESCAPED: u32 = 1 << 24;
/// In a slot, in place of a value: it stands beside.
pub(super) const ESCAPE: i8 = i8::MIN;

/// The frequencies of all classes and the tables that follow from them.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    /// Of every class: escape, 0, -1, 1, -2, 2 .. as far as the class goes; they sum to [`TOTAL`].
    frequencies: Vec<Vec<u16>>,
    /// NAMES entries a class, of value -128 first: frequency (bits 0 to 11), what lies below (12 to 23), and bit 24 where
    /// the value is escaped.
    entries: Vec<u32>,
    /// TOTAL slots a class: value (bits 24 to 31), place within the value's slots (12 to 23), frequency (0 to 11).
    slots: Vec<u32>,
    /// States in turn.
    states: usize,
}

/// Index of a value among the frequencies of its class.
fn symbol(value: i16) -> usize {
    let twice = 2 * usize::from(value.unsigned_abs());
    if value < 0 { twice } else { twice + 1 }
}

/// Place of a value among the entries of its class.
pub(super) fn name(value: i16) -> usize {
    usize::from((value.clamp(-128, 127) + 128).unsigned_abs())
}

/// The value of a symbol but for the first, the escape.
fn value_of(symbol: usize) -> i8 {
    let half = i8::try_from(symbol / 2).unwrap_or(i8::MAX);
    if symbol.is_multiple_of(2) { -half } else { half }
}

impl Tables {
    /// Tables of classes that hold values as often as `counts` says: of every class escape, 0, -1, 1, -2, 2 ..
    pub fn from_counts(counts: &[Vec<u64>]) -> Option<Self> {
        Self::new(counts.iter().map(|counts| normalise(counts)).collect(), STATES)
    }

    /// Tables of frequencies that sum to [`TOTAL`] in every class, for [`STATES`] or [`FEW_STATES`]; `None` when they do
    /// not, a class is too wide, or it is another number of states.
    pub fn new(frequencies: Vec<Vec<u16>>, states: usize) -> Option<Self> {
        if ![STATES, FEW_STATES].contains(&states) {
            return None;
        }
        let mut slots = Vec::with_capacity(frequencies.len() * TOTAL as usize);
        let mut entries = Vec::with_capacity(frequencies.len() * NAMES);
        for frequencies in &frequencies {
            let mut below = 0u16;
            let own = entries.len();
            entries.resize(own + NAMES, ESCAPED | u32::from(frequencies.first().copied().unwrap_or(0)));
            if frequencies.len() > 2 * LARGEST.unsigned_abs() as usize + 2 {
                return None;
            }
            for (symbol, &frequency) in frequencies.iter().enumerate() {
                let start = below;
                below = below.checked_add(frequency).filter(|&sum| u32::from(sum) <= TOTAL)?;
                let value = if symbol == 0 { ESCAPE } else { value_of(symbol) };
                if symbol > 0 && frequency > 0 {
                    entries[own + name(i16::from(value))] = u32::from(frequency) | u32::from(start) << 12;
                }
                let value = u32::from(value.cast_unsigned()) << 24;
                slots.extend(
                    (0..u32::from(frequency)).map(|place| value | place << 12 | u32::from(frequency)),
                );
            }
            if u32::from(below) != TOTAL || frequencies.first() == Some(&0) {
                return None;
            }
        }
        Some(Self { frequencies, entries, slots, states })
    }

    /// Of every class: escape, 0, -1, 1 ..
    pub fn frequencies(&self) -> &[Vec<u16>] {
        &self.frequencies
    }

    /// States in turn.
    pub fn states(&self) -> usize {
        self.states
    }

    pub(super) fn entries(&self) -> &[u32] {
        &self.entries
    }

    pub(super) fn slots(&self) -> &[u32] {
        &self.slots
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

    /// A payload of `values` of these classes, as many, of which there are tables.
    pub fn encode(&self, classes: &[u8], values: &[i16]) -> Vec<u8> {
        encode(Instructions::detect(), self, classes, values)
    }

    /// Starts reading what [`Tables::encode`] has made.
    ///
    /// # Errors
    /// When the parts of the payload cannot be of its length.
    pub fn decoder<'a>(&'a self, payload: &'a [u8]) -> Result<Decoder<'a>, String> {
        Decoder::new(self, payload)
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::random::Random;

    pub fn tables() -> Tables {
        let wide: Vec<u64> = (0..60).map(|s| 10_000 / (1 + s * s)).collect();
        Tables::from_counts(&[vec![0, 1_000_000, 3, 2], wide, vec![1, 1]]).unwrap()
    }

    pub fn made_up(count: usize) -> (Vec<u8>, Vec<i16>) {
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
        let few = Tables::new(tables.frequencies().to_vec(), FEW_STATES).unwrap();
        for (tables, count) in
            [0, 1, 7, 8, 9, 33, 1000, 40_000].into_iter().flat_map(|n| [(&tables, n), (&few, n)])
        {
            let (classes, values) = made_up(count);
            let payload = tables.encode(&classes, &values);
            let mut out = vec![0; count];
            let mut decoder = tables.decoder(&payload).unwrap();
            let (first, second) = out.split_at_mut(count / 3);
            decoder.values(&classes[..count / 3], first);
            decoder.values(&classes[count / 3..], second);
            decoder.finish().unwrap();
            assert_eq!(out, values);
            // Within a few words of what the frequencies say.
            let bits: f64 = classes.iter().zip(&values).map(|(&c, &v)| tables.bits(usize::from(c), v)).sum();
            let ideal = bits / 8.0 + 4.0 + 4.0 * tables.states() as f64;
            assert!(
                (payload.len() as f64 - ideal).abs() < 2.5 * tables.states() as f64 + ideal / 500.0,
                "{} {ideal}",
                payload.len()
            );
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
        let new = |frequencies| Tables::new(vec![frequencies], STATES);
        assert!(new(vec![1; 100]).is_none(), "too few");
        assert!(new(vec![2000, 48, 1]).is_none(), "too many");
        assert!(new(vec![0, 2048]).is_none(), "no escape");
        assert!(new(vec![2, 2046]).is_some() && Tables::new(vec![vec![2, 2046]], 16).is_none());
    }

    #[test]
    fn damage_is_noticed_or_gives_other_values_but_never_panics() {
        let tables = tables();
        let (classes, values) = made_up(500);
        let good = tables.encode(&classes, &values);
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
