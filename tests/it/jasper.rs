//! The Jasper family: what PyTorch computes, in evaluation and in training, from every kind of checkpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use tutornet::kernels::ctc_loss;
use tutornet::models::parameters::{self, HostTensor};
use tutornet::models::{BatchNormMode, Mode, Model, Output, TrainState};
use tutornet::random::Random;

use crate::golden::{Gradients, close, host, read, tensor};
use crate::harness::{succeeds, tutornet};

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/jasper").join(name)
}

/// `import FILE --like LIKE --out OUT`; a golden description where there is one of that name.
pub fn import(file: &Path, like: &str, out: &Path) -> std::process::Command {
    let mut command = tutornet();
    command.arg("import").arg(file).arg("--out").arg(out).arg("--like");
    let description = golden(&format!("{like}.toml"));
    if description.is_file() {
        command.arg(description)
    } else {
        command.arg(like)
    };
    command
}

fn weights(dir: &Path) -> BTreeMap<String, HostTensor> {
    parameters::export(&Model::load(dir, &Device::flex()).unwrap().network).unwrap()
}

/// Valid frames of hidden states and logits against `prefix` of a golden file.
fn same_outputs(
    what: &str,
    output: &Output,
    expected: &BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    prefix: &str,
) {
    let device = Device::flex();
    let [hidden, logits]: [Tensor<3>; 2] =
        ["hidden", "logits"].map(|name| tensor(&expected[&format!("{prefix}{name}")], &device));
    let (width, labels) = (hidden.dims()[1], logits.dims()[2]);
    for (b, &frames) in output.frames.iter().enumerate() {
        let cut = |x: Tensor<3>| host(x.slice([b..b + 1, 0..width, 0..frames]));
        close(&format!("{what} hidden"), &cut(output.hidden.clone()), &cut(hidden.clone()), 1e-5);
        let cut = |x: Tensor<3>| host(x.slice([b..b + 1, 0..frames, 0..labels]));
        close(&format!("{what} logits"), &cut(output.logits.clone()), &cut(logits.clone()), 1e-5);
    }
}

/// Dense residuals with symmetric padding, separable convolutions with TensorFlow's: hidden states, logits, CTC loss,
/// every gradient and every running statistic are PyTorch's.
#[test]
fn small_networks_compute_what_pytorch_computed() {
    let work = tempfile::tempdir().unwrap();
    for (form, ending) in [("dense", "safetensors"), ("separable", "npz")] {
        let [model, gradients] = ["", ".gradients"].map(|what| {
            let out = work.path().join(format!("{form}{what}"));
            succeeds(&mut import(&golden(&format!("{form}{what}.{ending}")), form, &out));
            out
        });
        let expected = read(&golden(&format!("{form}.golden.safetensors")));
        let whole = |name: &str| -> Vec<usize> { expected[name].1.iter().map(|&v| v as usize).collect() };
        let lengths = whole("lengths");

        let device = Device::flex();
        let features = tensor(&expected["features"], &device);
        let output = Model::load(&model, &device).unwrap().forward(features, &lengths, Mode::Evaluate);
        assert_eq!(output.frames, [20, 14, 5]);
        same_outputs(form, &output, &expected, "");

        let device = device.autodiff();
        let mut model = Model::load(&model, &device).unwrap();
        let mut state = TrainState::new(BatchNormMode::Padded, Random::new(0, "dropout", &[]));
        let features = tensor(&expected["features"], &device);
        let output = model.forward(features, &lengths, Mode::Train(&mut state));
        let inner = Output {
            hidden: output.hidden.clone().inner(),
            logits: output.logits.clone().inner(),
            layers: Vec::new(),
            frames: output.frames.clone(),
        };
        same_outputs(&format!("{form} in training"), &inner, &expected, "train.");
        let mut targets = whole("targets").into_iter().map(|label| u32::try_from(label).unwrap());
        let targets: Vec<Vec<u32>> =
            whole("target_lengths").into_iter().map(|n| targets.by_ref().take(n).collect()).collect();
        let loss = ctc_loss(output.logits, &output.frames, &targets, 28).mean();
        close("loss", &host(loss.clone().inner()), &expected["loss"].1, 1e-5);
        let of = loss.backward();
        let mut found = Gradients(&of, BTreeMap::new());
        parameters::map(model.network.clone(), &mut found);
        let theirs = weights(&gradients);
        assert_eq!(found.1.len(), theirs.keys().filter(|name| !name.contains("running_")).count());
        let worst = found.1.iter().map(|(name, found)| {
            close(&format!("{form} gradient of {name}"), found, &theirs[name].values, 1e-4)
        });
        println!("{form}: gradients within {:.1e} of PyTorch's", worst.fold(0.0, f64::max));
        let momentum = model.config.momentum();
        model.apply_statistics(state.statistics, momentum).unwrap();
        let after = parameters::export(&model.valid().network).unwrap();
        for (name, tensor) in after.iter().filter(|(name, _)| name.contains("running_")) {
            close(&format!("{form} {name} after the step"), &tensor.values, &theirs[name].values, 1e-5);
        }
    }
}

