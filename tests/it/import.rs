//! `tutornet import`: what a .nemo file becomes, and what is refused.

use std::io::Write;

use tutornet::models::parameters;

use crate::harness::{fails, succeeds, tutornet};
use crate::nemo::{Bench, CONFIG, Entry, checkpoint, entries, floats, load, names, nemo, tar, values};

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
