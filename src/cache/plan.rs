//! What a cache will cost, before it is made.

use serde::Serialize;

use super::codec::{CodecName, pq};
use super::rate::{Rate, USUAL};
use crate::corpus::SHARD_UTTERANCES;
use crate::error::{Error, Result};
use crate::models::{ModelConfig, Summary};

/// Bytes a channel of a frame, measured on two hours of real speech under QuartzNet 15x5 (1,024 channels after a
/// ReLU, 45 % of them zero); `tutornet inspect CACHE --rate` measures others.
const F16: f64 = 0.959;
const U8: f64 = 0.550;
/// (relative error, bytes a channel) of `klt`.
const KLT: [(f64, f64); 3] = [(0.05, 0.392), (0.1, 0.263), (0.3, 0.0653)];
/// Bytes a frame of the frame weight, and of the posterior for each label (the same measurement).
const FRAME_WEIGHT: f64 = 3.7;
const LABEL: f64 = 1.6;
/// Gigabytes a second, counted as plain halves, that a core decodes at 1,024 channels (`make bench-read`).
const F16_SPEED: f64 = 5.8;
const U8_SPEED: f64 = 4.1;
const KLT_SPEED: f64 = 0.46;
/// Of `pq:64`, and the components that it has; what it costs to turn them back grows with their number.
const PQ_SPEED: f64 = 1.0;
const PQ_COMPONENTS: f64 = 384.0;
/// Channels at which speeds were measured; turning coordinates back costs the square of them.
const CHANNELS: f64 = 1024.0;
/// Mean seconds of an utterance: the 281,241 of LibriSpeech's 961 hours.
const UTTERANCE: f64 = 12.3;

/// What is planned.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The teacher.
    pub model: ModelConfig,
    /// Hours of audio.
    pub hours: f64,
    /// Shards of the corpus, if it is there.
    pub shards: Option<u64>,
    /// Codecs to compare; the usual ones when there are none.
    pub codecs: Vec<CodecName>,
    /// What was measured on a cache, in place of the figures above, and the channels that it was measured at.
    pub measured: Option<(Vec<Rate>, usize)>,
    /// What the device sustains in the teacher's forward pass, 10^12 operations a second.
    pub tflops: f64,
    /// What the disk reads, 10^9 bytes a second.
    pub disk: f64,
    /// Cores that decode.
    pub cores: f64,
    /// How many times as fast as real time a student is trained.
    pub speed: f64,
}

/// What it costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Costs {
    /// Name of the teacher.
    pub model: String,
    /// Its trainable parameters.
    pub parameters: usize,
    /// Channels of its hidden states.
    pub width: usize,
    /// Hours of audio.
    pub hours: f64,
    /// Output frames.
    pub frames: f64,
    /// 10^18 operations of one pass over the audio: two for every parameter and output frame.
    pub teacher_exaflop: f64,
    /// Hours of that pass: once for a cache, in every epoch without one.
    pub teacher_hours: f64,
    /// Bytes a frame of the posterior.
    pub posterior_bytes_per_frame: f64,
    /// Bytes a frame of the frame weight.
    pub frame_weight_bytes_per_frame: f64,
    /// Shards, with as many utterances in each as `prep` puts there.
    pub shards: u64,
    /// Whether a cache pays at all.
    pub advice: String,
    /// One row a codec.
    pub codecs: Vec<CodecCosts>,
}

/// What a codec costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CodecCosts {
    /// The codec.
    pub codec: String,
    /// Bytes a frame of the hidden states.
    pub hidden_bytes_per_frame: f64,
    /// Gigabytes of the hidden states.
    pub hidden_gb: f64,
    /// Gigabytes of the whole cache.
    pub cache_gb: f64,
    /// Megabytes a second that training reads.
    pub read_mb_per_s: f64,
    /// Hours of one core for decoding it once.
    pub decode_core_hours: f64,
    /// Cores that decoding keeps busy while a student is trained.
    pub decode_cores: f64,
    /// Hours in which it is read once: by the disk, or by the cores that decode, whichever takes longer.
    pub read_hours: f64,
    /// From how many epochs on making the cache and reading it in each takes less time than running the teacher in each;
    /// none when reading takes as long as running.
    pub pays_from_epoch: Option<u64>,
}

