//! Audio files good and bad, and corpora that are damaged after they were made.

#[path = "../../tests/it/flac.rs"]
mod flac;

use flac::{MD5, tone, wav};

use super::audio::decode;
use super::reason::Fault;
use super::*;
use crate::features::Frontend;
use crate::shard::Problem;
use crate::signal::Stop;

fn read(bytes: &[u8]) -> Result<Audio, Fault> {
    decode(bytes.to_vec(), Path::new("x.flac"))
}

fn refused(bytes: &[u8], reason: Reason, words: &str) {
    let fault = read(bytes).unwrap_err();
    assert_eq!(fault.reason, reason, "{fault:?}");
    assert!(fault.detail.contains(words), "{fault:?}");
}

fn floats(samples: &[f32]) -> Vec<u8> {
    samples.iter().flat_map(|s| s.to_le_bytes()).collect()
}

#[test]
fn flac_is_exact_and_verified() {
    let samples = tone(5000, 1);
    let audio = read(&flac::flac(&samples, 1, 16_000)).unwrap();
    let expected: Vec<f32> = samples.iter().map(|&s| s as f32 / 32_768.0).collect();
    assert_eq!(audio.samples, expected);
    assert!(audio.verified);
    let hash = blake3::hash(&floats(&expected));
    assert_eq!(audio.audio_hash, hash.as_bytes()[..16]);
}

#[test]
fn several_channels_are_mixed_and_rates_resampled() {
    let (left, right) = (tone(4000, 1), tone(4000, 2));
    let stereo: Vec<i32> = left.iter().zip(&right).flat_map(|(&l, &r)| [l, r]).collect();
    let audio = read(&flac::flac(&stereo, 2, 16_000)).unwrap();
    let expected: Vec<f32> = left.iter().zip(&right).map(|(l, r)| (l + r) as f32 / 65_536.0).collect();
    assert_eq!((audio.channels, &audio.samples), (2, &expected));
    let audio = read(&flac::flac(&stereo, 2, 32_000)).unwrap();
    assert_eq!((audio.rate, audio.samples.len()), (32_000, 2000));
}

#[test]
fn wav_is_read_and_what_is_no_audio_is_refused() {
    let samples = tone(3000, 3);
    let pcm: Vec<u8> = samples.iter().flat_map(|&s| i16::try_from(s).unwrap().to_le_bytes()).collect();
    let audio = read(&wav(&pcm, 1, 16_000)).unwrap();
    assert_eq!(audio.samples[..5], samples[..5].iter().map(|&s| s as f32 / 32_768.0).collect::<Vec<_>>());
    assert_eq!((audio.samples.len(), audio.verified), (3000, false));

    let file = wav(&pcm, 1, 16_000);
    refused(&file[..file.len() - 1000], Reason::Truncated, "promises 3000 samples");
    // A length left open, as by a program that writes to a pipe.
    let mut open = file.clone();
    open[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    open[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(read(&open).unwrap().samples.len(), 3000);

    for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut values = vec![0.25f32; 3000];
        values[7] = 0.5;
        values[1234] = value;
        refused(&wav(&floats(&values), 3, 16_000), Reason::NotFinite, "sample 1234");
        refused(&wav(&floats(&values), 3, 16_000), Reason::NotFinite, word);
    }
    refused(&wav(&floats(&[0.25; 100]), 3, 16_000), Reason::Silent, "0.25");
    refused(&wav(&[], 1, 16_000), Reason::Empty, "no samples");
    refused(b"", Reason::Empty, "zero bytes");
    refused(b"ID3 is another format", Reason::Format, "FLAC or WAV");
}

#[test]
fn damaged_flac_is_named_for_what_it_is() {
    let file = flac::flac(&tone(5000, 4), 1, 16_000);
    refused(&file[..file.len() / 2], Reason::Truncated, "promises 5000 samples");
    refused(&file[..50], Reason::Truncated, "truncated");
    refused(&flac::flac(&[0; 5000], 1, 16_000), Reason::Silent, "5000 samples are 0");
    let mut middle = file.clone();
    middle[file.len() / 2] ^= 1;
    refused(&middle, Reason::Damaged, "promises 5000 samples");
    let mut md5 = file.clone();
    md5[MD5.start] ^= 1;
    refused(&md5, Reason::Md5, "MD5");
    let mut none = file.clone();
    none[MD5].fill(0);
    let audio = read(&none).unwrap();
    assert!(!audio.verified, "no MD5 to compare with");
}

/// Whatever happens to the bytes: the same samples or a fault, never a panic, never other samples.
#[test]
fn no_damage_to_flac_goes_unnoticed() {
    let file = flac::flac(&tone(3000, 5), 1, 16_000);
    let whole = read(&file).unwrap();
    for length in 0..file.len() {
        assert!(read(&file[..length]).is_err(), "{length} of {} bytes were accepted", file.len());
    }
    let mut accepted = 0;
    for bit in (0..file.len() * 8).step_by(3) {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match read(&damaged) {
            Err(_) => {}
            // The rate is no part of the MD5.
            Ok(audio) if audio.rate != whole.rate => {}
            Ok(audio) => {
                assert_eq!(audio.samples, whole.samples, "bit {bit} changed the samples");
                accepted += 1;
            }
        }
    }
    // Frame sizes in the header, padding: not the audio.
    assert!(accepted < file.len() / 3, "{accepted}");
}

/// A tree of `count` utterances of one speaker, and a corpus of it.
fn corpus(dir: &Path, count: u32) -> PathBuf {
    let chapter = dir.join("root/dev/7/1");
    std::fs::create_dir_all(&chapter).unwrap();
    let mut transcripts = String::new();
    for i in 0..count {
        transcripts += &format!("7-1-{i:04} WORD NUMBER {}\n", ["ONE", "TWO", "THREE"][i as usize % 3]);
        let file = flac::flac(&tone(1600 + 160 * i as usize, i), 1, 16_000);
        std::fs::write(chapter.join(format!("7-1-{i:04}.flac")), file).unwrap();
    }
    std::fs::write(chapter.join("7-1.trans.txt"), transcripts).unwrap();
    let out = dir.join("corpus");
    let options = Options {
        root: dir.join("root"),
        subsets: vec!["dev".to_owned()],
        speeds: Vec::new(),
        out: out.clone(),
        shard_utterances: 3,
        frontend: Frontend::default(),
        strict: true,
        workers: 2,
    };
    let outcome = prep(&options, &Stop::default()).unwrap();
    assert_eq!(outcome.manifest.utterances, u64::from(count));
    out
}

fn problems(dir: &Path) -> Vec<Problem> {
    verify(dir, &mut |_, _| {}).unwrap()
}

#[test]
fn a_corpus_is_described_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let out = corpus(dir.path(), 7);
    let mut told = (0, 0);
    assert_eq!(verify(&out, &mut |done, total| told = (done, total)).unwrap(), []);
    assert!(told.0 == told.1 && told.1 > 0, "{told:?}");
    let description = describe(&out).unwrap();
    assert_eq!((description.utterances, description.shards, description.speakers), (7, 3, 1));
    assert_eq!((description.words, description.skipped), (21, 0));
    assert_eq!(description.seconds, [0.1, 0.16]);
    assert_eq!(description.frames, (10..17).sum::<u64>());
    let open = Corpus::open(&out).unwrap();
    assert_eq!(open.identity(), description.identity);
    let body = crate::files::read_sealed(&out.join(MANIFEST)).unwrap();
    assert_eq!(open.identity(), blake3::hash(body.as_bytes()).to_string());
    assert!(open.features(7, &mut Vec::new()).is_err());
    assert_eq!(open.shard(9), 0..0);
}

