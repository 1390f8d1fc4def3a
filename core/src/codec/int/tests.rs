use std::vec;
use std::vec::Vec;

use super::*;
use crate::num::rng::Xoshiro256pp;

/// Owned scratch memory for one codec.
struct Scratch {
    floats: Vec<f32>,
    bytes: Vec<u8>,
}

impl Scratch {
    fn new(codec: &Int, n_rows: usize) -> Self {
        let size = codec.workspace(n_rows);
        Self { floats: vec![f32::NAN; size.floats], bytes: vec![0xa5; size.bytes] }
    }

    fn lend(&mut self) -> Workspace<'_> {
        Workspace { floats: &mut self.floats, bytes: &mut self.bytes, coder: None }
    }
}

fn encode(codec: &Int, rows: &[u8]) -> Result<Vec<u8>, CodecError> {
    let n_rows = rows.len() / codec.row_bytes.max(1);
    let mut scratch = Scratch::new(codec, n_rows);
    let mut out = vec![0; codec.bound(n_rows)];
    let n = codec.encode(rows, &mut out, &mut scratch.lend())?;
    assert_eq!(n, out.len(), "the bound is exact");
    Ok(out)
}

fn decode(codec: &Int, code: &[u8], n_rows: usize) -> Result<Vec<u8>, CodecError> {
    let mut rows = vec![0x77; n_rows * codec.row_bytes];
    codec.decode(code, &mut rows, &mut Scratch::new(codec, n_rows).lend())?;
    Ok(rows)
}

fn stored(dtype: DType, x: &[f32]) -> Vec<u8> {
    let mut out = vec![0; dtype.bytes_for(x.len()).unwrap()];
    from_f32(dtype, x, &mut out).unwrap();
    out
}

fn widened(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    to_f32(dtype, bytes, &mut out).unwrap();
    out
}

fn values(n: usize, size: f32) -> Vec<f32> {
    let mut rng = Xoshiro256pp::new(n as u64);
    #[allow(clippy::cast_possible_truncation, reason = "test values")]
    (0..n).map(|i| (rng.f64() as f32 - 0.4) * size * if i % 7 == 0 { 8.0 } else { 1.0 }).collect()
}

const AXES: [GroupAxis; 2] = [GroupAxis::Channel, GroupAxis::Token];

#[test]
fn no_element_is_off_by_more_than_half_a_step() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        for size in [1e-30, 3e-5, 1.0, 700.0, 3e37] {
            for (axis, (n_rows, d)) in AXES.into_iter().zip([(70, 48), (40, 80)]) {
                for bits in [2, 4, 8] {
                    let codec = Int::new(bits, axis, 32, d, dtype).unwrap();
                    let rows = stored(dtype, &values(n_rows * d, size));
                    let x = widened(dtype, &rows);
                    let y = widened(dtype, &decode(&codec, &encode(&codec, &rows).unwrap(), n_rows).unwrap());
                    for (i, (x_i, y_i)) in x.iter().zip(&y).enumerate() {
                        let (row, c) = (i / d, i % d);
                        let group: Vec<f32> = match axis {
                            GroupAxis::Channel => (row / 32 * 32..(row / 32 * 32 + 32).min(n_rows))
                                .map(|r| x[r * d + c])
                                .collect(),
                            GroupAxis::Token => {
                                x[row * d + c / 32 * 32..row * d + (c / 32 * 32 + 32).min(d)].to_vec()
                            }
                        };
                        let lo = f64::from(group.iter().copied().fold(f32::INFINITY, f32::min));
                        let hi = f64::from(group.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                        // lo moves down and the scale up by at most 2^-10 each; narrowing costs up to 2^-9 (bf16).
                        let step =
                            (hi - lo + lo.abs() / 1024.0) / f64::from((1 << bits) - 1) * (1.0 + 1.0 / 1024.0);
                        let narrowing = f64::from(x_i.abs().max(y_i.abs()))
                            * if dtype == DType::F32 { 1e-6 } else { 1.0 / 256.0 };
                        let error = (f64::from(*x_i) - f64::from(*y_i)).abs();
                        assert!(
                            error <= step * 0.5001 + narrowing + 1e-7 * f64::from(dtype == DType::F16),
                            "int{bits} {axis:?} {dtype} size {size} element {i}: {x_i} -> {y_i}, step {step}"
                        );
                    }
                }
            }
        }
    }
}

