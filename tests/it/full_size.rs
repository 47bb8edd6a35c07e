//! Jasper DR at its full size: two checkpoints imported, run over speech and compared with PyTorch.
//!
//! `tests/golden/jasper/make.py --full DIR` writes them (4 GB), TUTORNET_FULL=DIR names them; without it nothing of this runs.

use std::path::Path;
use std::process::{Command, Stdio};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use tutornet::cache::Cache;
use tutornet::models::{HiddenLayer, Mode, Model};

use crate::golden::{close, host};
use crate::harness::{not_run, tutornet};

/// Runs to the end, demands success, and returns the most memory that the program held, in MiB.
fn peak(command: &mut Command) -> u64 {
    let mut child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        most = most.max(kilobytes.unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{command:?}");
            return most / 1024;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

struct Utterance {
    name: String,
    features: (usize, Vec<f32>),
    hidden: Vec<f32>,
    logits: Vec<f32>,
}

fn utterances(path: &Path) -> Vec<Utterance> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: String| {
        let view = file.tensor(&name).unwrap();
        let values: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        (view.shape()[0], values)
    };
    let mut names: Vec<&str> = file.names().into_iter().filter_map(|n| n.strip_suffix(".logits")).collect();
    names.sort_unstable();
    let utterance = |name: &&str| Utterance {
        name: (*name).to_owned(),
        features: tensor(format!("{name}.features")),
        hidden: tensor(format!("{name}.hidden")).1,
        logits: tensor(format!("{name}.logits")).1,
    };
    names.iter().map(utterance).collect()
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let frames = logits.chunks_exact(29).flat_map(|frame| {
        let largest = frame.iter().fold(f64::MIN, |m, &v| m.max(f64::from(v)));
        let sum: f64 = frame.iter().map(|&v| (f64::from(v) - largest).exp()).sum();
        frame.iter().map(move |&v| (f64::from(v) - largest - sum.ln()) as f32).collect::<Vec<_>>()
    });
    frames.collect()
}

#[test]
fn jasper_dr_at_full_size_computes_what_pytorch_computed() {
    let Some(full) = std::env::var_os("TUTORNET_FULL") else {
        let why = "TUTORNET_FULL is not set (see tests/golden/jasper/make.py --full)";
        return not_run("full_size: jasper_dr_at_full_size_computes_what_pytorch_computed", why);
    };
    let full = Path::new(&full);
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for kind in ["nemo", "npz"] {
        let (model, cache) = (work.path().join(kind), work.path().join(format!("{kind}.cache")));
        let mut import = tutornet();
        import.arg("import").arg(full.join(format!("jasper-dr.{kind}"))).arg("--out").arg(&model);
        if kind == "npz" {
            import.args(["--like", "jasper-dr"]);
        }
        let imported = peak(&mut import);
        let mut run = tutornet();
        run.arg("cache").arg("--model").arg(&model).arg("--corpus").arg(full.join(format!("{kind}.corpus")));
        let cached = peak(run.args(["--device", "cpu", "--out"]).arg(&cache));
        println!("{kind}: import {imported} MiB, cache {cached} MiB");
        // Weights of 1,269 MiB: less than two of them, and 4 GB.
        assert!(imported < 2 * 1269, "{kind}: import took {imported} MiB");
        assert!(cached < 4000, "{kind}: cache took {cached} MiB");

        let device = Device::flex();
        let model = Model::load(&model, &device).unwrap();
        assert_eq!(model.trainable_parameters(), 332_632_349);
        let cache = Cache::open(&cache).unwrap();
        let golden = utterances(&full.join(format!("{kind}.golden.safetensors")));
        assert_eq!(golden.len(), cache.entries().len());
        let (mut hidden, mut posterior) = (Vec::new(), Vec::new());
        let mut worst = [0f64; 4];
        for utterance in &golden {
            let (frames, values) = utterance.features.clone();
            let features = Tensor::<3>::from_data(TensorData::new(values, [1, frames, 64]), &device);
            let output = model.forward(features.swap_dims(1, 2), &[frames], Mode::Evaluate);
            let logits = host(output.logits);
            let index = cache.find(&utterance.name).unwrap();
            cache.hidden(HiddenLayer::Last, index, &mut hidden).unwrap();
            cache.log_posterior(index, &mut posterior).unwrap();
            let expected = log_softmax(&utterance.logits);
            let near = |what: &str, found: &[f32], expected: &[f32]| {
                close(&format!("{kind} {} {what}", utterance.name), found, expected, 1e-3)
            };
            let found = [
                near("logits", &logits, &utterance.logits),
                near("hidden", &host(output.hidden.swap_dims(1, 2)), &utterance.hidden),
                near("cached hidden", &hidden, &utterance.hidden),
                near("cached log-posterior", &posterior, &expected),
            ];
            for (worst, found) in worst.iter_mut().zip(found) {
                *worst = worst.max(found);
            }
        }
        let [logits, states, cached_states, cached_posterior] = worst;
        println!(
            "{kind}: {} utterances, logits {logits:.1e}, hidden {states:.1e}; in the cache (f16) hidden \
             {cached_states:.1e}, log-posterior {cached_posterior:.1e}",
            golden.len()
        );
    }
}
