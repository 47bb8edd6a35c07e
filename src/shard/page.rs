//! One data page of one plain binary value, from its bytes in the file to the value.
//!
//! A page is a header in Thrift's compact protocol (`parquet.thrift`, `PageHeader`) and the compressed values. Parquet's own
//! reader goes through a column from its first page; an utterance's page is found through the offset index and wants nothing
//! of that. Whatever the header says is compared with the bytes that are there before anything is taken at its word.

use std::cell::Cell;

use parquet::basic::Compression;
use zstd::bulk::Decompressor;

/// A thread keeps its buffers up to this size, bytes: about an hour of one utterance's hidden states behind `pq`, a minute of
/// the widest exact ones.
const KEPT: usize = 32 << 20;
/// Nested structures, lists and maps that a header may have.
const DEEPEST: u32 = 8;

/// zstd makes at most so many bytes of a block, and a block takes so many at least: its header and a byte to repeat.
const MOST: usize = 128 << 10;
const LEAST: usize = 4;

/// What decompression needs again for every page.
struct Scratch {
    decompressor: Decompressor<'static>,
    value: Vec<u8>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Hands the value on `page`, header and all, to `of`. Nothing is allocated but for the first and for ever larger ones.
///
/// # Errors
/// When the page is no data page of one plain value, or its parts are not of the sizes that it names.
pub(super) fn with_value<T>(
    page: &[u8],
    compression: Compression,
    of: impl FnOnce(&[u8]) -> T,
) -> Result<T, String> {
    let header = Header::read(page)?;
    let data = page.get(header.length..).unwrap_or_default();
    if data.len() != header.compressed {
        return Err(format!("expected {} compressed bytes, found {}", header.compressed, data.len()));
    }
    match compression {
        Compression::UNCOMPRESSED => plain(data, header.uncompressed).map(of),
        Compression::ZSTD(_) => {
            let mut scratch = match SCRATCH.take() {
                Some(scratch) => scratch,
                None => Box::new(Scratch {
                    decompressor: Decompressor::new().map_err(|e| format!("zstd: {e}"))?,
                    value: Vec::new(),
                }),
            };
            let result = scratch.decompress(data, header.uncompressed).map(of);
            if scratch.value.capacity() <= KEPT {
                SCRATCH.set(Some(scratch));
            }
            result
        }
        other => Err(format!("expected zstd or no compression, found {other}")),
    }
}

impl Scratch {
    fn decompress(&mut self, data: &[u8], size: usize) -> Result<&[u8], String> {
        // A damaged header does not get the memory that it asks for.
        if size / MOST > data.len() / LEAST + 1 {
            return Err(format!("expected {size} bytes, which {} compressed ones cannot hold", data.len()));
        }
        if let Some(found) = zstd::zstd_safe::get_frame_content_size(data).ok().flatten()
            && usize::try_from(found) != Ok(size)
        {
            return Err(format!("expected {size} bytes, zstd says {found}"));
        }
        self.value.clear();
        self.value.try_reserve(size).map_err(|e| format!("{size} bytes: {e}"))?;
        self.decompressor.decompress_to_buffer(data, &mut self.value).map_err(|e| format!("zstd: {e}"))?;
        plain(&self.value, size)
    }
}

/// A required BYTE_ARRAY has no levels: four bytes of length, then the value.
fn plain(bytes: &[u8], size: usize) -> Result<&[u8], String> {
    if bytes.len() != size {
        return Err(format!("expected {size} bytes, found {}", bytes.len()));
    }
    let Some((length, value)) = bytes.split_first_chunk::<4>() else {
        return Err(format!("expected a length and a value, found {size} bytes"));
    };
    let length = u32::from_le_bytes(*length) as usize;
    if value.len() != length {
        return Err(format!("expected {length} bytes, found {}", value.len()));
    }
    Ok(value)
}

/// What is used of a `PageHeader`.
#[derive(Debug, PartialEq)]
struct Header {
    /// Of the header itself, bytes.
    length: usize,
    compressed: usize,
    uncompressed: usize,
}

impl Header {
    fn read(page: &[u8]) -> Result<Self, String> {
        let mut thrift = Thrift { bytes: page, at: 0 };
        let (mut kind, mut uncompressed, mut compressed, mut values) = (None, None, None, None);
        let (mut field, mut plain) = (0, None);
        while let Some(of) = thrift.field(&mut field)? {
            match (field, of) {
                (1, 5) => kind = Some(thrift.number()?),
                (2, 5) => uncompressed = Some(thrift.number()?),
                (3, 5) => compressed = Some(thrift.number()?),
                (5, 12) => {
                    let mut field = 0;
                    while let Some(of) = thrift.field(&mut field)? {
                        match (field, of) {
                            (1, 5) => values = Some(thrift.number()?),
                            (2, 5) => plain = Some(thrift.number()? == 0),
                            _ => thrift.skip(of, DEEPEST)?,
                        }
                    }
                }
                _ => thrift.skip(of, DEEPEST)?,
            }
        }
        let kind = match kind {
            Some(0) if values == Some(1) && plain == Some(true) => None,
            Some(0) => Some("a data page of another shape"),
            Some(2) => Some("a dictionary page"),
            Some(3) => Some("a version 2 data page"),
            _ => Some("no data page"),
        };
        if let Some(other) = kind {
            return Err(format!("expected one plain value, found {other}"));
        }
        let size = |found: Option<i64>| found.and_then(|size| usize::try_from(size).ok());
        match (size(compressed), size(uncompressed)) {
            (Some(compressed), Some(uncompressed)) => {
                Ok(Self { length: thrift.at, compressed, uncompressed })
            }
            _ => Err("the page's header has no sizes".to_owned()),
        }
    }
}

/// Thrift's compact protocol, as far as headers go.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Thrift<'_> {
    fn byte(&mut self) -> Result<u8, String> {
        let byte = self.bytes.get(self.at).ok_or("the page ends within its header")?;
        self.at += 1;
        Ok(*byte)
    }

