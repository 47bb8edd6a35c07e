//! What an export holds is what the cache says.

use std::path::Path;

use super::super::identity::InnerLayer;
use super::super::identity::tests::example;
use super::super::tests::write_cache;
use super::*;
use crate::models::HiddenLayer;

fn options(root: &Path, format: Format, dtype: Dtype) -> ExportOptions {
    ExportOptions {
        cache: root.join("cache"),
        out: root.join(format!("{format:?}-{dtype:?}")),
        format,
        dtype,
        columns: Vec::new(),
        utterances: Selection::All,
    }
}

fn made_up_cache(root: &Path) -> Cache {
    let mut identity = example(12);
    identity.temperature = Some(2.0);
    identity.layers = vec![InnerLayer { layer: 3, width: 5 }];
    std::fs::create_dir(root.join("cache")).unwrap();
    write_cache(&root.join("cache"), &identity, 2);
    Cache::open(&root.join("cache")).unwrap()
}

fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect()
}

fn singles(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Shape and bytes of every column of an utterance, as the cache has them.
fn expected(cache: &Cache, index: usize, dtype: Dtype) -> Vec<(&'static str, String, Vec<u8>)> {
    let frames = cache.entries()[index].frames;
    let numbers = |values: &[f32]| if dtype == Dtype::F16 { halves(values) } else { singles(values) };
    let mut out = Vec::new();
    let mut values = Vec::new();
    for (name, layer, width) in [("hidden", HiddenLayer::Last, 12), ("hidden_3", HiddenLayer::Inner(3), 5)] {
        cache.hidden(layer, index, &mut values).unwrap();
        out.push((name, format!("({frames}, {width})"), numbers(&values)));
    }
    for (name, layer) in [("frame_weight", HiddenLayer::Last), ("frame_weight_3", HiddenLayer::Inner(3))] {
        cache.frame_weight(layer, index, &mut values).unwrap();
        out.push((name, format!("({frames},)"), singles(&values)));
    }
    cache.log_posterior(index, &mut values).unwrap();
    out.push(("posterior", format!("({frames}, 29)"), numbers(&values)));
    cache.softmax(index, &mut values).unwrap();
    out.push(("softmax", format!("({frames}, 29)"), numbers(&values)));
    out
}

#[test]
fn npy_and_safetensors_hold_the_decoded_values() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let cache = made_up_cache(root);
    for dtype in [Dtype::F16, Dtype::F32] {
        let npy = options(root, Format::Npy, dtype);
        let done = export(&npy, &Stop::default()).unwrap();
        assert_eq!((done.utterances, done.frames, done.shards), (6, cache.manifest().frames, (2, 2)));
        let tensors = options(root, Format::Safetensors, dtype);
        export(&tensors, &Stop::default()).unwrap();
        for (index, entry) in cache.entries().iter().enumerate() {
            let at = format!("shard-{:05}/{}", entry.shard, entry.utterance);
            let file = std::fs::read(tensors.out.join(format!("{at}.safetensors"))).unwrap();
            let read = safetensors::SafeTensors::deserialize(&file).unwrap();
            let (_, header) = safetensors::SafeTensors::read_metadata(&file).unwrap();
            let about = &header.metadata().as_ref().unwrap()["tutornet"];
            assert!(about.contains(&entry.utterance) && about.contains("\"samples\":320"), "{about}");
            for (column, shape, values) in expected(&cache, index, dtype) {
                let bytes = std::fs::read(npy.out.join(format!("{at}.{column}.npy"))).unwrap();
                let start = bytes.len() - values.len();
                assert!(start.is_multiple_of(64) && bytes[start..] == values, "{column} of {at}");
                let header = std::str::from_utf8(&bytes[10..start]).unwrap();
                let kind =
                    if values.len() == 2 * read.tensor(column).unwrap().shape().iter().product::<usize>() {
                        "<f2"
                    } else {
                        "<f4"
                    };
                let words = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
                assert!(header.starts_with(&words) && header.ends_with('\n'), "{header:?} {words}");
                assert_eq!(usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), start - 10);
                assert_eq!(read.tensor(column).unwrap().data(), values, "{column} of {at}");
            }
        }
    }
}

#[test]
fn arrow_files_have_a_row_an_utterance() {
    use ::arrow::array::{Array, AsArray};
    use ::arrow::datatypes::{Float16Type, Float32Type};
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let cache = made_up_cache(root);
    for dtype in [Dtype::F16, Dtype::F32] {
        let options = options(root, Format::Arrow, dtype);
        export(&options, &Stop::default()).unwrap();
        let mut index = 0;
        for shard in 0..2 {
            let file = std::fs::File::open(options.out.join(format!("shard-{shard:05}.arrow"))).unwrap();
            for batch in ::arrow::ipc::reader::FileReader::try_new(file, None).unwrap() {
                let batch = batch.unwrap();
                let names = batch.column_by_name("utterance").unwrap().as_string::<i32>();
                for row in 0..batch.num_rows() {
                    assert_eq!(names.value(row), cache.entries()[index].utterance);
                    for (column, _, values) in expected(&cache, index, dtype) {
                        let list = batch.column_by_name(column).unwrap().as_list::<i32>().value(row);
                        let numbers = if list.data_type().is_nested() {
                            list.as_fixed_size_list().values().clone()
                        } else {
                            list.clone()
                        };
                        // A sliced list's values are those of all frames of the slice.
                        let found: Vec<u8> = match numbers.data_type() {
                            ::arrow::datatypes::DataType::Float16 => numbers
                                .as_primitive::<Float16Type>()
                                .values()
                                .iter()
                                .flat_map(|v| v.to_le_bytes())
                                .collect(),
                            _ => singles(numbers.as_primitive::<Float32Type>().values()),
                        };
                        assert_eq!(found, values, "{column} of {index}");
                    }
                    index += 1;
                }
            }
        }
        assert_eq!(index, 6);
    }
}

