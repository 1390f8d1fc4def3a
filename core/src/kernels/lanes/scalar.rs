//! An array; what the compiler makes of it.

use super::{LANES, Lanes};
use crate::kernels::convert::scalar::{f16_narrow, f16_widen};

impl Lanes for [f32; LANES] {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        [x; LANES]
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self {
        *x
    }

    #[inline(always)]
    fn store(self, out: &mut [f32; LANES]) {
        *out = self;
    }

    #[inline(always)]
    fn add(mut self, other: Self) -> Self {
        self.iter_mut().zip(other).for_each(|(a, b)| *a += b);
        self
    }

    #[inline(always)]
    fn sub(mut self, other: Self) -> Self {
        self.iter_mut().zip(other).for_each(|(a, b)| *a -= b);
        self
    }

    #[inline(always)]
    fn mul(mut self, other: Self) -> Self {
        self.iter_mut().zip(other).for_each(|(a, b)| *a *= b);
        self
    }

    #[inline(always)]
    fn div(mut self, other: Self) -> Self {
        self.iter_mut().zip(other).for_each(|(a, b)| *a /= b);
        self
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        self.map(libm::sqrtf)
    }

    #[inline(always)]
    fn flip(mut self, masks: &[u32; LANES]) -> Self {
        self.iter_mut().zip(masks).for_each(|(a, m)| *a = f32::from_bits(a.to_bits() ^ m));
        self
    }

    #[inline(always)]
    fn butterfly<const H: usize>(mut self) -> Self {
        for i in (0..LANES).filter(|i| i & H == 0) {
            (self[i], self[i + H]) = (self[i] + self[i + H], self[i] - self[i + H]);
        }
        self
    }

    #[inline(always)]
    fn sum(mut self) -> f32 {
        for h in [8, 4, 2, 1] {
            for i in 0..h {
                self[i] += self[i + h];
            }
        }
        self[0]
    }

    #[inline(always)]
    fn from_f16(bytes: &[u8; 2 * LANES]) -> Self {
        let mut x = [0.0; LANES];
        x.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(x, b)| *x = f16_widen(u16::from_le_bytes(*b)));
        x
    }

    #[inline(always)]
    fn to_f16(self, bytes: &mut [u8; 2 * LANES]) {
        let x = self.clamp(65504.0);
        bytes.as_chunks_mut::<2>().0.iter_mut().zip(x).for_each(|(b, x)| *b = f16_narrow(x).to_le_bytes());
    }

    #[inline(always)]
    fn clamp(self, max: f32) -> Self {
        self.map(|x| x.clamp(-max, max))
    }
}
