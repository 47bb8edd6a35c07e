//! What is fuzzed: each takes any bytes and comes back. A reader may refuse them; it may not panic, hang, or ask for memory
//! out of proportion. `tests/it/fuzz.rs` runs the same over the kept corpus, with the whole library.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tutornet::cache::codec::{Codec, CodecModel, CodecName, PART};
use tutornet::cache::column::payloads;
use tutornet::cache::rows::Rows;
use tutornet::cache::{Cache, Identity, Manifest, verify};
use tutornet::files;
use tutornet::models::HiddenLayer;
use tutornet::shard::Shard;

const GOLDEN_IDENTITY: &str = include_str!("../../tests/golden/cache/cache.toml");
/// Channels of the codecs that are learned here.
const WIDTH: usize = 24;
const CODECS: [&str; 4] = ["f16", "u8", "klt:0.2", "pq:8"];

/// A directory in memory, one a process.
fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let directory = root.join(format!("tutornet-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for what is read");
        directory
    })
}

fn put(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    std::fs::create_dir_all(directory).expect("a directory for what is read");
    let path = directory.join(name);
    // A new file each time: what an earlier one was mapped from stays as it was.
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).expect("room for what is read");
    path
}

/// Any file as a shard: its columns and payloads, as a shard of the golden cache, and as one under a manifest.
pub fn shard(bytes: &[u8]) {
    let dir = directory().join("shard");
    let path = put(&dir, "shard-00000.parquet", bytes);
    let Ok(shard) = Shard::open(&path) else { return };
    let small = ["utterance", "samples", "audio_hash", "frames", "checksum"];
    for name in small {
        let _ = shard.columns(&[name]);
    }
    for column in ["hidden", "frame_weight", "posterior", "softmax", "features"] {
        let _ = shard.compressed_bytes(column);
        for row in 0..shard.rows().min(100) {
            let _ = shard.payload(column, row);
        }
    }
    put(&dir, "cache.toml", GOLDEN_IDENTITY.as_bytes());
    let identity = Identity::load(&dir).expect("the golden identity");
    let hash = files::blake3_file(&dir.join("cache.toml")).expect("the golden identity");
    let codecs = CodecModel::fixed(CodecName::F16, [HiddenLayer::Last]);
    let Ok(rows) = Rows::open(&path, &identity, &hash, &Arc::new(codecs)) else { return };
    let mut scratch = Vec::new();
    for row in 0..rows.keys().len().min(100) {
        for &column in rows.columns() {
            let _ = rows.check(column, row, &mut scratch);
        }
    }
}

/// Any text as `cache.toml` or `manifest.toml`, as it stands and with a seal that holds.
pub fn texts(bytes: &[u8]) {
    let Some((which, body)) = bytes.split_first() else { return };
    let dir = directory().join("texts");
    let sealed = String::from_utf8(body.to_vec()).map(|text| files::seal(&text).into_bytes());
    for text in [Ok(body.to_vec()), sealed].into_iter().flatten() {
        if which % 2 == 0 {
            put(&dir, "cache.toml", &text);
            if let Ok(identity) = Identity::load(&dir) {
                for column in payloads(&identity) {
                    let _ = (column.to_string(), column.layout(&identity));
                }
                let _ = (identity.blake3(), CodecModel::open(&dir, &identity));
            }
        } else {
            put(&dir, "cache.toml", GOLDEN_IDENTITY.as_bytes());
            put(&dir, "manifest.toml", &text);
            let _ = Manifest::load(&dir);
        }
        let _ = Cache::open(&dir);
        let _ = verify(&dir, &mut |_, _| {});
    }
}

/// What is learned of made-up values.
fn learned() -> &'static [CodecModel] {
    static LEARNED: OnceLock<Vec<CodecModel>> = OnceLock::new();
    LEARNED.get_or_init(|| {
        let value = |place: usize| {
            let mixed = (place * 1_299_709 + 12_345).wrapping_mul(2_654_435_761);
            let byte = u8::try_from(mixed >> 24 & 0xFF).unwrap_or(0);
            if byte < 100 { 0.0 } else { f32::from(byte) / 32.0 }
        };
        let sample: Vec<Vec<f32>> =
            (0..4).map(|u| (0..150 * WIDTH).map(|at| value(u * 1_000_000 + at)).collect()).collect();
        let model = |name: &str| {
            let name: CodecName = name.parse().expect("a codec");
            let codec = Codec::learn(name, &sample, WIDTH).expect("something to learn from");
            CodecModel::new(name, vec![(HiddenLayer::Last, codec)])
        };
        CODECS.iter().copied().map(model).collect()
    })
}

