//! `tutornet cache merge`, `add` and `export`: what becomes of caches that are there.

use std::path::PathBuf;

use super::Context;
use super::search::SearchArgs;
use crate::cache::export::{self, Dtype, ExportOptions, Exported, Format, Selection};
use crate::cache::{self, AddOptions, Added, MergeOptions, Merged};
use crate::error::Error;
use crate::models::HiddenLayer;

/// Arguments of `tutornet cache merge`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The caches must agree in teacher, codec (of a learned one, in what was learned: --codec-from), layers and columns, and share no
utterance. Shards are copied, not linked; nothing is decoded. The result is the same whatever the order of the caches.
The same command goes on after an interruption, and writes again what is bad. A merged cache is of all of the corpora:
`tutornet cache` does not complete or repair it.

Example:
  tutornet cache merge caches/quartznet/clean-100 caches/quartznet/clean-360 --out caches/quartznet/clean-460")]
pub struct MergeArgs {
    /// Two caches and more
    #[arg(value_name = "CACHE", num_args = 2.., required = true)]
    from: Vec<PathBuf>,
    /// The cache directory to make or to complete
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs `tutornet cache merge`.
///
/// # Errors
/// See [`crate::cache::merge`].
pub fn merge(args: MergeArgs, context: &Context) -> anyhow::Result<()> {
    let options = MergeOptions { from: args.from, out: args.out };
    let Merged { manifest, corpora, written } = cache::merge(&options, &context.stop)?;
    tracing::info!(
        "{}: {} utterances, {} frames of {corpora} corpora; {written} of {} shards written",
        options.out.display(),
        manifest.utterances,
        manifest.frames,
        manifest.shards.len()
    );
    Ok(())
}

/// Arguments of `tutornet cache add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The texts are searched for in the stored posteriors; no teacher is needed. Shards are replaced one at a time, their other columns
copied as they are. Until the last is done the cache is not complete: the same command goes on after an interruption. The
result is what `tutornet cache --nbest` would have written. It is another cache than before: a run that was begun on it does
not go on.

Example:
  tutornet cache add caches/quartznet/clean-100 --nbest 5 --beam 256 --lm lm/4-gram.arpa")]
pub struct AddArgs {
    /// A complete cache
    #[arg(value_name = "CACHE")]
    cache: PathBuf,
    /// Add a column with the teacher's N best texts, for sequence-level distillation
    #[arg(long, value_name = "N", value_parser = super::prep::at_least_one, required_unless_present = "layers")]
    nbest: Option<usize>,
    /// Inner layers are not in a cache that was made without them: says what to do
    #[arg(long, value_name = "K,K", value_delimiter = ',', hide = true)]
    layers: Vec<HiddenLayer>,
    #[command(flatten)]
    search: SearchArgs,
}

/// Runs `tutornet cache add`.
///
/// # Errors
/// See [`crate::cache::add`].
pub fn add(args: AddArgs, context: &Context) -> anyhow::Result<()> {
    let Some(count) = args.nbest.filter(|_| args.layers.is_empty()) else {
        let layers: Vec<String> = args.layers.iter().map(ToString::to_string).collect();
        return Err(Error::invalid(format!(
            "layers {} of {} need the teacher: `tutornet cache --model MODEL --corpus CORPUS --layers {} --out DIR` makes a cache \
             with them; `add` takes --nbest, which follows from what is stored",
            layers.join(","),
            args.cache.display(),
            layers.join(",")
        ))
        .into());
    };
    let options = AddOptions { cache: args.cache, nbest: (args.search.open(true)?, count) };
    let Added { manifest, written } = cache::add(&options, &context.stop)?;
    tracing::info!(
        "{}: {} utterances with up to {count} texts; {written} of {} shards written",
        options.cache.display(),
        manifest.utterances,
        manifest.shards.len()
    );
    Ok(())
}

/// Arguments of `tutornet cache export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Arrow files have a row an utterance, a matrix is a list of frames of fixed size; .npy files lie at
shard-00000/UTTERANCE.COLUMN.npy, .safetensors files at shard-00000/UTTERANCE.safetensors. index.jsonl, written last, says
where every utterance is. The same command goes on after an interruption.

Examples:
  tutornet cache export caches/quartznet/clean-100 --format arrow --out exports/clean-100
  tutornet cache export caches/quartznet/clean-100 --format npy --columns hidden,frame_weight --utterances first:10 --out ten
  tutornet cache export caches/quartznet/clean-100 --format safetensors --dtype f32 --utterances @ids.txt --out some")]
pub struct ExportArgs {
    /// A complete cache
    #[arg(value_name = "CACHE")]
    cache: PathBuf,
    /// Kind of files
    #[arg(long, value_enum)]
    format: Format,
    /// The directory to make or to complete
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Numbers of hidden states, posteriors and softmax; frame weights are single precision in any case
    #[arg(long, value_enum, default_value_t = Dtype::F16)]
    dtype: Dtype,
    /// Columns, such as hidden,frame_weight,posterior,nbest,hidden_5 [default: all that the cache has]
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    columns: Vec<String>,
    /// Utterances: names with commas between them, first:N, or @FILE with one name a line [default: all]
    #[arg(long, value_name = "WHICH")]
    utterances: Option<Selection>,
}

/// Runs `tutornet cache export`.
///
/// # Errors
/// See [`crate::cache::export::export`].
pub fn export(args: ExportArgs, context: &Context) -> anyhow::Result<()> {
    let options = ExportOptions {
        cache: args.cache,
        out: args.out,
        format: args.format,
        dtype: args.dtype,
        columns: args.columns,
        utterances: args.utterances.unwrap_or(Selection::All),
    };
    let Exported { utterances, frames, shards } = export::export(&options, &context.stop)?;
    tracing::info!(
        "{}: {utterances} utterances, {frames} frames; {} of {} shards written",
        options.out.display(),
        shards.1,
        shards.0
    );
    Ok(())
}