#[test]
fn a_part_is_exported_and_gone_on_with_and_nothing_else_is_taken_for_it() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    made_up_cache(root);
    let mut wanted = options(root, Format::Npy, Dtype::F16);
    wanted.columns = vec!["posterior".into(), "frame_weight".into()];
    wanted.utterances = "utt-4, utt-1,utt-4".parse().unwrap();
    assert_eq!(export(&wanted, &Stop::default()).unwrap().utterances, 2);
    let whole = files_below(&wanted.out);
    let names: Vec<&str> = whole.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "export.toml",
            "index.jsonl",
            "shard-00000/utt-1.frame_weight.npy",
            "shard-00000/utt-1.posterior.npy",
            "shard-00001/utt-4.frame_weight.npy",
            "shard-00001/utt-4.posterior.npy",
        ]
    );
    let index = String::from_utf8(whole[1].1.clone()).unwrap();
    assert_eq!(index.lines().count(), 2);
    assert!(index.contains("\"frame_weight\":\"shard-00001/utt-4.frame_weight.npy\""), "{index}");

    // What a killed run left, a half-written directory among it.
    std::fs::remove_dir_all(wanted.out.join("shard-00001")).unwrap();
    std::fs::remove_file(wanted.out.join(INDEX)).unwrap();
    std::fs::create_dir(wanted.out.join(".tutornet-tmp-x")).unwrap();
    std::fs::write(wanted.out.join(".tutornet-tmp-x/half"), "x").unwrap();
    assert_eq!(export(&wanted, &Stop::default()).unwrap().shards, (2, 1));
    assert!(files_below(&wanted.out) == whole);
    assert_eq!(export(&wanted, &Stop::default()).unwrap().shards, (2, 0));

    let refused = |options: &ExportOptions| export(options, &Stop::default()).unwrap_err().to_string();
    let other = ExportOptions { dtype: Dtype::F32, ..wanted.clone() };
    assert!(refused(&other).contains("another export") && refused(&other).contains("dtype = \"f16\""));
    let other = ExportOptions { columns: vec!["nbest".into()], ..wanted.clone() };
    assert!(
        refused(&other)
            .contains("no column nbest, it has hidden, frame_weight, posterior, softmax, hidden_3")
    );
    let other = ExportOptions { utterances: Selection::Named(vec!["utt-9".into()]), ..wanted.clone() };
    assert!(refused(&other).contains("no utterance utt-9"));
    let other = ExportOptions { out: root.join("cache"), ..wanted.clone() };
    assert!(refused(&other).contains("expected a new, empty or export directory, found cache.toml"));
    assert!("".parse::<Selection>().is_err() && "first:x".parse::<Selection>().is_err());
    assert_eq!("first:2".parse(), Ok(Selection::First(2)));
    std::fs::write(root.join("ids"), "utt-0\n\n utt-5 \n").unwrap();
    let listed = ExportOptions {
        utterances: format!("@{}", root.join("ids").display()).parse().unwrap(),
        out: root.join("listed"),
        ..wanted
    };
    assert_eq!(export(&listed, &Stop::default()).unwrap().utterances, 2);
}

#[test]
fn a_damaged_payload_is_not_exported() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    made_up_cache(root);
    let path = root.join("cache/shard-00001.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4000..4100].iter_mut().for_each(|byte| *byte ^= 1);
    std::fs::write(&path, &bytes).unwrap();
    for format in [Format::Arrow, Format::Npy, Format::Safetensors] {
        let options = options(root, format, Dtype::F16);
        let error = export(&options, &Stop::default()).unwrap_err().to_string();
        assert!(error.contains("shard-00001.parquet: utterance utt-"), "{error}");
        let names: Vec<String> = files_below(&options.out).into_iter().map(|(name, _)| name).collect();
        assert!(
            names.iter().all(|name| name.starts_with("export.toml") || name.starts_with("shard-00000")),
            "{names:?}"
        );
    }
}

/// Every file below a directory by name, but for the lock.
fn files_below(root: &Path) -> Vec<(String, Vec<u8>)> {
    let (mut found, mut pending) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if !path.ends_with(".lock") {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn names_of_files_are_those_of_utterances_as_far_as_a_file_can_have_them() {
    for (utterance, file) in [
        ("84-121123-0000@speed1.1", "d/84-121123-0000@speed1.1.npy"),
        ("../a b/\u{fc}", "d/%2E.%2Fa%20b%2F%C3%BC.npy"),
    ] {
        let utterance = utterance.to_owned();
        let entry = Entry { utterance, samples: 1, audio_hash: [0; 16], frames: 1, shard: 0, row: 0 };
        assert_eq!(files_of::name("d", &entry, "npy"), file);
    }
}
