//! Import of foreign checkpoints: `.nemo` files, which say what network they are of, and weights alone (`torch.save`,
//! `.npz`, `.safetensors`), for a network that the user names.
//!
//! Every tensor of the file is used, or is one of those that are known to be no weights, or is an error; so is every
//! tensor of the network that the file lacks. `jasper.rs` and `deepspeech2.rs` have the names that are understood; for any
//! other there is a mapping file, see `map.rs`. Values are read and turned one tensor at a time, so that a network is in
//! memory once.

mod axes;
mod deepspeech2;
mod file;
mod jasper;
mod map;
mod nemo;
mod openseq2seq;
mod take;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;

use self::file::{Found, Kind};
use self::map::Map;
use self::take::{Pair, Taker, Tensors};
use super::config::{Architecture, ModelConfig, Provenance};
use super::jasper::StridePadding;
use super::parameters::{self, TensorShape};
use super::{Model, Network};
use crate::error::{Error, Result};
use crate::features::{FrameRule, Frontend, NemoRule, Padding};
use crate::files;

/// What was read and what was checked besides.
#[derive(Debug)]
pub struct Imported {
    /// The model, on the CPU.
    pub model: Model,
    /// Sentences about values that are no weights: checked against this program, or ignored.
    pub notes: Vec<String>,
}

/// What the file cannot say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// The model's name; by default the file's.
    pub name: Option<&'a str>,
    /// The network of weights alone: a preset, a `model.toml` or a model directory.
    pub like: Option<&'a str>,
    /// A mapping file, for names that this program does not know.
    pub map: Option<&'a Path>,
    /// The dictionary of weights in what `torch.save` wrote.
    pub state_dict: Option<&'a str>,
    /// How NeMo's version counted frames.
    pub frames: Option<FrameRule>,
    /// What NeMo's transform saw beyond the ends of the audio.
    pub padding: Option<Padding>,
}

impl Options<'_> {
    fn rule(&self) -> NemoRule {
        NemoRule { frames: self.frames.unwrap_or_default(), padding: self.padding.unwrap_or_default() }
    }
}

/// Reads a checkpoint into a model.
///
/// # Errors
/// When the file is nothing that can be imported or is damaged, when an option does not go with it, or when its tensors
/// are not those of the network; the first few are named.
pub fn import(path: &Path, options: &Options<'_>) -> Result<Imported> {
    let kind = file::kind(path)?;
    match (kind, options.like) {
        (Kind::Archive, None) if options.map.is_none() && options.state_dict.is_none() => {
            nemo::import(path, options.name, options.rule())
        }
        (Kind::Archive, _) => Err(Error::format(
            path,
            "a .nemo file says itself what network it is of: leave out --like, --map and --state-dict",
        )),
        (_, None) => Err(Error::format(
            path,
            "weights alone do not say which network they are of: give --like PRESET, a model.toml or a model directory",
        )),
        (kind, Some(like)) => weights(path, kind, ModelConfig::find(like)?, options),
    }
}

/// Whose names the tensors of a file have.
enum Names {
    /// One of those that the Jasper family comes under.
    Jasper(jasper::Names),
    /// OpenSeq2Seq's of DeepSpeech 2.
    OpenSeq2Seq,
    /// A PyTorch module's of DeepSpeech 2.
    Module,
    /// Those of `weights.safetensors`.
    Ours,
    /// Those that a mapping file says.
    Mapped(Map),
}

impl Names {
    /// Tells whose they are.
    ///
    /// # Errors
    /// When they are nobody's.
    fn of(found: &Found, config: &ModelConfig, network: &[TensorShape]) -> Result<Self> {
        let family = jasper::names(found);
        match &config.architecture {
            Architecture::Jasper(_) if family.is_some() => return Ok(family.map_or(Self::Ours, Self::Jasper)),
            Architecture::DeepSpeech2(_) if deepspeech2::is_openseq2seq(found) => {
                return Ok(Self::OpenSeq2Seq);
            }
            Architecture::DeepSpeech2(_) if deepspeech2::is_module(found) => return Ok(Self::Module),
            _ => {}
        }
        if network.iter().any(|tensor| found.contains_key(&tensor.name)) {
            return Ok(Self::Ours);
        }
        let deepspeech2 = deepspeech2::is_openseq2seq(found) || deepspeech2::is_module(found);
        let hint = match &config.architecture {
            Architecture::Jasper(_) if deepspeech2 => "they are those of a DeepSpeech 2: --like deepspeech2?",
            Architecture::DeepSpeech2(_) if family.is_some() => {
                "they are those of the Jasper family: --like jasper-dr, jasper-mini or quartznet15x5?"
            }
            _ => "--map FILE says where each tensor of the network lies",
        };
        let names: Vec<String> = found.keys().take(3).cloned().collect();
        let names = if names.is_empty() { "it holds none".to_owned() } else { names.join(", ") + ", ..." };
        let known = match &config.architecture {
            Architecture::Jasper(_) => "NeMo's, DeepLearningExamples', OpenSeq2Seq's or tutornet's own",
            Architecture::DeepSpeech2(_) => "OpenSeq2Seq's, tutornet's own or those of a PyTorch module",
        };
        Err(Error::invalid(format!("the names of the tensors are none of {known} ({names}); {hint}")))
    }

