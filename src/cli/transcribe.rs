//! `tutornet transcribe`: audio files to text.

use std::path::PathBuf;

use super::Context;
use super::search::SearchArgs;
use crate::decode::transcribe_file;
use crate::device::DeviceChoice;
use crate::error::Error;
use crate::models::Model;
use crate::score::normalise_spaces;

/// Arguments of `tutornet transcribe`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tutornet transcribe --model models/quartznet15x5 talk.wav
  tutornet transcribe --model runs/ctc/student recordings/*.flac > transcripts.tsv

Prints PATH<TAB>TEXT for each file, in the order given. A file that cannot be read is reported on stderr,
the others are still transcribed, and the exit code is 1.")]
pub struct Args {
    /// Model directory, as `import` and `train` make it
    #[arg(long, value_name = "MODELDIR")]
    model: PathBuf,
    /// Where to compute: auto, cpu, wgpu[:i] or cuda[:i]
    #[arg(long, default_value_t, value_name = "D")]
    device: DeviceChoice,
    /// FLAC or WAV files of any sampling rate; several channels are mixed
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    search: SearchArgs,
}

/// Runs `tutornet transcribe`.
///
/// # Errors
/// When the model or the device cannot be opened, or, after all files, when some failed.
pub fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let device = args.device.open()?;
    let model = Model::load(&args.model, &device)?;
    let decoder = args.search.open(false)?;
    decoder.require_words_of(&model.config.labels)?;
    let mut failed = 0;
    for path in &args.files {
        if context.stop.requested() {
            return Err(Error::Interrupted("not all files were transcribed".to_owned()).into());
        }
        match transcribe_file(&model, path, &device, &decoder) {
            Ok(transcript) => {
                super::print(&format!("{}\t{}", path.display(), normalise_spaces(&transcript.text)))?;
            }
            Err(error) => {
                failed += 1;
                tracing::error!("{error}");
            }
        }
    }
    if failed > 0 {
        anyhow::bail!("{failed} of {} files could not be transcribed", args.files.len());
    }
    Ok(())
}
