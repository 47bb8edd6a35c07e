//! The two chains on known answers and at the edges.

use super::*;

fn tone(samples: usize) -> Vec<f32> {
    (0..samples).map(|i| ((i as f64 * 0.37).sin() * 0.3 + (i as f64 * 0.011).sin() * 0.1) as f32).collect()
}

fn every_frontend() -> Vec<Frontend> {
    let mut all = vec![Frontend::OpenSeq2Seq, Frontend::DeepLearningExamples];
    for frames in [FrameRule::Ceil, FrameRule::Floor, FrameRule::FloorPlusOne] {
        for padding in [Padding::Reflect, Padding::Constant] {
            all.push(Frontend::Nemo(NemoRule { frames, padding }));
        }
    }
    all
}

#[test]
fn frame_counts_follow_the_rule() {
    let count = |frames| Frontend::Nemo(NemoRule { frames, ..Default::default() });
    for (samples, ceil, floor, plus) in
        [(0, 0, 0, 0), (1, 1, 0, 1), (160, 1, 1, 2), (161, 2, 1, 2), (16000, 100, 100, 101)]
    {
        assert_eq!(count(FrameRule::Ceil).frames(samples), ceil);
        assert_eq!(count(FrameRule::Floor).frames(samples), floor);
        assert_eq!(count(FrameRule::FloorPlusOne).frames(samples), plus);
        assert_eq!(Frontend::OpenSeq2Seq.frames(samples), plus);
        assert_eq!(Frontend::DeepLearningExamples.frames(samples), ceil);
    }
}

#[test]
fn short_silent_and_constant_audio_gives_finite_features() {
    for frontend in every_frontend() {
        for samples in [0, 1, 2, 3, 100, 159, 160, 161, 255, 256, 257, 320, 511, 512, 513, 1600] {
            for audio in [tone(samples), vec![0.0; samples], vec![0.5; samples], vec![1e30; samples]] {
                let features = frontend.features(&audio);
                assert_eq!(features.frames, frontend.frames(samples));
                assert_eq!(features.values.len(), features.frames * BINS);
                assert!(features.values.iter().all(|v| v.is_finite()), "{frontend:?}, {samples} samples");
            }
        }
    }
}

#[test]
fn what_does_not_vary_is_zero() {
    let nemo = Frontend::default();
    assert!(nemo.features(&[0.0; 4000]).values.iter().all(|&v| v == 0.0), "silence");
    assert!(nemo.features(&tone(100)).values.iter().all(|&v| v == 0.0), "one frame");
    assert!(Frontend::OpenSeq2Seq.features(&tone(100)).values.iter().all(|&v| v == 0.0), "one frame");
}

#[test]
fn every_bin_is_normalised_by_its_own_rule() {
    let mut noise = Random::new(3, "test", &[]);
    let level = |i: usize| 0.001 + 0.3 * (i as f64 / 3000.0).sin().powi(2);
    let audio: Vec<f32> = (0..32_000).map(|i| (noise.normal() * level(i)) as f32).collect();
    let rules =
        [(Frontend::default(), 1.0), (Frontend::OpenSeq2Seq, 0.0), (Frontend::DeepLearningExamples, 1.0)];
    for (frontend, ddof) in rules {
        let features = frontend.features(&audio);
        for bin in 0..BINS {
            let column: Vec<f64> =
                features.values.iter().skip(bin).step_by(BINS).map(|&v| f64::from(v)).collect();
            let n = column.len() as f64;
            let mean = column.iter().sum::<f64>() / n;
            let variance = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - ddof);
            assert!(
                mean.abs() < 1e-5 && (variance.sqrt() - 1.0).abs() < 1e-3,
                "{frontend} {mean} {variance}"
            );
        }
    }
}

