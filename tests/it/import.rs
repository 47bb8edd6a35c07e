//! `tutornet import`: what a .nemo file becomes, and what is refused.

use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use tutornet::device::DeviceChoice;
use tutornet::models::{Mode, Model, parameters};
use tutornet::random::Random;

use crate::harness::{fails, not_run, shared_data, succeeds, tutornet};

/// A value of a pickled state dictionary.
enum Entry {
    Tensor {
        kind: &'static str,
        shape: Vec<usize>,
        bytes: Vec<u8>,
    },
    /// What `pickle` writes for an object whose `__reduce__` says `os.system(command)`.
    Call(String),
}

fn floats(shape: &[usize], values: &[f32]) -> Entry {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Entry::Tensor { kind: "FloatStorage", shape: shape.to_vec(), bytes }
}

/// A `torch.save` archive (protocol 2), as PyTorch has written it since 1.6.
fn checkpoint(entries: &[(String, Entry)]) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(b'X');
        out.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        out.extend(text.as_bytes());
    };
    let int = |out: &mut Vec<u8>, value: usize| {
        out.push(b'J');
        out.extend(i32::try_from(value).unwrap().to_le_bytes());
    };
    let mut pickle = b"\x80\x02}(".to_vec();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (index, (name, entry)) in entries.iter().enumerate() {
        text(&mut pickle, name);
        match entry {
            Entry::Call(command) => {
                pickle.extend(b"cos\nsystem\n(");
                text(&mut pickle, command);
                pickle.extend(b"tR");
            }
            Entry::Tensor { kind, shape, bytes } => {
                let size = if *kind == "LongStorage" {
                    8
                } else if *kind == "FloatStorage" {
                    4
                } else {
                    2
                };
                pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
                text(&mut pickle, "storage");
                pickle.extend(format!("ctorch\n{kind}\n").bytes());
                text(&mut pickle, &index.to_string());
                text(&mut pickle, "cpu");
                int(&mut pickle, bytes.len() / size);
                pickle.extend(b"tQ");
                int(&mut pickle, 0);
                pickle.push(b'(');
                shape.iter().for_each(|&length| int(&mut pickle, length));
                pickle.extend(b"t(");
                for d in 0..shape.len() {
                    int(&mut pickle, shape[d + 1..].iter().product());
                }
                pickle.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
                zip.start_file(format!("archive/data/{index}"), stored).unwrap();
                zip.write_all(bytes).unwrap();
            }
        }
    }
    pickle.extend(b"u.");
    for (name, bytes) in [("data.pkl", pickle.as_slice()), ("version", b"3\n"), ("byteorder", b"little")] {
        zip.start_file(format!("archive/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Two blocks: a strided separable layer; two dense layers with a residual. Four labels.
const CONFIG: &str = "
name: tiny
sample_rate: 16000
train_ds: {manifest: unknown}
preprocessor:
  _target_: nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor
  normalize: per_feature
  window_size: 0.02
  sample_rate: 16000
  window_stride: 0.01
  window: hann
  features: 64
  n_fft: 512
  frame_splicing: 1
  dither: 1.0e-05
  pad_to: 16
encoder:
  _target_: nemo.collections.asr.modules.ConvASREncoder
  feat_in: 64
  activation: relu
  conv_mask: true
  jasper:
  - {filters: 8, repeat: 1, kernel: [11], stride: [2], dilation: [1], dropout: 0.0, residual: false, separable: true}
  - {filters: 6, repeat: 2, kernel: [3], stride: [1], dilation: [1], dropout: 0.1, residual: true}
decoder:
  _target_: nemo.collections.asr.modules.ConvASRDecoder
  feat_in: 6
  num_classes: 3
  vocabulary: [' ', n, y]
target: nemo.collections.asr.models.ctc_models.EncDecCTCModel
";

/// NeMo's names and shapes for [`CONFIG`].
fn names() -> Vec<(String, Vec<usize>)> {
    let mut names = Vec::new();
    let norm = |names: &mut Vec<(String, Vec<usize>)>, prefix: &str, channels| {
        for part in ["weight", "bias", "running_mean", "running_var"] {
            names.push((format!("{prefix}.{part}"), vec![channels]));
        }
    };
    let encoder = |rest: &str| format!("encoder.encoder.{rest}");
    names.push((encoder("0.mconv.0.conv.weight"), vec![64, 1, 11]));
    names.push((encoder("0.mconv.1.conv.weight"), vec![8, 64, 1]));
    norm(&mut names, &encoder("0.mconv.2"), 8);
    names.push((encoder("1.mconv.0.conv.weight"), vec![6, 8, 3]));
    norm(&mut names, &encoder("1.mconv.1"), 6);
    names.push((encoder("1.mconv.4.conv.weight"), vec![6, 6, 3]));
    norm(&mut names, &encoder("1.mconv.5"), 6);
    names.push((encoder("1.res.0.0.conv.weight"), vec![6, 8, 1]));
    norm(&mut names, &encoder("1.res.0.1"), 6);
    names.push(("decoder.decoder_layers.0.weight".into(), vec![4, 6, 1]));
    names.push(("decoder.decoder_layers.0.bias".into(), vec![4]));
    names
}

/// Positive values that f16 and bf16 hold exactly.
fn value(name: &str, index: usize) -> f32 {
    (1 + (name.len() * 7 + index) % 31) as f32 / 32.0
}

fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    (0..shape.iter().product()).map(|i| value(name, i)).collect()
}

fn entries() -> Vec<(String, Entry)> {
    names().into_iter().map(|(name, shape)| (name.clone(), floats(&shape, &values(&name, &shape)))).collect()
}

fn nemo(config: &str, entries: &[(String, Entry)]) -> Vec<u8> {
    tar(&[("./model_config.yaml", config.as_bytes()), ("./model_weights.ckpt", &checkpoint(entries))])
}

struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, bytes: &[u8], options: &[&str]) -> std::process::Command {
        let file = self.path("tiny.nemo");
        std::fs::write(&file, bytes).unwrap();
        let mut command = tutornet();
        command.arg("import").arg(file).arg("--out").arg(self.path("model")).args(options);
        command
    }

    /// Refused with these words, the file's name among them, and no model left behind.
    #[track_caller]
    fn refused(&self, bytes: &[u8], words: &[&str]) {
        fails(&mut self.command(bytes, &[]), &[words, &["tiny.nemo"]].concat());
        assert!(!self.path("model/model.toml").exists());
    }
}

