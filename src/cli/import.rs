//! `tutornet import`: a foreign checkpoint becomes a model directory.

use std::path::PathBuf;

use crate::cli::Context;
use crate::error::Error;
use crate::features::{FrameRule, Padding};
use crate::files;
use crate::models::{MODEL_FILE, WEIGHTS_FILE, foreign};

const EXAMPLES: &str = "\
Examples:
  tutornet import QuartzNet15x5Base-En.nemo --out models/quartznet
  tutornet import jasper-dr.npz --like jasper-dr --out models/jasper-dr          # OpenSeq2Seq, see tools/tf_to_npz.py
  tutornet import jasper_fp16.pt --like jasper-dr --out models/jasper-dle        # NVIDIA's DeepLearningExamples
  tutornet import mine.safetensors --like mine.toml --map names.toml --out models/mine

`tutornet inspect PRESET --toml > mine.toml` gives a description to start from.
A mapping file has one [[tensor]] for every kind of tensor:
  ours = \"blocks.{b}.layers.{r}.weight\"  theirs = \"encoder.{b}.conv{2r+1}.kernel\"  permute = [2, 1, 0]
and ignore = [\"*.counter\"] for tensors that are no weights.";

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The checkpoint: a .nemo file, or, with --like, weights alone: .pt (torch.save), .npz or .safetensors
    file: PathBuf,
    /// The model directory to write
    #[arg(long)]
    out: PathBuf,
    /// Name of the model in tables and logs [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// The network of weights alone: a preset, a model.toml or a model directory. Names of NeMo, DeepLearningExamples
    /// and OpenSeq2Seq bring their own frontend and padding; otherwise those of MODEL count
    #[arg(long, value_name = "MODEL")]
    like: Option<String>,
    /// A TOML file that says under which name each tensor of the network lies in the file, and in which order its axes
    #[arg(long, value_name = "FILE", requires = "like")]
    map: Option<PathBuf>,
    /// The dictionary of weights in what torch.save wrote [default: ema_state_dict, else state_dict, else the whole]
    #[arg(long, value_name = "KEY", requires = "like")]
    state_dict: Option<String>,
    /// How the model's version of NeMo counted the frames of N samples (the file does not say) [default: ceil]
    #[arg(long, value_enum)]
    frames: Option<FrameRule>,
    /// What NeMo's centred transform saw beyond the ends of the audio (the file does not say) [default: reflect]
    #[arg(long, value_enum)]
    padding: Option<Padding>,
    /// Replace a model that is already there
    #[arg(long)]
    force: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// When the file is refused, or a model is already there and `--force` is not given.
pub fn run(args: Args, _context: &Context) -> anyhow::Result<()> {
    // Weights alone are what an import that was killed leaves behind.
    files::require_own(&args.out, &[MODEL_FILE, WEIGHTS_FILE], "model")?;
    if args.out.join(MODEL_FILE).exists() && !args.force {
        return Err(Error::invalid(format!(
            "{} holds a model already: choose another --out, or give --force to replace it",
            args.out.display()
        ))
        .into());
    }
    let imported = foreign::import(
        &args.file,
        &foreign::Options {
            name: args.name.as_deref(),
            like: args.like.as_deref(),
            map: args.map.as_deref(),
            state_dict: args.state_dict.as_deref(),
            frames: args.frames,
            padding: args.padding,
        },
    )?;
    for note in &imported.notes {
        tracing::info!("{note}");
    }
    imported.model.save(&args.out)?;
    tracing::info!(
        "{}: {} trainable parameters, hidden width {}, {} labels, {}",
        args.out.display(),
        imported.model.trainable_parameters(),
        imported.model.hidden_width(),
        imported.model.config.labels.count(),
        imported.model.config.frontend.prep_arguments(),
    );
    Ok(())
}
