//! Who made a cache, and what hence mends it: what is said to those who find it damaged or unfinished.
//!
//! What lies there tells: a plan, a journal, the parts of a corpus. A recoded cache has nothing of its own in `cache.toml`,
//! as a cache of that codec may come from the teacher as well; so `recode` leaves [`MAKER`] beside it. A directory without it
//! was made otherwise, or before there was such a file, and is then told both ways.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::codec::CodecName;
use super::identity::{IDENTITY, Identity, short};
use super::manifest::{ADDING, MANIFEST, Manifest};
use super::tasks::plan::PLAN;
use crate::error::Result;
use crate::{files, store};

/// Name of the file that says that a cache was recoded. Nothing is read with its help.
pub const MAKER: &str = "maker.toml";

/// The contents of [`MAKER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maker {
    /// Always `recode`.
    pub command: Command,
    /// BLAKE3 of the `cache.toml` of the exact cache, 64 hexadecimal digits.
    pub cache: String,
    /// Whether its learned codec was taken from another cache.
    pub codec_from: bool,
}

/// Commands that leave a [`Maker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// `tutornet cache recode`.
    Recode,
}

impl Maker {
    /// Reads `DIR/maker.toml`; `None` when there is none, or none that can be believed.
    pub fn read(dir: &Path) -> Option<Self> {
        let path = dir.join(MAKER);
        // A bucket that does not answer is for those to report who need what lies there.
        if !store::exists(&path).unwrap_or(false) {
            return None;
        }
        toml::from_str(&files::read_sealed(&path).ok()?).ok()
    }

    /// Writes `DIR/maker.toml`, sealed, unless it says the same.
    ///
    /// # Errors
    /// See [`files::write_sealed`].
    pub fn save(&self, dir: &Path) -> Result<()> {
        if Self::read(dir).as_ref() == Some(self) {
            return Ok(());
        }
        let text = toml::to_string(self).map_err(|e| crate::Error::format(dir.join(MAKER), e.to_string()))?;
        files::write_sealed(&dir.join(MAKER), &text)
    }
}

/// Who made a cache, as far as it shows.
enum Made {
    Recoded(Maker),
    Merged,
    /// Merged, or recoded from a merged cache.
    MergedOrRecoded,
    Taught,
    /// From the teacher, or recoded.
    TaughtOrRecoded,
    /// By another program (which hardly writes another codec than the exact one), or by a tutornet before there were hashes
    /// of rows.
    Foreign,
}

fn made(dir: &Path, identity: &Identity, manifest: Option<&Manifest>) -> Made {
    if let Some(maker) = Maker::read(dir) {
        return Made::Recoded(maker);
    }
    let exact = identity.codec_name() == Ok(CodecName::F16);
    let unhashed = |manifest: &Manifest| {
        !manifest.shards.is_empty() && manifest.shards.iter().all(|entry| entry.rows_blake3.is_none())
    };
    match (identity.corpus.parts.is_empty(), exact) {
        (false, true) => Made::Merged,
        (false, false) => Made::MergedOrRecoded,
        (true, true) if manifest.is_some_and(unhashed) => Made::Foreign,
        (true, true) => Made::Taught,
        (true, false) => Made::TaughtOrRecoded,
    }
}

/// Whether a teacher's pass would not give the bytes of the cache in `dir`, as another command made it: the command that
/// does.
pub(super) fn not_of_a_teacher(dir: &Path, identity: &Identity) -> Option<String> {
    match made(dir, identity, None) {
        Made::Recoded(maker) => Some(recode(dir, identity, Some(&maker))),
        Made::Merged => Some(merge(dir, identity)),
        Made::MergedOrRecoded => {
            Some(format!("{}; or, if that made it, {}", merge(dir, identity), recode(dir, identity, None)))
        }
        Made::Taught | Made::TaughtOrRecoded | Made::Foreign => None,
    }
}

/// How the cache in `dir` is mended, or completed: the command to run, in words for a message.
pub fn remedy(dir: &Path) -> String {
    if store::is_remote(dir) {
        return "upload a whole copy once more, its manifest last; `tutornet verify` on that copy says how to mend it"
            .to_owned();
    }
    let manifest = Manifest::load(dir);
    if !dir.join(MANIFEST).exists() {
        return unfinished(dir);
    }
    let Ok(identity) = Identity::load(dir) else {
        let which = match Maker::read(dir) {
            Some(_) => "`tutornet cache recode`",
            None => "`tutornet`",
        };
        return format!(
            "the {which} command that made the cache, run once more with all of its options and without --repair, rewrites what is \
             bad; no teacher runs for what is whole"
        );
    };
    let manifest = manifest.ok();
    match made(dir, &identity, manifest.as_ref()) {
        Made::Recoded(maker) => recode(dir, &identity, Some(&maker)),
        Made::Merged => merge(dir, &identity),
        Made::MergedOrRecoded => {
            format!("{}; or, if that made it, {}", merge(dir, &identity), recode(dir, &identity, None))
        }
        Made::Taught => repair(dir, &identity),
        Made::TaughtOrRecoded => {
            format!("{}; or, if that made it, {}", repair(dir, &identity), recode(dir, &identity, None))
        }
        Made::Foreign => format!(
            "put back a copy of what is bad, or let the program that wrote the cache write it anew; if that was an earlier tutornet, \
             {}",
            repair(dir, &identity)
        ),
    }
}

