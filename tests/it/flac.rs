//! Small audio files for tests.

#![allow(dead_code, reason = "unit and integration tests share it")]

use flacenc::component::BitRepr;
use flacenc::error::Verify;

/// A tone with some noise, 16 bit, at 16 kHz about speech level; `seed` makes it another one.
pub fn tone(samples: usize, seed: u32) -> Vec<i32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let pitch = 0.02 + f64::from(seed % 97) * 0.003;
    let mut sample = |i: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = f64::from(state >> 16) / 65_536.0 - 0.5;
        (6000.0 * (i as f64 * pitch).sin() + 900.0 * noise) as i32
    };
    (0..samples).map(&mut sample).collect()
}

/// A FLAC file of interleaved 16-bit samples, with MD5 and number of samples in its STREAMINFO.
pub fn flac(interleaved: &[i32], channels: usize, rate: usize) -> Vec<u8> {
    let mut config = flacenc::config::Encoder::default();
    config.block_size = 1024;
    let config = config.into_verified().expect("a valid configuration");
    let source = flacenc::source::MemSource::from_samples(interleaved, channels, 16, rate);
    let stream = flacenc::encode_with_fixed_block_size(&config, source, 1024).expect("the encoder works");
    let mut sink = flacenc::bitsink::ByteSink::new();
    stream.write(&mut sink).expect("memory takes the bytes");
    let mut file = sink.as_slice().to_vec();
    // The encoder counts the short last block in the smallest block size, which the format excludes
    // (RFC 9639, 8.2); the decoder then takes the stream for one of variable block size.
    file.copy_within(10..12, 8);
    file
}

/// Bytes of the MD5 in the STREAMINFO of a FLAC file.
pub const MD5: std::ops::Range<usize> = 26..42;

/// A WAV file of one channel; `format` is 1 (PCM, 16 bit) or 3 (f32).
pub fn wav(data: &[u8], format: u16, rate: u32) -> Vec<u8> {
    let bytes: u16 = if format == 1 { 2 } else { 4 };
    let size = u32::try_from(data.len()).expect("a small file");
    let mut file = Vec::new();
    file.extend(b"RIFF");
    file.extend((36 + size).to_le_bytes());
    file.extend(b"WAVEfmt ");
    file.extend(16u32.to_le_bytes());
    file.extend(format.to_le_bytes());
    file.extend(1u16.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend((rate * u32::from(bytes)).to_le_bytes());
    file.extend(bytes.to_le_bytes());
    file.extend((8 * bytes).to_le_bytes());
    file.extend(b"data");
    file.extend(size.to_le_bytes());
    file.extend(data);
    file
}
