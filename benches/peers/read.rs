//! Our side of `make bench-read`: reads utterances of a cache in shuffled order when told to, and says how long it took.
//!
//! `read.py` speaks to this program as to its own workers: one JSON object a line on standard input, one a line back.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench that cannot go on must stop")]

mod scale;

use std::io::BufRead;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tutornet::cache::Cache;
use tutornet::cache::column::HIDDEN;
use tutornet::models::HiddenLayer;
use tutornet::random::Random;

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Request {
    /// Opens a cache, of which the first `limit` utterances are read.
    Open { cache: PathBuf, limit: usize },
    /// Writes what `coordinates` gives of an utterance, f32.
    Dump { index: usize, path: PathBuf },
    /// How long opening a cache takes, and what memory it keeps.
    Index { cache: PathBuf },
    /// Reads every utterance of a cache once, shuffled: the most memory that it took.
    Walk { cache: PathBuf },
    /// Writes a cache, or a corpus, of `times` copies.
    Repeat { from: PathBuf, times: usize, out: PathBuf },
    /// Writes a cache of so many short utterances.
    Tiny { from: PathBuf, utterances: usize, out: PathBuf },
    /// Reads until `seconds` are over, each thread in an order of its own.
    Run { what: What, threads: usize, seconds: f64, seed: u64 },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    /// What stage two reads: hidden states, in pieces.
    Decode,
    /// The same as one array.
    Whole,
    /// What a learned codec stores, before it is turned back into channels.
    Coordinates,
    /// The checked payload.
    Raw,
    /// The same pages through the zstd library and nothing else, from memory: the bound.
    Zstd,
}

/// A cache, and what the bound needs of it.
struct Open {
    cache: Cache,
    limit: usize,
    /// Compressed pages without their headers, and the payload's size.
    pages: Vec<(Vec<u8>, usize)>,
    /// Of every utterance, its 4 KiB pages over its own bytes.
    rounded: Vec<f64>,
}

fn open(path: &PathBuf, limit: usize) -> Open {
    let cache = Cache::open(path).expect("a cache");
    let limit = limit.min(cache.entries().len());
    let mut pages = Vec::with_capacity(limit);
    let mut rounded = Vec::with_capacity(limit);
    let mut shard = (u32::MAX, Vec::new());
    for index in 0..limit {
        let entry = &cache.entries()[index];
        if entry.shard != shard.0 {
            let file = path.join(&cache.manifest().shards[entry.shard as usize].file);
            shard = (entry.shard, std::fs::read(file).expect("a shard"));
        }
        let span = cache.span(HIDDEN, index).expect("a payload");
        let touched = span.end.next_multiple_of(4096) - span.start / 4096 * 4096;
        rounded.push(touched as f64 / (span.end - span.start) as f64);
        let range = |at: u64| usize::try_from(at).expect("within memory");
        let page = &shard.1[range(span.start)..range(span.end)];
        // The magic number of a zstd frame ends the page's header.
        let start = page.windows(4).position(|w| w == [0x28, 0xB5, 0x2F, 0xFD]).expect("zstd");
        let size = zstd::zstd_safe::get_frame_content_size(&page[start..]).ok().flatten().expect("a size");
        pages.push((page[start..].to_vec(), usize::try_from(size).expect("a size")));
    }
    Open { cache, limit, pages, rounded }
}

fn cpu() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is written to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Reads for `seconds`: processor time, utterances, frames.
fn read(open: &Open, what: What, seconds: f64, seed: u64) -> (f64, u64, u64) {
    let mut order: Vec<usize> = (0..open.limit).collect();
    Random::new(seed, "reading order", &[]).shuffle(&mut order);
    let mut out = Vec::new();
    let mut zstd = zstd::bulk::Decompressor::new().expect("zstd");
    let mut buffer: Vec<u8> = Vec::new();
    let (mut utterances, mut frames) = (0, 0);
    let (begun, started) = (cpu(), Instant::now());
    for &index in order.iter().cycle() {
        match what {
            What::Decode => {
                let take = |_, piece: &[f32]| {
                    std::hint::black_box(piece.last());
                };
                open.cache.hidden_in_pieces(HiddenLayer::Last, index, take).expect("an utterance");
            }
            What::Whole => open.cache.hidden(HiddenLayer::Last, index, &mut out).expect("an utterance"),
            What::Coordinates => {
                open.cache.coordinates(HiddenLayer::Last, index, &mut out).expect("an utterance")
            }
            What::Raw => drop(std::hint::black_box(open.cache.raw(HIDDEN, index).expect("an utterance"))),
            What::Zstd => {
                let (page, size) = &open.pages[index];
                buffer.clear();
                buffer.reserve(*size);
                let found = zstd.decompress_to_buffer(page, &mut buffer).expect("zstd");
                assert_eq!(found, *size);
            }
        }
        std::hint::black_box((&out, &buffer));
        utterances += 1;
        frames += u64::from(open.cache.entries()[index].frames);
        if started.elapsed() >= Duration::from_secs_f64(seconds) {
            break;
        }
    }
    (cpu() - begun, utterances, frames)
}

