//! The imported teacher against PyTorch's numbers, and a GPU backend against the CPU.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use tutornet::device::DeviceChoice;
use tutornet::models::parameters::UpdateTensor;
use tutornet::models::{BatchNormMode, Mode, Model, TrainState, parameters};
use tutornet::random::Random;

use crate::harness::{not_run, shared_data, succeeds, tutornet};
use crate::nemo::{Bench, CONFIG, entries, load, nemo};

/// The shared checkpoint, imported once for the tests that need it.
fn quartznet(name: &str) -> Option<(PathBuf, PathBuf)> {
    static IMPORTED: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let data = shared_data(name)?;
    let model = IMPORTED.get_or_init(|| {
        let model = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quartznet15x5-en");
        let file = data.join("quartznet15x5-en.nemo");
        succeeds(tutornet().arg("import").arg(file).arg("--out").arg(&model).arg("--force"));
        model
    });
    Some((model.clone(), data))
}

struct Golden {
    features: Vec<f32>,
    hidden: Vec<f32>,
    logits: Vec<f32>,
    frames: usize,
}

fn golden(data: &Path) -> Vec<Golden> {
    let bytes = std::fs::read(data.join("quartznet15x5-en.golden.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let read = |name: String| {
        let view = file.tensor(&name).unwrap();
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            safetensors::Dtype::F16 => {
                data.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            _ => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        };
        (values, view.shape()[0])
    };
    let mut ids: Vec<&str> = file.names().into_iter().filter_map(|n| n.strip_suffix(".features")).collect();
    ids.sort_unstable();
    assert_eq!(ids.len(), 2);
    ids.iter()
        .map(|id| {
            let (features, frames) = read(format!("{id}.features"));
            let [(hidden, _), (logits, _)] = [read(format!("{id}.hidden")), read(format!("{id}.logits"))];
            Golden { features, hidden, logits, frames }
        })
        .collect()
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |v: f32| f64::from(v).powi(2);
    let difference: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (difference / expected.iter().map(|&v| square(v)).sum::<f64>()).sqrt()
}

/// [1, 64, frames] of [frames, 64].
fn input(golden: &Golden, device: &Device) -> Tensor<3> {
    let data = TensorData::new(golden.features.clone(), [1, golden.frames, 64]);
    Tensor::from_data(data, device).swap_dims(1, 2)
}

/// Logits and hidden states of each golden utterance, alone: [frames, 29] and [frames, 1024].
fn outputs(model: &Model, golden: &[Golden], device: &Device) -> Vec<(Vec<f32>, Vec<f32>)> {
    golden
        .iter()
        .map(|g| {
            let output = model.forward(input(g, device), &[g.frames], Mode::Evaluate);
            (host(output.logits), host(output.hidden.swap_dims(1, 2)))
        })
        .collect()
}

/// Hidden states and logits of the shared QuartzNet against PyTorch's, and a padded batch of both
/// utterances against each alone.
#[test]
fn quartznet_computes_what_pytorch_computed() {
    let Some((path, data)) = quartznet("parity: quartznet_computes_what_pytorch_computed") else { return };
    let device = Device::flex();
    let model = load(&path);
    assert_eq!(model.trainable_parameters(), 18_924_381);
    let golden = golden(&data);
    let alone = outputs(&model, &golden, &device);
    for (g, (logits, hidden)) in golden.iter().zip(&alone) {
        let (logits, hidden) = (relative(logits, &g.logits), relative(hidden, &g.hidden));
        println!("{} frames: logits {logits:.2e}, hidden {hidden:.2e}", g.frames);
        assert!(logits <= 2e-3 && hidden <= 2e-3, "logits {logits}, hidden {hidden}");
    }
    let frames: Vec<usize> = golden.iter().map(|g| g.frames).collect();
    let longest = frames.iter().max().unwrap() + 7;
    let mut batch = Tensor::<3>::full([2, 64, longest], 3.0, &device);
    for (i, g) in golden.iter().enumerate() {
        batch = batch.slice_assign([i..i + 1, 0..64, 0..g.frames], input(g, &device));
    }
    let output = model.forward(batch, &frames, Mode::Evaluate);
    for (i, (logits, hidden)) in alone.iter().enumerate() {
        let valid = output.frames[i];
        assert_eq!(valid, model.output_frames(frames[i]));
        let theirs = host(output.logits.clone().slice([i..i + 1, 0..valid, 0..29]));
        let off = relative(&theirs, logits);
        let theirs = host(output.hidden.clone().slice([i..i + 1, 0..1024, 0..valid]).swap_dims(1, 2));
        let off = off.max(relative(&theirs, hidden));
        assert!(off < 1e-5, "{off}");
    }
}

/// Collects the gradient of every trainable tensor.
struct Gradients<'a> {
    gradients: &'a burn::tensor::Gradients,
    all: &'a mut Vec<f32>,
}