/// The layout of the module's table, by hand.
#[test]
fn bytes_are_those_of_the_layout() {
    // Two rows of two channels, 4 bits. The largest magnitude 3 = 1.5 * 2^1, so e = 1 - 14 = -13 and values are
    // scaled by 2^13. Channel 0: 0 and 3, scale 3 * 2^13 / 15 = 1638.4, up to f16: 1639. Channel 1: -1 twice.
    let codec = Int::new(4, GroupAxis::Channel, 32, 2, DType::F32).unwrap();
    let code = encode(&codec, &stored(DType::F32, &[0.0, -1.0, 3.0, -1.0])).unwrap();
    let f16 = |x: f32| half::f16::from_f32(x).to_le_bytes();
    let mut expected = vec![(-13i8).to_le_bytes()[0]];
    for x in [0.0, -8192.0, 1639.0, 0.0] {
        expected.extend(f16(x));
    }
    expected.extend([0x00, 0x0f]);
    assert_eq!(code, expected);
    let rows = widened(DType::F32, &decode(&codec, &code, 2).unwrap());
    assert_eq!(rows, [0.0, -1.0, 15.0 * 1639.0 / 8192.0, -1.0]);
}

#[test]
fn constant_groups_come_back_exactly() {
    for axis in AXES {
        let codec = Int::new(2, axis, 64, 64, DType::F16).unwrap();
        let rows = stored(DType::F16, &[-0.3127; 64 * 5]);
        assert_eq!(decode(&codec, &encode(&codec, &rows).unwrap(), 5).unwrap(), rows);
        let zeros = vec![0; 64 * 5 * 2];
        assert_eq!(decode(&codec, &encode(&codec, &zeros).unwrap(), 5).unwrap(), zeros);
    }
}

#[test]
fn nothing_decodes_to_an_infinity() {
    for axis in AXES {
        for (dtype, max) in [(DType::F32, f32::MAX), (DType::Bf16, 3.389_531_4e38), (DType::F16, 65504.0)] {
            let codec = Int::new(2, axis, 32, 32, dtype).unwrap();
            let x: Vec<f32> = (0..32 * 32).map(|i| [max, -max, max / 3.0, 1.0][(i + i / 32) % 4]).collect();
            let rows = stored(dtype, &x);
            let y = widened(dtype, &decode(&codec, &encode(&codec, &rows).unwrap(), 32).unwrap());
            for (x, y) in x.iter().zip(&y) {
                assert!(
                    y.is_finite() && (f64::from(*x) - f64::from(*y)).abs() <= f64::from(max) / 2.9,
                    "{x} {y}"
                );
            }
        }
    }
}

#[test]
fn a_row_that_is_not_finite_is_named() {
    for axis in AXES {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = values(40 * 33, 1.0);
            x[17 * 33 + 5] = bad;
            let codec = Int::new(4, axis, 32, 33, DType::Bf16).unwrap();
            assert_eq!(encode(&codec, &stored(DType::Bf16, &x)), Err(CodecError::NonFinite { row: 17 }));
        }
    }
}

#[test]
fn tiles_without_elements_have_no_bytes() {
    for (d, n_rows) in [(0, 3), (8, 0)] {
        let codec = Int::new(8, GroupAxis::Token, 32, d, DType::F32).unwrap();
        assert_eq!(codec.bound(n_rows), 0);
        assert_eq!(encode(&codec, &vec![0; n_rows * codec.row_bytes]), Ok(vec![]));
        assert!(decode(&codec, &[], n_rows).is_ok());
        assert!(decode(&codec, &[0], n_rows).is_err());
    }
}

#[test]
fn damage_is_an_error_or_finite_values() {
    for axis in AXES {
        let codec = Int::new(4, axis, 32, 12, DType::F32).unwrap();
        let code = encode(&codec, &stored(DType::F32, &values(12 * 9, 3.0))).unwrap();
        for cut in 0..code.len() {
            assert!(matches!(decode(&codec, &code[..cut], 9), Err(CodecError::Corrupt { .. })));
        }
        for at in 0..code.len() {
            for flip in 1..=255 {
                let mut damaged = code.clone();
                damaged[at] ^= flip;
                match decode(&codec, &damaged, 9) {
                    Ok(rows) => assert!(widened(DType::F32, &rows).iter().all(|x| x.is_finite())),
                    Err(e) => assert!(matches!(e, CodecError::Corrupt { .. }), "{e}"),
                }
            }
        }
    }
}

#[test]
fn short_buffers_are_refused() {
    let codec = Int::new(4, GroupAxis::Token, 32, 8, DType::F32).unwrap();
    let rows = stored(DType::F32, &values(16, 1.0));
    let mut scratch = Scratch::new(&codec, 2);
    let mut out = vec![0; codec.bound(2)];
    let short = codec.encode(&rows, &mut out[1..], &mut scratch.lend());
    assert_eq!(short, Err(CodecError::ShortBuffer { needed: codec.bound(2), got: codec.bound(2) - 1 }));
    scratch.bytes.pop();
    assert!(matches!(
        codec.encode(&rows, &mut out, &mut scratch.lend()),
        Err(CodecError::ShortBuffer { .. })
    ));
}
