//! Inner layers: cached beside the last, and distilled in pairs.

use crate::fixture::{Fixture, stop_at};
use crate::harness::{contents, exits, fails, run_contents, succeeds, tutornet};

#[test]
fn a_cache_of_inner_layers_trains_pairs_and_resumes_byte_equal() {
    let fixture = Fixture::get();
    let out = fixture.at("cache-layers");
    let cache = |layers: &str| {
        let mut command = tutornet();
        command.arg("cache").arg("--model").arg(fixture.at("teacher/student"));
        command.arg("--corpus").arg(fixture.at("dev-clean")).args(["--device", "cpu", "--layers", layers]);
        command.arg("--out").arg(&out);
        command
    };
    fails(&mut cache("1,99"), &["layer of jasper-nano", "last, or 0 to 3", "found 99", "blocks.K"]);
    exits(&mut cache("1,-1"), 2).says(&["expected `last` or the number of a layer"]);
    succeeds(&mut cache("2,1,last,2"));
    succeeds(tutornet().arg("verify").arg(&out));
    succeeds(tutornet().arg("inspect").arg(&out)).prints(&["layers", "layer  width"]);
    let whole = contents(&out);
    std::fs::remove_file(out.join("shard-00000.parquet")).unwrap();
    succeeds(&mut cache("1,2"));
    assert!(
        contents(&out) == whole,
        "the order of --layers does not matter, and a shard comes back as it was"
    );
    fails(&mut cache("4"), &["blocks.4 is the last layer"]);
    fails(&mut cache("1"), &["inner layers 1, found", "inner layers 1, 2"]);

    // The last layer's columns are what they are without the inner ones.
    let stage = |pairs: &str, cache: &std::path::Path| {
        format!("objective = \"rkd\"\nteacher = [{cache:?}]\n{pairs}\nmax_updates = 6")
    };
    let student = |run: &str, stage: &str| {
        let pipeline = fixture.pipeline(run, stage);
        let _ = std::fs::remove_dir_all(fixture.at(run));
        succeeds(&mut fixture.train(&pipeline, run, &[]));
        succeeds(tutornet().arg("verify").arg(fixture.at(run)));
        std::fs::read(fixture.at(run).join("student/weights.safetensors")).unwrap()
    };
    let plain = student("p-plain", &stage("", &fixture.at("cache-dev-clean")));
    let spelt = student("p-spelt", &stage("pairs = [[\"last\", \"last\"]]", &out));
    assert!(plain == spelt, "the default is the pair of the last layers");
    let inner = student("p-inner", &stage("pairs = [[1, 2]]", &out));
    assert!(plain != inner);

    let pairs = stage("pairs = [[\"last\", \"last\"], [1, 2], [0, 2], [2, \"last\"]]", &out);
    let pipeline = fixture.pipeline("p-pairs", &pairs);
    let every = ["--set", "checkpoint.every_updates=1"];
    succeeds(&mut fixture.train(&pipeline, "p-pairs", &every));
    let resume = ["--set", "checkpoint.every_updates=1", "--resume"];
    stop_at(fixture, &pipeline, "p-stopped", 3, "-KILL", &resume);
    succeeds(&mut fixture.train(&pipeline, "p-stopped", &resume));
    let (whole, stopped) =
        (run_contents(&fixture.at("p-pairs"), 1), run_contents(&fixture.at("p-stopped"), 1));
    assert_eq!(whole.keys().collect::<Vec<_>>(), stopped.keys().collect::<Vec<_>>());
    for (name, bytes) in &whole {
        assert!(*bytes == stopped[name], "{} differs", name.display());
    }

    for (pairs, words) in [
        ("pairs = [[1, 3]]", vec!["the teacher's layer 3", "1, 2, last", "--layers 1,2,3`"]),
        ("pairs = [[77, 2]]", vec!["layer of jasper-nano", "found 77"]),
    ] {
        let pipeline = fixture.pipeline("p-refused", &stage(pairs, &out));
        fails(&mut fixture.train(&pipeline, "p-refused", &[]), &words);
    }
}
