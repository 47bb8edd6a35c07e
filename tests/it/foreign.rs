//! Weights without a description: what PyTorch computed with them, in evaluation and in training.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use tutornet::models::parameters::{self, HostTensor};
use tutornet::models::{BatchNormMode, Mode, Model, TrainState};
use tutornet::random::Random;

use crate::golden::{Gradients, close, host, read, tensor};
use crate::harness::{fails, succeeds, tutornet};
use crate::nemo::{checkpoint, floats};

const FORMS: [&str; 3] = ["two-stacks", "summed", "concatenated"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/deepspeech2").join(name)
}

fn import(file: &Path, form: &str, out: &Path) -> std::process::Command {
    let mut command = tutornet();
    command.arg("import").arg(file).arg("--like").arg(golden(&format!("{form}.toml"))).arg("--out").arg(out);
    command
}

/// Hidden states and logits of every valid frame, the loss and every gradient are PyTorch's.
#[test]
fn pytorchs_weights_compute_what_pytorch_computed() {
    let work = tempfile::tempdir().unwrap();
    for form in FORMS {
        let [model, gradients] = ["", ".gradients"].map(|what| {
            let out = work.path().join(format!("{form}{what}"));
            let file = golden(&format!("{form}{what}.safetensors"));
            succeeds(&mut import(&file, form, &out));
            out
        });
        let expected = read(&golden(&format!("{form}.golden.safetensors")));
        let lengths: Vec<usize> = expected["lengths"].1.iter().map(|&l| l as usize).collect();

        let device = Device::flex();
        let evaluated = Model::load(&model, &device).unwrap().forward(
            tensor(&expected["features"], &device),
            &lengths,
            Mode::Evaluate,
        );
        assert_eq!(evaluated.frames, [19, 11, 1]);
        let [hidden, logits]: [Tensor<3>; 2] =
            ["hidden", "logits"].map(|name| tensor(&expected[name], &device));
        for (b, &frames) in evaluated.frames.iter().enumerate() {
            let cut = |x: &Tensor<3>| host(x.clone().slice([b..b + 1, 0..7, 0..frames]));
            close("hidden", &cut(&evaluated.hidden), &cut(&hidden), 1e-5);
            let cut = |x: &Tensor<3>| host(x.clone().slice([b..b + 1, 0..frames, 0..29]));
            close("logits", &cut(&evaluated.logits), &cut(&logits), 1e-5);
        }

        let device = device.autodiff();
        let model = Model::load(&model, &device).unwrap();
        let mut state = TrainState::new(BatchNormMode::Padded, Random::new(0, "dropout", &[]));
        let features = tensor(&expected["features"], &device);
        let output = model.forward(features, &lengths, Mode::Train(&mut state));
        let loss = (output.logits * tensor(&expected["upstream"], &device)).sum();
        close("loss", &host(loss.clone()), &expected["loss"].1, 1e-5);
        let of = loss.backward();
        let mut found = Gradients(&of, BTreeMap::new());
        parameters::map(model.network.clone(), &mut found);
        let theirs = Model::load(&gradients, &Device::flex()).unwrap();
        let theirs: BTreeMap<String, HostTensor> = parameters::export(&theirs.network).unwrap();
        assert_eq!(found.1.len(), theirs.values().filter(|t| t.trainable).count());
        for (name, found) in &found.1 {
            close(&format!("{form} gradient of {name}"), found, &theirs[name].values, 1e-5);
        }
    }
}

/// The same weights under OpenSeq2Seq's names and in its layouts, and as torch.save writes them.
#[test]
fn other_names_and_files_give_the_same_model() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    let form = "two-stacks";
    succeeds(&mut import(&golden("two-stacks.safetensors"), form, &at("plain")));
    let answer = succeeds(&mut import(&golden("openseq2seq.safetensors"), form, &at("openseq2seq")));
    answer.says(&[
        "1 variables of the optimiser",
        "1 weights from their copies in f32",
        "openseq2seq frontend",
    ]);
    let load = |name: &str| Model::load(&at(name), &Device::flex()).unwrap();
    let tensors = |name: &str| parameters::export(&load(name).network).unwrap();
    let (plain, translated) = (tensors("plain"), tensors("openseq2seq"));
    assert_eq!(plain.keys().collect::<Vec<_>>(), translated.keys().collect::<Vec<_>>());
    for (name, tensor) in &plain {
        close(name, &translated[name].values, &tensor.values, 1e-6);
    }
    assert_eq!(load("openseq2seq").config.frontend.to_string(), "openseq2seq");
    assert_eq!(load("plain").config.provenance.options["network"], "of the network of make.py");

    let entries: Vec<_> = read(&golden("two-stacks.safetensors"))
        .into_iter()
        .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .map(|(name, (shape, values))| (name, floats(&shape, &values)))
        .collect();
    let mut odd = entries.clone();
    std::fs::write(at("weights.pt"), checkpoint(&entries)).unwrap();
    succeeds(import(&at("weights.pt"), form, &at("torch")).args(["--name", "mine"]));
    assert!(tensors("torch") == plain);
    assert_eq!(load("torch").config.name, "mine");

    // What does not fit is named, and nothing is written.
    odd.retain(|(name, _)| name != "fc.bias");
    odd.push(("extra.weight".to_owned(), floats(&[2], &[1.0, 2.0])));
    std::fs::write(at("odd.pt"), checkpoint(&odd)).unwrap();
    let words = ["odd.pt", "fc.bias [7] is missing", "extra.weight [2] F32 is unknown"];
    fails(&mut import(&at("odd.pt"), form, &at("refused")), &words);
    let words = [
        "rnns.0.weight_ih_l0 [40, 24] is missing",
        "and 12 more are missing",
        "rnn_forward.bias_hh_l0 [40] F32 is unknown",
        "and 12 more are unknown",
    ];
    fails(&mut import(&at("weights.pt"), "summed", &at("refused")), &words);
    let words = ["two-stacks", "rnn.form"];
    fails(&mut import(&golden("openseq2seq.safetensors"), "summed", &at("refused")), &words);
    assert!(!at("refused").exists());
    let mut command = tutornet();
    command.arg("import").arg(at("weights.pt")).args(["--like", "jasper-nano", "--out"]).arg(at("refused"));
    fails(&mut command, &["weights.pt", "none of NeMo's", "bn1.bias", "--like deepspeech2"]);
}
