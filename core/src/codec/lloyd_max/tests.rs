use super::*;
use crate::codec::{CodecSpec, Quantizer, prepare};
use crate::cpu::Level;
use crate::num::rng::Xoshiro256pp;
use crate::rotate::lloyd_max::Grid;
use std::boxed::Box;
use std::string::String;
use std::{format, vec, vec::Vec};

const BITS: [u8; 6] = [2, 3, 4, 5, 6, 8];

fn codec(spec: &str, head_dim: usize, dtype: DType) -> Box<dyn TileCodec> {
    let spec = spec.parse().unwrap();
    let side = Side::make(spec, head_dim, 11, None).unwrap();
    prepare(spec, head_dim, dtype, &side).unwrap()
}

fn concrete(spec: &str, head_dim: usize, dtype: DType) -> LloydMax {
    let spec: CodecSpec = spec.parse().unwrap();
    let side = Side::make(spec, head_dim, 11, None).unwrap();
    let Quantizer::LloydMax { bits, scale } = spec.quantizer else { panic!("{spec}") };
    LloydMax::new(bits, scale, spec.mean, head_dim, dtype, &side).unwrap()
}

fn encode(codec: &dyn TileCodec, rows: &[u8], n_rows: usize) -> Result<Vec<u8>, CodecError> {
    let mut floats = vec![f32::NAN; codec.workspace(n_rows).floats];
    let mut out = vec![0xaa; codec.bound(n_rows)];
    let mut ws = Workspace { floats: &mut floats, bytes: &mut [], coder: None };
    let n = codec.encode(rows, &mut out, &mut ws)?;
    assert_eq!(n, out.len());
    Ok(out)
}

fn decode(codec: &dyn TileCodec, code: &[u8], len: usize, n_rows: usize) -> Result<Vec<u8>, CodecError> {
    let mut floats = vec![f32::NAN; codec.workspace(n_rows).floats];
    let mut rows = vec![0xaa; len];
    let mut ws = Workspace { floats: &mut floats, bytes: &mut [], coder: None };
    codec.decode(code, &mut rows, &mut ws)?;
    Ok(rows)
}

fn stored(dtype: DType, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes_for(x.len()).unwrap()];
    convert::from_f32(dtype, x, &mut bytes).unwrap();
    bytes
}

fn floats(dtype: DType, bytes: &[u8], n: usize) -> Vec<f32> {
    let mut x = vec![0.0; n];
    convert::to_f32(dtype, bytes, &mut x).unwrap();
    x
}

/// Sums of twelve uniform numbers: near enough to normal.
#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn normal(rng: &mut Xoshiro256pp, n: usize) -> Vec<f32> {
    (0..n).map(|_| ((0..12).map(|_| rng.f64()).sum::<f64>() - 6.0) as f32).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}

/// Round trip through the type; the input as stored and what came back.
fn round_trip(spec: &str, d: usize, dtype: DType, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let codec = codec(spec, d, dtype);
    let rows = stored(dtype, x);
    let code = encode(&*codec, &rows, x.len() / d).unwrap();
    let back = decode(&*codec, &code, rows.len(), x.len() / d).unwrap();
    (floats(dtype, &rows, x.len()), floats(dtype, &back, x.len()))
}

#[test]
fn error_is_the_grids_distortion_at_every_head_dim() {
    let mut rng = Xoshiro256pp::new(1);
    for d in [32, 64, 80, 96, 100, 128, 192, 256, 320, 512, 1024] {
        let x = normal(&mut rng, 65536 / d * d);
        for bits in BITS {
            let (x, y) = round_trip(&format!("had+lm{bits}"), d, DType::F32, &x);
            let got = squared_error(&x, &y) / dot(&x, &x);
            let want = Grid::unit_normal(bits).unwrap().distortion();
            // Short rows are a little easier: their largest coordinate is bounded by their norm.
            assert!(
                (got / want - 1.0).abs() < 0.03 + 1.5 / d as f64,
                "d = {d}, {bits} bits: {got} for {want}"
            );
        }
    }
}

