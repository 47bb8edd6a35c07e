//! Writes small .nemo files, whole and broken.

use std::io::Write;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use tutornet::models::Model;

use crate::harness::{fails, tutornet};

/// A value of a pickled state dictionary.
#[derive(Clone)]
pub enum Entry {
    Tensor {
        kind: &'static str,
        shape: Vec<usize>,
        bytes: Vec<u8>,
    },
    /// What `pickle` writes for an object whose `__reduce__` says `os.system(command)`.
    Call(String),
}

pub fn floats(shape: &[usize], values: &[f32]) -> Entry {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Entry::Tensor { kind: "FloatStorage", shape: shape.to_vec(), bytes }
}

/// A `torch.save` archive (protocol 2), as PyTorch has written it since 1.6.
pub fn checkpoint(entries: &[(String, Entry)]) -> Vec<u8> {
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

pub fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
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
pub const CONFIG: &str = "
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
pub fn names() -> Vec<(String, Vec<usize>)> {
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

pub fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    (0..shape.iter().product()).map(|i| value(name, i)).collect()
}

pub fn entries() -> Vec<(String, Entry)> {
    names().into_iter().map(|(name, shape)| (name.clone(), floats(&shape, &values(&name, &shape)))).collect()
}

pub fn nemo(config: &str, entries: &[(String, Entry)]) -> Vec<u8> {
    tar(&[("./model_config.yaml", config.as_bytes()), ("./model_weights.ckpt", &checkpoint(entries))])
}

pub struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn command(&self, bytes: &[u8], options: &[&str]) -> std::process::Command {
        let file = self.path("tiny.nemo");
        std::fs::write(&file, bytes).unwrap();
        let mut command = tutornet();
        command.arg("import").arg(file).arg("--out").arg(self.path("model")).args(options);
        command
    }

    /// Refused with these words, the file's name among them, and no model left behind.
    #[track_caller]
    pub fn refused(&self, bytes: &[u8], words: &[&str]) {
        fails(&mut self.command(bytes, &[]), &[words, &["tiny.nemo"]].concat());
        assert!(!self.path("model/model.toml").exists());
    }
}

pub fn load(path: &Path) -> Model {
    Model::load(path, &Device::flex()).unwrap()
}
