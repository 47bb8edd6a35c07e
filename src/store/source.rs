//! One source of bytes for the Parquet reader, whether mapped or fetched.

use std::ops::Range;

use bytes::{Buf, Bytes};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::mapped::Mapped;
use super::remote::{Held, Object};
use crate::error::{Error, Result};

/// A file in memory, or an object that is fetched range by range. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Source {
    /// A memory map of the whole file.
    Mapped(Mapped),
    /// An object in a bucket.
    Remote(Object),
}

impl Source {
    /// Bytes in all.
    pub fn size(&self) -> u64 {
        match self {
            Self::Mapped(map) => map.as_ref().len() as u64,
            Self::Remote(object) => object.len(),
        }
    }

    /// At least the last `length` bytes, where there are as many: all of them when the file is mapped.
    ///
    /// # Errors
    /// When they cannot be fetched.
    pub fn tail(&self, length: u64) -> Result<Bytes> {
        match self {
            Self::Mapped(map) => Ok(map.bytes()),
            Self::Remote(object) => object.tail(length),
        }
    }

    /// Says that the footer has been read and [`Source::tail`] will not be called again: from here on ranges are asked for
    /// in any order, of most shards not for long.
    pub fn settle(&self) {
        match self {
            Self::Mapped(map) => {
                map.expect_random();
                map.give_back();
            }
            Self::Remote(object) => object.settle(),
        }
    }

    /// Hands the bytes of a range to `of`; those of a mapped file where they lie.
    ///
    /// # Errors
    /// When the range cannot be fetched, or reaches beyond the file.
    pub fn with<T>(&self, range: &Range<u64>, of: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let beyond = || Error::invalid(format!("bytes {} to {} of {}", range.start, range.end, self.size()));
        match self {
            Self::Mapped(map) => {
                let span = span(range).ok_or_else(beyond)?;
                map.will_need(span.clone());
                let result = of(map.as_ref().get(span.clone()).ok_or_else(beyond)?);
                map.was_read(&span);
                Ok(result)
            }
            Self::Remote(object) => {
                let fetched = object.ranges(std::slice::from_ref(range))?;
                Ok(of(fetched.first().ok_or_else(beyond)?))
            }
        }
    }

    /// What a reader needs that reads within `ranges` only. A mapped file is shown whole, without a copy.
    ///
    /// # Errors
    /// When a range cannot be fetched.
    pub fn view(&self, ranges: &[Range<u64>]) -> Result<View> {
        match self {
            Self::Mapped(map) => Ok(View { size: self.size(), first: (0, map.bytes()), rest: Vec::new() }),
            Self::Remote(object) => {
                let ranges = merged(ranges);
                let fetched = object.ranges(&ranges)?;
                let mut parts = ranges.iter().map(|range| range.start).zip(fetched);
                let first = parts.next().unwrap_or_default();
                Ok(View { size: object.len(), first, rest: parts.collect() })
            }
        }
    }

    /// Says that ranges will be read soon: of a mapped file the system may start to, those of an object are fetched, each of
    /// them as it will be asked for.
    pub fn ahead(&self, ranges: impl Iterator<Item = Range<u64>>) -> Ahead {
        match self {
            Self::Mapped(map) => {
                ranges.filter_map(|range| span(&range)).for_each(|span| map.will_need(span));
                Ahead::default()
            }
            Self::Remote(object) => Ahead(vec![object.start(&ranges.collect::<Vec<_>>())]),
        }
    }

    /// Forgets a range that was fetched, when it was not what had been written; whether reading it once more
    /// may give something else.
    pub fn forget(&self, range: &Range<u64>) -> bool {
        match self {
            Self::Mapped(_) => false,
            Self::Remote(object) => {
                object.forget(range);
                true
            }
        }
    }
}

fn span(range: &Range<u64>) -> Option<Range<usize>> {
    Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

/// Sorted ranges, those that touch as one.
fn merged(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| range.start < range.end).cloned().collect();
    sorted.sort_by_key(|range| (range.start, range.end));
    let mut all: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match all.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => all.push(range),
        }
    }
    all
}

/// Ranges on their way; they stay in memory until they are read, or this is dropped.
#[derive(Debug, Default)]
pub struct Ahead(Vec<Held>);

impl Ahead {
    /// Takes on what another holds.
    pub fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// Parts of a file in memory, for the Parquet reader.
#[derive(Debug, Clone)]
pub struct View {
    size: u64,
    first: (u64, Bytes),
    rest: Vec<(u64, Bytes)>,
}

impl View {
    /// What is there from `start` on.
    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let parts = std::iter::once(&self.first).chain(&self.rest);
        let mut within = parts.filter_map(|(offset, bytes)| {
            let skip = usize::try_from(start.checked_sub(*offset)?).ok()?;
            (skip <= bytes.len()).then(|| bytes.slice(skip..))
        });
        within.next().ok_or_else(|| {
            ParquetError::EOF(format!("byte {start} of {} is outside of what was asked for", self.size))
        })
    }
}

impl Length for View {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for View {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let from = self.from(start)?;
        if from.len() < length {
            let detail =
                format!("{length} bytes at {start} of {} reach out of what was asked for", self.size);
            return Err(ParquetError::EOF(detail));
        }
        Ok(from.slice(..length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_are_one() {
        let all = merged(&[8..10, 0..2, 2..3, 5..5, 9..12, 20..21]);
        assert_eq!(all, [0..3, 8..12, 20..21]);
    }

    #[test]
    fn a_view_shows_what_was_asked_for_and_nothing_else() {
        let bytes = |range: Range<u8>| Bytes::from(range.collect::<Vec<_>>());
        let view = View { size: 100, first: (10, bytes(10..20)), rest: vec![(40, bytes(40..50))] };
        assert_eq!(view.get_bytes(12, 3).unwrap(), bytes(12..15));
        assert_eq!(view.get_bytes(40, 10).unwrap(), bytes(40..50));
        let mut read = Vec::new();
        std::io::Read::read_to_end(&mut view.get_read(45).unwrap(), &mut read).unwrap();
        assert_eq!(read, bytes(45..50));
        for (start, length) in [(9, 1), (12, 9), (30, 1), (99, 1)] {
            assert!(view.get_bytes(start, length).is_err(), "{start} {length}");
        }
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes(0..100)).unwrap();
        let mapped = Source::Mapped(Mapped::new(&file).unwrap());
        assert_eq!(mapped.with(&(7..9), <[u8]>::to_vec).unwrap(), [7, 8]);
        assert!(mapped.with(&(99..101), |_| ()).is_err());
        let view = mapped.view(&[]).unwrap();
        assert_eq!((view.len(), view.get_bytes(7, 2).unwrap()), (100, bytes(7..9)));
    }
}