#[test]
fn outlier_channels_do_not_raise_the_error() {
    let mut rng = Xoshiro256pp::new(2);
    let mut x = normal(&mut rng, 64 * 512);
    x.chunks_mut(64).for_each(|row| row[7] *= 40.0);
    let (x, y) = round_trip("had+lm4", 64, DType::F16, &x);
    let got = squared_error(&x, &y) / dot(&x, &x);
    assert!(got < 0.013, "{got}");
}

#[test]
fn least_squares_is_never_worse_and_unbiased_keeps_products() {
    let mut rng = Xoshiro256pp::new(3);
    for d in [64, 96, 128] {
        let x = normal(&mut rng, d * 64);
        for bits in BITS {
            let error = |suffix: &str| {
                let (x, y) = round_trip(&format!("had+lm{bits}{suffix}"), d, DType::F32, &x);
                let rows = x.chunks(d).zip(y.chunks(d));
                rows.map(|(x, y)| (squared_error(x, y), dot(x, y) / dot(x, x), dot(x, x))).collect::<Vec<_>>()
            };
            let (norm, ls, unbiased) = (error(""), error("+ls"), error("+unbiased"));
            for ((norm, ls), unbiased) in norm.iter().zip(&ls).zip(&unbiased) {
                // The stored ratio has 11 bits, so scales are off by 2^-12.
                assert!(
                    ls.0 <= norm.0 + 2f64.powi(-24) * ls.2 * 4.0,
                    "d = {d}, {bits} bits: {ls:?} against {norm:?}"
                );
                assert!((unbiased.1 - 1.0).abs() < 1e-3, "d = {d}, {bits} bits: {unbiased:?}");
            }
        }
    }
}

#[test]
fn mean_removes_what_all_rows_share() {
    let mut rng = Xoshiro256pp::new(4);
    for d in [64, 100] {
        let offset = normal(&mut rng, d);
        let mut x = normal(&mut rng, d * 256);
        x.chunks_mut(d)
            .for_each(|row| row.iter_mut().zip(&offset).for_each(|(x, o)| *x = *x * 0.1 + 8.0 * o));
        for dtype in [DType::F16, DType::F32] {
            let (a, b) = round_trip("had+lm4", d, dtype, &x);
            let (c, e) = round_trip("mean+had+lm4", d, dtype, &x);
            assert!(squared_error(&c, &e) * 100.0 < squared_error(&a, &b), "d = {d}, {dtype}");
        }
    }
}

/// Everything that could differ: each level against the portable one, on rows of every kind.
#[test]
fn all_levels_give_the_same_bytes() {
    let mut rng = Xoshiro256pp::new(5);
    for d in [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 48, 64, 80, 96, 100, 128, 192, 256, 300, 512, 1024] {
        let n_rows = 9;
        let mut x = normal(&mut rng, d * n_rows);
        x[d..2 * d].fill(0.0);
        x[2 * d..3 * d].fill(-1.5);
        x[3 * d..4 * d].iter_mut().for_each(|x| *x *= 1e-7);
        x[4 * d..5 * d].iter_mut().for_each(|x| *x *= 6000.0);
        for dtype in [DType::F16, DType::Bf16, DType::F32, DType::F8E4m3, DType::Q8_0] {
            if dtype == DType::F32 {
                x[5 * d..6 * d].iter_mut().for_each(|x| *x *= 1e-40);
                x[6 * d..7 * d].iter_mut().for_each(|x| *x *= 1e37);
            }
            let Some(len) = dtype.bytes_for(d) else { continue };
            let rows = stored(dtype, &x);
            for bits in BITS {
                for spec in ["had+lm#", "mean+had+lm#", "had+lm#+ls", "had+lm#+unbiased"] {
                    let spec: String = spec.replace('#', &format!("{bits}"));
                    let codec = concrete(&spec, d, dtype);
                    let mut floats = vec![f32::NAN; codec.workspace(n_rows).floats];
                    let mut at = |level| {
                        let ws = &mut Workspace { floats: &mut floats, bytes: &mut [], coder: None };
                        let (mut code, mut back) =
                            (vec![0xaa; codec.bound(n_rows)], vec![0xaa; n_rows * len]);
                        codec.encode_at(level, &rows, &mut code, ws).unwrap();
                        codec.decode_at(level, &code, &mut back, ws).unwrap();
                        (code, back)
                    };
                    let want = at(Level::Scalar);
                    for level in cpu::levels().skip(1) {
                        let (code, back) = at(level);
                        assert!(want.0 == code, "codes of {spec}, d = {d}, {dtype} at {level}");
                        assert!(want.1 == back, "rows of {spec}, d = {d}, {dtype} at {level}");
                    }
                }
            }
        }
    }
}

