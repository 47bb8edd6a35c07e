//! Caches and corpora of any size, from small ones: every utterance several times, under names of their own.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tutornet::cache::column::payloads;
use tutornet::cache::schema::{Key, Row, write_shard};
use tutornet::cache::{Cache, Manifest, ShardEntry};
use tutornet::files;
use tutornet::shard::{ShardWriter, strings};

/// `times` copies of a cache's shards in one cache.
pub fn repeat_cache(from: &Path, times: usize, out: &Path) {
    let cache = Cache::open(from).expect("a cache");
    let rows = |shard: u32, copy: usize| {
        let own = cache.entries().iter().enumerate().filter(move |(_, entry)| entry.shard == shard);
        own.map(|(index, entry)| {
            let raw = |&column: &_| cache.raw(column, index).expect("a payload").to_vec();
            (
                format!("{}-x{copy}", entry.utterance),
                index,
                payloads(cache.identity()).iter().map(raw).collect(),
            )
        })
        .collect::<Vec<(String, usize, Vec<Vec<u8>>)>>()
    };
    let shards = u32::try_from(cache.manifest().shards.len()).expect("a number of shards");
    write(
        &cache,
        out,
        (0..times).flat_map(|copy| (0..shards).map(move |shard| (shard, copy))),
        |(shard, copy)| rows(shard, copy),
    );
}

/// A cache of `utterances` utterances, 256 a shard, each with 64 bytes of payloads of `from`: to be opened, not to be decoded.
pub fn tiny_cache(from: &Path, utterances: usize, out: &Path) {
    let cache = Cache::open(from).expect("a cache");
    let entries = cache.entries().iter().enumerate();
    let shortest =
        entries.min_by_key(|(_, entry)| entry.frames).map(|(index, _)| index).expect("an utterance");
    let raw =
        |&column: &_| cache.raw(column, shortest).expect("a payload").iter().copied().take(64).collect();
    let values: Vec<Vec<u8>> = payloads(cache.identity()).iter().map(raw).collect();
    write(&cache, out, (0..utterances).step_by(256), |first| {
        let names = (first..utterances.min(first + 256))
            .map(|n| format!("{:04}-{:06}-{:04}", n / 120, n / 40, n % 40));
        names.map(|name| (name, shortest, values.clone())).collect()
    });
}

/// Writes a cache whose shards are what `rows` makes of `places`: names, the entries that they copy, payloads.
fn write<P>(
    cache: &Cache,
    out: &Path,
    places: impl Iterator<Item = P>,
    rows: impl Fn(P) -> Vec<(String, usize, Vec<Vec<u8>>)>,
) {
    std::fs::create_dir_all(out).expect("a directory");
    for file in ["cache.toml", "codec.safetensors"] {
        if cache.dir().join(file).exists() {
            std::fs::copy(cache.dir().join(file), out.join(file)).expect("a copy");
        }
    }
    let hash = files::blake3_file(&out.join("cache.toml")).expect("a hash");
    let shards = places.enumerate().map(|(number, place)| {
        let (mut frames, mut all) = (0, Vec::new());
        for (utterance, index, payloads) in rows(place) {
            let entry = &cache.entries()[index];
            let key =
                Key { utterance, samples: entry.samples, audio_hash: entry.audio_hash, frames: entry.frames };
            frames += u64::from(entry.frames);
            all.push(Row::new(key, payloads));
        }
        let file = format!("shard-{number:05}.parquet");
        let summary = write_shard(&out.join(&file), cache.identity(), &hash, &all).expect("a shard");
        ShardEntry::new(&file, frames, summary)
    });
    Manifest::new(out, shards.collect()).and_then(|manifest| manifest.save(out)).expect("a manifest");
}

/// `times` copies of a corpus's shards in one corpus.
pub fn repeat_corpus(from: &Path, times: usize, out: &Path) {
    std::fs::create_dir_all(out).expect("a directory");
    let text = files::read_sealed(&from.join("corpus.toml")).expect("a corpus");
    let mut manifest: toml::Table = toml::from_str(&text).expect("a manifest");
    let shards = manifest["shards"].as_array().expect("shards").clone();
    std::fs::copy(from.join("skipped.jsonl"), out.join("skipped.jsonl")).expect("a copy");
    let mut all = Vec::new();
    for (copy, shard) in (0..times).flat_map(|copy| shards.iter().map(move |shard| (copy, shard))) {
        let mut shard = shard.clone();
        let source = from.join(shard["file"].as_str().expect("a name"));
        let file = format!("shard-{:05}.parquet", all.len());
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(File::open(&source).expect("a shard")).expect("Parquet");
        let pairs = reader.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
        let pairs = pairs.into_iter().filter(|pair| pair.key.starts_with("tutornet."));
        let pairs: Vec<_> = pairs.map(|pair| (pair.key, pair.value.unwrap_or_default())).collect();
        let schema = Arc::clone(reader.schema());
        let mut writer =
            ShardWriter::create(&out.join(&file), schema.clone(), &["features"], &pairs).expect("a file");
        for batch in reader.with_batch_size(1).build().expect("Parquet") {
            let batch = batch.expect("a row");
            let names = strings(&batch, "utterance", &source).expect("names");
            let names: StringArray = names.iter().map(|name| Some(format!("{name}-x{copy}"))).collect();
            let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
            columns[schema.index_of("utterance").expect("a column")] = Arc::new(names);
            writer.write(&RecordBatch::try_new(schema.clone(), columns).expect("a row")).expect("a row");
        }
        let summary = writer.finish().expect("a file");
        shard["file"] = file.into();
        shard["bytes"] = i64::try_from(summary.bytes).expect("a size").into();
        shard["blake3"] = summary.blake3.into();
        all.push(shard);
    }
    for key in ["utterances", "samples"] {
        let one = manifest[key].as_integer().expect("a number");
        manifest[key] = (one * i64::try_from(times).expect("a number")).into();
    }
    manifest["hours"] = (manifest["hours"].as_float().expect("hours") * times as f64).into();
    manifest["shards"] = all.into();
    files::write_sealed(&out.join("corpus.toml"), &toml::to_string(&manifest).expect("TOML"))
        .expect("a manifest");
}
