//! Model directories, parameters by name, initial values.

use burn::tensor::Device;

use super::*;

#[test]
fn directories_round_trip_and_notice_changes() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let model = trained_nano(&device);
    model.save(dir.path()).unwrap();
    let files =
        |d: &std::path::Path| [MODEL_FILE, WEIGHTS_FILE].map(|name| std::fs::read(d.join(name)).unwrap());
    let first = files(dir.path());
    let loaded = Model::load(dir.path(), &device).unwrap();
    assert_eq!(loaded.config, model.config);
    assert_eq!(parameters::export(&loaded.network).unwrap(), parameters::export(&model.network).unwrap());
    loaded.save(dir.path()).unwrap();
    assert_eq!(files(dir.path()), first, "saving is deterministic");
    assert_eq!(identity(dir.path()).unwrap(), model.identity().unwrap());
    let mut renamed = loaded.clone();
    renamed.config.name = "other".into();
    assert_eq!(renamed.identity().unwrap(), model.identity().unwrap());
    nano_blocks(&mut renamed.config).norm.epsilon = 1e-5;
    assert_ne!(renamed.identity().unwrap(), model.identity().unwrap());

    let weights = dir.path().join(WEIGHTS_FILE);
    let mut bytes = first[1].clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    for error in [Model::load(dir.path(), &device).map(|_| ()), identity(dir.path()).map(|_| ())] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains(WEIGHTS_FILE) && error.contains("expected BLAKE3"), "{error}");
    }
    std::fs::write(&weights, &first[1]).unwrap();
    // A sealed description that was changed is refused as such; one without a seal for what is wrong in it.
    let sealed = String::from_utf8(first[0].clone()).unwrap();
    std::fs::write(dir.path().join(MODEL_FILE), sealed.replacen("\"b\", \"c\"", "\"c\", \"b\"", 1)).unwrap();
    let error = Model::load(dir.path(), &device).unwrap_err().to_string();
    assert!(error.contains("changed after it was sealed"), "{error}");
    let text = sealed.split("# blake3").next().unwrap();
    let refused = |from: &str, to: &str, words: &[&str]| {
        assert!(text.contains(from), "{text}");
        std::fs::write(dir.path().join(MODEL_FILE), text.replacen(from, to, 1)).unwrap();
        let error = Model::load(dir.path(), &device).unwrap_err().to_string();
        assert!(words.iter().all(|w| error.contains(w)) && error.contains(MODEL_FILE), "{error}");
    };
    refused("version = 1", "version = 2", &["expected 1, found 2"]);
    refused("padding = ", "pading = ", &["unknown field `pading`", "line"]);
    refused("kernel = 11", "kernel = 12", &["blocks[0].kernel", "odd", "12"]);
    refused("filters = 96", "filters = \"x\"", &["filters", "line"]);
}

/// All misfits are named at once.
#[test]
fn misfitting_tensors_are_named() {
    let model = trained_nano(&Device::flex());
    let mut tensors = parameters::export(&model.network).unwrap();
    tensors.remove("head.bias").unwrap();
    let mut odd = tensors["head.weight"].clone();
    odd.shape = vec![128, 29, 1];
    tensors.insert("head.weight".into(), odd.clone());
    tensors.insert("head.extra".into(), odd);
    let error = parameters::import(model.network, tensors).unwrap_err().to_string();
    for words in [
        "head.bias [29] is missing",
        "head.weight: expected shape [29, 128, 1], found [128, 29, 1]",
        "head.extra [128, 29, 1] is not part",
    ] {
        assert!(error.contains(words), "{error}");
    }
}

/// Initial values depend on seed and name only, and have the deviation asked for.
#[test]
fn initial_values_are_seeded() {
    let export =
        |seed| parameters::export(&Model::new(nano(), seed, &Device::flex()).unwrap().network).unwrap();
    let (one, two) = (export(1), export(2));
    assert_eq!(one, export(1));
    let weight = &one["blocks.3.layers.1.weight"];
    assert_ne!(weight.values, two["blocks.3.layers.1.weight"].values);
    let variance =
        weight.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / weight.values.len() as f64;
    // A normal cut at two deviations keeps 0.774 of its variance.
    let expected = 0.774 * 2.6 / 192.0;
    assert!((variance / expected - 1.0).abs() < 0.05, "{variance} {expected}");
}
