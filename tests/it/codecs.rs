//! Codecs of the hidden states: what they cost, what they err by, and that learned ones are as safe as the exact one.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tutornet::cache::Cache;
use tutornet::models::HiddenLayer;

use crate::fixture::{Fixture, stop_at};
use crate::harness::{contents, exits, fails, run_contents, succeeds, tutornet};

const CODECS: [&str; 4] = ["f16", "u8", "klt:0.1", "pq:8"];

fn cache(fixture: &Fixture, codec: &str, corpus: &str, out: &str) -> std::process::Command {
    let mut command = fixture.teach(&fixture.at(corpus), &fixture.at(out));
    command.args(["--codec", codec]);
    command
}

fn hidden(dir: &Path, layer: HiddenLayer) -> Vec<f32> {
    let cache = Cache::open(dir).unwrap();
    let (mut all, mut one) = (Vec::new(), Vec::new());
    for index in 0..cache.entries().len() {
        cache.hidden(layer, index, &mut one).unwrap();
        all.extend_from_slice(&one);
    }
    all
}

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |v: f32| f64::from(v) * f64::from(v);
    let off: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (off / expected.iter().map(|&v| square(v)).sum::<f64>()).sqrt()
}

#[test]
fn every_codec_errs_as_it_says_on_every_layer_and_is_smaller_than_the_one_before() {
    let fixture = Fixture::get();
    let mut bytes = Vec::new();
    for codec in CODECS {
        let out = format!("codec-{}", codec.replace(':', "-"));
        let mut command = cache(fixture, codec, "dev-clean", &out);
        succeeds(command.args(["--layers", "1"]));
        succeeds(tutornet().arg("verify").arg(fixture.at(&out)));
        let inspected = succeeds(tutornet().args(["inspect", "--json"]).arg(fixture.at(&out)));
        let inspected: Value = serde_json::from_str(&inspected.stdout).unwrap();
        assert_eq!(inspected["hidden"]["codec"], codec);
        bytes.push(inspected["hidden"]["bytes_per_frame"].as_f64().unwrap());
        for layer in [HiddenLayer::Last, HiddenLayer::Inner(1)] {
            let exact = hidden(&fixture.at("codec-f16"), layer);
            let error = relative(&hidden(&fixture.at(&out), layer), &exact);
            let most = match codec {
                "f16" => 0.0,
                "u8" => 0.008,
                "klt:0.1" => 0.1,
                _ => 0.9,
            };
            assert!(error <= most, "{codec}, layer {layer}: {error}");
        }
        // What does not depend on the codec is the same in all.
        let (one, other) =
            (Cache::open(&fixture.at(&out)).unwrap(), Cache::open(&fixture.at("codec-f16")).unwrap());
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for index in 0..one.entries().len() {
            one.frame_weight(HiddenLayer::Last, index, &mut a).unwrap();
            other.frame_weight(HiddenLayer::Last, index, &mut b).unwrap();
            assert_eq!(a, b);
            one.log_posterior(index, &mut a).unwrap();
            other.log_posterior(index, &mut b).unwrap();
            assert_eq!(a, b);
        }
    }
    let rates = succeeds(tutornet().arg("inspect").arg(fixture.at("codec-f16")).args([
        "--rate",
        "u8,klt:0.2",
        "--json",
    ]));
    let rates: Value = serde_json::from_str(&rates.stdout).unwrap();
    let of = |number: usize, key: &str| rates["rate"][number][key].as_f64().unwrap();
    assert!(of(0, "relative_error") < 0.008 && (0.1..0.2).contains(&of(1, "relative_error")), "{rates}");
    assert!(of(1, "bytes_per_frame") < of(0, "bytes_per_frame") && of(1, "ratio") > 4.0, "{rates}");
    // An inner layer of 64 channels.
    let mut refused = cache(fixture, "pq:128", "dev-clean", "codec-too-narrow");
    fails(
        refused.args(["--layers", "1"]),
        &["hidden states of layer 1: pq:128 wants", "128 channels, there are 64"],
    );
    assert!(!fixture.at("codec-too-narrow").exists());
    fails(
        tutornet().arg("inspect").arg(fixture.at("codec-u8")).arg("--rate"),
        &["codec of", "f16, whose hidden states are exact", "found u8"],
    );
    assert!(bytes.windows(2).all(|pair| pair[1] < pair[0]), "{bytes:?}");
    assert!(bytes[3] < 8.5, "{bytes:?}");
}

