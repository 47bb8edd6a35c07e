//! What a codec has learned, as a file beside `cache.toml`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::klt::{BLOCK, Klt};
use super::pq::Pq;
use super::rans::{FEW_STATES, Tables};
use super::rotation::Rotation;
use super::{Codec, CodecName};
use crate::cache::identity::Identity;
use crate::error::{Error, Result};
use crate::files;
use crate::models::HiddenLayer;

/// Name of the file in a cache directory.
pub const CODEC_FILE: &str = "codec.safetensors";
/// Version of the file.
const VERSION: u32 = 1;
/// Key of the header in the safetensors metadata. A single one: the order of several would not be fixed.
const KEY: &str = "tutornet.codec";

/// The codecs of every layer of a cache.
#[derive(Debug)]
pub struct CodecModel {
    name: CodecName,
    layers: Vec<(HiddenLayer, Codec)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    codec: String,
    /// States in turn of `klt`'s entropy coder; absent where there are eight, as at first, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    states: Option<usize>,
}

impl CodecModel {
    /// Of codecs that were learned as `name`, one a layer.
    pub fn new(name: CodecName, layers: Vec<(HiddenLayer, Codec)>) -> Self {
        Self { name, layers }
    }

    /// Codecs that learn nothing, of these layers.
    pub fn fixed(name: CodecName, layers: impl IntoIterator<Item = HiddenLayer>) -> Self {
        let codec = || if name == CodecName::U8 { Codec::U8 } else { Codec::F16 };
        Self { name, layers: layers.into_iter().map(|layer| (layer, codec())).collect() }
    }

    /// The codecs of the cache `identity` in `dir`.
    ///
    /// # Errors
    /// When the file of a learned codec is missing, damaged, or not the one that the identity names.
    pub fn open(dir: &Path, identity: &Identity) -> Result<Self> {
        let name = identity.codec_name().map_err(|detail| Error::format(dir, detail))?;
        let layers = identity.hidden_layers();
        let Some(expected) = &identity.codec_model else {
            return Ok(Self::fixed(name, layers.into_iter().map(|(layer, _)| layer)));
        };
        let path = dir.join(CODEC_FILE);
        let found = files::blake3_file(&path)?;
        if *expected != found {
            return Err(Error::mismatch(
                format!("BLAKE3 of {}", path.display()),
                expected,
                found,
                "the file was changed: put back a copy, or let the command that made the cache run once more, which learns the same \
                 again if the same version of tutornet learned it on a machine of the same kind",
            ));
        }
        let model = Self::load(&path, &layers)?;
        if model.name != name {
            return Err(Error::format(path, format!("expected codec {name}, found {}", model.name)));
        }
        Ok(model)
    }

    /// What it is called.
    pub fn name(&self) -> CodecName {
        self.name
    }

    /// The codec of a layer.
    pub fn of(&self, layer: HiddenLayer) -> Option<&Codec> {
        self.layers.iter().find(|(of, _)| *of == layer).map(|(_, codec)| codec)
    }

