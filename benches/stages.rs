//! What each stage spends its time on, per second of audio: features, the student's forward and
//! backward pass, the CTC loss, the codec of hidden states.
//!
//! `make bench`, or `cargo bench -- NAME` for those whose name contains NAME.

#![expect(clippy::expect_used, reason = "a bench that cannot set up must stop")]

use burn::tensor::{Device, Tensor, TensorData};
use divan::{Bencher, black_box, counter::ItemsCount};
use half::f16;
use tutornet::cache::column::Column;
use tutornet::cache::schema::Key;
use tutornet::cache::{Cache, Entry, codec};
use tutornet::features::Frontend;
use tutornet::kernels::{LstmWeights, Together, bi_lstm, ctc_loss};
use tutornet::models::{BatchNormMode, HiddenLayer, Mode, Model, TrainState, presets};
use tutornet::random::Random;

const SECONDS: usize = 10;
const BATCH: usize = 8;
const FRAMES: usize = SECONDS * 100;

fn main() {
    divan::main();
}

fn noise(count: usize) -> Vec<f32> {
    let mut random = Random::new(1, "bench", &[]);
    (0..count).map(|_| random.uniform() as f32 - 0.5).collect()
}

/// Seconds of audio that one call handles: divan then prints seconds of audio per second.
fn audio(seconds: usize) -> ItemsCount {
    ItemsCount::new(seconds)
}

/// Audio to log-mel, on one core.
#[divan::bench(args = ["nemo", "openseq2seq"])]
fn features(bencher: Bencher, name: &str) {
    let frontend = if name == "nemo" { Frontend::default() } else { Frontend::OpenSeq2Seq };
    let samples = noise(SECONDS * 16_000);
    bencher.counter(audio(SECONDS)).bench(|| frontend.features(black_box(&samples)));
}

fn student(name: &str, width: f64, device: &Device) -> (Model, Tensor<3>) {
    let config = presets::find(name).and_then(|c| c.with_width(width)).expect("a preset");
    let model = Model::new(config, 1, device).expect("a model");
    let data = TensorData::new(noise(BATCH * 64 * FRAMES), [BATCH, 64, FRAMES]);
    (model, Tensor::from_data(data, device))
}

/// A batch through Jasper Mini as a teacher would run it.
#[divan::bench(args = [0.25, 0.5], sample_count = 10)]
fn forward(bencher: Bencher, width: f64) {
    let (model, x) = student("jasper-mini", width, &Device::flex());
    let frames = [FRAMES; BATCH];
    bencher
        .counter(audio(SECONDS * BATCH))
        .bench(|| model.forward(x.clone(), &frames, Mode::Evaluate).logits.into_data());
}

fn targets() -> Vec<Vec<u32>> {
    let letter = |i: usize| u32::try_from(i * 7 % 28).expect("a label");
    (0..BATCH).map(|_| (0..15 * SECONDS).map(letter).collect()).collect()
}

/// Forward, CTC and backward: an update without its optimiser step.
#[divan::bench(args = [0.25, 0.5], sample_count = 10)]
fn update(bencher: Bencher, width: f64) {
    update_of("jasper-mini", width, bencher);
}

/// The same of DeepSpeech 2.
#[divan::bench(args = [0.25, 1.0], sample_count = 5)]
fn recurrent_update(bencher: Bencher, width: f64) {
    update_of("deepspeech2", width, bencher);
}

fn update_of(name: &str, width: f64, bencher: Bencher) {
    let (model, x) = student(name, width, &Device::flex().autodiff());
    let targets = targets();
    bencher.counter(audio(SECONDS * BATCH)).bench(|| {
        let mut state = TrainState::new(BatchNormMode::default(), Random::new(1, "dropout", &[]));
        let output = model.forward(x.clone(), &[FRAMES; BATCH], Mode::Train(&mut state));
        ctc_loss(output.logits, &output.frames, &targets, 28).mean().backward()
    });
}

