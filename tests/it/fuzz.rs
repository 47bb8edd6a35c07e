//! What fuzzing kept, read once more by the whole library: `fuzz/corpus`, and the files that it began with.

use std::panic::catch_unwind;
use std::path::Path;

#[path = "../../fuzz/src/checks.rs"]
mod checks;

fn check(target: &str, bytes: &[u8]) {
    match target {
        "shard" => checks::shard(bytes),
        "texts" => checks::texts(bytes),
        "codec" => checks::codec(bytes),
        "payload" => checks::payload(bytes),
        other => panic!("fuzz/corpus/{other}: no such target"),
    }
}

#[test]
fn what_fuzzing_kept_is_refused_or_read() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut count = 0;
    for target in ["shard", "texts", "codec", "payload"] {
        for entry in
            std::fs::read_dir(kept.join(target)).unwrap_or_else(|e| panic!("fuzz/corpus/{target}: {e}"))
        {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            assert!(catch_unwind(|| check(target, &bytes)).is_ok(), "{} panicked", path.display());
            count += 1;
        }
    }
    assert!(count > 100, "only {count} inputs in {}", kept.display());
}

/// Writes the first inputs, for a corpus that begins anew.
#[test]
#[ignore = "writes fuzz/corpus"]
fn write_the_first_inputs() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (number, (target, bytes)) in checks::seeds().into_iter().enumerate() {
        std::fs::create_dir_all(kept.join(target)).unwrap();
        std::fs::write(kept.join(target).join(format!("first-{number:02}")), bytes).unwrap();
    }
}