impl UpdateTensor for Gradients<'_> {
    fn update<const D: usize>(&mut self, _name: &str, trainable: bool, tensor: Tensor<D>) -> Tensor<D> {
        if trainable {
            self.all.extend(host(tensor.grad(self.gradients).expect("a gradient")));
        }
        tensor
    }
}

/// The same on a GPU backend: the shared checkpoint on two golden utterances where it is there,
/// and in any case a small network, in evaluation and in training.
#[test]
fn wgpu_computes_what_the_cpu_computes() {
    let name = "parity: wgpu_computes_what_the_cpu_computes";
    let Ok(gpu) = DeviceChoice::Wgpu(None).open() else { return not_run(name, "no Vulkan driver") };
    let cpu = Device::flex();
    let bench = Bench::new();
    succeeds(&mut bench.command(&nemo(CONFIG, &entries()), &[]));
    let mut random = Random::new(1, "test", &[]);
    let features: Vec<f32> = (0..2 * 64 * 60).map(|_| random.normal() as f32).collect();
    let features =
        |device: &Device| Tensor::<3>::from_data(TensorData::new(features.clone(), [2, 64, 60]), device);
    // Both utterances at their full length: every frame has a meaning.
    let evaluate = |device: &Device, kind: DType| {
        let model = Model::load(&bench.path("model"), device).unwrap();
        let logits = model.forward(features(device).cast(kind), &[60, 60], Mode::Evaluate).logits;
        host(logits.cast(DType::F32))
    };
    let expected = evaluate(&cpu, DType::F32);
    assert_eq!(evaluate(&cpu, DType::F16).len(), expected.len());
    let off = relative(&evaluate(&gpu, DType::F32), &expected);
    assert!(off < 1e-3, "{off}");
    if gpu.supports_dtype(DType::F16) {
        let off = relative(&evaluate(&gpu, DType::F16), &expected);
        println!("wgpu f16 {off:.2e}");
        assert!(off < 3e-2, "{off}");
    } else {
        not_run(name, "f16: the GPU device does not have it");
    }
    let train = |device: &Device, mode| {
        let device = device.clone().autodiff();
        let model = Model::load(&bench.path("model"), &device).unwrap();
        let mut state = TrainState::new(mode, Random::new(2, "dropout", &[]));
        let output = model.forward(features(&device), &[60, 41], Mode::Train(&mut state));
        let loss = output.logits.slice([0..2, 0..20, 0..4]).square().sum();
        let mut all = host(loss.clone());
        let gradients = loss.backward();
        for statistics in state.statistics {
            all.extend([host(statistics.mean), host(statistics.variance)].concat());
        }
        parameters::map(model.network, &mut Gradients { gradients: &gradients, all: &mut all });
        all
    };
    for mode in [BatchNormMode::Padded, BatchNormMode::Valid] {
        let off = relative(&train(&gpu, mode), &train(&cpu, mode));
        assert!(off < 1e-3, "{mode:?} {off}");
    }

    let Some((path, data)) = quartznet(name) else { return };
    let golden = golden(&data);
    let expected = outputs(&load(&path), &golden, &cpu);
    let found = outputs(&Model::load(&path, &gpu).unwrap(), &golden, &gpu);
    for (found, expected) in found.iter().zip(&expected) {
        let off = relative(&found.0, &expected.0);
        println!("wgpu logits {off:.2e}");
        assert!(off < 1e-3, "{off}");
    }
}