fn load(path: &Path) -> Model {
    Model::load(path, &Device::flex()).unwrap()
}

#[test]
fn a_model_is_imported_whole() {
    let bench = Bench::new();
    let mut all = entries();
    all.push(("encoder.encoder.0.mconv.2.num_batches_tracked".into(), {
        Entry::Tensor { kind: "LongStorage", shape: vec![], bytes: 7i64.to_le_bytes().to_vec() }
    }));
    let buffer = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
    let filters = buffer(tutornet::features::mel_filters());
    all.push(("preprocessor.featurizer.fb".into(), floats(&[1, 64, 257], &filters)));
    all.push((
        "preprocessor.featurizer.window".into(),
        floats(&[320], &buffer(tutornet::features::window())),
    ));
    let plain = nemo(CONFIG, &all);
    let answer = succeeds(&mut bench.command(&plain, &["--name", "small", "--frames", "floor+1"]));
    answer.says(&["featurizer.fb agrees", "featurizer.window agrees", "num_batches_tracked", "dither"]);

    let model = load(&bench.path("model"));
    assert_eq!(model.config.name, "small");
    assert_eq!(model.config.labels.symbols, [" ", "n", "y"]);
    assert_eq!((model.config.labels.blank, model.stride(), model.hidden_width()), (3, 2, 6));
    assert_eq!(model.config.frontend.prep_arguments(), "--frontend nemo --nemo-frames floor+1");
    let provenance = &model.config.provenance;
    assert_eq!(provenance.origin, "import of tiny.nemo");
    assert_eq!(provenance.source_blake3.as_deref(), Some(blake3::hash(&plain).to_hex().as_str()));
    assert_eq!(
        (provenance.options["frames"].as_str(), provenance.options["padding"].as_str()),
        ("floor+1", "reflect")
    );
    let tensors = parameters::export(&model.network).unwrap();
    assert_eq!(tensors.len(), names().len());
    for (ours, theirs) in [
        ("blocks.0.layers.0.depthwise", "encoder.encoder.0.mconv.0.conv.weight"),
        ("blocks.0.layers.0.weight", "encoder.encoder.0.mconv.1.conv.weight"),
        ("blocks.1.layers.1.weight", "encoder.encoder.1.mconv.4.conv.weight"),
        ("blocks.1.layers.1.norm.gamma", "encoder.encoder.1.mconv.5.weight"),
        ("blocks.1.layers.1.norm.running_variance", "encoder.encoder.1.mconv.5.running_var"),
        ("blocks.1.residuals.0.weight", "encoder.encoder.1.res.0.0.conv.weight"),
        ("blocks.1.residuals.0.norm.beta", "encoder.encoder.1.res.0.1.bias"),
        ("head.bias", "decoder.decoder_layers.0.bias"),
    ] {
        assert_eq!(tensors[ours].values, values(theirs, &tensors[ours].shape), "{ours}");
    }

    // A model that is there is replaced on demand only.
    fails(&mut bench.command(&plain, &[]), &["holds a model already", "--force"]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    succeeds(&mut bench.command(&gzip.finish().unwrap(), &["--force", "--padding", "constant"]));
    let again = load(&bench.path("model"));
    assert_eq!(again.config.frontend.prep_arguments(), "--frontend nemo --nemo-padding constant");
    assert_eq!(parameters::export(&again.network).unwrap(), tensors);
}

#[test]
fn half_precision_tensors_are_widened() {
    for (kind, bits) in [
        ("HalfStorage", (|v| half::f16::from_f32(v).to_bits()) as fn(f32) -> u16),
        ("BFloat16Storage", |v| half::bf16::from_f32(v).to_bits()),
    ] {
        let bench = Bench::new();
        let all: Vec<_> = names()
            .into_iter()
            .map(|(name, shape)| {
                let bytes = values(&name, &shape).into_iter().flat_map(|v| bits(v).to_le_bytes()).collect();
                (name, Entry::Tensor { kind, shape, bytes })
            })
            .collect();
        succeeds(&mut bench.command(&nemo(CONFIG, &all), &[]));
        let tensors = parameters::export(&load(&bench.path("model")).network).unwrap();
        assert_eq!(tensors["head.weight"].values, values("decoder.decoder_layers.0.weight", &[4, 6, 1]));
    }
}

/// One setting at a time that this program has no counterpart for, and what the error says.
#[test]
fn unknown_settings_are_refused_by_name() {
    let bench = Bench::new();
    let all = entries();
    for (from, to, words) in [
        ("separable: true}", "separable: true, se: true}", &["encoder.jasper[0].se = true"] as &[_]),
        ("separable: true}", "separable: true, heads: 4}", &["encoder.jasper[0].heads = 4"]),
        ("separable: true}", "separable: true, groups: 2}", &["encoder.jasper[0].groups = 2"]),
        ("separable: true}", "separable: true, stride_last: true}", &["encoder.jasper[0].stride_last"]),
        ("separable: true}", "separable: true, kernel_size_factor: 0.5}", &["kernel_size_factor = 0.5"]),
        ("separable: true}", "separable: true, future_context: 2}", &["future_context = 2"]),
        (
            "separable: true}",
            "separable: true, shuffle: true}",
            &["unknown setting encoder.jasper[0].shuffle"],
        ),
        ("separable: true}", "separable: true, residual_dense: true}", &["blocks[0].dense", "residual"]),
        ("kernel: [11]", "kernel: [11, 3]", &["encoder.jasper[0].kernel", "[11,3]"]),
        ("kernel: [11]", "kernel: [12]", &["blocks[0].kernel", "odd"]),
        ("activation: relu", "activation: swish", &["encoder.activation", "swish", "relu"]),
        ("activation: relu", "residual_mode: stride_add", &["encoder.residual_mode", "stride_add"]),
        ("activation: relu", "normalization_mode: instance", &["encoder.normalization_mode", "instance"]),
        ("activation: relu", "new_thing: 3", &["unknown setting encoder.new_thing"]),
        ("conv_mask: true", "conv_mask: false", &["encoder.conv_mask = false"]),
        ("feat_in: 64", "feat_in: 80", &["encoder.feat_in = 80"]),
        ("ConvASREncoder", "ConformerEncoder", &["ConformerEncoder", "ConvASREncoder"]),
        ("ConvASRDecoder", "RNNTDecoder", &["RNNTDecoder", "ConvASRDecoder"]),
        ("EncDecCTCModel", "EncDecCTCModelBPE", &["target", "EncDecCTCModelBPE"]),
        ("target:", "tokenizer: {dir: x}\ntarget:", &["unknown setting tokenizer"]),
        ("num_classes: 3", "num_classes: 28", &["decoder.num_classes = 28", "expected 3"]),
        ("vocabulary: [' ', n, y]", "vocabulary: [' ', n, 3]", &["decoder.vocabulary"]),
        ("window: hann", "window: hamming", &["preprocessor.window", "hamming", "hann"]),
        ("window_stride: 0.01", "window_stride: 0.0125", &["preprocessor.window_stride = 0.0125", "0.01"]),
        ("features: 64", "features: 80", &["preprocessor.features = 80", "64"]),
        ("normalize: per_feature", "normalize: all_features", &["preprocessor.normalize", "all_features"]),
        ("n_fft: 512", "preemph: 0.9", &["preprocessor.preemph = 0.9", "0.97"]),
        ("n_fft: 512", "log: false", &["preprocessor.log = false"]),
        ("n_fft: 512", "mag_power: 1.0", &["preprocessor.mag_power = 1.0"]),
        ("n_fft: 512", "exact_pad: true", &["preprocessor.exact_pad = true"]),
        ("n_fft: 512", "warp: 1", &["unknown setting preprocessor.warp"]),
        ("n_fft: 512", "n_fft: ${model.n_fft}", &["preprocessor.n_fft", "expected a number", "model.n_fft"]),
        ("AudioToMelSpectrogramPreprocessor", "AudioToMFCCPreprocessor", &["AudioToMFCCPreprocessor"]),
        ("name: tiny", "name: [", &["not valid YAML"]),
    ] {
        assert!(CONFIG.contains(from), "{from}");
        bench.refused(&nemo(&CONFIG.replacen(from, to, 1), &all), words);
    }
}

#[test]
fn tensors_are_never_dropped() {
    let bench = Bench::new();
    let with = |change: &dyn Fn(&mut Vec<(String, Entry)>)| {
        let mut all = entries();
        change(&mut all);
        nemo(CONFIG, &all)
    };
    let norm = "encoder.encoder.1.mconv.5.weight";
    bench.refused(&with(&|all| all.retain(|(n, _)| n != norm)), &[norm, "[6] is missing"]);
    let bytes = with(&|all| all.push(("encoder.encoder.9.odd".into(), floats(&[2], &[1.0, 2.0]))));
    bench.refused(&bytes, &["encoder.encoder.9.odd [2] F32 is unknown", "no tensor is dropped"]);
    let bytes = with(&|all| {
        let at = all.iter().position(|(n, _)| n == norm).unwrap();
        all[at].1 = floats(&[3, 2], &[0.0; 6]);
    });
    bench.refused(&bytes, &[norm, "expected shape [6], found [3, 2]"]);
    let bytes = with(&|all| {
        let at = all.iter().position(|(n, _)| n == norm).unwrap();
        all[at].1 = Entry::Tensor { kind: "LongStorage", shape: vec![6], bytes: vec![0; 48] };
    });
    bench.refused(&bytes, &[norm, "expected floating point values, found I64"]);
    let bytes = with(&|all| all.push(("encoder.encoder.7.num_batches_tracked".into(), floats(&[1], &[0.0]))));
    bench.refused(&bytes, &["encoder.encoder.7.num_batches_tracked"]);
    let bytes = with(&|all| all.push(("preprocessor.featurizer.window".into(), floats(&[320], &[1.0; 320]))));
    bench.refused(&bytes, &["preprocessor.featurizer.window differs from the nemo frontend"]);
    let bytes = with(&|all| all.push(("preprocessor.featurizer.fb".into(), floats(&[2], &[1.0; 2]))));
    bench.refused(&bytes, &["preprocessor.featurizer.fb", "expected 16448", "[2]"]);
}

/// A pickle that would call `os.system` is refused by the name of the call, and does nothing.
#[test]
fn code_in_a_pickle_does_not_run() {
    let bench = Bench::new();
    let trace = bench.path("trace");
    let mut all = entries();
    all.push(("extra".into(), Entry::Call(format!("touch {}", trace.display()))));
    bench.refused(&nemo(CONFIG, &all), &["os.system", "nothing of it was executed"]);
    let alone = checkpoint(&[("x".into(), Entry::Call(format!("touch {}", trace.display())))]);
    bench.refused(
        &tar(&[("model_config.yaml", CONFIG.as_bytes()), ("model_weights.ckpt", &alone)]),
        &["os.system"],
    );
    assert!(!trace.exists());
}

#[test]
fn broken_archives_are_refused() {
    let bench = Bench::new();
    let whole = nemo(CONFIG, &entries());
    let missing = bench.path("absent.nemo");
    fails(
        tutornet().arg("import").arg(&missing).arg("--out").arg(bench.path("model")),
        &["cannot open", "absent.nemo"],
    );
    bench
        .refused(b"this is no tar archive, but some text that somebody saved", &["tar archive", "truncated"]);
    bench.refused(b"", &["no model_config.yaml", "found: nothing"]);
    bench.refused(&tar(&[("readme.txt", b"hello")]), &["no model_config.yaml", "readme.txt"]);
    bench.refused(&tar(&[("model_config.yaml", CONFIG.as_bytes())]), &["no model_weights.ckpt"]);
    let garbage = tar(&[("model_config.yaml", CONFIG.as_bytes()), ("model_weights.ckpt", &[7; 400])]);
    bench.refused(&garbage, &["model_weights.ckpt cannot be read"]);
    for cut in [700, 2000, 5000, whole.len() - 3000] {
        bench.refused(&whole[..cut], &["truncated"]);
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&whole).unwrap();
    let gzip = gzip.finish().unwrap();
    bench.refused(&gzip[..gzip.len() / 2], &["truncated"]);
}

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
    let Some((path, data)) = quartznet("import: quartznet_computes_what_pytorch_computed") else { return };
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

/// The same on a GPU backend: the shared checkpoint on two golden utterances where it is there,
/// and in any case a small network with random weights.
#[test]
fn wgpu_computes_what_the_cpu_computes() {
    let name = "import: wgpu_computes_what_the_cpu_computes";
    let Ok(gpu) = DeviceChoice::Wgpu(None).open() else { return not_run(name, "no Vulkan driver") };
    let cpu = Device::flex();
    let bench = Bench::new();
    succeeds(&mut bench.command(&nemo(CONFIG, &entries()), &[]));
    let [small, other] = [&cpu, &gpu].map(|device| Model::load(&bench.path("model"), device).unwrap());
    let mut random = Random::new(1, "test", &[]);
    let features: Vec<f32> = (0..2 * 64 * 60).map(|_| random.normal() as f32).collect();
    let logits = |model: &Model, device: &Device| {
        let x = Tensor::from_data(TensorData::new(features.clone(), [2, 64, 60]), device);
        host(model.forward(x, &[60, 41], Mode::Evaluate).logits)
    };
    let off = relative(&logits(&other, &gpu)[..30 * 4], &logits(&small, &cpu)[..30 * 4]);
    assert!(off < 1e-3, "{off}");

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
