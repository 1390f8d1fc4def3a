//! Rotations that spread energy evenly over coordinates, and the scalar grids that fit what comes out.
//!
//! # The rotation `had`
//!
//! A row `x` of `d` elements (1 to 1024) is multiplied by random signs, then by an orthonormal Walsh–Hadamard matrix
//! in natural (Sylvester) order. A coordinate of the result is a randomly signed sum of all elements, so its
//! distribution over the choice of signs is close to normal with variance `|x|^2 / d`, whatever `x` is: outlier
//! channels disappear and one fixed grid fits every row ([`lloyd_max`]).
//!
//! With `p` the largest power of two not above `d` and `r = 1/sqrt(p)` rounded to `f32`, the definition is
//!
//! 1. `x[i] = -x[i]` where sign bit `i` is 1;
//! 2. on the window `x[0..p]`: for `h = 1, 2, 4, ..., p/2` replace `(a, b) = (x[i], x[i+h])` by `(a + b, a - b)` for
//!    every `i` whose bit `h` is clear; then multiply the window by `r`;
//! 3. if `p < d`: step 2 once more on the window `x[d-p..d]`.
//!
//! The windows overlap when `d` is not a power of two, so that every output coordinate still mixes at least `p`
//! inputs. Each step is orthogonal; the inverse takes them in reverse order. Cost: `log2(p)` additions an element and
//! window, no memory beyond the row.
//!
//! Sign bits come from [`Xoshiro256pp`] with the given seed, 64 to a draw, least significant bit first.
//!
//! ```
//! let rotation = tersa_core::rotate::Rotation::new(96, 7).unwrap();
//! let mut row: Vec<f32> = (0..96u8).map(f32::from).collect();
//! rotation.forward(&mut row);
//! rotation.inverse(&mut row);
//! assert!((row[95] - 95.0).abs() < 1e-3);
//! ```

pub mod lloyd_max;

use crate::cpu;
use crate::kernels::hadamard::{self, inverse_root, windows};
use crate::num::rng::Xoshiro256pp;

/// The longest row a [`Rotation`] takes.
pub const MAX_DIM: usize = hadamard::MAX_DIM;

const SIGN: u32 = 1 << 31;

/// Random signs and Walsh–Hadamard windows for rows of one length: an orthogonal map fixed by its sign bits.
#[derive(Clone)]
pub struct Rotation {
    head_dim: usize,
    /// The sign bit of an `f32` where the element is negated, else 0; kernels XOR it in.
    signs: [u32; MAX_DIM],
}

/// `head_dim` is 0 or above [`MAX_DIM`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsupportedDim {
    /// The `head_dim` asked for.
    pub head_dim: usize,
}

impl core::fmt::Display for UnsupportedDim {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "rotations serve 1 to {MAX_DIM} elements a row, not {}", self.head_dim)
    }
}

impl core::error::Error for UnsupportedDim {}

impl Rotation {
    /// The rotation with signs drawn from `seed`.
    ///
    /// # Errors
    /// [`UnsupportedDim`] if `head_dim` is 0 or above [`MAX_DIM`].
    pub fn new(head_dim: usize, seed: u64) -> Result<Self, UnsupportedDim> {
        let mut rng = Xoshiro256pp::new(seed);
        let mut bits = [0; MAX_DIM / 8];
        for word in bits.chunks_exact_mut(8).take(head_dim.div_ceil(64)) {
            word.copy_from_slice(&rng.next_u64().to_le_bytes());
        }
        Self::from_signs(head_dim, &bits)
    }