/// Three bidirectional LSTM layers of 512 cells a direction over [8, 400, 512], forward and backward: 322 GFLOP.
#[divan::bench(sample_count = 10)]
fn lstm(bencher: Bencher) {
    const CELLS: usize = 512;
    let device = Device::flex().autodiff();
    let matrix = |rows, columns| {
        let data = TensorData::new(noise(rows * columns), [rows, columns]);
        (Tensor::<2>::from_data(data, &device) * 0.08).require_grad()
    };
    let weights = |inputs| LstmWeights {
        input: matrix(4 * CELLS, inputs),
        recurrent: matrix(4 * CELLS, CELLS),
        bias: Tensor::zeros([4 * CELLS], &device).require_grad(),
    };
    let layers = [CELLS, 2 * CELLS, 2 * CELLS].map(|inputs| [weights(inputs), weights(inputs)]);
    let x = TensorData::new(noise(8 * 400 * CELLS), [8, 400, CELLS]);
    let x = Tensor::<3>::from_data(x, &device).require_grad();
    bencher.counter(audio(8 * 8)).bench(|| {
        let y = layers.clone().into_iter().fold(x.clone(), |x, [forward, reverse]| {
            bi_lstm(x, forward, reverse, &[400; 8], Together::default())
        });
        y.sum().backward()
    });
}

/// The CTC loss and its gradient alone.
#[divan::bench(sample_count = 20)]
fn ctc(bencher: Bencher) {
    let device = Device::flex().autodiff();
    let frames = FRAMES / 2;
    let data = TensorData::new(noise(BATCH * frames * 29), [BATCH, frames, 29]);
    let logits = Tensor::<3>::from_data(data, &device).require_grad();
    let targets = targets();
    bencher
        .counter(audio(SECONDS * BATCH))
        .bench(|| ctc_loss(logits.clone(), &[frames; BATCH], &targets, 28).mean().backward());
}

/// Hidden states of 1,024 channels, about half of them zero as after a ReLU.
fn hidden() -> Vec<u16> {
    noise(SECONDS * 50 * 1024).into_iter().map(|v| f16::from_f32(v.max(0.0)).to_bits()).collect()
}

/// Hidden states into a cache's payload.
#[divan::bench]
fn codec_encode(bencher: Bencher) {
    let values = hidden();
    bencher.counter(audio(SECONDS)).bench(|| codec::f16::encode(black_box(&values), SECONDS * 50, 1024));
}

/// A cache's payload back into hidden states.
#[divan::bench]
fn codec_decode(bencher: Bencher) {
    let payload = codec::f16::encode(&hidden(), SECONDS * 50, 1024);
    let mut out = Vec::new();
    bencher.counter(audio(SECONDS)).bench_local(move || {
        codec::Codec::F16.decode(black_box(&payload), SECONDS * 50, 1024, &mut out).expect("a payload");
        out.len()
    });
}

/// A payload held to its checksum, as every read does.
#[divan::bench]
fn codec_checksum(bencher: Bencher) {
    let payload = codec::f16::encode(&hidden(), SECONDS * 50, 1024);
    let key = Key { utterance: "bench".to_owned(), samples: 160_000, audio_hash: [7; 16], frames: 500 };
    bencher.counter(audio(SECONDS)).bench(|| key.checksum(black_box(&payload)));
}

/// Every payload of the hidden column of a real cache (TUTORNET_CACHE), read as stage two does; with `checksum` alone, what of
/// that is the checksum.
#[divan::bench(args = ["read", "checksum"], sample_count = 9)]
fn cache_reading(bencher: Bencher, what: &str) {
    let Some(dir) = std::env::var_os("TUTORNET_CACHE") else { return };
    let cache = Cache::open(std::path::Path::new(&dir)).expect("a cache");
    let entries: Vec<usize> =
        (0..cache.entries().len()).step_by(cache.entries().len().div_ceil(200)).collect();
    let payloads: Vec<(Key, _)> = entries
        .iter()
        .map(|&index| {
            let Entry { utterance, samples, audio_hash, frames, .. } = cache.entries()[index].clone();
            let payload = cache.raw(Column::Hidden(HiddenLayer::Last), index).expect("a payload");
            (Key { utterance, samples, audio_hash, frames }, payload)
        })
        .collect();
    let mut out = Vec::new();
    if what == "checksum" {
        bencher.bench(|| payloads.iter().map(|(key, payload)| key.checksum(payload)[0]).max());
    } else {
        bencher.bench_local(move || {
            for &index in &entries {
                cache.coordinates(HiddenLayer::Last, index, &mut out).expect("a payload");
            }
            out.len()
        });
    }
}