#[test]
fn a_learned_codec_survives_kills_and_damage_byte_for_byte() {
    let fixture = Fixture::get();
    let whole = fixture.at("learned-whole");
    succeeds(&mut cache(fixture, "klt:0.1", "dev-clean", "learned-whole"));
    let expected = contents(&whole);
    assert!(expected.keys().any(|path| path.ends_with("codec.safetensors")));

    // Killed at several moments, then left alone.
    for delay in [5u64, 20, 40, 60, 80, 120] {
        let mut child = cache(fixture, "klt:0.1", "dev-clean", "learned-killed")
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let _ = child.kill();
        child.wait().unwrap();
    }
    succeeds(&mut cache(fixture, "klt:0.1", "dev-clean", "learned-killed"));
    assert!(contents(&fixture.at("learned-killed")) == expected);

    // A damaged codec is no codec; the same command learns the same again.
    let codec = whole.join("codec.safetensors");
    let mut bytes = std::fs::read(&codec).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 16;
    std::fs::write(&codec, &bytes).unwrap();
    exits(tutornet().arg("verify").arg(&whole), 1).prints(&["codec.safetensors"]);
    assert!(Cache::open(&whole).unwrap_err().to_string().contains("codec.safetensors"));
    succeeds(&mut cache(fixture, "klt:0.1", "dev-clean", "learned-whole")).says(&["learning it again"]);
    assert!(contents(&whole) == expected);
    std::fs::remove_file(&codec).unwrap();
    succeeds(&mut cache(fixture, "klt:0.1", "dev-clean", "learned-whole"));
    assert!(contents(&whole) == expected);
    // Another setting is another cache.
    fails(&mut cache(fixture, "klt:0.2", "dev-clean", "learned-whole"), &["klt:0.2", "klt:0.1"]);
    exits(&mut cache(fixture, "klt:2", "dev-clean", "x"), 2).says(&["relative error E of 0.005 to 0.9"]);
}

#[test]
fn students_learn_from_every_codec_and_caches_of_a_stage_share_what_was_learned() {
    let fixture = Fixture::get();
    for codec in ["u8", "klt:0.1", "pq:8"] {
        let (run, out) = (format!("coded-{codec}"), format!("coded-cache-{codec}"));
        succeeds(&mut cache(fixture, codec, "dev-clean", &out));
        let stage = format!("objective = \"rkd\"\nteacher = [{:?}]\nmax_updates = 6", fixture.at(&out));
        let pipeline = fixture.pipeline(&run.replace(':', "-"), &stage);
        let every = ["--set", "checkpoint.every_updates=1"];
        succeeds(&mut fixture.train(&pipeline, &run, &every));
        let resume = ["--set", "checkpoint.every_updates=1", "--resume"];
        let stopped = format!("{run}-stopped");
        stop_at(fixture, &pipeline, &stopped, 3, "-KILL", &resume);
        succeeds(&mut fixture.train(&pipeline, &stopped, &resume));
        let runs = [&run, &stopped].map(|run| run_contents(&fixture.at(run), 1));
        for (name, bytes) in &runs[0] {
            assert!(*bytes == runs[1][name], "{codec}: {} differs", name.display());
        }
        // The loss is that of the exact states but for what the codec has lost.
        let first = |run: &str| -> f64 {
            let log = std::fs::read_to_string(fixture.at(run).join("metrics.jsonl")).unwrap();
            serde_json::from_str::<Value>(log.lines().next().unwrap()).unwrap()["rkd"].as_f64().unwrap()
        };
        if codec == "u8" {
            let exact = format!(
                "objective = \"rkd\"\nteacher = [{:?}]\nmax_updates = 1",
                fixture.at("cache-dev-clean")
            );
            succeeds(&mut fixture.train(&fixture.pipeline("coded-exact", &exact), "coded-exact", &[]));
        }
        let (found, exact) = (first(&run), first("coded-exact"));
        let most = if codec == "pq:8" { 0.5 } else { 0.02 };
        assert!((found - exact).abs() < most * exact, "{codec}: {found}, exact {exact}");
    }

    let two = |other: &str| {
        let caches = [fixture.at("coded-cache-klt:0.1"), fixture.at(other)];
        let stage = format!("objective = \"rkd\"\nteacher = {caches:?}\nmax_updates = 2");
        fixture.pipeline("shared-codec", &stage)
    };
    let both = format!("data.train=[{:?}, {:?}]", fixture.at("dev-clean"), fixture.at("test-clean"));
    let dev = ["--set", &both, "--set", "data.dev=[]"];
    succeeds(&mut cache(fixture, "klt:0.1", "test-clean", "own-codec"));
    succeeds(&mut fixture.train(&two("own-codec"), "mixed-run", &dev));
    let mut borrowed = cache(fixture, "klt:0.1", "test-clean", "borrowed-codec");
    succeeds(borrowed.arg("--codec-from").arg(fixture.at("coded-cache-klt:0.1")));
    succeeds(&mut fixture.train(&two("borrowed-codec"), "shared-run", &dev));
    let mut other = cache(fixture, "pq:8", "test-clean", "foreign-codec");
    fails(other.arg("--codec-from").arg(fixture.at("own-codec")), &["pq:8", "klt:0.1"]);
}

