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
use crate::kernels::hadamard;
use crate::num::rng::Xoshiro256pp;
use core::ops::Range;

/// The longest row a [`Rotation`] takes.
pub const MAX_DIM: usize = 1024;

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
        let (first, second) = windows(self.head_dim);
        for row in rows.chunks_exact_mut(self.head_dim) {
            flip(row, self.sign_masks());
            orthonormal(&mut row[first.clone()]);
            if let Some(second) = second.clone() {
                orthonormal(&mut row[second]);
            }
        }
    }

    /// Undoes [`forward`](Self::forward) up to rounding.
    ///
    /// # Panics
    /// If `rows` is not whole rows.
    pub fn inverse(&self, rows: &mut [f32]) {
        self.assert_whole(rows);
        let (first, second) = windows(self.head_dim);
        for row in rows.chunks_exact_mut(self.head_dim) {
            if let Some(second) = second.clone() {
                orthonormal(&mut row[second]);
            }
            orthonormal(&mut row[first.clone()]);
            flip(row, self.sign_masks());
        }
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

/// The windows that the transform is applied to: `[0, p)`, and `[d-p, d)` unless `d` is a power of two.
pub(crate) fn windows(head_dim: usize) -> (Range<usize>, Option<Range<usize>>) {
    let p = 1 << head_dim.ilog2();
    (0..p, (p < head_dim).then(|| head_dim - p..head_dim))
}

/// `1/sqrt(p)`, rounded once.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "p is a small power of two")]
pub(crate) fn inverse_root(p: usize) -> f32 {
    (1.0 / libm::sqrt(p as f64)) as f32
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
