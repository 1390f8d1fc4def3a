use core::arch::x86_64::*;

use super::{ErrorSums, LANES, Lanes, Plain};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) fn error_sums(plain: Plain, x: &[u8], y: Option<&[u8]>) -> ErrorSums {
    match plain {
        Plain::F32 => sums::<4>(x, y, |b| {
            // SAFETY: lanes past the slice's end are masked and so not read.
            unsafe { _mm512_maskz_loadu_ps(first(b.len() / 4), b.as_ptr().cast()) }
        }),
        Plain::F16 => sums::<2>(x, y, |b| _mm512_cvtph_ps(load_words(b))),
        Plain::Bf16 => sums::<2>(x, y, |b| {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load_words(b))))
        }),
    }
}

/// The first `n` lanes, at most 16.
fn first(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}

/// Up to 16 words, zeros after them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn load_words(b: &[u8]) -> __m256i {
    // SAFETY: lanes past the slice's end are masked and so not read.
    unsafe { _mm256_maskz_loadu_epi16(first(b.len() / 2), b.as_ptr().cast()) }
}

/// The low and the high eight lanes, widened.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn widen(v: __m512) -> [__m512d; 2] {
    [_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(v))]
}

/// Sixteen running sums of each kind, in two registers each.
#[derive(Clone, Copy)]
struct Sums {
    sq: [__m512d; 2],
    err: [__m512d; 2],
    max: [__m512d; 2],
}

impl Sums {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn add(&mut self, x: __m512, y: __m512) {
        let (x, y) = (widen(x), widen(y));
        for h in 0..2 {
            let d = _mm512_sub_pd(x[h], y[h]);
            let d = _mm512_mul_pd(d, d);
            self.sq[h] = _mm512_fmadd_pd(x[h], x[h], self.sq[h]);
            self.err[h] = _mm512_add_pd(self.err[h], d);
            self.max[h] = _mm512_max_pd(d, self.max[h]);
        }
    }

    /// As [`add`](Self::add) for values without an error.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    fn add_squares(&mut self, x: __m512) {
        for (sq, x) in self.sq.iter_mut().zip(widen(x)) {
            *sq = _mm512_fmadd_pd(x, x, *sq);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn sums<const BYTES: usize>(x: &[u8], y: Option<&[u8]>, load: impl Fn(&[u8]) -> __m512) -> ErrorSums {
    let zero = [_mm512_setzero_pd(); 2];
    let mut sums = Sums { sq: zero, err: zero, max: zero };
    // Slices whose length is known to be whole registers need no masks; lanes without an element add +0 to sums that are
    // never -0.
    let whole = x.len() - x.len() % (LANES * BYTES);
    let (x, x_tail) = x.split_at(whole);
    if let Some(y) = y {
        let (y, y_tail) = y.split_at(whole);
        for (x, y) in x.chunks_exact(LANES * BYTES).zip(y.chunks_exact(LANES * BYTES)) {
            sums.add(load(x), load(y));
        }
        if !x_tail.is_empty() {
            sums.add(load(x_tail), load(y_tail));
        }
    } else {
        for x in x.chunks_exact(LANES * BYTES) {
            sums.add_squares(load(x));
        }
        if !x_tail.is_empty() {
            sums.add_squares(load(x_tail));
        }
    }
    let Sums { sq, err, max } = sums;
    let mut lanes = Lanes::default();
    for (out, v) in [(&mut lanes.sq, sq), (&mut lanes.err, err), (&mut lanes.max, max)] {
        let (out, _) = out.as_chunks_mut::<8>();
        for (out, v) in out.iter_mut().zip(v) {
            // SAFETY: the array holds eight elements.
            unsafe { _mm512_storeu_pd(out.as_mut_ptr(), v) };
        }
    }
    lanes.total()
}