    /// The file's bytes: the same for the same codecs.
    ///
    /// # Errors
    /// When a tensor cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
        let floats = |values: &[f32]| bytemuck::cast_slice::<f32, u8>(values).to_vec();
        for (layer, codec) in &self.layers {
            let mut put = |name: &str, kind: Dtype, shape: &[usize], bytes: Vec<u8>| {
                tensors.insert(format!("{layer}.{name}"), (kind, shape.to_vec(), bytes));
            };
            if let Some(rotation) = codec.rotation() {
                let (width, rank) = (rotation.width(), rotation.rank());
                put("mean", Dtype::F32, &[width], floats(rotation.mean()));
                put("basis", Dtype::F32, &[width, rank], floats(rotation.basis()));
                put("floor", Dtype::F32, &[1], floats(&[rotation.floor()]));
            }
            match codec {
                Codec::F16 | Codec::U8 => {}
                Codec::Klt(klt) => {
                    let (step, lift, classes, tables) = klt.parts();
                    let rank = klt.rotation().rank();
                    put("step", Dtype::F32, &[1], floats(&[step]));
                    put("lift", Dtype::F32, &[2], floats(&lift));
                    put("classes", Dtype::U8, &[BLOCK, rank], classes.to_vec());
                    let frequencies = tables.frequencies();
                    let most = frequencies.iter().map(Vec::len).max().unwrap_or(0);
                    let padded = frequencies
                        .iter()
                        .flat_map(|f| f.iter().copied().chain(std::iter::repeat_n(0u16, most - f.len())));
                    let bytes = padded.flat_map(u16::to_le_bytes).collect();
                    put("frequencies", Dtype::U16, &[frequencies.len(), most], bytes);
                }
                Codec::Pq(pq) => {
                    let (centroids, groups) = pq.centroids();
                    let dimensions = pq.rotation().rank() / groups;
                    put("centroids", Dtype::F32, &[groups, 256, dimensions], floats(centroids));
                }
            }
        }
        let wrong = |e: safetensors::SafeTensorError| Error::format(CODEC_FILE, e.to_string());
        let mut views = BTreeMap::new();
        for (name, (kind, shape, bytes)) in &tensors {
            views.insert(name.clone(), TensorView::new(*kind, shape.clone(), bytes).map_err(wrong)?);
        }
        let states = self.layers.iter().find_map(|(_, codec)| match codec {
            Codec::Klt(klt) => Some(klt.parts().3.states()).filter(|&states| states != FEW_STATES),
            _ => None,
        });
        let header = Header { version: VERSION, codec: self.name.to_string(), states };
        let header = toml::to_string(&header).map_err(|e| Error::format(CODEC_FILE, e.to_string()))?;
        safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), header)]))).map_err(wrong)
    }

    /// Reads the file of `layers`, each with its width.
    ///
    /// # Errors
    /// When it is missing, damaged, of another version, or lacks a layer.
    pub fn load(path: &Path, layers: &[(HiddenLayer, usize)]) -> Result<Self> {
        let bytes = files::read(path)?;
        let wrong = |detail: String| Error::format(path, format!("not a whole codec: {detail}"));
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
        let header = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
        let header = header.ok_or_else(|| wrong(format!("expected the key {KEY}, found none")))?;
        let header: Header = toml::from_str(header).map_err(|e| wrong(e.to_string()))?;
        if header.version != VERSION {
            return Err(wrong(format!("expected version {VERSION}, found {}", header.version)));
        }
        let name: CodecName = header.codec.parse().map_err(wrong)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
        let file = Parts { file, states: header.states.unwrap_or(FEW_STATES) };
        let mut all = Vec::with_capacity(layers.len());
        for &(layer, width) in layers {
            let codec = file.codec(name, layer, width).map_err(|e| wrong(format!("layer {layer}: {e}")))?;
            all.push((layer, codec));
        }
        Ok(Self { name, layers: all })
    }
}

struct Parts<'a> {
    file: SafeTensors<'a>,
    states: usize,
}

