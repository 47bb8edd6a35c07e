//! `tutornet import`: a foreign checkpoint becomes a model directory.

use std::path::PathBuf;

use crate::cli::Context;
use crate::error::Error;
use crate::features::{FrameRule, NemoRule, Padding};
use crate::files;
use crate::models::{MODEL_FILE, ModelConfig, WEIGHTS_FILE, foreign, nemo};

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The checkpoint: a .nemo file (tar or gzip of model_config.yaml and model_weights.ckpt), or, with --like, a file
    /// of weights alone (.safetensors, or what torch.save made of a state dictionary)
    file: PathBuf,
    /// The model directory to write
    #[arg(long)]
    out: PathBuf,
    /// Name of the model in tables and logs [default: the file's name]
    #[arg(long)]
    name: Option<String>,
    /// The network of a file of weights alone: a preset (deepspeech2), a model.toml or a model directory
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["frames", "padding"])]
    like: Option<String>,
    /// How the model's version of NeMo counted the frames of N samples (the file does not say)
    #[arg(long, value_enum, default_value_t = FrameRule::Ceil)]
    frames: FrameRule,
    /// What its centred transform saw beyond the ends of the audio (the file does not say)
    #[arg(long, value_enum, default_value_t = Padding::Reflect)]
    padding: Padding,
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
    let name = args.name.as_deref();
    let imported = match &args.like {
        Some(like) => foreign::import(&args.file, ModelConfig::find(like)?, name)?,
        None if args.file.extension().is_some_and(|e| e == "safetensors" || e == "pt" || e == "pth") => {
            return Err(Error::format(
                &args.file,
                "weights alone do not say which network they are of: give --like PRESET, a model.toml or a model directory",
            )
            .into());
        }
        None => nemo::import(&args.file, name, NemoRule { frames: args.frames, padding: args.padding })?,
    };
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