/// A line of /proc/self/status, KiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

fn main() {
    let mut current: Option<Open> = None;
    for line in std::io::stdin().lock().lines() {
        let request = serde_json::from_str(&line.expect("a line")).expect("a request");
        let reply = match (request, &current) {
            (Request::Open { cache, limit }, _) => {
                let started = Instant::now();
                let opened = open(&cache, limit);
                let entries = &opened.cache.entries()[..opened.limit];
                let compressed: usize = opened.pages.iter().map(|(page, _)| page.len()).sum();
                let reply = json!({
                    "utterances": opened.limit,
                    "frames": entries.iter().map(|e| u64::from(e.frames)).sum::<u64>(),
                    "width": opened.cache.identity().hidden_width,
                    "compressed": compressed,
                    "pages_over_bytes": opened.rounded.iter().sum::<f64>() / opened.limit.max(1) as f64,
                    "seconds": started.elapsed().as_secs_f64(),
                });
                current = Some(opened);
                reply
            }
            (Request::Dump { index, path }, Some(open)) => {
                let mut out = Vec::new();
                open.cache.coordinates(HiddenLayer::Last, index, &mut out).expect("an utterance");
                let bytes: Vec<u8> = out.iter().flat_map(|v| v.to_le_bytes()).collect();
                std::fs::write(path, bytes).expect("a file");
                json!({ "name": open.cache.entries()[index].utterance, "frames": open.cache.entries()[index].frames })
            }
            (Request::Run { what, threads, seconds, seed }, Some(open)) => {
                let started = Instant::now();
                let one = |thread| read(open, what, seconds, seed * 64 + thread);
                let parts: Vec<(f64, u64, u64)> = std::thread::scope(|scope| {
                    let all: Vec<_> =
                        (0..threads as u64).map(|thread| scope.spawn(move || one(thread))).collect();
                    all.into_iter().map(|thread| thread.join().expect("a thread")).collect()
                });
                json!({
                    "wall": started.elapsed().as_secs_f64(),
                    "cpu": parts.iter().map(|p| p.0).sum::<f64>(),
                    "utterances": parts.iter().map(|p| p.1).sum::<u64>(),
                    "frames": parts.iter().map(|p| p.2).sum::<u64>(),
                    "rss_anon_kib": memory("RssAnon"),
                    "rss_file_kib": memory("RssFile"),
                })
            }
            (Request::Index { cache }, _) => {
                let before = (Instant::now(), memory("RssAnon"));
                let cache = Cache::open(&cache).expect("a cache");
                let opened = (before.0.elapsed().as_secs_f64(), memory("RssAnon") - before.1);
                let names: Vec<_> = cache.entries().iter().map(|e| e.utterance.clone()).collect();
                let started = Instant::now();
                let found = names.iter().filter(|name| cache.find(name).is_some()).count();
                let find = started.elapsed().as_secs_f64() / found.max(1) as f64;
                json!({ "utterances": found, "seconds": opened.0, "rss_anon_kib": opened.1, "find_ns": 1e9 * find })
            }
            (Request::Walk { cache }, _) => {
                let cache = Cache::open(&cache).expect("a cache");
                let mut order: Vec<usize> = (0..cache.entries().len()).collect();
                Random::new(1, "reading order", &[]).shuffle(&mut order);
                let (mut out, mut anon, mut file) = (Vec::new(), 0, 0);
                for (turn, &index) in order.iter().enumerate() {
                    cache.coordinates(HiddenLayer::Last, index, &mut out).expect("an utterance");
                    if turn % 16 == 0 {
                        (anon, file) = (anon.max(memory("RssAnon")), file.max(memory("RssFile")));
                    }
                }
                json!({ "utterances": order.len(), "rss_anon_kib": anon, "rss_file_kib": file })
            }
            (Request::Repeat { from, times, out }, _) => {
                if from.join("corpus.toml").exists() {
                    scale::repeat_corpus(&from, times, &out);
                } else {
                    scale::repeat_cache(&from, times, &out);
                }
                json!({ "times": times })
            }
            (Request::Tiny { from, utterances, out }, _) => {
                scale::tiny_cache(&from, utterances, &out);
                json!({ "utterances": utterances })
            }
            _ => json!({ "error": "open a cache first" }),
        };
        println!("{reply}");
    }
}
