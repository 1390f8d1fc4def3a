use super::*;
use crate::num::rng::Xoshiro256pp;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

#[path = "../../../tests/zstd_coder/mod.rs"]
mod zstd_coder;

use zstd_coder::Zstd;

fn encode(codec: &Lossless, rows: &[u8]) -> Vec<u8> {
    encode_at(cpu::level(), codec, rows)
}

fn encode_at(level: Level, codec: &Lossless, rows: &[u8]) -> Vec<u8> {
    let n_rows = rows.len() / codec.row_bytes;
    let (mut code, mut scratch) = (vec![0; codec.bound(n_rows)], vec![0; codec.workspace(n_rows).bytes]);
    let ws = &mut Workspace { floats: &mut [], bytes: &mut scratch, coder: Some(&mut Zstd::new(1)) };
    let len = codec.encode_at(level, rows, &mut code, ws).unwrap();
    code.truncate(len);
    code
}

fn decode(codec: &Lossless, code: &[u8], n_rows: usize) -> Result<Vec<u8>, CodecError> {
    let (mut rows, mut scratch) =
        (vec![0xAA; n_rows * codec.row_bytes], vec![0xAA; codec.workspace(n_rows).bytes]);
    let ws = &mut Workspace { floats: &mut [], bytes: &mut scratch, coder: Some(&mut Zstd::new(1)) };
    codec.decode(code, &mut rows, ws)?;
    Ok(rows)
}

/// Rows whose channels keep their scale over tokens, as f16.
fn channel_rows(n_rows: usize, head_dim: usize) -> Vec<u8> {
    let mut rng = Xoshiro256pp::new(1);
    (0..n_rows * head_dim)
        .flat_map(|i| {
            let channel = u16::try_from(i % head_dim).unwrap();
            let noise = u16::try_from(rng.below(512)).unwrap();
            (0x2000 + channel % 7 * 0x400 + channel % 2 * 0x8000 + noise).to_le_bytes()
        })
        .collect()
}

proptest! {
    #[test]
    fn every_bit_pattern_of_every_type_comes_back(
        type_index in 0..DType::ALL.len(),
        blocks in 1usize..4,
        n_rows in 0usize..70,
        seed: u64,
        distinct in 1u64..=256,
    ) {
        let dtype = DType::ALL[type_index];
        let codec = Lossless::new(blocks * 32, dtype).unwrap();
        let mut rng = Xoshiro256pp::new(seed);
        let rows: Vec<u8> =
            (0..n_rows * codec.row_bytes).map(|_| u8::try_from(rng.below(distinct)).unwrap()).collect();
        let code = encode(&codec, &rows);
        prop_assert!(code.len() <= codec.bound(n_rows));
        prop_assert_eq!(decode(&codec, &code, n_rows), Ok(rows));
    }

    #[test]
    fn damage_gives_an_error_or_other_rows_but_no_panic(at in 0usize..4000, bit in 0u8..8) {
        let codec = Lossless::new(64, DType::F16).unwrap();
        let mut code = encode(&codec, &channel_rows(64, 64));
        let at = at % code.len();
        code[at] ^= 1 << bit;
        let _ = decode(&codec, &code, 64);
    }
}

#[test]
fn noise_is_stored_and_channels_are_coded_less_their_bases() {
    let codec = Lossless::new(64, DType::F16).unwrap();
    let rows = channel_rows(256, 64);
    let code = encode(&codec, &rows);
    assert_eq!((code[0], code[HEAD + 256 * 64]), (RAW, CODED_LESS_BASES));
    let highest = code.len() - 2 * HEAD - 256 * 64;
    assert!(highest < 256 * 64 / 4, "{highest} bytes");
    // Too few rows to repay the bases.
    let code = encode(&codec, &rows[..31 * 128]);
    assert_eq!((code[0], code[HEAD + 31 * 64]), (RAW, CODED));
    // Noise everywhere: the subtraction is undone.
    let mut rng = Xoshiro256pp::new(2);
    let noise: Vec<u8> = (0..256 * 128).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
    let code = encode(&codec, &noise);
    assert_eq!((code[0], code[HEAD + 256 * 64], code.len()), (RAW, RAW, codec.bound(256)));
    assert_eq!(decode(&codec, &code, 256), Ok(noise));
}

#[test]
fn repeated_rows_are_found_in_the_low_plane() {
    let codec = Lossless::new(64, DType::F16).unwrap();
    let mut rng = Xoshiro256pp::new(4);
    let row: Vec<u8> = (0..128).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
    let code = encode(&codec, &row.repeat(40));
    assert_eq!(code[0], CODED);
    assert!(code.len() < 600, "{} bytes", code.len());
}

#[test]
fn tiles_are_the_same_at_every_level() {
    let rows = channel_rows(252, 80);
    let codec = Lossless::new(80, DType::F16).unwrap();
    let portable = encode_at(Level::Scalar, &codec, &rows);
    for level in cpu::levels() {
        assert!(encode_at(level, &codec, &rows) == portable, "{level}");
        let mut scratch = vec![0xAA; codec.workspace(252).bytes];
        let ws = &mut Workspace { floats: &mut [], bytes: &mut scratch, coder: Some(&mut Zstd::new(1)) };
        let mut back = vec![0xAA; rows.len()];
        codec.decode_at(level, &portable, &mut back, ws).unwrap();
        assert!(back == rows, "{level}");
    }
}

#[test]
fn truncated_and_extended_tiles_are_refused() {
    let codec = Lossless::new(64, DType::F16).unwrap();
    let mut code = encode(&codec, &channel_rows(32, 64));
    for len in 0..code.len() {
        assert!(matches!(decode(&codec, &code[..len], 32), Err(CodecError::Corrupt { .. })), "{len}");
    }
    code.push(0);
    assert!(matches!(decode(&codec, &code, 32), Err(CodecError::Corrupt { .. })));
}

#[test]
fn missing_coder_and_scratch_are_errors() {
    let codec = Lossless::new(64, DType::F16).unwrap();
    let rows = channel_rows(4, 64);
    let mut code = vec![0; codec.bound(4)];
    let ws = &mut Workspace { floats: &mut [], bytes: &mut [0; 1000], coder: None };
    assert_eq!(codec.encode(&rows, &mut code, ws), Err(CodecError::NoByteCoder));
    let ws = &mut Workspace { floats: &mut [], bytes: &mut [0; 511], coder: Some(&mut Zstd::new(1)) };
    let short = Err(CodecError::ShortBuffer { needed: 512, got: 511 });
    assert_eq!(codec.encode(&rows, &mut code, ws), short);
}

#[test]
fn noise_is_told_from_repeated_rows_and_uneven_bytes() {
    let mut rng = Xoshiro256pp::new(5);
    let noise: Vec<u8> = (0..MIN_SAMPLED / 8 * 4).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    assert!(is_noise(&noise, 64));
    assert!(!is_noise(&noise[..MIN_SAMPLED - 1], 64), "too short to tell");
    assert!(!is_noise(&noise, 7), "rows too short to tell");
    let mut repeated = noise.clone();
    let (from, to) = (64 * 11, 64 * 20);
    repeated.copy_within(from..from + 64, to);
    assert!(!is_noise(&repeated, 64));
    // One byte in 32 is zero: 7.87 bits a byte.
    let uneven: Vec<u8> =
        noise.iter().map(|b| if rng.next_u64().is_multiple_of(32) { 0 } else { *b }).collect();
    assert!(!is_noise(&uneven, 64));
    let narrow: Vec<u8> = noise.iter().map(|b| b & 0xf0).collect();
    assert!(!is_noise(&narrow, 64));
}