    fn unsigned(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number in the page's header has no end".to_owned())
    }

    /// A number of any width.
    fn number(&mut self) -> Result<i64, String> {
        let zigzag = self.unsigned()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    /// Type of the next field of a structure, whose number becomes `field`; `None` at its end.
    fn field(&mut self, field: &mut i64) -> Result<Option<u8>, String> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        *field = match head >> 4 {
            0 => self.number()?,
            delta => field.saturating_add(i64::from(delta)),
        };
        Ok(Some(head & 15))
    }

    /// Passes over a value of type `of`.
    fn skip(&mut self, of: u8, depth: u32) -> Result<(), String> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err("the page's header is nested too deep".to_owned());
        };
        match of {
            // A field's truth is its type.
            1 | 2 => Ok(()),
            3 => self.pass(1),
            4..=6 => self.unsigned().map(|_| ()),
            7 => self.pass(8),
            8 => self.unsigned().and_then(|length| self.pass(length)),
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.unsigned()? } else { u64::from(head >> 4) };
                self.items(count, &[head & 15], depth)
            }
            11 => {
                let count = self.unsigned()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                self.items(count, &[kinds >> 4, kinds & 15], depth)
            }
            12 => {
                let mut field = 0;
                while let Some(of) = self.field(&mut field)? {
                    self.skip(of, depth)?;
                }
                Ok(())
            }
            other => Err(format!("the page's header has a value of unknown type {other}")),
        }
    }

    /// `count` times values of these types; a truth in a list takes a byte.
    fn items(&mut self, count: u64, kinds: &[u8], depth: u32) -> Result<(), String> {
        // Everything in a list takes a byte at least, so the loop ends with the bytes.
        for _ in 0..count {
            for &of in kinds {
                if of <= 2 { self.pass(1)? } else { self.skip(of, depth)? }
            }
        }
        Ok(())
    }

    fn pass(&mut self, count: u64) -> Result<(), String> {
        let end = usize::try_from(count).ok().and_then(|count| self.at.checked_add(count));
        self.at = end.filter(|&end| end <= self.bytes.len()).ok_or("the page ends within its header")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes, then a data page header: one value, plain, levels of RLE, statistics with two strings.
    fn header(uncompressed: u8, compressed: u8) -> Vec<u8> {
        let zigzag = |size: u8| size * 2;
        let mut bytes = vec![0x15, 0, 0x15, zigzag(uncompressed), 0x15, zigzag(compressed), 0x2C];
        bytes.extend([0x15, 2, 0x15, 0, 0x15, 6, 0x15, 6]);
        bytes.extend([0x1C, 0x18, 2, b'a', b'b', 0x18, 1, b'c', 0x11, 0, 0]);
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_header_is_read_past_what_is_not_used() {
        let bytes = header(20, 14);
        assert_eq!(
            Header::read(&bytes),
            Ok(Header { length: bytes.len(), compressed: 14, uncompressed: 20 })
        );
        for length in 0..bytes.len() {
            assert!(Header::read(&bytes[..length]).is_err(), "{length}");
        }
        let mut dictionary = bytes.clone();
        dictionary[1] = 4;
        assert!(Header::read(&dictionary).unwrap_err().contains("dictionary"));
        let mut two = bytes;
        two[8] = 4;
        assert!(Header::read(&two).unwrap_err().contains("another shape"));
        // Lists within lists, a map, a double: passed over, however deep, or refused.
        let sizes = [0x15, 0, 0x15, 2, 0x15, 2];
        let lists =
            [&sizes[..], &[0x69, 0x19, 0x25, 2, 4], &[0x2B, 1, 0x58, 2, 1, b'x'], &[0x17], &[0; 8]].concat();
        assert!(Header::read(&[&lists[..], &[0]].concat()).unwrap_err().contains("another shape"));
        assert!(Header::read(&[&sizes[..], &[0x69], &[0x19; 30]].concat()).unwrap_err().contains("deep"));
        assert!(
            Header::read(
                &[&sizes[..], &[0x68, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]].concat()
            )
            .is_err()
        );
    }

    #[test]
    fn values_come_back_and_wrong_sizes_do_not() {
        let value = [7u8; 100];
        let plain = [&100u32.to_le_bytes()[..], &value].concat();
        let packed = zstd::bulk::compress(&plain, 1).unwrap();
        let zstd = Compression::ZSTD(parquet::basic::ZstdLevel::default());
        // 104 does not fit into the short header's byte: written as two.
        let long = |uncompressed: u8, data: &[u8]| {
            let mut page = header(0, u8::try_from(data.len()).unwrap());
            page.splice(3..4, [(2 * (uncompressed & 63)) | 0x80, uncompressed >> 6]);
            [page, data.to_vec()].concat()
        };
        assert_eq!(with_value(&long(104, &packed), zstd, <[u8]>::to_vec).unwrap(), value);
        // Again while the first is still in hand.
        let page = long(104, &packed);
        let inner = with_value(&page, zstd, |one| with_value(&page, zstd, |two| one == two)).unwrap();
        assert!(inner.unwrap());
        assert!(with_value(&long(103, &packed), zstd, |_| ()).unwrap_err().contains("zstd says 104"));
        assert!(with_value(&long(104, &packed[..packed.len() - 1]), zstd, |_| ()).is_err());
        assert!(with_value(&long(104, &[1; 30]), zstd, |_| ()).is_err());
        let short = [&9u32.to_le_bytes()[..], &[1; 10]].concat();
        let mut page = header(14, 14);
        page.extend(&short);
        let error = with_value(&page, Compression::UNCOMPRESSED, |_| ()).unwrap_err();
        assert_eq!(error, "expected 9 bytes, found 10");
        let wrong = page.len() - 14;
        page[wrong] = 10;
        assert_eq!(with_value(&page, Compression::UNCOMPRESSED, <[u8]>::len), Ok(10));
        page.pop();
        assert!(with_value(&page, Compression::UNCOMPRESSED, |_| ()).unwrap_err().contains("14 compressed"));
        assert!(with_value(&page, Compression::SNAPPY, |_| ()).is_err());
    }
}
