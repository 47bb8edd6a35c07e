//! What a complete cache consists of: `manifest.toml`, written last.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::identity::{IDENTITY, VERSION, require_version};
use crate::error::{Error, Result};
use crate::files;
use crate::shard::ShardSummary;
use crate::store;

/// Name of the manifest in a cache directory; a directory without one is not complete.
pub const MANIFEST: &str = "manifest.toml";
/// Name of the manifest that a cache had before a column was added, while one is.
pub const ADDING: &str = "adding.toml";

/// The shards of a complete cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format, as in `cache.toml`; a manifest without one is of version 1.
    #[serde(default = "first")]
    pub version: u32,
    /// BLAKE3 of `cache.toml`, 64 hexadecimal digits.
    pub identity: String,
    /// Utterances in all shards.
    pub utterances: u64,
    /// Output frames in all shards.
    pub frames: u64,
    /// One entry a shard, in order.
    #[serde(default)]
    pub shards: Vec<ShardEntry>,
}

fn first() -> u32 {
    1
}

/// One finished shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// File name within the directory.
    pub file: String,
    /// Utterances.
    pub rows: u64,
    /// Output frames.
    pub frames: u64,
    /// Size of the file.
    pub bytes: u64,
    /// BLAKE3 of the file, 64 hexadecimal digits.
    pub blake3: String,
    /// BLAKE3 of what its small columns hold (see [`super::schema::rows_blake3`]), so that nothing of them is taken
    /// unchecked when the cache is opened; absent where another program wrote the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_blake3: Option<String>,
}

impl ShardEntry {
    /// The entry of a shard that was just written under `file`.
    pub fn new(file: &str, frames: u64, summary: ShardSummary) -> Self {
        let ShardSummary { rows, bytes, blake3, rows_blake3 } = summary;
        Self { file: file.to_owned(), rows, frames, bytes, blake3, rows_blake3 }
    }

    /// Says how the file in `dir` differs from this entry, if it does.
    ///
    /// # Errors
    /// When the file cannot be read for another reason than that it is not there.
    pub fn difference(&self, dir: &Path) -> Result<Option<String>> {
        if let Some(difference) = self.size_difference(dir)? {
            return Ok(Some(difference));
        }
        files::hash_difference(&dir.join(&self.file), &self.blake3)
    }

    /// Like [`ShardEntry::difference`], from the file's size alone.
    ///
    /// # Errors
    /// As for [`ShardEntry::difference`].
    pub fn size_difference(&self, dir: &Path) -> Result<Option<String>> {
        let Some(found) = files::size(&dir.join(&self.file))? else { return Ok(Some("missing".to_owned())) };
        Ok((found != self.bytes).then(|| format!("expected {} bytes, found {found}: truncated?", self.bytes)))
    }
}

impl Manifest {
    /// The manifest of a directory whose `cache.toml` and `shards` are in place.
    ///
    /// # Errors
    /// When `cache.toml` cannot be read.
    pub fn new(dir: &Path, shards: Vec<ShardEntry>) -> Result<Self> {
        Ok(Self {
            version: VERSION,
            identity: files::blake3_file(&dir.join(IDENTITY))?,
            utterances: shards.iter().map(|s| s.rows).sum(),
            frames: shards.iter().map(|s| s.frames).sum(),
            shards,
        })
    }

    /// Reads `DIR/manifest.toml`, its seal, and checks that it belongs to the `cache.toml` beside it.
    ///
    /// # Errors
    /// When the cache is not complete, or one of the two files is not the one that was written.
    pub fn load(dir: &Path) -> Result<Self> {
        let manifest = Self::read(dir)?;
        manifest.require_identity(dir)?;
        Ok(manifest)
    }

