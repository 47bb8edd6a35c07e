//! What a cache is of: `cache.toml`, written first and compared before any payload is touched.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::codec::CodecName;
use super::nbest::NbestIdentity;
use crate::error::{Error, Result};
use crate::features::Frontend;
use crate::files;
use crate::labels::Labels;
use crate::models::HiddenLayer;
use crate::store;

/// Name of the identity file in a cache directory.
pub const IDENTITY: &str = "cache.toml";
/// Version of the cache format: `cache.toml`, `manifest.toml`, columns, codecs, checksums.
///
/// Raise it with every change that a reader of the version before would misread, and keep reading the
/// versions before (`tests/golden/` holds a cache of each).
pub const VERSION: u32 = 1;
/// Value of the key `format` in `cache.toml`.
const FORMAT: &str = "tutornet-cache";

/// Everything that two caches, or a cache and its reader, must agree on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Always `tutornet-cache`.
    pub format: String,
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// Version of the bytes that the writer makes of the same values; see [`crate::shard::WRITER`].
    pub writer: u32,
    /// Codec of the hidden states, a [`CodecName`].
    pub codec: String,
    /// BLAKE3 of [`super::codec::CODEC_FILE`], where the codec is a learned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec_model: Option<String>,
    /// Feature frames per output frame.
    pub stride: u32,
    /// Which layer's output `hidden` is: `last`, after its ReLU.
    pub layer: String,
    /// Channels of the hidden states.
    pub hidden_width: u32,
    /// Arithmetic of the forward pass: `f32` or `f16`.
    pub precision: String,
    /// Temperature of the extra column `softmax`; absent when the cache has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// The model that was run.
    pub teacher: Teacher,
    /// The corpus that it was run over.
    pub corpus: CorpusIdentity,
    /// The features it was fed.
    pub frontend: Frontend,
    /// The labels of its posteriors.
    pub labels: Labels,
    /// Inner layers whose outputs the cache has beside the last's, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<InnerLayer>,
    /// How the column `nbest` was searched for; absent when the cache has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbest: Option<NbestIdentity>,
}

/// A layer before the last, as `cache.toml` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InnerLayer {
    /// Its number K: columns `hidden_K` and `frame_weight_K`.
    pub layer: u32,
    /// Channels of its output.
    pub width: u32,
}

/// Name and contents of a teacher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Teacher {
    /// Name in its `model.toml`.
    pub name: String,
    /// BLAKE3 over its weights and configuration, 64 hexadecimal digits.
    pub hash: String,
}

/// Contents of a corpus, or of several whose caches were merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusIdentity {
    /// BLAKE3 of its sealed `corpus.toml`, 64 hexadecimal digits; of several, BLAKE3 of their hashes in the order of
    /// `parts`, each followed by a line end.
    pub hash: String,
    /// The corpora of a merged cache, by hash; empty otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<CorpusPart>,
}

/// One corpus of a merged cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusPart {
    /// BLAKE3 of its sealed `corpus.toml`, 64 hexadecimal digits.
    pub hash: String,
    /// How many shards are of it; those of the parts before it come first.
    pub shards: u32,
}

impl CorpusIdentity {
    /// One corpus.
    pub fn new(hash: String) -> Self {
        Self { hash, parts: Vec::new() }
    }

    /// Several.
    pub fn merged(parts: Vec<CorpusPart>) -> Self {
        Self { hash: Self::hash_of(&parts), parts }
    }

    /// Whether `hash`, or the first digits of one, names this corpus or a part of it.
    pub fn is(&self, hash: &str) -> bool {
        let all = std::iter::once(&self.hash).chain(self.parts.iter().map(|part| &part.hash));
        all.into_iter().any(|own| own.starts_with(hash))
    }

    fn hash_of(parts: &[CorpusPart]) -> String {
        let text: String = parts.iter().map(|part| format!("{}\n", part.hash)).collect();
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }
}

