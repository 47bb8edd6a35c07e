//! A complete corpus met again: is it the one asked for, is every byte of it as it was written, and if
//! not, what of it can stay.

use std::collections::BTreeSet;
use std::path::Path;

use super::librispeech::Found;
use super::manifest::{MANIFEST, Manifest, ShardEntry};
use super::plan::{self, Finished, Settings};
use super::prep::{Options, Outcome, count, read_skipped, shard_file, strict};
use super::reason::Skipped;
use super::{open_listed, read_small};
use crate::error::{Error, Result};
use crate::files;

/// What a run of `prep` finds in the directory that it is to fill.
pub(super) enum Earlier {
    /// No complete corpus: there is work to do.
    Unfinished,
    /// The corpus asked for, whole.
    Whole(Outcome),
    /// The corpus asked for, and some of it is not as it was written.
    Damaged(Manifest),
}

/// Looks for a complete corpus.
///
/// # Errors
/// When there is one and it is not the one asked for.
pub(super) fn earlier(options: &Options, settings: &Settings) -> Result<Earlier> {
    let dir = &options.out;
    if !dir.join(MANIFEST).is_file() {
        return Ok(Earlier::Unfinished);
    }
    let manifest = match Manifest::read(dir) {
        Ok((manifest, _)) => manifest,
        Err(error @ Error::Format { .. }) => {
            tracing::warn!("{error}; the corpus is prepared again");
            return Ok(Earlier::Unfinished);
        }
        Err(error) => return Err(error),
    };
    let made = Settings {
        version: manifest.version,
        source: manifest.source.clone(),
        subsets: manifest.subsets.clone(),
        speeds: manifest.speeds.clone(),
        shard_utterances: manifest.shard_utterances,
        frontend: manifest.frontend,
    };
    settings.must_match(&made, dir)?;
    let damaged = !skipped_is_whole(dir, &manifest)
        || manifest.shards.iter().map(|entry| damage(dir, entry)).any(|d| !matches!(d, Ok(None)));
    let there = options.root.is_dir();
    if there {
        let listing = settings.list(&options.root)?;
        if plan::input_hash(&options.root, &listing.found)? != manifest.input {
            return Err(Error::invalid(format!(
                "{} is complete, made from {}; {} now holds other utterances ({} with a transcript): \
                 give another --out, or remove that directory to prepare it again",
                dir.display(),
                manifest.source,
                options.root.display(),
                listing.found.iter().filter(|found| found.speed.is_none()).count()
            )));
        }
    } else if settings.source != manifest.source || damaged {
        let state = if damaged { "is damaged" } else { "is complete" };
        return Err(Error::mismatch(
            format!("{} {state}, and its source", dir.display()),
            &manifest.source,
            format!("{}, which is not there", settings.source),
            "give another --out or the right directory",
        ));
    }
    if damaged {
        return Ok(Earlier::Damaged(manifest));
    }
    let skipped = read_skipped(dir)?;
    if options.strict && !skipped.is_empty() {
        return Err(strict(&skipped));
    }
    let skipped = count(&skipped);
    Ok(Earlier::Whole(Outcome { already_complete: true, manifest, skipped, kept_shards: 0, without_md5: 0 }))
}

/// Records the whole shards of a damaged corpus as finished, so that the run writes the others again.
pub(super) fn keep_whole_shards(options: &Options, found: &[Found], manifest: &Manifest) -> Result<()> {
    let dir = &options.out;
    let whole = skipped_is_whole(dir, manifest);
    if !whole {
        tracing::warn!(
            "{}: not as it was written; writing it again",
            dir.join(&manifest.skipped.file).display()
        );
    }
    let skipped = if whole { read_skipped(dir)? } else { Vec::new() };
    for (index, found) in found.chunks(options.shard_utterances).enumerate() {
        let file = shard_file(index);
        let entry = manifest.shards.iter().find(|entry| entry.file == file);
        if let Some(entry) = entry
            && let Some(damage) = damage(dir, entry)?
        {
            tracing::warn!("{}: {damage}; writing it again", dir.join(file).display());
            continue;
        }
        let ids: BTreeSet<&str> = found.iter().map(|f| f.id.as_str()).collect();
        let skipped: Vec<Skipped> =
            skipped.iter().filter(|s| ids.contains(s.utterance.as_str())).cloned().collect();
        let rows = entry.map_or(0, |entry| entry.rows);
        if rows + skipped.len() as u64 != found.len() as u64 {
            continue; // which utterances were left out is not known any more
        }
        let (mut samples, mut speakers) = (0, BTreeSet::new());
        if let Some(entry) = entry {
            for utterance in read_small(&open_listed(dir, entry)?, index)?.0 {
                samples += utterance.samples;
                speakers.insert(utterance.speaker);
            }
        }
        let record = Finished {
            input: plan::stamp(&options.root, found)?,
            samples,
            without_md5: 0,
            speakers: speakers.into_iter().collect(),
            shard: entry.cloned(),
            skipped,
        };
        record.write(dir, index)?;
    }
    Ok(())
}

fn skipped_is_whole(dir: &Path, manifest: &Manifest) -> bool {
    files::blake3_file(&dir.join(&manifest.skipped.file)).is_ok_and(|hash| hash == manifest.skipped.blake3)
}

/// How a shard differs from its entry in the manifest.
fn damage(dir: &Path, entry: &ShardEntry) -> Result<Option<String>> {
    let path = dir.join(&entry.file);
    match files::size(&path)? {
        None => Ok(Some("missing".to_owned())),
        Some(found) if found != entry.bytes => {
            Ok(Some(format!("expected {} bytes, found {found}", entry.bytes)))
        }
        Some(_) => files::hash_difference(&path, &entry.blake3),
    }
}
