//! The head of a `.npy` array: type, order and shape of what follows.
//!
//! NumPy, `numpy.lib.format`: `\x93NUMPY`, two bytes of version, the length of a Python dictionary (two bytes in
//! version 1, four later), the dictionary with `descr`, `fortran_order` and `shape`.

use std::io::Read;

use super::Float;

/// Longest dictionary that is read; NumPy writes 118 bytes for a plain array.
const LONGEST: usize = 1 << 16;

/// What an array is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes before the values.
    pub length: usize,
    /// NumPy's name of the type.
    pub descr: String,
    /// Lengths of its dimensions.
    pub shape: Vec<usize>,
    /// Whether the first dimension is the fastest.
    pub fortran: bool,
}

impl Header {
    /// Reads the head of an array.
    ///
    /// # Errors
    /// In a few words, when it is none.
    pub fn read(source: &mut impl Read) -> Result<Self, String> {
        let mut fixed = [0; 8];
        source.read_exact(&mut fixed).map_err(|e| e.to_string())?;
        if fixed[..6] != *b"\x93NUMPY" || !(1..=3).contains(&fixed[6]) {
            return Err("no NumPy array".to_owned());
        }
        let mut length = [0; 4];
        let width = if fixed[6] == 1 { 2 } else { 4 };
        source.read_exact(&mut length[..width]).map_err(|e| e.to_string())?;
        let count = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if count > LONGEST {
            return Err(format!("its head would take {count} bytes"));
        }
        let mut text = vec![0; count];
        source.read_exact(&mut text).map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&text);
        let value = |key: &str| {
            let (_, rest) = text.split_once(&format!("'{key}':"))?;
            Some(rest.trim_start())
        };
        let wrong = |key: &str| format!("its head does not say {key}: {}", text.trim());
        let descr = value("descr").ok_or_else(|| wrong("descr"))?;
        let descr = match descr.strip_prefix('\'').and_then(|rest| rest.split_once('\'')) {
            Some((name, _)) => name.to_owned(),
            None => "a structure".to_owned(),
        };
        let order = value("fortran_order").ok_or_else(|| wrong("fortran_order"))?;
        let fortran = match (order.starts_with("True"), order.starts_with("False")) {
            (fortran, plain) if fortran != plain => fortran,
            _ => return Err(wrong("fortran_order")),
        };
        let shape = value("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')'));
        let (shape, _) = shape.ok_or_else(|| wrong("shape"))?;
        let parts = shape.split(',').map(str::trim).filter(|part| !part.is_empty());
        let shape = parts.map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong("shape"))?;
        Ok(Self { length: 8 + width + count, descr, shape, fortran })
    }

    /// The type of the values and whether their bytes are in reverse order; `None` when they are no floating-point
    /// numbers.
    pub fn float(&self) -> Option<(Float, bool)> {
        let (order, kind) = self.descr.split_at_checked(1)?;
        let float = match kind {
            "f2" => Float::F16,
            "f4" => Float::F32,
            "f8" => Float::F64,
            _ => return None,
        };
        match order {
            "<" | "=" => Some((float, false)),
            ">" => Some((float, true)),
            _ => None,
        }
    }

    /// Number of values; `None` beyond what fits a number.
    pub fn count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: u8, text: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        let length = u32::try_from(text.len()).unwrap().to_le_bytes();
        bytes.extend(&length[..if version == 1 { 2 } else { 4 }]);
        bytes.extend(text.bytes());
        bytes
    }

    #[test]
    fn heads_are_read_as_numpy_writes_them() {
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (11, 64, 256), }   \n";
        let header = Header::read(&mut head(1, text).as_slice()).unwrap();
        assert_eq!((header.shape.as_slice(), header.length), (&[11, 64, 256][..], 10 + text.len()));
        assert_eq!((header.float(), header.fortran), (Some((Float::F32, false)), false));
        assert_eq!(header.count(), Some(11 * 64 * 256));
        let text = "{'descr': '>f2', 'fortran_order': True, 'shape': (3,), }";
        let header = Header::read(&mut head(2, text).as_slice()).unwrap();
        assert_eq!((header.shape.as_slice(), header.fortran), (&[3][..], true));
        assert_eq!(header.float(), Some((Float::F16, true)));
        let text = "{'descr': '<i8', 'fortran_order': False, 'shape': (), }";
        let header = Header::read(&mut head(3, text).as_slice()).unwrap();
        assert_eq!((header.count(), header.float(), header.descr.as_str()), (Some(1), None, "<i8"));
        let text = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2, 2), }";
        assert_eq!(Header::read(&mut head(1, text).as_slice()).unwrap().float(), None);
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }";
        assert_eq!(Header::read(&mut head(1, text).as_slice()).unwrap().count(), None);
    }

    #[test]
    fn what_is_no_head_is_refused() {
        let whole = head(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }");
        for cut in 0..whole.len() {
            assert!(Header::read(&mut &whole[..cut]).is_err(), "{cut}");
        }
        for (text, word) in [
            ("{'fortran_order': False, 'shape': (2,)}", "descr"),
            ("{'descr': '<f4', 'shape': (2,)}", "fortran_order"),
            ("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (2,)}", "fortran_order"),
            ("{'descr': '<f4', 'fortran_order': False}", "shape"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", "shape"),
        ] {
            let error = Header::read(&mut head(1, text).as_slice()).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        let mut long = head(2, "");
        long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Header::read(&mut long.as_slice()).unwrap_err().contains("would take"));
        assert!(Header::read(&mut &b"\x93NUMPX\x01\x00"[..]).unwrap_err().contains("no NumPy"));
    }
}