#[test]
fn an_exact_cache_is_recoded_without_its_teacher_and_all_are_listed() {
    let fixture = Fixture::get();
    let root = fixture.at("recoded");
    let recode = |codec: &str, out: &str| {
        let mut command = tutornet();
        command.args(["cache", "recode"]).arg(fixture.at("recode-f16")).args(["--codec", codec, "--out"]);
        command.arg(root.join(out));
        command
    };
    succeeds(
        cache(fixture, "f16", "dev-clean", "recode-f16")
            .args(["--layers", "2", "--nbest", "2", "--beam", "8"]),
    );
    for codec in ["u8", "klt:0.1", "pq:8"] {
        succeeds(&mut recode(codec, codec)).says(&["bytes a frame", "before"]);
        let out = root.join(codec);
        succeeds(tutornet().arg("verify").arg(&out));
        let whole = contents(&out);
        // A missing shard comes back as it was; so does what was learned.
        std::fs::remove_file(out.join("shard-00001.parquet")).unwrap();
        if codec != "u8" {
            std::fs::remove_file(out.join("codec.safetensors")).unwrap();
        }
        succeeds(&mut recode(codec, codec));
        assert!(contents(&out) == whole, "{codec}");
        for layer in [HiddenLayer::Last, HiddenLayer::Inner(2)] {
            let exact = hidden(&fixture.at("recode-f16"), layer);
            let most = if codec == "pq:8" { 0.9 } else { 0.1 };
            assert!(relative(&hidden(&out, layer), &exact) <= most, "{codec} {layer}");
        }
        let (one, other) = (Cache::open(&out).unwrap(), Cache::open(&fixture.at("recode-f16")).unwrap());
        for index in 0..one.entries().len() {
            assert_eq!(one.nbest(index).unwrap(), other.nbest(index).unwrap());
        }
    }
    // A byte a value needs nothing learned: recoding is what `cache --codec u8` makes, but for what halves have rounded.
    fails(&mut recode("f16", "again"), &["recoding", "what is lost does not come back"]);
    std::fs::create_dir_all(root.join("deep/unfinished")).unwrap();
    std::fs::copy(root.join("u8/cache.toml"), root.join("deep/unfinished/cache.toml")).unwrap();
    let listed = succeeds(tutornet().args(["cache", "ls", "--json"]).arg(&root));
    let listed: Vec<Value> = serde_json::from_str(&listed.stdout).unwrap();
    let state = |codec: &str, state: &str| {
        listed.iter().any(|row| row["codec"] == codec && row["state"] == state && row["layers"] == "last,2")
    };
    assert_eq!(listed.len(), 4);
    assert!(
        state("u8", "complete") && state("u8", "incomplete") && state("klt:0.1", "complete"),
        "{listed:?}"
    );
    succeeds(tutornet().args(["cache", "ls"]).arg(&root)).prints(&[
        "teacher",
        "jasper-nano",
        "pq:8",
        "incomplete",
    ]);
    exits(tutornet().arg("cache"), 2).says(&["--model"]);
}

#[test]
fn a_plan_says_bytes_hours_and_whether_it_pays() {
    let fixture = Fixture::get();
    let mut command = tutornet();
    command.args([
        "plan",
        "--model",
        "jasper-dr",
        "--hours",
        "960",
        "--codec",
        "f16,klt:0.1",
        "--device-tflops",
        "10",
        "--json",
    ]);
    let costs: Value = serde_json::from_str(&succeeds(&mut command).stdout).unwrap();
    assert_eq!((costs["parameters"].as_u64(), costs["frames"].as_f64()), (Some(332_632_349), Some(172.8e6)));
    assert!((costs["teacher_hours"].as_f64().unwrap() - 3.19).abs() < 0.01, "{costs}");
    assert_eq!(
        (costs["codecs"][0]["codec"].as_str(), costs["codecs"][1]["pays_from_epoch"].as_u64()),
        (Some("f16"), Some(2))
    );
    // Measured on a cache that is there.
    succeeds(&mut cache(fixture, "f16", "dev-clean", "plan-f16"));
    let mut command = tutornet();
    command
        .args(["plan", "--model", "jasper-nano", "--hours", "1", "--codec", "u8"])
        .args(["--device-tflops", "1000", "--rates"])
        .arg(fixture.at("plan-f16"));
    succeeds(&mut command).prints(&[
        "hidden_bytes_per_frame",
        "u8",
        "pays_from_epoch",
        "shards",
        "advice",
        "no cache pays",
        "never",
    ]);
    // A teacher of another width is not what was measured; a corpus that is there says how much there is.
    let rates = fixture.at("plan-f16");
    fails(
        tutornet().args(["plan", "--model", "jasper-dr", "--hours", "1", "--rates"]).arg(rates),
        &["--rates", "1024 channels, as jasper-dr has"],
    );
    let mut command = tutornet();
    command.args(["plan", "--model", "jasper-nano", "--json", "--corpus"]).arg(fixture.at("dev-clean"));
    let costs: Value = serde_json::from_str(&succeeds(&mut command).stdout).unwrap();
    let manifest = std::fs::read_to_string(fixture.at("dev-clean").join("corpus.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    assert_eq!(costs["hours"].as_f64(), manifest["hours"].as_float());
    assert_eq!(costs["shards"].as_u64(), Some(manifest["shards"].as_array().unwrap().len() as u64));
    fails(
        tutornet().args(["plan", "--model", "jasper-dr", "--hours=-1"]),
        &["--hours: expected a number above 0"],
    );
}
