//! An array; what the compiler makes of it.

use super::{Head, How, Powers, add_to, counted, greatest_of, sum_of};
use crate::kernels::lanes::LANES;

type Scalar = [f32; LANES];

impl Powers for Scalar {
    #[inline(always)]
    fn from_u16(x: &[u16; LANES]) -> Self {
        x.map(f32::from)
    }

    #[inline(always)]
    fn max(mut self, other: Self) -> Self {
        self.iter_mut().zip(other).for_each(|(a, b)| *a = if *a > b { *a } else { b });
        self
    }

    #[inline(always)]
    fn raise(mut self, power: Self) -> Self {
        self.iter_mut()
            .zip(power)
            .for_each(|(a, p)| *a = f32::from_bits(a.to_bits().wrapping_add(p.to_bits() << 23)));
        self
    }
}

pub(super) fn greatest_u16(scores: &[u16]) -> f32 {
    greatest_of::<u16, Scalar>(scores)
}

pub(super) fn greatest_f32(scores: &[f32]) -> f32 {
    greatest_of::<f32, Scalar>(scores)
}

pub(super) fn sum_u16(scores: &[u16], head: Head) -> f64 {
    sum_of::<u16, Scalar>(scores, head)
}

pub(super) fn sum_f32(scores: &[f32], head: Head) -> f64 {
    sum_of::<f32, Scalar>(scores, head)
}

pub(super) fn add_u16(scores: &[u16], head: Head, how: How, out: &mut [f32]) {
    add_to::<u16, Scalar>(scores, head, how, out);
}

pub(super) fn add_f32(scores: &[f32], head: Head, how: How, out: &mut [f32]) {
    add_to::<f32, Scalar>(scores, head, how, out);
}

pub(super) fn sum_counted(powers: &[f32], counts: &[u32]) -> f64 {
    counted(powers, counts)
}
