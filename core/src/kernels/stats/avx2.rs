use core::arch::x86_64::*;

use super::{Element, ErrorSums, LANES, Lanes, Plain, scalar};

/// Four elements of one register.
const QUARTER: usize = 4;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn error_sums(plain: Plain, x: &[u8], y: Option<&[u8]>) -> ErrorSums {
    match plain {
        Plain::F32 => sums::<super::F32, 16>(x, y, |b| {
            // SAFETY: the array holds sixteen bytes.
            unsafe { _mm_loadu_ps(b.as_ptr().cast()) }
        }),
        Plain::F16 => sums::<super::F16, 8>(x, y, |b| {
            // SAFETY: the array holds eight bytes.
            _mm_cvtph_ps(unsafe { _mm_loadl_epi64(b.as_ptr().cast()) })
        }),
        Plain::Bf16 => sums::<super::Bf16, 8>(x, y, |b| {
            // SAFETY: the array holds eight bytes.
            let words = unsafe { _mm_loadl_epi64(b.as_ptr().cast()) };
            _mm_castsi128_ps(_mm_slli_epi32::<16>(_mm_cvtepu16_epi32(words)))
        }),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sums<E: Element, const QUARTER_BYTES: usize>(
    x: &[u8],
    y: Option<&[u8]>,
    load: impl Fn(&[u8; QUARTER_BYTES]) -> __m128,
) -> ErrorSums {
    const QUARTERS: usize = LANES / QUARTER;
    let mut sq = [_mm256_setzero_pd(); QUARTERS];
    let mut err = [_mm256_setzero_pd(); QUARTERS];
    let mut max = [_mm256_setzero_pd(); QUARTERS];
    let body = x.len() - x.len() % (LANES * E::BYTES);
    let (x, x_tail) = x.split_at(body);
    let quarters = |b| <[u8]>::as_chunks::<QUARTER_BYTES>(b).0.as_chunks::<QUARTERS>().0;
    let y_tail = match y {
        Some(y) => {
            let (y, y_tail) = y.split_at(body);
            for (x, y) in quarters(x).iter().zip(quarters(y)) {
                for q in 0..QUARTERS {
                    let (x, y) = (_mm256_cvtps_pd(load(&x[q])), _mm256_cvtps_pd(load(&y[q])));
                    let d = _mm256_sub_pd(x, y);
                    let d = _mm256_mul_pd(d, d);
                    sq[q] = _mm256_fmadd_pd(x, x, sq[q]);
                    err[q] = _mm256_add_pd(err[q], d);
                    max[q] = _mm256_max_pd(d, max[q]);
                }
            }
            y_tail
        }
        None => {
            for x in quarters(x) {
                for q in 0..QUARTERS {
                    let x = _mm256_cvtps_pd(load(&x[q]));
                    sq[q] = _mm256_fmadd_pd(x, x, sq[q]);
                }
            }
            x_tail
        }
    };
    let mut lanes = Lanes::default();
    for (out, v) in [(&mut lanes.sq, sq), (&mut lanes.err, err), (&mut lanes.max, max)] {
        let (out, _) = out.as_chunks_mut::<QUARTER>();
        for (out, v) in out.iter_mut().zip(v) {
            // SAFETY: the array holds four elements.
            unsafe { _mm256_storeu_pd(out.as_mut_ptr(), v) };
        }
    }
    scalar::add::<E>(&mut lanes, x_tail, y_tail);
    lanes.total()
}