/// The module's text in `f64`, from the bytes alone.
fn reference(spec: &str, d: usize, n_rows: usize, code: &[u8]) -> Vec<f64> {
    let spec = spec.parse().unwrap();
    let side = Side::make(spec, d, 11, None).unwrap();
    let bits = side.grid.len().ilog2() as usize;
    let f16 = |at: usize| f64::from(half::f16::from_le_bytes([code[at], code[at + 1]]).to_f32());
    let f32 = |at: usize| f64::from(f32::from_le_bytes(code[at..at + 4].try_into().unwrap()));
    let (mut at, mut mean) = (0, vec![0.0; d]);
    if spec.mean {
        mean = (0..d).map(|i| f32(0) * f16(4 + 2 * i)).collect();
        at = 4 + 2 * d;
    }
    let codes = at + 4 + 2 * n_rows;
    let row_bytes = (d * bits).div_ceil(8);
    assert_eq!(code.len(), codes + n_rows * row_bytes);
    let p = 1 << d.ilog2();
    let window = |z: &mut [f64]| {
        let mut h = 1;
        while h < p {
            for i in (0..p).filter(|i| i & h == 0) {
                (z[i], z[i + h]) = (z[i] + z[i + h], z[i] - z[i + h]);
            }
            h *= 2;
        }
        z.iter_mut().for_each(|z| *z /= (p as f64).sqrt());
    };
    let mut rows = vec![];
    for row in 0..n_rows {
        let bit = |k: usize| code[codes + row * row_bytes + k / 8] >> (k % 8) & 1;
        let mut z: Vec<f64> = (0..d)
            .map(|j| (0..bits).fold(0, |c, b| c | usize::from(bit(j * bits + b)) << b))
            .map(|c| f64::from(side.grid[c]))
            .collect();
        for k in d * bits..8 * row_bytes {
            assert_eq!(bit(k), 0, "padding");
        }
        if p < d {
            window(&mut z[d - p..]);
        }
        window(&mut z[..p]);
        let s = f32(at) * f16(at + 4 + 2 * row);
        for (j, z) in z.iter().enumerate() {
            let sign = if side.signs[j / 8] >> (j % 8) & 1 == 1 { -1.0 } else { 1.0 };
            rows.push(z * sign * s + mean[j]);
        }
    }
    rows
}

#[test]
fn decoding_follows_the_description_to_float_precision() {
    let mut rng = Xoshiro256pp::new(6);
    for d in [1, 5, 16, 24, 64, 80, 100, 128, 192, 256, 512] {
        for spec in ["had+lm2", "had+lm3", "mean+had+lm4", "had+lm5+ls", "had+lm6", "mean+had+lm8+unbiased"] {
            let x = normal(&mut rng, 5 * d);
            let codec = codec(spec, d, DType::F32);
            let code = encode(&*codec, &stored(DType::F32, &x), 5).unwrap();
            let back = decode(&*codec, &code, 5 * d * 4, 5).unwrap();
            let (got, want) = (floats(DType::F32, &back, 5 * d), reference(spec, d, 5, &code));
            for (row, (got, want)) in got.chunks(d).zip(want.chunks(d)).enumerate() {
                // Up to 2 * 10 stages and four products round once each, on sums no larger than the row's norm.
                let norm = want.iter().map(|w| w * w).sum::<f64>().sqrt().max(1.0);
                for (g, w) in got.iter().zip(want) {
                    let bound = 24.0 * 2f64.powi(-24) * norm * 2.0;
                    assert!((f64::from(*g) - w).abs() <= bound, "{spec}, d = {d}, row {row}: {g} for {w}");
                }
            }
        }
    }
}

