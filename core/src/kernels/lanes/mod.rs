//! Sixteen `f32` lanes, so that a row algorithm is written once and has the same meaning at every level.
//!
//! Sixteen is the width of an AVX-512 register; AVX2 holds them in two registers, the portable form in an array.
//! Every operation is one IEEE operation on each lane, and [`Lanes::sum`] adds in one fixed tree, so all levels
//! give the same bits.
//!
//! [`avx2`] and [`avx512`] call feature-gated intrinsics from functions without those features, which is sound only
//! because their types are named by nothing but kernels that run after detection; everything is `inline(always)`, so
//! that the kernel's own `#[target_feature]` governs the code that comes out.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod scalar;

/// Lanes of a [`Lanes`].
pub(crate) const LANES: usize = 16;

/// Sixteen `f32`.
pub(crate) trait Lanes: Copy {
    fn splat(x: f32) -> Self;
    fn load(x: &[f32; LANES]) -> Self;
    fn store(self, out: &mut [f32; LANES]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
    /// XORs the lanes' bits.
    fn flip(self, masks: &[u32; LANES]) -> Self;
    /// The Hadamard stage `h`, one of 1, 2, 4, 8: lane `i` with bit `h` clear becomes `x[i] + x[i+h]`, lane `i+h`
    /// becomes `x[i] - x[i+h]`.
    fn butterfly<const H: usize>(self) -> Self;
    /// Lanes `i` and `i+8` first, then `i+4`, `i+2`, `i+1`.
    fn sum(self) -> f32;
    /// Widens little-endian binary16.
    fn from_f16(bytes: &[u8; 2 * LANES]) -> Self;
    /// Narrows finite or infinite lanes to the nearest binary16, ties to even, saturating at 65504.
    fn to_f16(self, bytes: &mut [u8; 2 * LANES]);
    /// Lanes beyond `max` in magnitude become `max` with their sign. No lane is a NaN.
    fn clamp(self, max: f32) -> Self;

    /// Widens bfloat16.
    #[inline(always)]
    fn from_bf16(bytes: &[u8; 2 * LANES]) -> Self {
        let mut x = [0.0; LANES];
        for (x, b) in x.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
        }
        Self::load(&x)
    }

    /// Narrows finite or infinite lanes to the nearest bfloat16, ties to even, saturating.
    #[inline(always)]
    fn to_bf16(self, bytes: &mut [u8; 2 * LANES]) {
        const MAX: f32 = f32::from_bits(0x7f7f_0000);
        let mut x = [0.0; LANES];
        self.clamp(MAX).store(&mut x);
        for (b, x) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(x) {
            let bits = x.to_bits();
            let [_, _, lo, hi] = (bits + 0x7fff + (bits >> 16 & 1)).to_le_bytes();
            *b = [lo, hi];
        }
    }
}

/// All stages of the Walsh–Hadamard transform of `16 * N` elements held in `N` registers, `N` a power of two.
#[inline(always)]
pub(crate) fn hadamard<V: Lanes, const N: usize>(z: &mut [V; N]) {
    for v in z.iter_mut() {
        *v = v.butterfly::<1>().butterfly::<2>().butterfly::<4>().butterfly::<8>();
    }
    // The strides are written out because a loop over them is not unrolled, and the registers spill.
    across::<V, N, 1>(z);
    across::<V, N, 2>(z);
    across::<V, N, 4>(z);
    across::<V, N, 8>(z);
}

/// The stage that pairs registers `S` apart; nothing if there are no more than `S`.
#[inline(always)]
fn across<V: Lanes, const N: usize, const S: usize>(z: &mut [V; N]) {
    if S < N {
        for i in 0..N {
            if i & S == 0 {
                (z[i], z[i + S]) = (z[i].add(z[i + S]), z[i].sub(z[i + S]));
            }
        }
    }
}

#[cfg(test)]
mod tests;