#[test]
fn damage_is_found_and_the_read_names_shard_and_utterance() {
    let dir = tempfile::tempdir().unwrap();
    let out = corpus(dir.path(), 4);
    let shard = out.join("shard-00000.parquet");
    let whole = std::fs::read(&shard).unwrap();
    let mut named = 0;
    for at in (0..whole.len()).step_by(37) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&shard, &bytes).unwrap();
        let found = problems(&out);
        assert!(!found.is_empty(), "a flipped bit at {at} went unnoticed");
        assert!(found.iter().all(|p| p.path == shard));
        let Some(utterance) = found.iter().find_map(|p| p.utterance.clone()) else { continue };
        named += 1;
        // Names may be damaged as well; then the corpus may not open at all.
        let Ok(open) = Corpus::open(&out) else { continue };
        let errors: Vec<String> =
            (0..4).filter_map(|i| open.features(i, &mut Vec::new()).err().map(|e| e.to_string())).collect();
        assert!(errors.iter().any(|e| e.contains(&utterance) && e.contains("shard-00000")), "{errors:?}");
    }
    assert!(named > whole.len() / 37 / 2, "most of a shard is payload: {named}");

    std::fs::write(&shard, &whole[..whole.len() - 1]).unwrap();
    assert!(problems(&out)[0].detail.contains("truncated"), "{:?}", problems(&out));
    assert!(Corpus::open(&out).unwrap_err().to_string().contains("shard-00000.parquet"));
    std::fs::remove_file(&shard).unwrap();
    assert_eq!(problems(&out).len(), 1);
    std::fs::write(&shard, &whole).unwrap();
    assert_eq!(problems(&out), []);

    std::fs::write(out.join(SKIPPED), "{}\n").unwrap();
    assert!(problems(&out)[0].path.ends_with(SKIPPED));
    std::fs::write(out.join(SKIPPED), "").unwrap();

    let manifest = out.join(MANIFEST);
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("hours = 0", "hours = 9")).unwrap();
    assert!(problems(&out)[0].detail.contains("changed after it was sealed"));
    assert!(Corpus::open(&out).is_err());
}

#[test]
fn other_versions_and_unfinished_corpora_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = corpus(dir.path(), 1);
    let body = crate::files::read_sealed(&out.join(MANIFEST)).unwrap();
    crate::files::write_sealed(&out.join(MANIFEST), &body.replace("version = 1", "version = 2")).unwrap();
    let error = Corpus::open(&out).unwrap_err().to_string();
    assert!(error.contains("corpus version 1") && error.contains("corpus version 2"), "{error}");
    std::fs::remove_file(out.join(MANIFEST)).unwrap();
    assert!(Corpus::open(&out).unwrap_err().to_string().contains("holds no corpus.toml"));
    std::fs::create_dir(out.join(".prep")).unwrap();
    assert!(Corpus::open(&out).unwrap_err().to_string().contains("goes on where it stopped"));
    assert!(verify(&out, &mut |_, _| {}).is_err());
    let missing = Corpus::open(&dir.path().join("nothing")).unwrap_err().to_string();
    assert!(missing.contains("no such directory"), "{missing}");
}
