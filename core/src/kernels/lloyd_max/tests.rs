use super::*;
use crate::cpu;
use crate::num::rng::Xoshiro256pp;
use crate::rotate::Rotation;
use crate::rotate::lloyd_max::Grid;
use std::{vec, vec::Vec};

#[allow(clippy::cast_possible_truncation, reason = "grids are kept as f32")]
fn quantizer(bits: u8) -> Quantizer {
    let grid: Vec<f32> = Grid::unit_normal(bits).unwrap().levels().iter().map(|x| *x as f32).collect();
    Quantizer::new(bits.into(), &grid).unwrap()
}

/// The definition, one row at a time in `f64`: the nearest level of each coordinate, unless two are equally near
/// within the error of `f32` and of the fixed-point numbers.
fn assert_nearest(rotation: &Rotation, x: &[f32], quantizer: &Quantizer, codes: &[u8]) {
    let mut y = x.to_vec();
    rotation.forward(&mut y);
    let power: f64 = y.iter().map(|y| f64::from(*y).powi(2)).sum();
    let rms = (power / f64::from(u32::try_from(x.len()).unwrap())).sqrt();
    let levels = &quantizer.levels[..1 << quantizer.nbits];
    let mut got = vec![0; x.len()];
    crate::kernels::bits::unpack_bits(cpu::Level::Scalar, quantizer.nbits, codes, &mut got);
    for (y, code) in y.iter().zip(got) {
        let u = f64::from(*y) / rms;
        let distance = |l: &f32| (f64::from(*l) - u).abs();
        let nearest = levels.iter().map(distance).fold(f64::INFINITY, f64::min);
        let chosen = distance(&levels[usize::from(code)]);
        assert!(chosen - nearest < 3.0 / f64::from(quantizer.one), "{u} became {code}");
    }
}

#[test]
#[allow(clippy::cast_possible_truncation, reason = "test data")]
fn codes_are_the_nearest_levels_at_every_level_count_and_offset() {
    let mut rng = Xoshiro256pp::new(17);
    for d in [64, 72, 128, 256] {
        let rotation = Rotation::new(d, 3).unwrap();
        for n in [0, 1, 2, 15, 16, 17, 31, 33] {
            for offset in [0, 1, 3] {
                for nbits in [2, 3, 4, 5, 6, 8] {
                    let q = quantizer(nbits);
                    let shape =
                        Shape { head_dim: d, signs: rotation.sign_masks(), mean: None, quantizer: &q };
                    let row_bytes = q.row_bytes(d);
                    let x: Vec<f32> = (0..n * d).map(|_| (rng.f64() + rng.f64() - 1.0) as f32).collect();
                    let mut src = vec![0; offset];
                    x.iter().for_each(|x| src.extend(x.to_ne_bytes()));
                    let mut portable = None;
                    for level in cpu::levels() {
                        let mut codes = vec![0xaa; offset + n * row_bytes + 1];
                        let mut scales = vec![0.0; n];
                        let end = codes.len() - 1;
                        let inner = &mut codes[offset..end];
                        encode(level, &shape, Plain::F32, Fit::Norm, &src[offset..], &mut scales, inner)
                            .unwrap();
                        assert_eq!(codes[end], 0xaa, "{level} wrote past the end");
                        for (x, codes) in x.chunks(d).zip(codes[offset..].chunks(row_bytes)) {
                            assert_nearest(&rotation, x, &q, codes);
                        }
                        let mut rows = vec![0xaa; offset + n * d * 2 + 1];
                        let end = rows.len() - 1;
                        let inner = &codes[offset..offset + n * row_bytes];
                        decode(level, &shape, Plain::F16, &scales, inner, &mut rows[offset..end]);
                        assert_eq!(rows[end], 0xaa, "{level} wrote past the end");
                        match &portable {
                            None => portable = Some((codes, scales, rows)),
                            Some(p) => assert!(*p == (codes, scales, rows), "{level}, d = {d}, n = {n}"),
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_row_that_is_not_finite_is_named() {
    let q = quantizer(4);
    for (d, bad) in [(64, f32::NAN), (64, f32::INFINITY), (20, f32::NEG_INFINITY)] {
        let rotation = Rotation::new(d, 3).unwrap();
        let shape = Shape { head_dim: d, signs: rotation.sign_masks(), mean: None, quantizer: &q };
        for row in [0, 1, 15, 16, 39] {
            let mut x = vec![1.0f32; 40 * d];
            x[row * d + 7] = bad;
            x[39 * d..].fill(bad);
            let src: Vec<u8> = x.iter().flat_map(|x| x.to_ne_bytes()).collect();
            for level in cpu::levels() {
                let (mut scales, mut codes) = (vec![0.0; 40], vec![0; 40 * q.row_bytes(d)]);
                let got = encode(level, &shape, Plain::F32, Fit::Norm, &src, &mut scales, &mut codes);
                assert_eq!(got, Err(row), "{level}");
            }
        }
    }
}
