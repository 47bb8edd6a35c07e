//! Caches of every codec but the exact one that lie in `tests/golden/codecs`: read for ever.
//!
//! `CODEC` is the cache, `CODEC.values` what its hidden states were when it was made (f32, little-endian: for every utterance, for
//! the last layer and then the inner one, the frames that `looked_at` takes). The exact values are made up (`value`), so that
//! what a codec may lose is known as well. When a codec's bytes change in a way that its reader does not misread, these stay; when
//! it would, the format's version is raised and a directory of the new version comes beside this one.
//!
//! `cargo test --release --locked --test it write_the_golden_codecs -- --ignored` writes those that are not there.

use std::path::{Path, PathBuf};

use tutornet::cache::encode::{Extras, Hidden, Raw, encode};
use tutornet::cache::identity::{CorpusIdentity, InnerLayer, Teacher};
use tutornet::cache::schema::{Key, write_shard};
use tutornet::cache::{self, Cache, Identity, Manifest, RecodeOptions, ShardEntry};
use tutornet::features::Frontend;
use tutornet::files;
use tutornet::labels::Labels;
use tutornet::models::HiddenLayer;
use tutornet::signal::Stop;

/// Codec, its directory, and the largest relative error that it may have. `klt-8-states` is of the entropy coder's first form.
const CODECS: [(&str, &str, f64); 4] =
    [("u8", "u8", 0.008), ("klt:0.1", "klt-8-states", 0.1), ("klt:0.1", "klt", 0.1), ("pq:8", "pq", 0.6)];
/// Output frames of the utterances, five in a shard: none, one, less than a block of klt, blocks and a rest.
const FRAMES: [u32; 5] = [0, 1, 5, 21, 330];
const LAYERS: [(HiddenLayer, usize); 2] = [(HiddenLayer::Last, 24), (HiddenLayer::Inner(1), 10)];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/codecs").join(name)
}

/// A hidden state that half precision holds exactly: a multiple of 1/64 from 0 to 8, half of them 0. Channels go
/// together and change slowly, as those of speech do.
fn value(utterance: usize, frame: usize, channel: usize) -> f32 {
    let wave = |period: usize, shift: usize| {
        let at = (frame + shift) % (2 * period);
        i32::try_from(at.min(2 * period - at)).unwrap() * 256 / i32::try_from(period).unwrap() - 128
    };
    let noise = (utterance * 7919 + frame * 104_729 + channel * 1_299_709 + 12_345) * 2_654_435_761;
    let noise = i32::try_from(noise >> 24 & 0x3F).unwrap() - 32;
    let sum = wave(17, 3 * utterance + channel % 3)
        + wave(29, 5 * channel)
        + wave(7 + channel % 4, channel)
        + noise;
    f32::from(i16::try_from(sum.max(0)).unwrap()) / 64.0
}

/// The hidden state that is stored: what was learned from has none of the rare large ones, which klt therefore escapes.
fn stored(utterance: usize, frame: usize, channel: usize) -> f32 {
    let rare = (frame * 31 + channel * 17 + utterance).is_multiple_of(499);
    value(utterance, frame, channel) * if rare { 8.0 } else { 1.0 }
}

fn exact(utterance: usize, layer: usize, frame: usize) -> Vec<f32> {
    (0..LAYERS[layer].1).map(|channel| stored(utterance, frame, channel + 100 * layer)).collect()
}

/// Frames whose values are kept: all of the short utterances, some of the long one.
fn looked_at(frames: usize) -> impl Iterator<Item = usize> {
    (0..frames).step_by(if frames > 100 { 16 } else { 1 })
}

/// An exact cache of made-up values.
fn write_exact(dir: &Path, value: &dyn Fn(usize, usize, usize) -> f32) {
    std::fs::create_dir_all(dir).unwrap();
    let labels = Labels::english().count();
    let mut identity = Identity::new(
        Teacher { name: "made-up".to_owned(), hash: "0123456789abcdef".repeat(4) },
        CorpusIdentity::new("fedcba9876543210".repeat(4)),
        Frontend::default(),
        Labels::english(),
        2,
        u32::try_from(LAYERS[0].1).unwrap(),
    );
    identity.layers = vec![InnerLayer { layer: 1, width: u32::try_from(LAYERS[1].1).unwrap() }];
    identity.save(dir).unwrap();
    let hash = files::blake3_file(&dir.join("cache.toml")).unwrap();
    let rows: Vec<_> = FRAMES
        .iter()
        .enumerate()
        .map(|(utterance, &frames)| {
            let padded = frames as usize;
            let by_channel = |layer: usize| -> Vec<f32> {
                let at = |at: usize| value(utterance, at % padded, at / padded + 100 * layer);
                (0..LAYERS[layer].1 * padded).map(at).collect()
            };
            let values = [by_channel(0), by_channel(1)];
            let [last, inner] = [0, 1].map(|layer| Hidden {
                layer: LAYERS[layer].0,
                values: &values[layer],
                width: LAYERS[layer].1,
            });
            let logits: Vec<f32> =
                (0..padded * labels).map(|at| value(utterance, at / labels, at % labels)).collect();
            let hash = u8::try_from(utterance).unwrap();
            let key = Key {
                utterance: format!("utt-{utterance}"),
                samples: 320 * u64::from(frames),
                audio_hash: [hash; 16],
                frames,
            };
            let raw = Raw { hidden: last, inner: &[inner], logits: &logits, frames: padded, padded, labels };
            encode(key, raw, Extras::default()).unwrap()
        })
        .collect();
    let summary = write_shard(&dir.join("shard-00000.parquet"), &identity, &hash, &rows).unwrap();
    let entry =
        ShardEntry::new("shard-00000.parquet", FRAMES.iter().map(|&frames| u64::from(frames)).sum(), summary);
    Manifest::new(dir, vec![entry]).unwrap().save(dir).unwrap();
}