impl Parts<'_> {
    fn tensor(
        &self,
        layer: HiddenLayer,
        name: &str,
        kind: Dtype,
    ) -> std::result::Result<(Vec<usize>, &[u8]), String> {
        let view = self.file.tensor(&format!("{layer}.{name}")).map_err(|e| e.to_string())?;
        if view.dtype() != kind {
            return Err(format!("{name}: expected {kind:?}, found {:?}", view.dtype()));
        }
        Ok((view.shape().to_vec(), view.data()))
    }

    fn floats(&self, layer: HiddenLayer, name: &str, count: usize) -> std::result::Result<Vec<f32>, String> {
        let (_, data) = self.tensor(layer, name, Dtype::F32)?;
        let values: Vec<f32> = files::f32s(data).collect();
        if values.len() != count || values.iter().any(|v| v.is_nan()) {
            return Err(format!("{name}: expected {count} numbers, found {}", values.len()));
        }
        Ok(values)
    }

    fn codec(&self, name: CodecName, layer: HiddenLayer, width: usize) -> std::result::Result<Codec, String> {
        let rotation = || -> std::result::Result<Rotation, String> {
            let (shape, _) = self.tensor(layer, "basis", Dtype::F32)?;
            let &[found, rank] = shape.as_slice() else { return Err("basis: expected a matrix".to_owned()) };
            if found != width || rank > width {
                return Err(format!("basis: expected {width} channels, found [{found}, {rank}]"));
            }
            let mean = self.floats(layer, "mean", width)?;
            let basis = self.floats(layer, "basis", width * rank)?;
            Ok(Rotation::new(mean, basis, self.floats(layer, "floor", 1)?[0]))
        };
        let misfit = || "its parts do not fit each other".to_owned();
        match name {
            CodecName::F16 => Ok(Codec::F16),
            CodecName::U8 => Ok(Codec::U8),
            CodecName::Klt(_) => {
                let lift = self.floats(layer, "lift", 2)?;
                let (_, classes) = self.tensor(layer, "classes", Dtype::U8)?;
                let (shape, data) = self.tensor(layer, "frequencies", Dtype::U16)?;
                let most = shape.get(1).copied().unwrap_or(0).max(1);
                let all: Vec<u16> = data.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
                let of_class =
                    |f: &[u16]| f[..f.iter().rposition(|&f| f > 0).map_or(0, |at| at + 1)].to_vec();
                let frequencies = all.chunks_exact(most).map(of_class).collect();
                let tables = Tables::new(frequencies, self.states).ok_or_else(misfit)?;
                let step = self.floats(layer, "step", 1)?[0];
                let klt = Klt::new(rotation()?, step, [lift[0], lift[1]], classes.to_vec(), tables);
                Ok(Codec::Klt(Box::new(klt.ok_or_else(misfit)?)))
            }
            CodecName::Pq(groups) => {
                let rotation = rotation()?;
                let centroids = self.floats(layer, "centroids", 256 * rotation.rank())?;
                Ok(Codec::Pq(Box::new(Pq::new(rotation, centroids, groups).ok_or_else(misfit)?)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rotation::tests::made_up;
    use super::*;

    #[test]
    fn a_first_file_has_eight_states_and_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CODEC_FILE);
        let sample: Vec<Vec<f32>> = (0..4).map(|i| made_up(150, 16, i)).collect();
        let klt = Klt::learn(&sample, 16, 0.1).unwrap();
        let (step, lift, classes, tables) = klt.parts();
        let rotation = |of: &Rotation| Rotation::new(of.mean().to_vec(), of.basis().to_vec(), of.floor());
        let tables = Tables::new(tables.frequencies().to_vec(), FEW_STATES).unwrap();
        let first = Klt::new(rotation(klt.rotation()), step, lift, classes.to_vec(), tables).unwrap();
        let name: CodecName = "klt:0.1".parse().unwrap();
        let (mut many, mut few) = (Vec::new(), Vec::new());
        klt.coordinates(&klt.encode(&sample[0]), 150, &mut many).unwrap();
        let payload = first.encode(&sample[0]);
        let model = CodecModel::new(name, vec![(HiddenLayer::Last, Codec::Klt(Box::new(first)))]);
        let bytes = model.to_bytes().unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"states"), "as before there were others");
        std::fs::write(&path, &bytes).unwrap();
        let again = CodecModel::load(&path, &[(HiddenLayer::Last, 16)]).unwrap();
        assert_eq!(again.to_bytes().unwrap(), bytes);
        again.of(HiddenLayer::Last).unwrap().coordinates(&payload, 150, 16, &mut few).unwrap();
        assert_eq!(few, many);
        let other = CodecModel::new(name, vec![(HiddenLayer::Last, Codec::Klt(Box::new(klt)))]);
        std::fs::write(&path, other.to_bytes().unwrap()).unwrap();
        let again = CodecModel::load(&path, &[(HiddenLayer::Last, 16)]).unwrap();
        assert!(again.of(HiddenLayer::Last).unwrap().coordinates(&payload, 150, 16, &mut few).is_err());
        let at = other.to_bytes().unwrap().windows(11).position(|w| w == b"states = 32").unwrap();
        let mut sixteen = other.to_bytes().unwrap();
        sixteen[at + 9..at + 11].copy_from_slice(b"16");
        std::fs::write(&path, sixteen).unwrap();
        assert!(CodecModel::load(&path, &[(HiddenLayer::Last, 16)]).is_err());
    }

    #[test]
    fn what_was_learned_survives_its_file_and_damage_is_no_codec() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CODEC_FILE);
        let (last, inner) = (HiddenLayer::Last, HiddenLayer::Inner(3));
        let sample = |width: usize| -> Vec<Vec<f32>> { (0..4).map(|i| made_up(150, width, i)).collect() };
        for name in ["klt:0.1", "pq:8", "u8"] {
            let name: CodecName = name.parse().unwrap();
            let learn = |width| Codec::learn(name, &sample(width), width).unwrap();
            let model = CodecModel::new(name, vec![(last, learn(24)), (inner, learn(16))]);
            let bytes = model.to_bytes().unwrap();
            assert_eq!(bytes, model.to_bytes().unwrap());
            std::fs::write(&path, &bytes).unwrap();
            let again = CodecModel::load(&path, &[(last, 24), (inner, 16)]).unwrap();
            assert_eq!((again.name(), again.to_bytes().unwrap()), (name, bytes.clone()));
            let unseen = made_up(37, 16, 50);
            let payload = model.of(inner).unwrap().encode(&unseen, 37, 16);
            let (mut one, mut other) = (Vec::new(), Vec::new());
            model.of(inner).unwrap().decode(&payload, 37, 16, &mut one).unwrap();
            again.of(inner).unwrap().decode(&payload, 37, 16, &mut other).unwrap();
            assert_eq!(one, other);
            if name.is_learned() {
                assert!(CodecModel::load(&path, &[(last, 25)]).is_err());
                assert!(CodecModel::load(&path, &[(HiddenLayer::Inner(4), 16)]).is_err());
                for length in [0, 8, 100, bytes.len() - 1] {
                    std::fs::write(&path, &bytes[..length]).unwrap();
                    assert!(CodecModel::load(&path, &[(last, 24)]).is_err(), "{length}");
                }
            }
        }
    }
}