/// Estimates the costs.
///
/// # Errors
/// When a number is not above zero, the model's layers cannot be counted or are too narrow for a codec that was given, or
/// rates are those of another width.
pub fn plan(plan: &Plan) -> Result<Costs> {
    for (name, value) in [
        ("--hours", plan.hours),
        ("--device-tflops", plan.tflops),
        ("--disk-gbps", plan.disk),
        ("--cores", plan.cores),
        ("--speed", plan.speed),
    ] {
        if !(value > 0.0 && value.is_finite()) {
            return Err(Error::invalid(format!("{name}: expected a number above 0, found {value}")));
        }
    }
    let summary = Summary::of(&plan.model)?;
    let measured = match &plan.measured {
        Some((_, found)) if *found != summary.hidden_width => {
            return Err(Error::mismatch(
                "--rates",
                format!("a cache of {} channels, as {} has", summary.hidden_width, plan.model.name),
                format!("{found} channels"),
                "name a cache of that teacher, or leave --rates away for an estimate by channel",
            ));
        }
        measured => measured.as_ref().map(|(rates, _)| rates.as_slice()).unwrap_or_default(),
    };
    let frames = plan.hours * 3600.0 * 100.0 / summary.stride as f64;
    let operations = 2.0 * summary.parameters as f64 * frames;
    let teacher_hours = operations / (plan.tflops * 1e12) / 3600.0;
    let posterior = LABEL * summary.labels as f64;
    let width = summary.hidden_width;
    let usual = || USUAL.into_iter().filter(|codec| codec.require(width).is_ok()).collect();
    let codecs: Vec<CodecName> = if plan.codecs.is_empty() { usual() } else { plan.codecs.clone() };
    for codec in &codecs {
        codec.require(width).map_err(|detail| Error::invalid(format!("{}: {detail}", plan.model.name)))?;
    }
    let row = |&codec: &CodecName| {
        let (hidden, gigabytes) = match measured.iter().find(|rate| rate.codec == codec.to_string()) {
            Some(rate) => (rate.bytes_per_frame, rate.decode_gb_per_s),
            None => (expected(codec, summary.hidden_width), decoded(codec, summary.hidden_width)),
        };
        let bytes = (hidden + posterior + FRAME_WEIGHT) * frames;
        let decode = 2.0 * summary.hidden_width as f64 * frames / (gigabytes * 1e9) / 3600.0;
        let read_hours = (bytes / (plan.disk * 1e9) / 3600.0).max(decode / plan.cores);
        CodecCosts {
            codec: codec.to_string(),
            hidden_bytes_per_frame: hidden,
            hidden_gb: hidden * frames / 1e9,
            cache_gb: bytes / 1e9,
            read_mb_per_s: bytes / (plan.hours * 3600.0) * plan.speed / 1e6,
            decode_core_hours: decode,
            decode_cores: decode / plan.hours * plan.speed,
            read_hours,
            pays_from_epoch: pays_from(teacher_hours, read_hours),
        }
    };
    let codecs: Vec<CodecCosts> = codecs.iter().map(row).collect();
    Ok(Costs {
        advice: advice(&codecs),
        model: plan.model.name.clone(),
        parameters: summary.parameters,
        width: summary.hidden_width,
        hours: plan.hours,
        frames,
        teacher_exaflop: operations / 1e18,
        teacher_hours,
        posterior_bytes_per_frame: posterior,
        frame_weight_bytes_per_frame: FRAME_WEIGHT,
        shards: plan.shards.unwrap_or_else(|| shards(plan.hours)),
        codecs,
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and saturating")]
fn shards(hours: f64) -> u64 {
    (hours * 3600.0 / UTTERANCE / SHARD_UTTERANCES as f64).ceil() as u64
}

/// The first n with teacher + n read < n teacher.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and saturating")]
fn pays_from(teacher: f64, read: f64) -> Option<u64> {
    (read < teacher).then(|| (teacher / (teacher - read)).floor() as u64 + 1)
}

fn advice(codecs: &[CodecCosts]) -> String {
    let (pays, never): (Vec<_>, Vec<_>) = codecs.iter().partition(|row| row.pays_from_epoch.is_some());
    let names =
        |rows: &[&CodecCosts]| rows.iter().map(|row| row.codec.as_str()).collect::<Vec<_>>().join(", ");
    match (pays.is_empty(), never.is_empty()) {
        (false, true) => "every codec takes less time than running the teacher in each epoch".to_owned(),
        (true, _) => {
            "no cache pays in time: this device runs the teacher as fast as what it would say is read"
                .to_owned()
        }
        (false, false) => format!(
            "with {} running the teacher in each epoch takes no longer than reading; {} pay",
            names(&never),
            names(&pays)
        ),
    }
}

/// Bytes a frame of `width` channels.
fn expected(codec: CodecName, width: usize) -> f64 {
    let channels = width as f64;
    match codec {
        CodecName::F16 => F16 * channels,
        CodecName::U8 => U8 * channels,
        CodecName::Pq(bytes) => bytes as f64,
        CodecName::Klt(error) => {
            // Bits fall with the logarithm of the error; beyond the ends the nearest two go on.
            let at = usize::from(error > KLT[1].0);
            let ((e0, b0), (e1, b1)) = (KLT[at], KLT[at + 1]);
            let share = (error / e0).ln() / (e1 / e0).ln();
            channels * (b0 + (b1 - b0) * share).clamp(0.01, F16)
        }
    }
}

/// Gigabytes a second that a core decodes of `width` channels.
fn decoded(codec: CodecName, width: usize) -> f64 {
    match codec {
        CodecName::F16 => F16_SPEED,
        CodecName::U8 => U8_SPEED,
        CodecName::Klt(_) => (KLT_SPEED * CHANNELS / width.max(1) as f64).min(U8_SPEED),
        CodecName::Pq(bytes) => {
            (PQ_SPEED * PQ_COMPONENTS / pq::components(width, bytes) as f64).min(U8_SPEED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::presets;

    fn example() -> Plan {
        Plan {
            model: presets::find("jasper-dr").unwrap(),
            hours: 960.0,
            shards: None,
            codecs: Vec::new(),
            measured: None,
            tflops: 10.0,
            disk: 0.5,
            cores: 2.0,
            speed: 1000.0,
        }
    }

    #[test]
    fn jasper_dr_over_librispeech() {
        let costs = plan(&example()).unwrap();
        assert_eq!((costs.frames, costs.width, costs.parameters), (172.8e6, 1024, 332_632_349));
        assert_eq!(costs.shards, 1098);
        assert!(costs.advice.starts_with("every codec"));
        assert!((costs.teacher_exaflop - 0.115).abs() < 1e-3 && (costs.teacher_hours - 3.19).abs() < 0.01);
        let f16 = &costs.codecs[0];
        assert!((f16.cache_gb - 178.4).abs() < 1.0, "{f16:?}");
        // 0.1 hours to read, 3.2 to compute: the second epoch pays.
        assert!((f16.read_hours - 0.099).abs() < 0.01 && f16.pays_from_epoch == Some(2));
        assert!((f16.read_mb_per_s - 51.6).abs() < 0.5);
        assert!(costs.codecs.windows(2).take(4).all(|pair| pair[1].cache_gb < pair[0].cache_gb));
    }

    #[test]
    fn a_small_teacher_on_a_fast_device_need_not_be_cached() {
        let mut small = example();
        small.model = presets::find("jasper-nano").unwrap();
        small.tflops = 1000.0;
        assert!(plan(&small).unwrap().codecs.iter().all(|row| row.pays_from_epoch.is_none()));
        assert_eq!([1.5, 1.0, 0.5, 0.0].map(|read| pays_from(1.0, read)), [None, None, Some(3), Some(2)]);
        let costs = plan(&small).unwrap();
        assert!(costs.advice.starts_with("no cache pays"), "{}", costs.advice);
        small.hours = 0.0;
        assert!(plan(&small).unwrap_err().to_string().contains("--hours"));
    }

    #[test]
    fn measured_rates_replace_the_expected_and_klt_is_interpolated() {
        assert!((expected(CodecName::Klt(0.1), 1024) - 269.3).abs() < 0.5);
        assert!((expected(CodecName::Klt(0.05), 512) - 200.7).abs() < 0.5);
        let between = expected(CodecName::Klt(0.2), 1024);
        assert!(
            between > expected(CodecName::Klt(0.3), 1024) && between < expected(CodecName::Klt(0.1), 1024)
        );
        let mut with = example();
        with.codecs = vec![CodecName::U8];
        let rate = Rate {
            codec: "u8".to_owned(),
            bytes_per_frame: 100.0,
            ratio: 20.0,
            relative_error: 0.0,
            decode_gb_per_s: 1.0,
            encode_gb_per_s: 1.0,
            learn_s: 0.0,
        };
        with.measured = Some((vec![rate.clone()], 1024));
        let measured = plan(&with).unwrap().codecs.remove(0);
        assert_eq!(measured.hidden_bytes_per_frame, 100.0);
        // 2 bytes a value at 1 GB/s.
        assert!((measured.decode_core_hours - 172.8e6 * 2048.0 / 1e9 / 3600.0).abs() < 1e-9);
        with.measured = Some((vec![rate], 512));
        assert!(plan(&with).unwrap_err().to_string().contains("1024 channels, as jasper-dr"));
    }

    #[test]
    fn what_takes_long_to_decode_is_read_as_slowly_and_may_not_pay() {
        let mut fast = example();
        fast.tflops = 600.0;
        fast.disk = 7.0;
        let rows = plan(&fast).unwrap().codecs;
        let of = |name: &str| rows.iter().find(|row| row.codec == name).unwrap();
        let (exact, klt) = (of("f16"), of("klt:0.1"));
        assert!(klt.decode_core_hours > 2.0 * exact.decode_core_hours && klt.cache_gb < exact.cache_gb);
        assert_eq!(klt.read_hours, klt.decode_core_hours / 2.0);
        assert!(klt.pays_from_epoch.is_none() && exact.pays_from_epoch.is_some(), "{rows:?}");
        assert!(plan(&fast).unwrap().advice.contains("klt:0.1"));
        fast.cores = 64.0;
        assert!(plan(&fast).unwrap().codecs.iter().all(|row| row.pays_from_epoch.is_some()));
        // Cores for training at 1,000 times real time: 50,000 frames a second.
        assert!((klt.decode_cores - 50_000.0 * 2048.0 / (KLT_SPEED * 1e9)).abs() < 1e-9);
        // Half the channels are turned back four times as fast.
        assert_eq!(decoded(CodecName::Klt(0.1), 512), 2.0 * KLT_SPEED);
        let of = |bytes| decoded(CodecName::Pq(bytes), 1024);
        assert_eq!([of(128), of(64), of(32)], [0.75, 1.0, 1.5].map(|times| times * PQ_SPEED));
    }
}