/// Every chain, written down once more the slow way: explicit padding, a naive transform of 512 points,
/// dense filters.
#[test]
fn the_fast_chain_is_the_slow_chain() {
    let audio = tone(1000);
    for frontend in every_frontend() {
        let peak = audio.iter().fold(0f64, |peak, &v| peak.max(f64::from(v).abs()));
        let (divisor, dither, padding, floor, ddof, epsilon) = match frontend {
            Frontend::Nemo(rule) => (1.0, 0.0, rule.padding, 2f64.powi(-24), 1, 1e-5),
            Frontend::OpenSeq2Seq => (peak + 1e-5, 1e-5, Padding::Reflect, 1e-20, 0, 0.0),
            Frontend::DeepLearningExamples => (1.0, 1e-5, Padding::Reflect, 1e-20, 1, 1e-5),
        };
        let mut noise = Random::new(0, "openseq2seq dither", &[]);
        let mut x: Vec<f64> =
            audio.iter().map(|&v| f64::from(v) / divisor + dither * noise.normal()).collect();
        for i in (1..x.len()).rev() {
            x[i] -= 0.97 * x[i - 1];
        }
        let pad = |i: usize| if padding == Padding::Reflect { x[i] } else { 0.0 };
        let mut padded: Vec<f64> = (1..=256).rev().map(pad).collect();
        padded.extend(&x);
        padded.extend((0..256).map(|i| pad(x.len() - 2 - i)));
        let frames = frontend.frames(audio.len());
        let mut expected = Vec::new();
        for t in 0..frames {
            let mut power = [0f64; 257];
            for (k, power) in power.iter_mut().enumerate() {
                let (mut re, mut im) = (0.0, 0.0);
                for n in 0..512 {
                    let inside = (96..416).contains(&n);
                    let phase = std::f64::consts::TAU * (n as f64 - 96.0) / 319.0;
                    let weight = if inside { 0.5 * (1.0 - phase.cos()) } else { 0.0 };
                    let angle = std::f64::consts::TAU * (k * n % 512) as f64 / 512.0;
                    re += padded[t * 160 + n] * weight * angle.cos();
                    im -= padded[t * 160 + n] * weight * angle.sin();
                }
                *power = re * re + im * im;
            }
            for filter in mel::filters(512) {
                let sum: f64 = filter.weights.iter().zip(&power[filter.first..]).map(|(w, p)| w * p).sum();
                expected.push((sum + floor).ln() as f32);
            }
        }
        normalise(&mut expected, frames, ddof, epsilon);
        let found = frontend.features(&audio).values;
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst < 1e-5, "{frontend:?}: {worst}");
    }
}

#[test]
fn openseq2seq_does_not_depend_on_the_level_and_nemo_does() {
    let audio = tone(16_000);
    let quiet: Vec<f32> = audio.iter().map(|v| v * 0.25).collect();
    let worst = |f: Frontend| {
        let (a, b) = (f.features(&audio).values, f.features(&quiet).values);
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
    };
    assert!(worst(Frontend::OpenSeq2Seq) < 0.05, "{}", worst(Frontend::OpenSeq2Seq));
    assert_eq!(Frontend::OpenSeq2Seq.features(&audio), Frontend::OpenSeq2Seq.features(&audio));
    assert_ne!(Frontend::default().features(&audio), Frontend::OpenSeq2Seq.features(&audio));
}

/// What sets the two PyTorch chains apart: digital silence, where the dither is all there is.
#[test]
fn silence_is_dithered_where_the_original_dithers() {
    let mut audio = tone(16_000);
    let pairs = |audio: &[f32]| {
        let [a, b] = [Frontend::default(), Frontend::DeepLearningExamples].map(|f| f.features(audio).values);
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
    };
    let mut noise = Random::new(5, "test", &[]);
    audio.iter_mut().for_each(|v| *v += (0.1 * noise.normal()) as f32);
    assert!(pairs(&audio) < 0.03, "{}", pairs(&audio));
    audio[4000..8000].fill(0.0);
    assert!(pairs(&audio) > 0.3, "{}", pairs(&audio));
}

#[test]
fn a_frontend_survives_toml_and_names_its_arguments() {
    let mut seen = std::collections::BTreeSet::new();
    for frontend in every_frontend() {
        #[derive(Serialize, Deserialize)]
        struct Holder {
            frontend: Frontend,
        }
        let text = toml::to_string(&Holder { frontend }).unwrap();
        assert_eq!(toml::from_str::<Holder>(&text).unwrap().frontend, frontend, "{text}");
        assert!(seen.insert(frontend.prep_arguments()));
    }
    assert!(seen.contains("--frontend nemo --nemo-frames floor+1 --nemo-padding constant"), "{seen:?}");
    assert_eq!(Frontend::default().to_string(), "nemo");
    assert!(toml::from_str::<Frontend>("name = 'nemo'\nhop = 160").is_err());
    assert_eq!(toml::from_str::<Frontend>("name = 'nemo'").unwrap(), Frontend::default());
}