/// Writes the cache of a codec.
fn write(codec: &str, out: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_exact(&at("heard"), &value);
    write_exact(&at("exact"), &stored);
    let recode = |from: &str, out: &Path, codec_from: Option<PathBuf>| {
        let codec = codec.parse().unwrap();
        let options = RecodeOptions { from: at(from), out: out.to_path_buf(), codec, codec_from };
        cache::recode(&options, &Stop::default()).unwrap();
    };
    recode("heard", &at("learned"), None);
    recode("exact", out, (codec != "u8").then(|| at("learned")));
}

/// The values that are kept of a cache, and the squares of what they err by and of the exact ones, over all frames.
fn values(dir: &Path) -> (Vec<f32>, f64, f64) {
    let cache = Cache::open(dir).unwrap();
    let (mut kept, mut one, mut off, mut all) = (Vec::new(), Vec::new(), 0.0, 0.0);
    for (utterance, &frames) in FRAMES.iter().enumerate() {
        assert_eq!(
            (cache.find(&format!("utt-{utterance}")), cache.entries()[utterance].frames),
            (Some(utterance), frames)
        );
        for (layer, (of, width)) in LAYERS.into_iter().enumerate() {
            cache.hidden(of, utterance, &mut one).unwrap();
            assert_eq!(one.len(), width * frames as usize);
            for (frame, found) in one.chunks_exact(width).enumerate() {
                for (found, exact) in found.iter().zip(exact(utterance, layer, frame)) {
                    off += f64::from(found - exact).powi(2);
                    all += f64::from(exact).powi(2);
                }
            }
            kept.extend(
                looked_at(frames as usize).flat_map(|frame| &one[frame * width..(frame + 1) * width]),
            );
        }
    }
    (kept, off, all)
}

#[test]
fn the_golden_caches_of_every_codec_are_read() {
    for (codec, name, most) in CODECS {
        let dir = golden(name);
        assert_eq!(cache::verify(&dir, &mut |_, _| {}).unwrap(), [], "{name}");
        assert_eq!(Cache::open(&dir).unwrap().identity().codec, codec);
        let (found, off, all) = values(&dir);
        let error = (off / all).sqrt();
        assert!(error <= most, "{name}: relative error {error}");
        let expected: Vec<f32> =
            files::f32s(&std::fs::read(golden(&format!("{name}.values"))).unwrap()).collect();
        assert_eq!(found.len(), expected.len());
        // They were kept when the order of the sums on the way back from a rotation was the processor's.
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(
                (found - expected).abs() <= 1e-4 * expected.abs().max(1.0),
                "{name}, value {at}: {found}, was {expected}"
            );
        }
        if name == "u8" {
            assert_eq!(found, expected, "nothing to be summed");
        }
    }
}

#[test]
fn todays_affine_writer_writes_the_golden_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("u8");
    write("u8", &out);
    let mut written = crate::harness::contents(&out);
    // The golden caches are older than the file that says how they were made.
    let maker = String::from_utf8(written.remove(Path::new("maker.toml")).unwrap()).unwrap();
    assert!(maker.starts_with("command = \"recode\"\ncache = \""), "{maker}");
    assert!(written == crate::harness::contents(&golden("u8")), "other bytes; see the head of {}", file!());
}

#[test]
#[ignore = "writes the golden caches of every codec"]
fn write_the_golden_codecs() {
    for (codec, name, _) in CODECS {
        let out = golden(name);
        if out.exists() {
            continue;
        }
        write(codec, &out);
        std::fs::remove_file(out.join(".lock")).unwrap();
        let bytes: Vec<u8> = values(&out).0.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(golden(&format!("{name}.values")), bytes).unwrap();
    }
}
