//! Parquet's own reader takes some of what a file says for granted and panics where it is not so. To us a file over which it
//! does is damaged, like any other that it refuses: an error that names the file, and nothing on stderr.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::Once;

use crate::error::{Error, Result};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `read`, in which Parquet reads the file at `path`.
///
/// # Errors
/// Those of `read`; and when it panics.
pub(super) fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    // What was being read is dropped: nothing half-done is seen.
    let result = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(outer);
    result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Err(Error::format(path, format!("not a whole Parquet file: {text}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_that_names_the_file() {
        let path = Path::new("some/shard.parquet");
        let message = |read: fn() -> Result<u8>| guarded(path, read).map_err(|e| e.to_string());
        assert_eq!(message(|| Ok(3)), Ok(3));
        assert_eq!(message(|| Err(Error::invalid("no"))), Err("no".to_owned()));
        for read in [|| panic!("no dictionary"), || panic!("no {}", "dictionary")] as [fn() -> Result<u8>; 2]
        {
            let expected = "some/shard.parquet: not a whole Parquet file: no dictionary";
            assert_eq!(message(read), Err(expected.to_owned()));
        }
        assert!(!GUARDED.get());
    }
}
