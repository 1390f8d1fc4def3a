//! Eight lanes in an array.

use super::HEADS;
use super::blocked::blocked;
use super::body::{WIDEST, level};
use crate::kernels::convert::scalar::{bf16_widen, f16_widen};

type Array = [f32; 8];

level! {
    Array,
    {
        1 => 1, 4, [2, 1];
        2 => 2, 4, [2, 1];
        3 => 4, 2, [1];
        4 => 4, 2, [1];
        5 => 8, 1, [1];
        6 => 8, 1, [1];
        7 => 8, 1, [1];
        8 => 8, 1, [1];
    }
}

blocked! {
    Array,
    4, 4
}

/// Coefficients of `2^r` for `|r| <= 1/2`, from the sixth power down: the minimax polynomial of Cephes' `exp2f`
/// (Moshier, `floats.shar`), relative error below 2^-22.
pub(super) const EXP2: [f32; 7] = [
    1.535_336_2e-4,
    1.339_887_4e-3,
    9.618_437e-3,
    5.550_332_5e-2,
    2.402_264_8e-1,
    core::f32::consts::LN_2,
    1.0,
];

#[inline(always)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an exponent within -126..=0")]
fn exp2(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    if x < -126.0 {
        return 0.0;
    }
    let n = libm::rintf(x);
    let p = EXP2.into_iter().fold(0.0, |p, c| p * (x - n) + c);
    p * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

#[inline(always)]
fn each(mut x: Array, y: Array, f: impl Fn(f32, f32) -> f32) -> Array {
    for (x, y) in x.iter_mut().zip(y) {
        *x = f(*x, y);
    }
    x
}

// SAFETY of every block below: what pointers reach is the caller's promise; reads and writes are unaligned.
impl Vector for Array {
    const N: usize = 8;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        [x; 8]
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        each(self, other, |x, y| x + y)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        each(self, other, |x, y| x - y)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        each(self, other, |x, y| x * y)
    }

    #[inline(always)]
    fn fma(self, a: Self, b: Self) -> Self {
        self.add(a.mul(b))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        each(self, other, |x, y| if x > y { x } else { y })
    }

    #[inline(always)]
    fn exp2(self) -> Self {
        self.map(exp2)
    }

    #[inline(always)]
    fn finite_or_zero(self) -> Self {
        self.map(|x| if x == f32::NEG_INFINITY { 0.0 } else { x })
    }

    #[inline(always)]
    fn sums(rows: &[Self; WIDEST]) -> Self {
        let mut sums = [0.0; 8];
        for (sum, [a, b, c, d, e, f, g, h]) in sums.iter_mut().zip(rows) {
            *sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
        }
        sums
    }

    #[inline(always)]
    fn swap(self, distance: usize) -> Self {
        let mut x = self;
        for (i, x) in x.iter_mut().enumerate() {
            *x = self[i ^ distance];
        }
        x
    }

    #[inline(always)]
    fn spread(x: &[f32; HEADS], width: usize) -> Self {
        let mut y = [0.0; 8];
        for (i, y) in y.iter_mut().enumerate() {
            *y = x[i % width];
        }
        y
    }

    #[inline(always)]
    fn first(self) -> [f32; HEADS] {
        self
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { p.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: see above.
        unsafe { p.cast::<Self>().write_unaligned(self) };
    }

    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> Self {
        let mut x = [0.0; 8];
        for (i, x) in x.iter_mut().enumerate().take(n) {
            // SAFETY: see above.
            *x = unsafe { p.add(i).read_unaligned() };
        }
        x
    }

    #[inline(always)]
    unsafe fn f32(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self::f32_part(p, 8) }
    }

    #[inline(always)]
    unsafe fn f32_part(p: *const u8, n: usize) -> Self {
        let mut x = [0.0; 8];
        for (i, x) in x.iter_mut().enumerate().take(n) {
            // SAFETY: see above.
            *x = f32::from_le_bytes(unsafe { p.add(4 * i).cast::<[u8; 4]>().read() });
        }
        x
    }

    #[inline(always)]
    unsafe fn f16(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self::f16_part(p, 8) }
    }

    #[inline(always)]
    unsafe fn f16_part(p: *const u8, n: usize) -> Self {
        let mut x = [0.0; 8];
        for (i, x) in x.iter_mut().enumerate().take(n) {
            // SAFETY: see above.
            *x = f16_widen(unsafe { word(p.add(2 * i)) });
        }
        x
    }

    #[inline(always)]
    unsafe fn bf16(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { Self::bf16_part(p, 8) }
    }

    #[inline(always)]
    unsafe fn bf16_part(p: *const u8, n: usize) -> Self {
        let mut x = [0.0; 8];
        for (i, x) in x.iter_mut().enumerate().take(n) {
            // SAFETY: see above.
            *x = bf16_widen(unsafe { word(p.add(2 * i)) });
        }
        x
    }

    #[inline(always)]
    unsafe fn i8(p: *const u8) -> Self {
        // SAFETY: see above.
        unsafe { p.cast::<[i8; 8]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn f16_splat(p: *const u8) -> Self {
        // SAFETY: see above.
        [f16_widen(unsafe { word(p) }); 8]
    }
}

/// # Safety
/// 2 bytes at `p` can be read.
#[inline(always)]
unsafe fn word(p: *const u8) -> u16 {
    // SAFETY: the caller's promise.
    u16::from_le_bytes(unsafe { p.cast::<[u8; 2]>().read() })
}