    /// Reads `DIR/manifest.toml` and its seal, whatever `cache.toml` is beside it.
    ///
    /// # Errors
    /// When the cache is not complete, or the file is not the one that was written.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        if !store::exists(&path)? {
            let next = if store::is_remote(dir) {
                "the upload is not complete (the manifest goes last), or it is another place".to_owned()
            } else {
                super::remedy::unfinished(dir)
            };
            let detail = format!("the cache is not complete: it has no {MANIFEST}; {next}");
            return Err(Error::format(dir, detail));
        }
        let text = files::read_sealed(&path)?;
        let bad = |e: toml::de::Error| Error::format(&path, e.message().to_owned());
        // The version first: another version's keys are not this version's mistakes.
        let keys: toml::Table = toml::from_str(&text).map_err(bad)?;
        require_version(&path, keys.get("version").map_or(Some(1), toml::Value::as_integer))?;
        let manifest: Self = toml::from_str(&text).map_err(bad)?;
        // Nothing beyond the directory is opened in its name.
        let plain = |entry: &&ShardEntry| Path::new(&entry.file).file_name() == Some(entry.file.as_ref());
        if let Some(entry) = manifest.shards.iter().find(|entry| !plain(entry)) {
            let detail = format!("expected a plain file name, found {:?}", entry.file);
            return Err(Error::format(&path, detail));
        }
        Ok(manifest)
    }

    fn require_identity(&self, dir: &Path) -> Result<()> {
        let found = files::blake3_file(&dir.join(IDENTITY))?;
        if self.identity == found {
            return Ok(());
        }
        Err(Error::mismatch(
            format!("{IDENTITY} in {}", dir.display()),
            format!("BLAKE3 {} (from {MANIFEST})", self.identity),
            found,
            "one of the two was changed, or is from another cache: the command that made the cache, run once more with all of its \
             options, writes it again and computes nothing that is whole",
        ))
    }

    /// Writes `DIR/manifest.toml`, sealed: from here on the cache is complete.
    ///
    /// # Errors
    /// See [`files::write_sealed`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.save_as(dir, MANIFEST)
    }

    /// Writes the manifest under another name, where it says what a cache was.
    ///
    /// # Errors
    /// See [`files::write_sealed`].
    pub(super) fn save_as(&self, dir: &Path, name: &str) -> Result<()> {
        let path = dir.join(name);
        let text = toml::to_string(self).map_err(|e| Error::format(&path, e.to_string()))?;
        files::write_sealed(&path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_belongs_to_one_identity() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(Manifest::load(dir).unwrap_err().to_string().contains("not complete"));
        super::super::identity::tests::example(8).save(dir).unwrap();
        std::fs::write(dir.join("shard-00000.parquet"), b"abc").unwrap();
        let blake3 = blake3::hash(b"abc").to_hex().to_string();
        let entry = ShardEntry::new(
            "shard-00000.parquet",
            7,
            ShardSummary { rows: 1, bytes: 3, blake3, rows_blake3: None },
        );
        let manifest = Manifest::new(dir, vec![entry.clone()]).unwrap();
        manifest.save(dir).unwrap();
        assert_eq!(Manifest::load(dir).unwrap(), manifest);
        assert_eq!((manifest.utterances, manifest.frames), (1, 7));

        assert_eq!(entry.difference(dir).unwrap(), None);
        std::fs::write(dir.join("shard-00000.parquet"), b"abd").unwrap();
        assert!(entry.difference(dir).unwrap().unwrap().contains("BLAKE3"));
        std::fs::write(dir.join("shard-00000.parquet"), b"ab").unwrap();
        assert!(entry.difference(dir).unwrap().unwrap().contains("found 2"));
        std::fs::remove_file(dir.join("shard-00000.parquet")).unwrap();
        assert_eq!(entry.difference(dir).unwrap().unwrap(), "missing");

        // What came before there was a version is of the first; what comes after ours is refused.
        let text = files::read_sealed(&dir.join(MANIFEST)).unwrap();
        assert!(text.starts_with("version = 1\n"), "{text}");
        files::write_sealed(&dir.join(MANIFEST), &text.replace("version = 1\n", "")).unwrap();
        assert_eq!(Manifest::load(dir).unwrap(), manifest);
        files::write_sealed(&dir.join(MANIFEST), &text.replace("version = 1\n", "version = 2\nnew = 3\n"))
            .unwrap();
        let error = Manifest::load(dir).unwrap_err().to_string();
        assert!(error.contains("manifest.toml: expected version 1, found version 2"), "{error}");

        super::super::identity::tests::example(16).save(dir).unwrap();
        manifest.save(dir).unwrap();
        assert!(Manifest::load(dir).unwrap_err().to_string().contains("from another cache"));
    }
}
