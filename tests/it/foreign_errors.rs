//! Weights that are not those of the network, files that are no weights, and mapping files.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::golden::read;
use crate::harness::{exits, fails, succeeds, tutornet};
use crate::jasper::{golden, import};

type Arrays = Vec<(String, Vec<usize>, Vec<f32>)>;

/// An .npy of f32, as NumPy writes it.
fn npy(shape: &[usize], values: &[f32]) -> Vec<u8> {
    let lengths: String = shape.iter().map(|length| format!("{length},")).collect();
    let mut head = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({lengths}), }}");
    while (10 + head.len() + 1) % 64 != 0 {
        head.push(' ');
    }
    head.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(head.len()).unwrap().to_le_bytes());
    bytes.extend(head.bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

fn zipped(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(name.as_str(), stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn npz(arrays: &Arrays) -> Vec<u8> {
    let entry =
        |(name, shape, values): &(String, Vec<usize>, Vec<f32>)| (format!("{name}.npy"), npy(shape, values));
    zipped(&arrays.iter().map(entry).collect::<Vec<_>>())
}

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Refused with these words, the file's name among them, and no model left behind.
    #[track_caller]
    fn refused(&self, file: &Path, like: &str, more: &[&str], words: &[&str]) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let out = self.0.path().join("model");
        fails(import(file, like, &out).args(more), &[words, &[name.as_str()]].concat());
        assert!(!out.exists());
    }
}

/// The tensors of the golden network in NeMo's names, without counters.
fn tensors() -> Arrays {
    let all = read(&golden("dense.safetensors")).into_iter();
    all.filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .map(|(name, (shape, values))| (name, shape, values))
        .collect()
}

#[test]
fn what_does_not_fit_is_named() {
    let bench = Bench::new();
    let whole = tensors();
    let with = |change: &dyn Fn(&mut Arrays)| {
        let mut arrays = whole.clone();
        change(&mut arrays);
        bench.write("odd.npz", &npz(&arrays))
    };
    let out = bench.0.path().join("whole");
    succeeds(&mut import(&with(&|_| ()), "dense", &out));
    let norm = "encoder.encoder.2.res.1.1.running_var";
    let file = with(&|all| all.retain(|(name, ..)| name != norm));
    bench.refused(&file, "dense", &[], &[norm, "[8] is missing"]);
    let file = with(&|all| all.push(("encoder.encoder.6.odd".to_owned(), vec![1, 2], vec![0.0; 2])));
    bench.refused(
        &file,
        "dense",
        &[],
        &["encoder.encoder.6.odd [1, 2] <f4 is unknown", "no tensor is dropped"],
    );
    let file = with(&|all| {
        for (name, shape, _) in all.iter_mut() {
            if name == norm {
                *shape = vec![2, 4];
            }
        }
    });
    bench.refused(&file, "dense", &[], &[norm, "expected shape [8], found [2, 4]"]);
    // Another network: a few of each kind, and how many more.
    let words = [
        "encoder.encoder.1.mconv.8.conv.weight [256, 256, 11] is missing",
        "more are missing",
        "more are misshapen",
    ];
    bench.refused(&with(&|_| ()), "jasper-dr", &[], &words);
    let answer = fails(&mut import(&with(&|_| ()), "jasper-dr", &out.join("x")), &["is missing"]);
    assert!(answer.stderr.matches("is missing").count() == 4, "{}", answer.stderr);
    bench.refused(&with(&|_| ()), "deepspeech2", &[], &["Jasper family", "--like jasper-dr"]);
    let file = with(&|all| all.iter_mut().for_each(|(name, ..)| *name = format!("my_{name}")));
    bench.refused(&file, "dense", &[], &["none of NeMo's", "my_decoder.decoder_layers.0.bias", "--map"]);
    // DistributedDataParallel's prefix is taken off.
    let file = with(&|all| all.iter_mut().for_each(|(name, ..)| *name = format!("module.{name}")));
    succeeds(&mut import(&file, "dense", &bench.0.path().join("parallel"))).says(&["module."]);
}

#[test]
fn files_of_another_kind_are_told_apart() {
    let bench = Bench::new();
    let text = "expected a .nemo file, or weights as .pt, .npz or .safetensors";
    bench.refused(&bench.write("notes.txt", b"some words, more than enough of them"), "dense", &[], &[text]);
    bench.refused(&bench.write("empty", b""), "dense", &[], &[text]);
    bench.refused(&bench.write("weights.h5", b"\x89HDF\r\n\x1a\n0000"), "dense", &[], &["HDF5", "savez"]);
    bench.refused(&bench.write("kernel.npy", &npy(&[2], &[1.0, 2.0])), "dense", &[], &["one NumPy array"]);
    let index = bench.write("model.ckpt-7.index", b"whatever is in it");
    bench.refused(&index, "dense", &[], &["TensorFlow", "tools/tf_to_npz.py"]);
    bench.refused(&bench.0.path().join("model.ckpt-7"), "dense", &[], &["TensorFlow", "tools/tf_to_npz.py"]);
    bench.refused(&bench.0.path().join("absent.npz"), "dense", &[], &["cannot open"]);
    let zip = bench.write("photos.zip", &zipped(&[("a.jpg".to_owned(), vec![1, 2, 3])]));
    bench.refused(&zip, "dense", &[], &["neither PyTorch nor NumPy", "a.jpg"]);
    bench.refused(bench.0.path(), "dense", &[], &["a directory"]);

    let whole = npz(&tensors());
    bench.refused(
        &bench.write("cut.npz", &whole[..whole.len() / 2]),
        "dense",
        &[],
        &["not a whole zip archive"],
    );
    bench.refused(&bench.write("cut.npz", b""), "dense", &[], &["not a whole zip archive"]);
    let mut damaged = whole.clone();
    let place = whole.len() / 2;
    damaged[place] ^= 0x40;
    let answer = fails(
        &mut import(&bench.write("damaged.npz", &damaged), "dense", &bench.0.path().join("x")),
        &["damaged.npz"],
    );
    assert!(answer.stderr.contains("hecksum") || answer.stderr.contains("head"), "{}", answer.stderr);
    let short = vec![("fc.bias.npy".to_owned(), npy(&[5], &[0.0; 4]))];
    bench.refused(&bench.write("short.npz", &zipped(&short)), "dense", &[], &["fc.bias", "16 bytes", "[5]"]);
    let other = vec![("readme.npy".to_owned(), b"hello".to_vec())];
    bench.refused(&bench.write("other.npz", &zipped(&other)), "dense", &[], &["readme.npy"]);

    let bytes = std::fs::read(golden("dense.safetensors")).unwrap();
    let cut = bench.write("cut.safetensors", &bytes[..bytes.len() - 5]);
    bench.refused(&cut, "dense", &[], &["not a safetensors file", "copy the file again"]);
    bench.refused(&golden("dense.nemo"), "dense", &[], &["says itself", "--like"]);
    let out = bench.0.path().join("model");
    fails(tutornet().arg("import").arg(golden("dense.npz")).arg("--out").arg(&out), &["give --like PRESET"]);

    // Options that do not go with the file.
    bench.refused(&golden("dense.npz"), "dense", &["--frames", "floor"], &["go with NeMo's", "OpenSeq2Seq"]);
    bench.refused(&golden("dense.npz"), "dense", &["--state-dict", "x"], &["--state-dict goes with"]);
    let words = ["--state-dict model", "found: ema_state_dict, optimizer, scaler, state_dict"];
    bench.refused(&golden("dense.pt"), "dense", &["--state-dict", "model"], &words);
    bench.refused(
        &golden("dense.pt"),
        "dense",
        &["--state-dict", "optimizer"],
        &["expected tensors only", "a list at param_groups"],
    );
    exits(tutornet().arg("import").arg(golden("dense.nemo")).args(["--map", "x", "--out"]).arg(&out), 2);
}

/// Names, orders of axes and counters of their own, read through a mapping file.
#[test]
fn a_mapping_file_renames_and_turns() {
    let bench = Bench::new();
    let mut arrays: Arrays = tensors()
        .into_iter()
        .map(|(name, shape, values)| {
            let mut parts: Vec<String> =
                name.replace("encoder.encoder", "trunk").split('.').map(ToOwned::to_owned).collect();
            if let Ok(block) = parts[1].parse::<usize>() {
                parts[1] = (block + 1).to_string();
            }
            let name = parts.join("/");
            match shape[..] {
                // [out, in, k] as [k, in, out]; the head without its axis of length 1.
                [o, i, k] if name.starts_with("trunk") => {
                    let at = |c: usize| (c % o * i + c / o % i) * k + c / (o * i);
                    (name, vec![k, i, o], (0..values.len()).map(|c| values[at(c)]).collect())
                }
                [o, i, 1] => (name, vec![o, i], values),
                _ => (name, shape, values),
            }
        })
        .collect();
    arrays.push(("steps".to_owned(), vec![], vec![12.0]));
    let file = bench.write("own.npz", &npz(&arrays));
    let rules = r#"
        ignore = ["st*s"]
        tensor = [
            { ours = "blocks.{b}.layers.{r}.weight", theirs = "trunk/{b+1}/mconv/{4r}/conv/weight", permute = [2, 1, 0] },
            { ours = "blocks.{b}.layers.{r}.norm.gamma", theirs = "trunk/{b+1}/mconv/{4r+1}/weight" },
            { ours = "blocks.{b}.layers.{r}.norm.beta", theirs = "trunk/{b+1}/mconv/{4r+1}/bias" },
            { ours = "blocks.{b}.layers.{r}.norm.running_mean", theirs = "trunk/{b+1}/mconv/{4r+1}/running_mean" },
            { ours = "blocks.{b}.layers.{r}.norm.running_variance", theirs = "trunk/{b+1}/mconv/{4r+1}/running_var" },
            { ours = "blocks.{b}.residuals.{i}.weight", theirs = "trunk/{b+1}/res/{i}/0/conv/weight", permute = [2, 1, 0] },
            { ours = "blocks.{b}.residuals.{i}.norm.gamma", theirs = "trunk/{b+1}/res/{i}/1/weight" },
            { ours = "blocks.{b}.residuals.{i}.norm.beta", theirs = "trunk/{b+1}/res/{i}/1/bias" },
            { ours = "blocks.{b}.residuals.{i}.norm.running_mean", theirs = "trunk/{b+1}/res/{i}/1/running_mean" },
            { ours = "blocks.{b}.residuals.{i}.norm.running_variance", theirs = "trunk/{b+1}/res/{i}/1/running_var" },
            { ours = "head.weight", theirs = "decoder/decoder_layers/0/weight" },
            { ours = "head.bias", theirs = "decoder/decoder_layers/0/bias" },
        ]
    "#;
    let map = |text: &str| bench.write("names.toml", text.as_bytes()).display().to_string();
    let (mapped, plain) = (bench.0.path().join("mapped"), bench.0.path().join("plain"));
    succeeds(import(&file, "dense", &mapped).args(["--map", &map(rules)])).says(&["1 tensors ignored"]);
    succeeds(&mut import(&golden("dense.safetensors"), "dense", &plain));
    let weights = |dir: &Path| std::fs::read(dir.join("weights.safetensors")).unwrap();
    assert!(weights(&mapped) == weights(&plain));

    let changed = |from: &str, to: &str, words: &[&str]| {
        assert!(rules.contains(from), "{from}");
        let map = map(&rules.replacen(from, to, 1));
        let answer =
            fails(import(&file, "dense", &bench.0.path().join("model")).args(["--map", &map]), words);
        assert!(!bench.0.path().join("model").exists());
        answer
    };
    changed("ignore = [\"st*s\"]", "", &["own.npz", "steps [] <f4 is unknown"]);
    changed(
        "permute = [2, 1, 0]",
        "permute = [2, 0, 1]",
        &["trunk/1/mconv/0/conv/weight", "expected [8, 64, 5] of blocks.0.layers.0.weight"],
    );
    changed(
        "permute = [2, 1, 0]",
        "permute = [1, 0]",
        &["trunk/1/mconv/0/conv/weight", "does not order the axes"],
    );
    changed(
        "mconv/{4r}/",
        "mconv/{4r+1}/",
        &["trunk/1/mconv/1/conv/weight [8, 64, 5] is missing", "trunk/1/mconv/0/conv/weight"],
    );
    changed("head.bias", "heads.bias", &["no rule of the mapping file", "head.bias [29]"]);
    changed(
        "{ ours = \"head.bias\"",
        "{ ours = \"tail\", theirs = \"x\" }, { ours = \"head.bias\"",
        &["no tensor of the network", "tail"],
    );
    changed("{4r}", "{4q}", &["names.toml", "{q} does not occur"]);
    changed("permute", "permutes", &["names.toml", "unknown field"]);
    changed("tensor = [", "tensor = 3 #", &["names.toml", "not a mapping file"]);
    fails(import(&file, "dense", &mapped.join("x")).args(["--map", "absent.toml"]), &["absent.toml"]);
}
