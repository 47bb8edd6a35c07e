//! The teacher's forward pass over one padded batch, and what to do when it does not fit the device.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use burn::tensor::{Device, Tensor, TensorData};

use crate::device::is_cpu;
use crate::error::{Error, Result};
use crate::features::{BINS, transpose};
use crate::models::{HiddenLayer, Mode, Model};

/// Features of several utterances, padded to the longest.
#[derive(Debug, Clone)]
pub struct Input {
    /// `[batch, BINS, padded]`.
    pub features: Vec<f32>,
    /// Valid frames of every utterance.
    pub frames: Vec<usize>,
    /// Frames of the batch.
    pub padded: usize,
}

impl Input {
    /// An input of `frames.len()` utterances without features yet.
    pub fn new(frames: Vec<usize>) -> Self {
        let padded = frames.iter().copied().max().unwrap_or(0);
        Self { features: vec![0.0; frames.len() * BINS * padded], frames, padded }
    }

    /// Puts the features of utterance `index`, `[frames, BINS]`, in their place.
    pub fn set(&mut self, index: usize, features: &[f32]) {
        let size = BINS * self.padded;
        let Some(block) = self.features.get_mut(index * size..(index + 1) * size) else { return };
        let frames = features.len().min(self.padded * BINS);
        transpose(&features[..frames], BINS, block, (0, self.padded));
    }

    /// The utterances of `range` alone, padded no further than they need.
    pub fn part(&self, range: std::ops::Range<usize>) -> Self {
        let mut part = Self::new(self.frames[range.clone()].to_vec());
        for (to, from) in range.enumerate() {
            for bin in 0..BINS {
                let source = (from * BINS + bin) * self.padded;
                let target = (to * BINS + bin) * part.padded;
                let frames = part.frames[to];
                part.features[target..target + frames]
                    .copy_from_slice(&self.features[source..source + frames]);
            }
        }
        part
    }
}

/// What came out, on the host.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// `[batch, width, padded]`.
    pub hidden: Vec<f32>,
    /// The inner layers that the teacher was asked for, each `[batch, its width, padded]`.
    pub inner: Vec<Vec<f32>>,
    /// `[batch, padded, labels]`.
    pub logits: Vec<f32>,
    /// Valid output frames of every utterance.
    pub frames: Vec<usize>,
    /// Output frames of the batch.
    pub padded: usize,
}

/// Why a pass did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The device has no room for the batch.
    OutOfMemory(String),
    /// Anything else.
    Other(Error),
}

/// A teacher that can be run over a batch.
pub trait Forward {
    /// Runs one batch.
    ///
    /// # Errors
    /// See [`Failure`].
    fn forward(&self, input: &Input) -> std::result::Result<Outcome, Failure>;
}

/// A model on a device.
#[derive(Debug)]
pub struct Teacher {
    model: Model,
    device: Device,
    name: String,
    layers: Vec<HiddenLayer>,
}

impl Teacher {
    /// A model in evaluation; `device` is where its tensors live, `name` what the user calls it, `layers` the inner
    /// layers whose outputs are wanted as well.
    pub fn new(model: Model, device: Device, name: String, layers: Vec<HiddenLayer>) -> Self {
        Self { model, device, name, layers }
    }

    /// Whether it runs on the CPU.
    pub fn is_cpu(&self) -> bool {
        is_cpu(&self.device)
    }

    fn run(&self, input: &Input) -> std::result::Result<Outcome, String> {
        let shape = [input.frames.len(), BINS, input.padded];
        let features = TensorData::new(input.features.clone(), shape);
        let features = Tensor::<3>::from_data(features, &self.device);
        let output = self.model.forward_with(features, &input.frames, Mode::Evaluate, &self.layers);
        let padded = output.hidden.dims()[2];
        let host = |tensor: Tensor<3>| {
            let data = tensor.try_into_data().map_err(|e| e.to_string())?;
            data.try_into_vec_as::<f32>().map_err(|e| e.to_string())
        };
        let hidden = host(output.hidden)?;
        let inner = output.layers.into_iter().map(host).collect::<std::result::Result<_, _>>()?;
        let logits = host(output.logits)?;
        Ok(Outcome { hidden, inner, logits, frames: output.frames, padded })
    }
}

