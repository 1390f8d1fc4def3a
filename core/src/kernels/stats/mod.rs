//! Error of decoded values against their source.
//!
//! Everything is summed in `f64` of exactly widened values: a difference, a square and an addition are each rounded
//! once, so a sum of `n` terms is off by at most `(n/16 + 6) * 2^-53` of itself, and nothing overflows. Element `i`
//! goes to accumulator `i % 16`; the sixteen are added in halves. That order is the same at every level, and so are
//! the sums. A NaN makes sums NaN and is skipped by the maximum.
//!
//! What saves operations without changing a bit: the square of a source value is exact in `f64`, so a fused
//! multiply-add rounds as a product and a sum do; and the root of the largest square is the largest magnitude, since
//! the root of a rounded square is the number itself (no square of differences here leaves `f64`'s range).
//!
//! Limit: 16 elements take three conversions of each side, and a difference, a product, two sums and a maximum for
//! each half: 16 operations on two ports, 8 cycles, or 12 GB/s of f16 source at 3 GHz, near the bandwidth of DRAM.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;
#[cfg(test)]
mod tests;

use crate::cpu::Level;
use crate::num::DType;
use crate::num::convert::{bf16_to_f32, f16_to_f32, to_f32};

const LANES: usize = 16;

/// Sums over pairs of a source value and what it decoded to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ErrorSums {
    pub(crate) sum_sq_error: f64,
    pub(crate) sum_sq: f64,
    pub(crate) max_abs_error: f64,
}

/// Sixteen accumulators of each kind; `max` is of squares.
#[derive(Clone, Copy, Default)]
struct Lanes {
    sq: [f64; LANES],
    err: [f64; LANES],
    max: [f64; LANES],
}

impl Lanes {
    fn total(mut self) -> ErrorSums {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                self.sq[i] += self.sq[i + half];
                self.err[i] += self.err[i + half];
                self.max[i] = self.max[i].max(self.max[i + half]);
            }
        }
        ErrorSums { sum_sq_error: self.err[0], sum_sq: self.sq[0], max_abs_error: libm::sqrt(self.max[0]) }
    }
}

/// The types that are widened in registers.
#[derive(Clone, Copy)]
enum Plain {
    F32,
    F16,
    Bf16,
}

/// One element of such a type.
trait Element {
    const BYTES: usize;
    fn get(bytes: &[u8]) -> f32;
}

struct F32;
struct F16;
struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;
    fn get(b: &[u8]) -> f32 {
        f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
}

impl Element for F16 {
    const BYTES: usize = 2;
    fn get(b: &[u8]) -> f32 {
        f16_to_f32(u16::from_le_bytes([b[0], b[1]]))
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;
    fn get(b: &[u8]) -> f32 {
        bf16_to_f32(u16::from_le_bytes([b[0], b[1]]))
    }
}

/// Sums over the elements of `dtype` stored in `x` (the source) and `y` (decoded). Types that are not widened in
/// registers go through the stack, 256 elements at a time, whose sums are added in order.
///
/// # Panics
/// If `x` and `y` differ in length or are not whole blocks.
pub(crate) fn error_sums(level: Level, dtype: DType, x: &[u8], y: &[u8]) -> ErrorSums {
    assert_eq!(x.len(), y.len());
    sums(level, dtype, x, Some(y))
}

/// The sum of squares alone: that of [`error_sums`], to the bit, for half the work.
///
/// # Panics
/// If `x` is not whole blocks.
pub(crate) fn square_sum(level: Level, dtype: DType, x: &[u8]) -> f64 {
    sums(level, dtype, x, None).sum_sq
}

fn sums(level: Level, dtype: DType, x: &[u8], y: Option<&[u8]>) -> ErrorSums {
    assert!(x.len().is_multiple_of(dtype.block_bytes()));
    match dtype {
        DType::F32 => plain_sums(level, Plain::F32, x, y),
        DType::F16 => plain_sums(level, Plain::F16, x, y),
        DType::Bf16 => plain_sums(level, Plain::Bf16, x, y),
        _ => {
            let bytes = STEP / dtype.block_len() * dtype.block_bytes();
            let (mut a, mut b) = ([0; STEP * 4], [0; STEP * 4]);
            let mut total = ErrorSums::default();
            for (i, x) in x.chunks(bytes).enumerate() {
                let n = widen(dtype, x, &mut a);
                let y = y.map(|y| &y[i * bytes..i * bytes + x.len()]);
                let y = y.map(|y| {
                    widen(dtype, y, &mut b);
                    &b[..n]
                });
                let sums = plain_sums(level, Plain::F32, &a[..n], y);
                total.sum_sq_error += sums.sum_sq_error;
                total.sum_sq += sums.sum_sq;
                total.max_abs_error = total.max_abs_error.max(sums.max_abs_error);
            }
            total
        }
    }
}

/// Elements of one pass over the stack; whole blocks of every type.
const STEP: usize = 256;

/// The elements of `src` as bytes of `f32` in `out`; how many bytes.
fn widen(dtype: DType, src: &[u8], out: &mut [u8; STEP * 4]) -> usize {
    let n = src.len() / dtype.block_bytes() * dtype.block_len();
    let mut values = [0.0; STEP];
    to_f32(dtype, src, &mut values[..n]).expect("the caller checked that `src` is whole blocks");
    for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(&values[..n]) {
        *out = x.to_le_bytes();
    }
    4 * n
}

fn plain_sums(level: Level, plain: Plain, x: &[u8], y: Option<&[u8]>) -> ErrorSums {
    match level {
        // SAFETY: `Level::Avx512` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::error_sums(plain, x, y) },
        // SAFETY: `Level::Avx2` exists only after detection saw every feature the kernel enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::error_sums(plain, x, y) },
        _ => scalar::error_sums(plain, x, y),
    }
}