/// Any file as what a codec learned; where it is read, payloads are decoded with it.
pub fn codec(bytes: &[u8]) {
    let path = put(&directory().join("codec"), "codec.safetensors", bytes);
    let Ok(model) = CodecModel::load(&path, &[(HiddenLayer::Last, WIDTH)]) else { return };
    let Some(codec) = model.of(HiddenLayer::Last) else { return };
    let values = vec![0.5; 11 * WIDTH];
    let mut out = Vec::new();
    for other in learned().iter().filter_map(|model| model.of(HiddenLayer::Last)) {
        let _ = codec.decode(&other.encode(&values, 11, WIDTH), 11, WIDTH, &mut out);
    }
    let _ = codec.decode(bytes, 11, WIDTH, &mut out);
}

/// Any bytes as a payload: first the codec, then the number of frames, then the lengths of two parts, which with the rest are
/// filled up with zeros as the exact codecs lay out theirs; without lengths the payload stands as it is.
pub fn payload(bytes: &[u8]) {
    let [which, low, high, lengths @ ..] = bytes else { return };
    let Some(([a, b, c, d], rest)) = lengths.split_first_chunk::<4>() else { return };
    let models = learned();
    let Some(codec) = models[usize::from(*which) % models.len()].of(HiddenLayer::Last) else { return };
    let frames = usize::from(u16::from_le_bytes([*low, *high]));
    let (first, second) = (u16::from_le_bytes([*a, *b]).into(), u16::from_le_bytes([*c, *d]).into());
    let mut payload = Vec::new();
    if (first, second) == (0usize, 0usize) {
        payload.extend(rest);
    } else {
        let (one, others) = rest.split_at(rest.len().min(first));
        let (two, three) = others.split_at(others.len().min(second));
        for part in [one, two, three] {
            payload.extend(part);
            payload.resize(payload.len().div_ceil(PART) * PART, 0);
        }
    }
    let mut out = Vec::new();
    if codec.decode(&payload, frames, WIDTH, &mut out).is_ok() {
        assert_eq!(out.len(), frames * WIDTH, "decoded to another length");
    }
}

/// Files that readers take, to start from: a target and its inputs.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds: Vec<(&'static str, Vec<u8>)> = Vec::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|a| a.join("tests/golden"));
    for golden in golden.filter(|g| g.is_dir()).take(1) {
        for name in ["cache/shard-00000.parquet", "cache/shard-00001.parquet", "corpus/shard-00000.parquet"] {
            seeds.extend(std::fs::read(golden.join(name)).map(|bytes| ("shard", bytes)));
        }
        for (which, name) in [(0u8, "cache/cache.toml"), (1, "cache/manifest.toml")] {
            let text = std::fs::read_to_string(golden.join(name)).unwrap_or_default();
            let body = text.split("# blake3").next().unwrap_or_default();
            seeds.extend([text.as_str(), body].map(|t| ("texts", [&[which], t.as_bytes()].concat())));
        }
    }
    for (model, which) in learned().iter().zip(0u8..) {
        seeds.extend(model.to_bytes().map(|bytes| ("codec", bytes)));
        let Some(codec) = model.of(HiddenLayer::Last) else { continue };
        for frames in [0u8, 1, 9] {
            let count = usize::from(frames);
            let values: Vec<f32> =
                (0..u8::MAX).cycle().take(count * WIDTH).map(|v| f32::from(v % 7)).collect();
            let payload = codec.encode(&values, count, WIDTH);
            let mut seed = vec![which, frames, 0];
            if payload.len() < PART {
                seed.extend([0; 4]);
                seed.extend(payload);
            } else {
                let parts: Vec<Vec<u8>> = payload.chunks(PART).map(without_zeros).collect();
                let length = |part: usize| parts.get(part).map_or(0, Vec::len);
                let lengths = [length(0), length(1)].map(|l| u16::try_from(l).unwrap_or(u16::MAX));
                seed.extend(lengths.iter().flat_map(|l| l.to_le_bytes()));
                seed.extend(parts.concat());
            }
            seeds.push(("payload", seed));
        }
    }
    seeds
}

fn without_zeros(part: &[u8]) -> Vec<u8> {
    part[..part.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1)].to_vec()
}