impl Identity {
    /// The identity of a cache that this program is about to write, but for what is of the teacher and
    /// the corpus.
    pub fn new(
        teacher: Teacher,
        corpus: CorpusIdentity,
        frontend: Frontend,
        labels: Labels,
        stride: u32,
        hidden_width: u32,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            writer: crate::shard::WRITER,
            codec: CodecName::F16.to_string(),
            codec_model: None,
            stride,
            layer: "last".to_owned(),
            hidden_width,
            precision: "f32".to_owned(),
            temperature: None,
            teacher,
            corpus,
            frontend,
            labels,
            layers: Vec::new(),
            nbest: None,
        }
    }

    /// Channels of a layer's hidden states; `None` when the cache does not have the layer.
    pub fn width_of(&self, layer: HiddenLayer) -> Option<u32> {
        match layer {
            HiddenLayer::Last => Some(self.hidden_width),
            HiddenLayer::Inner(number) => {
                self.layers.iter().find(|inner| inner.layer == number).map(|inner| inner.width)
            }
        }
    }

    /// Reads `DIR/cache.toml` and its seal.
    ///
    /// # Errors
    /// When the directory is no cache, the file was changed, or it was written by a version that this
    /// program does not read.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(IDENTITY);
        if !store::exists(&path)? {
            let detail = format!("expected a cache directory with a {IDENTITY} in it, found none");
            return Err(Error::format(dir, detail));
        }
        let text = files::read_sealed(&path)?;
        let bad = |e: toml::de::Error| Error::format(&path, e.message().to_owned());
        // The version first: another version's keys are not this version's mistakes.
        let keys: toml::Table = toml::from_str(&text).map_err(bad)?;
        let format = keys.get("format").and_then(toml::Value::as_str).unwrap_or("nothing");
        if format != FORMAT {
            return Err(Error::format(&path, format!("expected format {FORMAT}, found {format}")));
        }
        require_version(&path, keys.get("version").and_then(toml::Value::as_integer))?;
        let identity: Self = toml::from_str(&text).map_err(bad)?;
        let codec =
            identity.codec_name().map_err(|detail| Error::format(&path, format!("codec: {detail}")))?;
        if codec.is_learned() != identity.codec_model.is_some() {
            let detail = format!("codec {codec}: expected codec_model with a learned codec, and only then");
            return Err(Error::format(&path, detail));
        }
        let CorpusIdentity { hash, parts } = &identity.corpus;
        for (of, hash) in [("teacher", &identity.teacher.hash), ("corpus", hash)] {
            if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let detail = format!(
                    "{of}.hash: expected 64 hexadecimal digits, found {hash:?}; let the program that wrote the cache write it anew"
                );
                return Err(Error::format(&path, detail));
            }
        }
        let ascending = parts.windows(2).all(|pair| pair[0].hash < pair[1].hash);
        let whole = ascending && *hash == CorpusIdentity::hash_of(parts);
        if !parts.is_empty() && !whole {
            return Err(Error::format(&path, "corpus: its hash is not that of its parts in their order"));
        }
        Ok(identity)
    }

    /// The codec of the hidden states.
    ///
    /// # Errors
    /// When this program does not know it.
    pub fn codec_name(&self) -> std::result::Result<CodecName, String> {
        self.codec.parse()
    }

    /// Every layer that the cache has, with its channels.
    pub fn hidden_layers(&self) -> Vec<(HiddenLayer, usize)> {
        let inner = self.layers.iter().map(|l| (HiddenLayer::Inner(l.layer), l.width as usize));
        std::iter::once((HiddenLayer::Last, self.hidden_width as usize)).chain(inner).collect()
    }

    /// Writes `DIR/cache.toml`, sealed.
    ///
    /// # Errors
    /// See [`files::write_sealed`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        files::write(&dir.join(IDENTITY), self.sealed()?.as_bytes())
    }

    /// The same where there is none yet; whether there was none.
    ///
    /// # Errors
    /// See [`files::write_new`].
    pub fn save_new(&self, dir: &Path) -> Result<bool> {
        files::write_new(&dir.join(IDENTITY), self.sealed()?.as_bytes())
    }

    /// BLAKE3 of the file that [`Identity::save`] writes.
    ///
    /// # Errors
    /// When the identity has no TOML form.
    pub fn blake3(&self) -> Result<String> {
        Ok(blake3::hash(self.sealed()?.as_bytes()).to_hex().to_string())
    }

    fn sealed(&self) -> Result<String> {
        toml::to_string(self)
            .map(|text| files::seal(&text))
            .map_err(|e| Error::format(IDENTITY, e.to_string()))
    }

    /// Refuses `found`, the identity of the cache in `dir`, unless it is this one in every field.
    ///
    /// # Errors
    /// Names every field that differs.
    pub fn require(&self, found: &Self, dir: &Path) -> Result<()> {
        let names: Vec<&str> = self.differing(found).into_iter().map(|(name, ..)| name).collect();
        let hint = super::remedy::instead(self, found, &names, dir);
        self.require_as(found, format!("{} is another cache", dir.display()), &hint)
    }

    /// Every field that `found` has another value of: its name, the value here and there.
    fn differing(&self, found: &Self) -> Vec<(&'static str, String, String)> {
        let pairs = self.fields().into_iter().zip(found.fields());
        pairs.filter(|(a, b)| a != b).map(|((name, here), (_, there))| (name, here, there)).collect()
    }

    /// Refuses `found` unless it is this one in every field; `what` and `hint` are for the message.
    ///
    /// # Errors
    /// Names every field that differs.
    pub fn require_as(&self, found: &Self, what: String, hint: &str) -> Result<()> {
        let differing = self.differing(found);
        if differing.is_empty() {
            return Ok(());
        }
        let list = |of: for<'a> fn(&'a (&'static str, String, String)) -> &'a str| {
            differing.iter().map(of).collect::<Vec<_>>().join(", ")
        };
        let (names, here, there) = (list(|d| d.0), list(|d| &d.1), list(|d| &d.2));
        Err(Error::mismatch(format!("{what}: {names}"), here, there, hint))
    }

    /// Every field by name, as text for a message.
    fn fields(&self) -> [(&'static str, String); 15] {
        let temperature = self.temperature.map_or("no softmax column".to_owned(), |t| t.to_string());
        let nbest = self.nbest.as_ref().map_or("no N best texts".to_owned(), ToString::to_string);
        let codec_model = match &self.codec_model {
            Some(hash) => format!("codec learned as {}", short(hash)),
            None => "codec without anything learned".to_owned(),
        };
        let corpus = match self.corpus.parts.len() {
            0 => format!("corpus {}", short(&self.corpus.hash)),
            parts => format!("{parts} corpora {}", short(&self.corpus.hash)),
        };
        let layers = self.layers.iter().map(|inner| inner.layer.to_string()).collect::<Vec<_>>();
        let layers = match layers.as_slice() {
            [] => "no inner layers".to_owned(),
            layers => format!("inner layers {}", layers.join(", ")),
        };
        [
            ("schema version", self.version.to_string()),
            ("writer", format!("writer {}", self.writer)),
            ("codec", self.codec.clone()),
            ("learned codec", codec_model),
            ("stride", format!("stride {}", self.stride)),
            ("layer", format!("layer {}", self.layer)),
            ("hidden width", format!("{} channels", self.hidden_width)),
            ("precision", self.precision.clone()),
            ("temperature", temperature),
            ("teacher", format!("{} ({})", self.teacher.name, short(&self.teacher.hash))),
            ("corpus", corpus),
            ("frontend", self.frontend.prep_arguments()),
            ("labels", self.labels.to_string()),
            ("inner layers", layers),
            ("N best texts", nbest),
        ]
    }
}

/// Refuses a file of the cache that is of another version of the format than this program reads.
pub(super) fn require_version(path: &Path, found: Option<i64>) -> Result<()> {
    if found == Some(i64::from(VERSION)) {
        return Ok(());
    }
    Err(Error::mismatch(
        format!("cache format of {}", path.display()),
        format!("version {VERSION}"),
        found.map_or("none".to_owned(), |found| format!("version {found}")),
        "read it with the tutornet that wrote it, or cache the corpus again into another directory",
    ))
}

/// The first digits of a hash, enough to tell two apart in a message.
pub fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example(width: u32) -> Identity {
        Identity::new(
            Teacher { name: "example".into(), hash: "ab".repeat(32) },
            CorpusIdentity::new("cd".repeat(32)),
            Frontend::default(),
            Labels::english(),
            2,
            width,
        )
    }

    #[test]
    fn an_identity_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = example(1024);
        identity.temperature = Some(2.5);
        identity.save(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), identity);
        let text = std::fs::read_to_string(dir.path().join(IDENTITY)).unwrap();
        assert!(text.starts_with("format = \"tutornet-cache\"\nversion = 1\n"), "{text}");
    }

    #[test]
    fn another_version_is_refused_before_its_keys_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let text = "format = \"tutornet-cache\"\nversion = 2\nnew_key = 1\n";
        files::write_sealed(&dir.path().join(IDENTITY), text).unwrap();
        let error = Identity::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("expected version 1, found version 2"), "{error}");
        let error = Identity::load(&dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("expected a cache directory"), "{error}");
    }

    #[test]
    fn hashes_are_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = example(1024);
        for bad in ["", "v1", &"g".repeat(64), &"ab".repeat(33)] {
            bad.clone_into(&mut identity.teacher.hash);
            identity.save(dir.path()).unwrap();
            let error = Identity::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("teacher.hash: expected 64 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn a_merged_corpus_is_the_one_of_its_parts() {
        let dir = tempfile::tempdir().unwrap();
        let part = |digit: &str, shards| CorpusPart { hash: digit.repeat(64), shards };
        let mut identity = example(8);
        identity.corpus = CorpusIdentity::merged(vec![part("1", 3), part("2", 1)]);
        identity.save(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), identity);
        for named in [&identity.corpus.hash[..10], "1111", "2"] {
            assert!(identity.corpus.is(named), "{named}");
        }
        assert!(!identity.corpus.is("cd"));
        let error = example(8).require(&identity, Path::new("c")).unwrap_err().to_string();
        assert!(error.contains("2 corpora") && error.contains("`tutornet cache merge`"), "{error}");
        for parts in [vec![part("2", 1), part("1", 3)], vec![part("1", 3)], vec![part("1", 3), part("1", 3)]]
        {
            let mut other = identity.clone();
            other.corpus.parts = parts;
            other.save(dir.path()).unwrap();
            let error = Identity::load(dir.path()).unwrap_err().to_string();
            assert!(error.contains("not that of its parts"), "{error}");
        }
    }

    #[test]
    fn differences_are_all_named() {
        let (a, mut b) = (example(1024), example(1024));
        assert!(a.require(&b, Path::new("c")).is_ok());
        b.teacher.hash = "0123456789abcdef".into();
        b.stride = 8;
        b.labels.blank = 0;
        let error = a.require(&b, Path::new("caches/c")).unwrap_err().to_string();
        for word in ["caches/c", "stride 2", "stride 8", "example (0123456789ab)", "blank 28", "blank 0"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(!error.contains("channels"), "{error}");
    }
}
