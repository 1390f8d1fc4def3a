//! Error of decoded values against their source.
//!
//! Everything is summed in `f64` of exactly widened values: a difference, a square and an addition are each rounded
//! once, so a sum of `n` terms is off by at most `(n/16 + 6) * 2^-53` of itself, and nothing overflows. Element `i`
//! goes to accumulator `i % 16`; the sixteen are added in halves. That order is the same at every level, and so are
//! the sums.

mod scalar;

use crate::cpu::Level;
use crate::num::DType;

const LANES: usize = 16;

/// Sums over pairs of a source value and what it decoded to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ErrorSums {
    pub(crate) sum_sq_error: f64,
    pub(crate) sum_sq: f64,
    pub(crate) max_abs_error: f64,
}

/// Sixteen accumulators of each kind.
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
        ErrorSums { sum_sq_error: self.err[0], sum_sq: self.sq[0], max_abs_error: self.max[0] }
    }
}

/// A plain element type.
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
        half::f16::from_le_bytes([b[0], b[1]]).to_f32()
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;
    fn get(b: &[u8]) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)
    }
}

/// Sums over the elements of `dtype` stored in `x` (the source) and `y` (decoded).
///
/// # Panics
/// If `x` and `y` differ in length.
pub(crate) fn error_sums(level: Level, dtype: DType, x: &[u8], y: &[u8]) -> ErrorSums {
    assert_eq!(x.len(), y.len());
    let _ = level;
    match dtype {
        DType::F32 => scalar::error_sums::<F32>(x, y),
        DType::F16 => scalar::error_sums::<F16>(x, y),
        DType::Bf16 => scalar::error_sums::<Bf16>(x, y),
        _ => ErrorSums::default(),
    }
}