    /// The rotation with given signs: bit `i % 8` of byte `i / 8` negates element `i`. Missing bytes are zeros,
    /// further ones are ignored.
    ///
    /// # Errors
    /// [`UnsupportedDim`] if `head_dim` is 0 or above [`MAX_DIM`].
    pub fn from_signs(head_dim: usize, bits: &[u8]) -> Result<Self, UnsupportedDim> {
        if head_dim == 0 || head_dim > MAX_DIM {
            return Err(UnsupportedDim { head_dim });
        }
        let mut signs = [0; MAX_DIM];
        for (i, s) in signs[..head_dim].iter_mut().enumerate() {
            let byte = bits.get(i / 8).copied().unwrap_or(0);
            *s = u32::from(byte >> (i % 8) & 1) * SIGN;
        }
        Ok(Self { head_dim, signs })
    }

    /// Elements of a row.
    #[must_use]
    pub const fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// The sign bits as [`from_signs`](Self::from_signs) takes them: `head_dim.div_ceil(8)` bytes.
    pub fn signs_bits(&self) -> impl ExactSizeIterator<Item = u8> + '_ {
        let byte = |group: &[u32]| group.iter().rev().fold(0, |byte, &s| byte << 1 | u8::from(s != 0));
        self.signs[..self.head_dim].chunks(8).map(byte)
    }

    /// `0x8000_0000` where an element is negated, else 0; zeros from `head_dim` on.
    pub(crate) const fn sign_masks(&self) -> &[u32; MAX_DIM] {
        &self.signs
    }

    /// Rotates rows of `head_dim` elements side by side, in place.
    ///
    /// # Panics
    /// If `rows` is not whole rows.
    pub fn forward(&self, rows: &mut [f32]) {
        self.assert_whole(rows);
        let (first, Some(second)) = windows(self.head_dim) else { return self.rotate(rows, false) };
        for row in rows.chunks_exact_mut(self.head_dim) {
            flip(row, self.sign_masks());
            orthonormal(&mut row[first.clone()]);
            orthonormal(&mut row[second.clone()]);
        }
    }

    /// Undoes [`forward`](Self::forward) up to rounding.
    ///
    /// # Panics
    /// If `rows` is not whole rows.
    pub fn inverse(&self, rows: &mut [f32]) {
        self.assert_whole(rows);
        let (first, Some(second)) = windows(self.head_dim) else { return self.rotate(rows, true) };
        for row in rows.chunks_exact_mut(self.head_dim) {
            orthonormal(&mut row[second.clone()]);
            orthonormal(&mut row[first.clone()]);
            flip(row, self.sign_masks());
        }
    }

    /// Rows of a power of two elements.
    fn rotate(&self, rows: &mut [f32], inverse: bool) {
        let signs = &self.signs[..self.head_dim];
        hadamard::rotate(cpu::level(), rows, signs, inverse_root(self.head_dim), inverse);
    }

    fn assert_whole(&self, rows: &[f32]) {
        assert!(
            rows.len().is_multiple_of(self.head_dim),
            "{} elements are not whole rows of {}",
            rows.len(),
            self.head_dim
        );
    }
}

impl core::fmt::Debug for Rotation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Rotation").field("head_dim", &self.head_dim).finish_non_exhaustive()
    }
}

fn flip(row: &mut [f32], masks: &[u32]) {
    for (x, m) in row.iter_mut().zip(masks) {
        *x = f32::from_bits(x.to_bits() ^ m);
    }
}

fn orthonormal(window: &mut [f32]) {
    let size = window.len();
    hadamard_blocks(window, size);
}