/// What completes a cache without a manifest.
pub(super) fn unfinished(dir: &Path) -> String {
    if dir.join(ADDING).exists() {
        return "a column was being added: run the `tutornet cache add` command that began it once more"
            .to_owned();
    }
    if dir.join(PLAN).exists() {
        return format!("once its tasks have ended, run `tutornet cache seal {}`", dir.display());
    }
    let begun = match Identity::load(dir) {
        _ if Maker::read(dir).is_some() => "`tutornet cache recode`",
        Ok(identity) if !identity.corpus.parts.is_empty() => "`tutornet cache merge`",
        _ => "`tutornet cache`",
    };
    format!("run the {begun} command that began it once more, it goes on where it stopped")
}

/// What to do instead of making `dir`, which is the cache `found`, the cache `wanted`; they differ in the fields `names`.
pub(super) fn instead(wanted: &Identity, found: &Identity, names: &[&str], dir: &Path) -> String {
    let merged = wanted.corpus.parts.is_empty() && !found.corpus.parts.is_empty();
    let of_codec = names.iter().all(|name| ["codec", "learned codec"].contains(name));
    let way = if merged {
        "that one is a merged cache, which `tutornet cache merge` of the same caches completes and repairs"
            .to_owned()
    } else if names.contains(&"teacher") || names.contains(&"corpus") {
        let (name, hash) = (&found.teacher.name, short(&found.teacher.hash));
        format!(
            "that cache is of teacher {name} ({hash}) and corpus {}; give those",
            short(&found.corpus.hash)
        )
    } else if names == ["N best texts"] && found.nbest.is_none() {
        let search = "with the same --nbest and search";
        format!("`tutornet cache add {}` {search} adds the texts to it, without the teacher", dir.display())
    } else if of_codec && found.codec_name() == Ok(CodecName::F16) {
        let codec = &wanted.codec;
        format!(
            "`tutornet cache recode {} --codec {codec} --out DIR` makes that of it, without the teacher",
            dir.display()
        )
    } else {
        return "give another --out".to_owned();
    };
    format!("{way}, or give another --out")
}

fn repair(dir: &Path, identity: &Identity) -> String {
    let lm = identity.nbest.as_ref().and_then(|nbest| nbest.search.lm.as_deref());
    let lm = lm.map_or_else(String::new, |lm| format!(" --lm FILE (the ARPA file of BLAKE3 {})", short(lm)));
    format!(
        "`tutornet cache --repair --model MODEL --corpus CORPUS --out {}`{lm} rewrites what is bad; MODEL is teacher {} ({}), \
         CORPUS is {}",
        dir.display(),
        identity.teacher.name,
        short(&identity.teacher.hash),
        short(&identity.corpus.hash)
    )
}

fn recode(dir: &Path, identity: &Identity, maker: Option<&Maker>) -> String {
    let from = maker.map_or_else(String::new, |maker| match maker.codec_from {
        true => " --codec-from CACHE2".to_owned(),
        false => String::new(),
    });
    let cache = maker
        .map_or_else(String::new, |maker| format!(", whose {IDENTITY} has BLAKE3 {}", short(&maker.cache)));
    let texts = match identity.nbest {
        Some(_) => ", with the same N best texts (`tutornet cache add`)",
        None => "",
    };
    format!(
        "`tutornet cache recode CACHE --codec {}{from} --out {}` rewrites what is bad; CACHE is the exact cache that it was made \
         of{cache}{texts}",
        identity.codec,
        dir.display()
    )
}

fn merge(dir: &Path, identity: &Identity) -> String {
    let texts = match &identity.nbest {
        Some(nbest) => format!(", each with the same N best texts ({nbest}; `tutornet cache add`)"),
        None => String::new(),
    };
    format!(
        "`tutornet cache merge CACHE.. --out {}` of the caches that it was made of{texts} rewrites what is bad",
        dir.display()
    )
}
