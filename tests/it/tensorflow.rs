//! Checkpoints that TensorFlow wrote, through `tools/tf_to_npz.py`: what TensorFlow computed with them.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use tutornet::models::{Mode, Model};

use crate::golden::{close, host, read, tensor};
use crate::harness::succeeds;
use crate::jasper::import;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tensorflow").join(name)
}

#[test]
fn tensorflows_checkpoints_compute_what_tensorflow_computed() {
    let work = tempfile::tempdir().unwrap();
    let device = Device::flex();
    for name in ["dense", "separable", "deepspeech2"] {
        let out = work.path().join(name);
        let like = golden(&format!("{name}.toml")).display().to_string();
        succeeds(&mut import(&golden(&format!("{name}.npz")), &like, &out)).says(&["names of OpenSeq2Seq"]);
        let model = Model::load(&out, &device).unwrap();
        assert_eq!(model.config.padding().to_string(), "same");
        let expected = read(&golden(&format!("{name}.golden.safetensors")));
        let lengths: Vec<usize> = expected["lengths"].1.iter().map(|&l| l as usize).collect();
        let output = model.forward(tensor(&expected["features"], &device), &lengths, Mode::Evaluate);
        assert_eq!(output.frames, [24, 16, 5]);
        let [hidden, logits]: [Tensor<3>; 2] =
            ["hidden", "logits"].map(|name| tensor(&expected[name], &device));
        let mut worst = 0f64;
        for (b, &frames) in output.frames.iter().enumerate() {
            let width = hidden.dims()[1];
            let cut = |x: &Tensor<3>| host(x.clone().slice([b..b + 1, 0..width, 0..frames]));
            worst = worst.max(close(name, &cut(&output.hidden), &cut(&hidden), 1e-5));
            let cut = |x: &Tensor<3>| host(x.clone().slice([b..b + 1, 0..frames, 0..29]));
            worst = worst.max(close(name, &cut(&output.logits), &cut(&logits), 1e-5));
        }
        println!("{name}: within {worst:.1e} of TensorFlow's");
    }
}
