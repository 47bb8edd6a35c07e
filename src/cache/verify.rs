//! What a cache holds, and whether every byte is as it was written.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::Cache;
use super::codec::{CODEC_FILE, CodecModel};
use super::column::Column;
use super::identity::{IDENTITY, Identity, InnerLayer};
use super::manifest::{MANIFEST, Manifest, ShardEntry};
use super::remedy::MAKER;
use super::rows::Rows;
use super::weights::{FrameWeight, frame_weights};
use crate::error::{Error, Result};
use crate::features::Frontend;
use crate::files;
use crate::models::HiddenLayer;
use crate::shard::{FileReport, Problem, check_all};
use crate::store;

/// A cache in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// Always `cache`.
    pub kind: &'static str,
    /// Version of the format.
    pub version: u32,
    /// BLAKE3 of `cache.toml`.
    pub identity: String,
    /// Name of the teacher.
    pub teacher: String,
    /// BLAKE3 of what the teacher computes.
    pub teacher_hash: String,
    /// Identity of the corpus.
    pub corpus: String,
    /// The features the teacher was fed.
    pub frontend: Frontend,
    /// Feature frames per output frame.
    pub stride: u32,
    /// Number of labels, the blank included.
    pub labels: usize,
    /// Arithmetic of the forward pass.
    pub precision: String,
    /// Temperature of the column `softmax`, if there is one.
    pub temperature: Option<f64>,
    /// How the column `nbest` was searched for, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbest: Option<String>,
    /// Utterances.
    pub utterances: u64,
    /// Output frames.
    pub frames: u64,
    /// Seconds of audio.
    pub seconds: f64,
    /// The hidden states.
    pub hidden: Hidden,
    /// The outputs of inner layers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<InnerHidden>,
    /// The frame weights of the last layer.
    pub frame_weight: FrameWeight,
    /// Compressed bytes of the posteriors over output frames.
    pub posterior_bytes_per_frame: f64,
    /// Shards.
    pub shards: usize,
    /// Size of all shards.
    pub bytes: u64,
}

/// The column `hidden`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hidden {
    /// How it is stored.
    pub codec: String,
    /// Channels.
    pub width: u32,
    /// Compressed bytes in the Parquet metadata over output frames.
    pub bytes_per_frame: f64,
}

/// The columns of one inner layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InnerHidden {
    /// Its number K.
    pub layer: u32,
    /// Channels.
    pub width: u32,
    /// Compressed bytes of `hidden_K` in the Parquet metadata over output frames.
    pub bytes_per_frame: f64,
    /// [`FrameWeight::ratio`] of its frame weights.
    pub frame_weight_ratio: f64,
}

/// Describes a complete cache; of the payloads, only the frame weights are read.
///
/// # Errors
/// As [`Cache::open`], and when a frame weight is not what was written.
pub fn describe(dir: &Path) -> Result<Description> {
    let cache = Cache::open(dir)?;
    let (identity, manifest) = (cache.identity(), cache.manifest());
    let frames = manifest.frames.max(1) as f64;
    let inner = |inner: &InnerLayer| -> Result<InnerHidden> {
        let &InnerLayer { layer, width } = inner;
        let of = HiddenLayer::Inner(layer);
        let (bytes_per_frame, weights) = (cache.hidden_bytes_per_frame(of)?, frame_weights(&cache, of)?);
        Ok(InnerHidden { layer, width, bytes_per_frame, frame_weight_ratio: weights.ratio })
    };
    Ok(Description {
        kind: "cache",
        version: identity.version,
        identity: manifest.identity.clone(),
        teacher: identity.teacher.name.clone(),
        teacher_hash: identity.teacher.hash.clone(),
        corpus: identity.corpus.hash.clone(),
        frontend: identity.frontend,
        stride: identity.stride,
        labels: identity.labels.count(),
        precision: identity.precision.clone(),
        temperature: identity.temperature,
        nbest: identity.nbest.as_ref().map(ToString::to_string),
        utterances: manifest.utterances,
        frames: manifest.frames,
        seconds: cache.entries().iter().map(|e| e.samples).sum::<u64>() as f64 / 16_000.0,
        hidden: Hidden {
            codec: identity.codec.clone(),
            width: identity.hidden_width,
            bytes_per_frame: cache.hidden_bytes_per_frame(HiddenLayer::Last)?,
        },
        layers: identity.layers.iter().map(inner).collect::<Result<_>>()?,
        frame_weight: frame_weights(&cache, HiddenLayer::Last)?,
        posterior_bytes_per_frame: cache.compressed_bytes(Column::Posterior)? as f64 / frames,
        shards: manifest.shards.len(),
        bytes: manifest.shards.iter().map(|s| s.bytes).sum(),
    })
}