/// NeMo, DeepLearningExamples and OpenSeq2Seq: the same weights, each with its own frontend and padding.
#[test]
fn every_toolkits_file_gives_the_same_weights() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    let files = ["dense.safetensors", "dense.pt", "dense.npz"];
    let said = files.map(|file| succeeds(&mut import(&golden(file), "dense", &at(file))));
    succeeds(tutornet().arg("import").arg(golden("dense.nemo")).arg("--out").arg(at("dense.nemo")));
    let expected = weights(&at("dense.safetensors"));
    assert_eq!(expected.len(), 15 * 5 + 2);
    for file in ["dense.pt", "dense.npz", "dense.nemo"] {
        assert!(weights(&at(file)) == expected, "{file}");
    }
    let [plain, torch, tensorflow] = said;
    plain.says(&["15 num_batches_tracked", "names of NeMo"]);
    torch.says(&["weights from ema_state_dict", "epoch, optimizer, scaler, state_dict, step"]);
    tensorflow.says(&["3 variables of the optimiser", "16 weights from their copies in f32"]);
    for (file, frontend, padding) in [
        ("dense.safetensors", "--frontend nemo", "symmetric"),
        ("dense.nemo", "--frontend nemo", "symmetric"),
        ("dense.pt", "--frontend deeplearningexamples", "symmetric"),
        ("dense.npz", "--frontend openseq2seq", "same"),
    ] {
        let config = Model::load(&at(file), &Device::flex()).unwrap().config;
        assert_eq!(
            (config.frontend.prep_arguments().as_str(), config.padding().to_string().as_str()),
            (frontend, padding)
        );
        assert_eq!(config.provenance.origin, format!("import of {file}"));
    }
    let options = Model::load(&at("dense.pt"), &Device::flex()).unwrap().config.provenance.options;
    assert_eq!(options["state_dict"], "ema_state_dict");
    assert_eq!(options["names"], "DeepLearningExamples");

    // TensorFlow's padding moves the first layer by a frame, which PyTorch was asked for, too.
    let golden_values = read(&golden("dense.golden.safetensors"));
    let features = tensor(&golden_values["features"], &Device::flex());
    let model = Model::load(&at("dense.npz"), &Device::flex()).unwrap();
    let output = model.forward(features, &[40, 27, 9], Mode::Evaluate);
    same_outputs("dense, same", &output, &golden_values, "same.");

    // The other dictionary on demand; NeMo's rules where the names are NeMo's; our own names.
    succeeds(import(&golden("dense.pt"), "dense", &at("last")).args(["--state-dict", "state_dict"]));
    let last = weights(&at("last"));
    assert!(last["head.weight"] == expected["head.weight"]);
    assert!(last["head.bias"].values[0] == expected["head.bias"].values[0] + 1.0);
    succeeds(import(&golden("dense.safetensors"), "dense", &at("rules")).args(["--frames", "floor"]));
    let config = Model::load(&at("rules"), &Device::flex()).unwrap().config;
    assert_eq!(config.frontend.prep_arguments(), "--frontend nemo --nemo-frames floor");
    let like = at("dense.npz").display().to_string();
    succeeds(&mut import(&at("dense.npz/weights.safetensors"), &like, &at("ours")));
    let ours = Model::load(&at("ours"), &Device::flex()).unwrap();
    assert!(weights(&at("ours")) == expected && ours.config.frontend.to_string() == "openseq2seq");
    assert_eq!(ours.identity().unwrap(), model.identity().unwrap());
}

/// A preset is described from its shapes alone: the program gets 50 MB for its data, of which the weights would take
/// 1.3 GB.
#[test]
fn presets_are_inspected_without_their_weights() {
    for (preset, parameters, published) in [
        ("jasper-dr", "332,632,349", "332.6M"),
        ("jasper-mini", "8,192,733", "8.2M"),
        ("deepspeech2", "13,116,157", "13.1M"),
        ("deepspeech2-summed", "13,123,837", "13.1M"),
        ("quartznet15x5", "18,924,381", "18.9M"),
    ] {
        let mut command = std::process::Command::new("sh");
        command.args([
            "-c",
            "ulimit -d 51200 && exec \"$0\" inspect \"$1\"",
            env!("CARGO_BIN_EXE_tutornet"),
            preset,
        ]);
        succeeds(&mut command).prints(&[parameters, published, "head"]);
    }
    let mut command = tutornet();
    let text = succeeds(command.args(["inspect", "deepspeech2-summed", "--toml"])).stdout;
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("mine.toml");
    assert!(text.contains("biases = 1"));
    std::fs::write(&file, text.replace("biases = 1", "biases = 2")).unwrap();
    succeeds(tutornet().arg("inspect").arg(&file)).prints(&["13,136,125", "openseq2seq"]);
}