/// The orthonormal Walsh–Hadamard transform (natural order, no signs) of each consecutive block of `size` elements,
/// in place; its own inverse. This is what llama.cpp applies to rows of quantized caches, with `size` 64 or a larger
/// power of two.
///
/// # Panics
/// If `size` is not a power of two or does not divide `rows.len()`.
pub fn hadamard_blocks(rows: &mut [f32], size: usize) {
    hadamard::hadamard(cpu::level(), rows, size);
    let r = inverse_root(size);
    for x in rows {
        *x *= r;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{vec, vec::Vec};

    /// The definition in `f64`: the dense matrix of each window.
    fn reference(rotation: &Rotation, row: &[f32]) -> Vec<f64> {
        let d = rotation.head_dim();
        let bits: Vec<u8> = rotation.signs_bits().collect();
        let sign = |i: usize| if bits[i / 8] >> (i % 8) & 1 == 1 { -1.0 } else { 1.0 };
        let mut x: Vec<f64> = row.iter().enumerate().map(|(i, x)| f64::from(*x) * sign(i)).collect();
        let (first, second) = windows(d);
        for window in [Some(first), second].into_iter().flatten() {
            let p = window.len();
            let dense = |i: usize, x: &[f64]| -> f64 {
                let signed =
                    |(j, x): (usize, &f64)| if (i & j).count_ones().is_multiple_of(2) { *x } else { -*x };
                x.iter().enumerate().map(signed).sum()
            };
            let root = f64::from(u32::try_from(p).unwrap()).sqrt();
            let new: Vec<f64> = (0..p).map(|i| dense(i, &x[window.clone()]) / root).collect();
            x[window].copy_from_slice(&new);
        }
        x
    }

    #[allow(clippy::cast_possible_truncation, reason = "test data")]
    fn rows(n: usize) -> Vec<f32> {
        let mut rng = Xoshiro256pp::new(9);
        (0..n).map(|_| (rng.f64() * 2.0 - 1.0) as f32).collect()
    }

    #[test]
    fn rotation_matches_the_matrices_and_inverts() {
        for d in (1..=70).chain([80, 96, 100, 127, 128, 192, 255, 256, 320, 512, 1000, 1024]) {
            let rotation = Rotation::new(d, 42).unwrap();
            let x = rows(2 * d);
            let mut y = x.clone();
            rotation.forward(&mut y);
            for (x, y) in x.chunks(d).zip(y.chunks(d)) {
                // 2 * (log2 d + 2) roundings on sums of at most sqrt(d) times the largest element, times two
                let bound =
                    2f64.powi(-23) * f64::from(d.ilog2() + 2) * 2.0 * f64::from(d.ilog2() + 1).exp2().sqrt();
                for (got, want) in y.iter().zip(reference(&rotation, x)) {
                    assert!((f64::from(*got) - want).abs() < bound, "d = {d}: {got} for {want}");
                }
            }
            rotation.inverse(&mut y);
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 2e-5), "d = {d}");
        }
    }

    #[test]
    fn signs_are_fixed_by_the_seed_and_survive_their_bytes() {
        for d in [1, 7, 8, 9, 64, 100, 1024] {
            let a = Rotation::new(d, 5).unwrap();
            let bits: Vec<u8> = a.signs_bits().collect();
            assert_eq!(bits.len(), d.div_ceil(8));
            let b = Rotation::from_signs(d, &bits).unwrap();
            assert_eq!(a.sign_masks(), b.sign_masks());
        }
        let first = Xoshiro256pp::new(5).next_u64().to_le_bytes();
        assert!(Rotation::new(64, 5).unwrap().signs_bits().eq(first));
        // The same stream whatever the length, so a shorter row has a prefix of a longer one's signs.
        assert!(Rotation::new(32, 5).unwrap().signs_bits().eq(first[..4].iter().copied()));
    }

    #[test]
    fn impossible_dimensions_are_refused() {
        for head_dim in [0, 1025, usize::MAX] {
            assert_eq!(Rotation::new(head_dim, 1).err(), Some(UnsupportedDim { head_dim }));
        }
    }

    #[test]
    fn plain_hadamard_blocks_are_their_own_inverse() {
        let x = rows(256);
        for size in [1, 64, 128, 256] {
            let mut y = x.clone();
            hadamard_blocks(&mut y, size);
            assert!(size == 1 || x != y);
            hadamard_blocks(&mut y, size);
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-5), "size {size}");
        }
        let mut unit = vec![0.0; 64];
        unit[0] = 1.0;
        hadamard_blocks(&mut unit, 64);
        assert_eq!(unit, [0.125; 64]);
    }
}