#[test]
fn special_rows_are_as_documented() {
    for d in [64, 100] {
        for spec in ["had+lm4", "mean+had+lm4", "had+lm2+ls", "had+lm8+unbiased"] {
            let (_, y) = round_trip(spec, d, DType::F16, &vec![0.0; 3 * d]);
            assert!(y.iter().all(|y| *y == 0.0), "{spec}: zeros");
            let c = codec(spec, d, DType::F16);
            assert_eq!(encode(&*c, &[], 0), Ok(vec![]));
            assert_eq!(decode(&*c, &[], 0, 0), Ok(vec![]));
            for bad in [f32::NAN, f32::INFINITY] {
                let mut rows = stored(DType::F16, &vec![1.0; 3 * d]);
                let bytes = half::f16::from_f32(bad).to_le_bytes();
                rows[2 * (2 * d - 1)..4 * d].copy_from_slice(&bytes);
                assert_eq!(encode(&*c, &rows, 3), Err(CodecError::NonFinite { row: 1 }), "{spec}");
            }
        }
        // The mean of equal rows is the row.
        let (x, y) = round_trip("mean+had+lm2", d, DType::F16, &vec![3.25; 4 * d]);
        assert_eq!(x, y);
        // Largest and smallest magnitudes.
        for scale in [1e-42, 1e-30, 1e30, 1e38] {
            let mut rng = Xoshiro256pp::new(8);
            let x: Vec<f32> = normal(&mut rng, d).iter().map(|x| x * 0.3 * scale).collect();
            let (x, y) = round_trip("had+lm8", d, DType::F32, &x);
            let relative = squared_error(&x, &y) / dot(&x, &x);
            assert!(relative < 2e-4, "{scale}: {relative}");
        }
        let (_, y) = round_trip("had+lm2", d, DType::F16, &vec![65504.0; d]);
        assert!(y.iter().all(|y| y.is_finite()));
    }
}

#[test]
fn damaged_tiles_are_refused_and_never_panic() {
    let mut rng = Xoshiro256pp::new(9);
    let c = codec("mean+had+lm3", 24, DType::F16);
    let rows = stored(DType::F16, &normal(&mut rng, 24 * 4));
    let code = encode(&*c, &rows, 4).unwrap();
    for len in 0..code.len() {
        assert!(matches!(decode(&*c, &code[..len], rows.len(), 4), Err(CodecError::Corrupt { .. })));
    }
    for i in 0..code.len() * 8 {
        let mut bad = code.clone();
        bad[i / 8] ^= 1 << (i % 8);
        if let Ok(rows) = decode(&*c, &bad, rows.len(), 4) {
            assert!(floats(DType::F16, &rows, 24 * 4).iter().all(|x| x.is_finite()));
        }
    }
    let at = 4 + 2 * 24;
    for (place, bytes) in [(0, f32::NAN), (at, f32::INFINITY), (at, -1.0)] {
        let mut bad = code.clone();
        bad[place..place + 4].copy_from_slice(&bytes.to_le_bytes());
        assert!(matches!(decode(&*c, &bad, rows.len(), 4), Err(CodecError::Corrupt { .. })));
    }
    let mut ws = Workspace { floats: &mut [], bytes: &mut [], coder: None };
    assert!(matches!(c.encode(&rows, &mut [0; 999], &mut ws), Err(CodecError::ShortBuffer { got: 0, .. })));
    assert!(matches!(c.encode(&rows, &mut [0; 9], &mut ws), Err(CodecError::ShortBuffer { got: 9, .. })));
    assert!(matches!(c.encode(&rows[1..], &mut [0; 999], &mut ws), Err(CodecError::Corrupt { .. })));
}

#[test]
fn sides_that_do_not_fit_are_refused() {
    let spec = "had+lm4".parse().unwrap();
    let good = Side::make(spec, 64, 1, None).unwrap();
    assert!(prepare(spec, 64, DType::F16, &good).is_ok());
    let refused = |d: usize, dtype, side: &Side| {
        assert!(matches!(prepare(spec, d, dtype, side), Err(CodecError::Unsupported { .. })));
    };
    refused(72, DType::F16, &good);
    refused(1025, DType::F16, &good);
    refused(48, DType::Q8_0, &Side::make(spec, 48, 1, None).unwrap());
    let other = Side::make("had+lm3".parse().unwrap(), 64, 1, None).unwrap();
    refused(64, DType::F16, &other);
    refused(64, DType::F16, &Side::default());
}