/// Reads every byte of a cache and lists what is not as it was written; see [`examine`].
///
/// # Errors
/// When the directory cannot be listed; damage is no error here.
pub fn verify(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Problem>> {
    Ok(examine(dir, progress)?.into_iter().flat_map(|report| report.problems).collect())
}

/// Reads every byte of a cache and says of every file how it was found: the seals of `cache.toml` and
/// `manifest.toml`, the BLAKE3 of what a codec learned and of every shard, the checksum of every payload, and shards
/// that no manifest knows. Shards are read on all cores; `progress` is told bytes done and in all. Without a
/// manifest the checksums of the shards that are there are all there is to go by.
///
/// # Errors
/// When the directory cannot be listed; damage is no error here.
pub fn examine(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<FileReport>> {
    let identity = Identity::load(dir);
    let manifest = Manifest::load(dir);
    let mut reports =
        vec![text(dir, IDENTITY, identity.as_ref().err()), text(dir, MANIFEST, manifest.as_ref().err())];
    let identity = identity.ok();
    let codecs = identity.as_ref().map(|identity| CodecModel::open(dir, identity));
    if identity.as_ref().is_some_and(|identity| identity.codec_model.is_some()) {
        reports.push(text(dir, CODEC_FILE, codecs.as_ref().and_then(|codecs| codecs.as_ref().err())));
    }
    let codecs = codecs.and_then(std::result::Result::ok).map(Arc::new);
    if store::exists(&dir.join(MAKER)).unwrap_or(false) {
        reports.push(text(dir, MAKER, files::read_sealed(&dir.join(MAKER)).err().as_ref()));
    }
    let hash = files::blake3_file(&dir.join(IDENTITY)).unwrap_or_default();
    let of =
        identity.as_ref().zip(codecs.as_ref()).map(|(identity, codecs)| (identity, hash.as_str(), codecs));
    let there = shards(dir)?;
    // A manifest knows its shards' bytes even beside a cache.toml that was changed.
    let manifest = manifest.or_else(|_| Manifest::read(dir));
    let listed: Vec<(ShardEntry, u64)> = match &manifest {
        Ok(manifest) => manifest.shards.iter().map(|entry| (entry.clone(), entry.bytes)).collect(),
        Err(_) => Vec::new(),
    };
    reports.extend(check_all(&listed, |entry| shard(dir, entry, of), progress));
    if manifest.is_ok() {
        let surplus = there.iter().filter(|name| !listed.iter().any(|(entry, _)| entry.file == **name));
        let detail = format!("a shard that {MANIFEST} does not have: remove it");
        reports.extend(surplus.map(|name| FileReport::surplus(dir, name, detail.clone())));
    } else {
        let found: Vec<(String, u64)> = there.into_iter().map(|name| (name, 0)).collect();
        let check = |name: &String| {
            let (path, mut problems) = (dir.join(name), Vec::new());
            match of {
                Some(of) => payloads(&path, of, None, &mut problems),
                None => problems.push(Problem::file(
                    &path,
                    format!(
                        "not checked: there is no whole {MANIFEST}, nor what else its rows are read with"
                    ),
                )),
            }
            FileReport::new(dir, name, problems)
        };
        reports.extend(check_all(&found, check, progress));
    }
    Ok(reports)
}

/// What every shard is read with: identity, BLAKE3 of `cache.toml`, codecs.
type Of<'a> = (&'a Identity, &'a str, &'a Arc<CodecModel>);

fn text(dir: &Path, file: &str, error: Option<&Error>) -> FileReport {
    FileReport::new(dir, file, error.map(|e| Problem::of(dir.join(file), e)).into_iter().collect())
}

/// A shard against its entry, and every payload of it against its checksum.
fn shard(dir: &Path, entry: &ShardEntry, of: Option<Of>) -> FileReport {
    let path = dir.join(&entry.file);
    let mut problems = Vec::new();
    // A file of another size is reported as such, below.
    if let (Some(of), Ok(None)) = (of, entry.size_difference(dir)) {
        payloads(&path, of, Some(entry), &mut problems);
    }
    match entry.difference(dir) {
        // Named more precisely above.
        Ok(Some(_)) if !problems.is_empty() => {}
        Ok(difference) => problems.extend(difference.map(|difference| Problem::file(&path, difference))),
        Err(e) => problems.push(Problem::of(&path, &e)),
    }
    FileReport::new(dir, &entry.file, problems)
}

/// The rows of a shard against its entry, and every payload against its checksum.
fn payloads(
    path: &Path,
    (identity, cache, codecs): Of,
    entry: Option<&ShardEntry>,
    problems: &mut Vec<Problem>,
) {
    let opened = Rows::open(path, identity, cache, codecs).and_then(|rows| {
        if let Some(entry) = entry {
            rows.require(entry)?;
        }
        Ok(rows)
    });
    let rows = match opened {
        Ok(rows) => rows,
        Err(e) => return problems.push(Problem::of(path, &e)),
    };
    let mut scratch = Vec::new();
    for (row, key) in rows.keys().iter().enumerate() {
        for &column in rows.columns() {
            if let Err(e) = rows.check(column, row, &mut scratch) {
                problems.push(Problem::payload(path, &key.utterance, column, &e));
            }
        }
    }
}

/// The shards of a directory, sorted.
pub(super) fn shards(dir: &Path) -> Result<Vec<String>> {
    let mut names = store::names(dir)?;
    names.retain(|name| name.ends_with(".parquet") && !name.starts_with('.'));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::example;
    use super::super::tests::write_cache;
    use super::*;
    use crate::shard::State;

    fn check(dir: &Path) -> Vec<String> {
        verify(dir, &mut |_, _| {}).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_whole_cache_has_no_problem_and_figures() {
        let dir = tempfile::tempdir().unwrap();
        let values = write_cache(dir.path(), &example(16), 2);
        assert_eq!(check(dir.path()), Vec::<String>::new());
        let found = describe(dir.path()).unwrap();
        let frames: u64 = values.iter().map(|v| u64::from(v.key.frames)).sum();
        assert_eq!((found.utterances, found.frames, found.hidden.width), (6, frames, 16));
        assert!(found.frame_weight.range[0] > 0.5 && found.frame_weight.range[1] < 1.0, "{found:?}");
        assert!(found.frame_weight.deviation > 0.0 && found.frame_weight.mean > 0.5);
        let cache = Cache::open(dir.path()).unwrap();
        let mut weights = Vec::new();
        for index in 0..cache.entries().len() {
            let mut one = Vec::new();
            cache.frame_weight(HiddenLayer::Last, index, &mut one).unwrap();
            weights.extend(one);
        }
        weights.sort_by(f32::total_cmp);
        let [low, middle, high] = found.frame_weight.quantiles;
        assert!(weights[0] <= low && low <= middle && middle <= high && high <= weights[weights.len() - 1]);
        let above = weights.iter().filter(|w| **w > middle).count();
        assert!(
            above * 2 <= weights.len() && (above + 1) * 2 >= weights.len(),
            "the median has half on each side"
        );
        assert!((found.frame_weight.ratio - (f64::from(high) / f64::from(low)).powi(2)).abs() < 1e-12);
    }

    #[test]
    fn every_flipped_byte_is_found_and_the_rest_is_read_on() {
        let dir = tempfile::tempdir().unwrap();
        write_cache(dir.path(), &example(16), 2);
        for file in ["shard-00000.parquet", "cache.toml", "manifest.toml"] {
            let path = dir.path().join(file);
            let good = std::fs::read(&path).unwrap();
            for at in (0..good.len()).step_by(if file.ends_with("toml") { 7 } else { 101 }) {
                let mut bytes = good.clone();
                bytes[at] ^= 32;
                std::fs::write(&path, &bytes).unwrap();
                let problems = check(dir.path());
                assert!(problems.iter().any(|p| p.contains(file)), "{file} byte {at}: {problems:?}");
            }
            std::fs::write(&path, &good).unwrap();
        }
        // Two bad shards, a surplus one: all listed.
        for file in ["shard-00000.parquet", "shard-00001.parquet"] {
            let path = dir.path().join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[300] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
        }
        std::fs::write(dir.path().join("shard-00009.parquet"), b"x").unwrap();
        let problems = check(dir.path());
        for file in ["shard-00000", "shard-00001", "shard-00009"] {
            assert!(problems.iter().any(|p| p.contains(file)), "{file}: {problems:?}");
        }
        std::fs::remove_file(dir.path().join("shard-00000.parquet")).unwrap();
        assert!(check(dir.path()).iter().any(|p| p.contains("missing")));
        // And beside a cache.toml that says nothing of them; without the manifest as well none is called good.
        let path = dir.path().join("cache.toml");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let problems = check(dir.path());
        assert!(problems.iter().any(|p| p.contains("missing")), "{problems:?}");
        assert!(problems.iter().any(|p| p.contains("shard-00001.parquet: expected BLAKE3")), "{problems:?}");
        std::fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        let problems = check(dir.path());
        for file in ["shard-00001", "shard-00009"] {
            assert!(problems.iter().any(|p| p.contains(file) && p.contains("not checked")), "{problems:?}");
        }
    }

    #[test]
    fn every_file_has_a_state_and_shards_are_checked_without_a_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write_cache(dir, &example(16), 4);
        let states = || -> Vec<(String, State)> {
            examine(dir, &mut |_, _| {}).unwrap().into_iter().map(|f| (f.file, f.state)).collect()
        };
        let all =
            ["cache.toml", MANIFEST, "shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet"];
        let whole = states();
        assert_eq!(whole[..5], all.map(|file| (file.to_owned(), State::Ok)));
        let path = dir.join("shard-00001.parquet");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[300] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        std::fs::remove_file(dir.join("shard-00002.parquet")).unwrap();
        std::fs::write(dir.join("shard-00009.parquet"), "").unwrap();
        let found = states();
        let of = |file: &str| found.iter().find(|(name, _)| name == file).map(|(_, state)| *state);
        assert_eq!(of("shard-00000.parquet"), Some(State::Ok));
        assert_eq!(of("shard-00001.parquet"), Some(State::Damaged));
        assert_eq!(of("shard-00002.parquet"), Some(State::Missing));
        assert_eq!(of("shard-00009.parquet"), Some(State::Surplus));
        let (mut told, mut total) = (Vec::new(), 0);
        examine(dir, &mut |done, of| (told.push(done), total = of).0).unwrap();
        assert!(told.is_sorted() && told.first() == Some(&0) && told.last() == Some(&total), "{told:?}");

        std::fs::remove_file(dir.join(MANIFEST)).unwrap();
        let found = states();
        let of = |file: &str| found.iter().find(|(name, _)| name == file).map(|(_, state)| *state);
        assert_eq!((of(MANIFEST), of("shard-00000.parquet")), (Some(State::Missing), Some(State::Ok)));
        assert_eq!(of("shard-00001.parquet"), Some(State::Damaged));
    }
}