impl Forward for Teacher {
    fn forward(&self, input: &Input) -> std::result::Result<Outcome, Failure> {
        // Backends report some failures by a panic, and some of those in a thread of their own, after
        // which the values read back mean nothing: hence the watch.
        let watch = PanicWatch::start();
        let result = catch_unwind(AssertUnwindSafe(|| self.run(input)));
        let seen = watch.stop();
        let detail = match (result, seen) {
            (Ok(Ok(outcome)), None) => return Ok(outcome),
            (Ok(Err(detail)), _) | (_, Some(detail)) => detail,
            (Err(_), None) => "the forward pass panicked".to_owned(),
        };
        if is_out_of_memory(&detail) {
            self.device.memory_cleanup();
            return Err(Failure::OutOfMemory(detail));
        }
        Err(Failure::Other(Error::Device { device: self.name.clone(), detail }))
    }
}

/// Whether a backend's message speaks of memory; each has words of its own.
fn is_out_of_memory(detail: &str) -> bool {
    let detail = detail.to_lowercase();
    ["out of memory", "out-of-memory", "out of device memory", "outofmemory", "buffer is too big", "allocat"]
        .iter()
        .any(|words| detail.contains(words))
}

type Hook = Box<dyn Fn(&std::panic::PanicHookInfo<'_>) + Sync + Send + 'static>;

/// Collects the messages of panics of any thread instead of printing them.
struct PanicWatch {
    messages: Arc<Mutex<Vec<String>>>,
    previous: Option<Hook>,
}

impl PanicWatch {
    fn start() -> Self {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let previous = Some(std::panic::take_hook());
        let seen = Arc::clone(&messages);
        std::panic::set_hook(Box::new(move |info| {
            if let Ok(mut seen) = seen.lock() {
                seen.push(info.payload_as_str().unwrap_or("a panic without words").to_owned());
            }
        }));
        Self { messages, previous }
    }

    /// Prints panics again; the messages since the start, if there are any.
    fn stop(mut self) -> Option<String> {
        if let Some(previous) = self.previous.take() {
            std::panic::set_hook(previous);
        }
        let messages = self.messages.lock().map(|seen| seen.join("; ")).unwrap_or_default();
        (!messages.is_empty()).then_some(messages)
    }
}

/// Runs `input`, in parts when the device has no room for the whole; `limit` is the number of padded
/// frames known to be too many, and shrinks. `name` gives an utterance's name for a message.
///
/// Each part's outcome goes to `take` with the index of its first utterance.
///
/// # Errors
/// When a single utterance does not fit, the device fails otherwise, or `take` fails.
pub fn run_in_parts(
    teacher: &impl Forward,
    input: &Input,
    limit: &mut usize,
    name: &dyn Fn(usize) -> String,
    take: &mut dyn FnMut(usize, Outcome) -> Result<()>,
) -> Result<()> {
    let mut pending: Vec<_> = std::iter::once(0..input.frames.len()).collect();
    while let Some(range) = pending.pop() {
        let whole = range.len() == input.frames.len();
        let part = if whole { None } else { Some(input.part(range.clone())) };
        let part = part.as_ref().unwrap_or(input);
        let size = part.frames.len() * part.padded;
        let middle = range.start + range.len().div_ceil(2);
        if size >= *limit && range.len() > 1 {
            pending.extend([middle..range.end, range.start..middle]);
            continue;
        }
        match teacher.forward(part) {
            Ok(outcome) => take(range.start, outcome)?,
            Err(Failure::Other(error)) => return Err(error),
            Err(Failure::OutOfMemory(detail)) if range.len() > 1 => {
                *limit = (*limit).min(size);
                tracing::warn!(
                    "out of memory on a batch of {} utterances ({} s padded): going on with half of that \
                     (--batch-seconds {} avoids this; the device said: {})",
                    range.len(),
                    size / 100,
                    (size / 200).max(1),
                    detail.lines().next().unwrap_or_default()
                );
                pending.extend([middle..range.end, range.start..middle]);
            }
            Err(Failure::OutOfMemory(detail)) => {
                return Err(Error::invalid(format!(
                    "utterance {} ({} s) alone does not fit the device's memory: {}; use another --device or \
                     leave the utterance out of the corpus",
                    name(range.start),
                    part.padded / 100,
                    detail.lines().next().unwrap_or_default()
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// A device with room for `room` padded frames; its hidden states are the features' first bin.
    struct Small {
        room: usize,
        sizes: RefCell<Vec<usize>>,
    }

    impl Forward for Small {
        fn forward(&self, input: &Input) -> std::result::Result<Outcome, Failure> {
            let size = input.frames.len() * input.padded;
            self.sizes.borrow_mut().push(size);
            if size > self.room {
                return Err(Failure::OutOfMemory(format!("cannot allocate {size}")));
            }
            let first = |at: usize| &input.features[at * BINS * input.padded..][..input.padded];
            Ok(Outcome {
                hidden: (0..input.frames.len()).flat_map(first).copied().collect(),
                inner: Vec::new(),
                logits: Vec::new(),
                frames: input.frames.clone(),
                padded: input.padded,
            })
        }
    }

    fn input() -> Input {
        let frames: Vec<usize> = (1..=16).rev().collect();
        let mut input = Input::new(frames.clone());
        for (index, &frames) in frames.iter().enumerate() {
            let features: Vec<f32> = (0..frames * BINS).map(|i| (index * 1000 + i / BINS) as f32).collect();
            input.set(index, &features);
        }
        input
    }

    #[test]
    fn out_of_memory_halves_the_batch_and_loses_nothing() {
        let teacher = Small { room: 70, sizes: RefCell::default() };
        let mut limit = usize::MAX;
        let mut seen = vec![None; 16];
        let mut take = |first: usize, outcome: Outcome| {
            for (at, &frames) in outcome.frames.iter().enumerate() {
                let hidden = outcome.hidden[at * outcome.padded..][..frames].to_vec();
                assert!(seen[first + at].replace(hidden).is_none(), "{} twice", first + at);
            }
            Ok(())
        };
        run_in_parts(&teacher, &input(), &mut limit, &|i| i.to_string(), &mut take).unwrap();
        for (index, hidden) in seen.into_iter().enumerate() {
            let expected: Vec<f32> = (0..16 - index).map(|t| (index * 1000 + t) as f32).collect();
            assert_eq!(hidden.unwrap(), expected);
        }
        // 16 x 16, then 8 x 16, then 4 x 16; from then on nothing as large as what failed is tried.
        assert_eq!(teacher.sizes.borrow()[..3], [256, 128, 64]);
        assert_eq!(limit, 128);
        teacher.sizes.borrow_mut().clear();
        let mut ignore = |_: usize, _: Outcome| Ok(());
        run_in_parts(&teacher, &input(), &mut limit, &|i| i.to_string(), &mut ignore).unwrap();
        assert!(teacher.sizes.borrow().iter().all(|&size| size < 128), "{:?}", teacher.sizes.borrow());
    }

    #[test]
    fn an_utterance_that_never_fits_is_named() {
        let teacher = Small { room: 10, sizes: RefCell::default() };
        let (mut limit, mut ignore) = (usize::MAX, |_: usize, _: Outcome| Ok(()));
        let name = |index: usize| format!("utt-{index}");
        let error = run_in_parts(&teacher, &input(), &mut limit, &name, &mut ignore).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("utt-0") && error.contains("cannot allocate"), "{error}");
    }

    #[test]
    fn what_backends_say_about_memory_is_recognised() {
        for words in [
            "An out-of-memory error happened during launch",
            "out of device memory allocating 100 bytes",
            "can't allocate buffer of size",
            "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        ] {
            assert!(is_out_of_memory(words), "{words}");
        }
        assert!(!is_out_of_memory("The device was poisoned during launch"));
    }

    #[test]
    fn a_panic_of_another_thread_is_seen() {
        let watch = PanicWatch::start();
        let _ = std::thread::spawn(|| panic!("worker {}", 7)).join();
        assert!(watch.stop().unwrap().contains("worker 7"));
    }
}