    fn label(&self) -> &'static str {
        match self {
            Self::Jasper(jasper::Names::Nemo) => "NeMo",
            Self::Jasper(jasper::Names::DeepLearningExamples) => "DeepLearningExamples",
            Self::Jasper(jasper::Names::OpenSeq2Seq) | Self::OpenSeq2Seq => "OpenSeq2Seq",
            Self::Module => "PyTorch module",
            Self::Ours => "tutornet",
            Self::Mapped(_) => "mapping file",
        }
    }

    /// Frontend and padding of every model of that toolkit, whatever the description says; `None` where names say
    /// nothing about them.
    fn habits(&self, rule: NemoRule) -> Option<(Frontend, StridePadding)> {
        match self {
            Self::Jasper(jasper::Names::Nemo) => Some((Frontend::Nemo(rule), StridePadding::Symmetric)),
            Self::Jasper(jasper::Names::DeepLearningExamples) => {
                Some((Frontend::DeepLearningExamples, StridePadding::Symmetric))
            }
            Self::Jasper(jasper::Names::OpenSeq2Seq) | Self::OpenSeq2Seq => {
                Some((Frontend::OpenSeq2Seq, StridePadding::Same))
            }
            Self::Module | Self::Ours | Self::Mapped(_) => None,
        }
    }

    fn translate(
        self,
        mut found: Found,
        config: &ModelConfig,
        network: &[TensorShape],
        notes: &mut Vec<String>,
    ) -> Result<Tensors> {
        let labels = config.labels.count();
        match (self, &config.architecture) {
            (Self::Mapped(map), _) => map.translate(found, network, notes),
            (Self::Jasper(names), Architecture::Jasper(jasper)) => {
                nemo::check_buffers(&mut found, notes)?;
                jasper::translate(found, names, jasper, labels, notes)
            }
            (Self::OpenSeq2Seq, Architecture::DeepSpeech2(network)) => {
                deepspeech2::from_openseq2seq(found, network, labels, notes)
            }
            (Self::Module, Architecture::DeepSpeech2(network)) => {
                deepspeech2::from_pytorch(found, network, labels, notes)
            }
            _ => {
                let mut taker = Taker::new(found);
                for tensor in network {
                    taker.pair(Pair::equal(tensor.name.clone(), tensor.name.clone(), &tensor.shape));
                }
                taker.finish()
            }
        }
    }
}

/// Reads weights by name into the network of `config`.
fn weights(path: &Path, kind: Kind, mut config: ModelConfig, options: &Options<'_>) -> Result<Imported> {
    let located = |e: Error| Error::format(path, e.to_string());
    let mut notes = Vec::new();
    let (found, state) = file::open(path, kind, options.state_dict, &mut notes)?;
    let found = unwrapped(found, &mut notes);
    let lazy = |config: &ModelConfig| Model::lazy(config, &Device::flex());
    let shapes = parameters::shapes(&lazy(&config).map_err(located)?);
    let names = match options.map {
        Some(map) => Names::Mapped(Map::read(map)?),
        None => Names::of(&found, &config, &shapes).map_err(located)?,
    };
    let label = names.label();
    if !matches!(names, Names::Jasper(jasper::Names::Nemo))
        && (options.frames.is_some() || options.padding.is_some())
    {
        return Err(Error::invalid(format!(
            "--frames and --padding go with NeMo's checkpoints; the names in {} are of another kind: {label}",
            path.display()
        )));
    }
    if let Some((frontend, padding)) = names.habits(options.rule()) {
        config.frontend = frontend;
        *config.padding_mut() = padding;
        notes
            .push(format!("names of {label}: strides padded {padding}, features of the {frontend} frontend"));
    }
    let tensors = names.translate(found, &config, &shapes, &mut notes).map_err(located)?;
    let mut chosen = BTreeMap::from([
        ("network".to_owned(), format!("of the network of {}", config.provenance.origin)),
        ("names".to_owned(), label.to_owned()),
    ]);
    chosen.extend(state.map(|key| ("state_dict".to_owned(), key)));
    if let Some(map) = options.map {
        chosen.insert("map_blake3".to_owned(), files::blake3_file(map)?);
    }
    config.name = options.name.map_or_else(|| stem(path), ToOwned::to_owned);
    config.provenance = provenance(path, chosen)?;
    let network: Network = lazy(&config).map_err(located)?;
    let network = parameters::import(network, tensors).map_err(located)?;
    Ok(Imported { model: Model { config, network }, notes })
}

/// Takes off the prefix that PyTorch's `DistributedDataParallel` puts before every name.
fn unwrapped(found: Found, notes: &mut Vec<String>) -> Found {
    if found.is_empty() || !found.keys().all(|name| name.starts_with("module.")) {
        return found;
    }
    notes.push("names without their prefix `module.`".to_owned());
    let plain = |name: String| name.strip_prefix("module.").map_or(name.clone(), ToOwned::to_owned);
    found.into_iter().map(|(name, tensor)| (plain(name), tensor)).collect()
}

/// Where an imported model comes from, and what was chosen.
fn provenance(path: &Path, options: BTreeMap<String, String>) -> Result<Provenance> {
    let file = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
    Ok(Provenance {
        origin: format!("import of {file}"),
        source_blake3: Some(files::blake3_file(path)?),
        options,
    })
}

/// A file's name without its ending.
fn stem(path: &Path) -> String {
    path.file_stem().map_or("imported".into(), |stem| stem.to_string_lossy()).into_owned()
}
