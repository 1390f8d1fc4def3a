use core::arch::x86_64::*;

use super::scalar;

const LANES: usize = 8;
/// Rounding modes of the conversion to f16.
const DOWN: i32 = _MM_FROUND_TO_NEG_INF;
const UP: i32 = _MM_FROUND_TO_POS_INF;

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load(x: &[f32; LANES]) -> __m256 {
    // SAFETY: the array holds eight elements.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn store(x: &mut [f32; LANES], v: __m256) {
    // SAFETY: the array holds eight elements.
    unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) }
}

/// Eight elements of `x` from `c` on.
fn at<T>(x: &[T], c: usize) -> &[T; LANES] {
    x[c..].first_chunk().expect("callers stay eight elements before the end")
}

fn at_mut<T>(x: &mut [T], c: usize) -> &mut [T; LANES] {
    x[c..].first_chunk_mut().expect("callers stay eight elements before the end")
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn max_abs_bits(x: &[f32]) -> u32 {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let mut m = _mm256_setzero_si256();
    let (blocks, tail) = x.as_chunks::<LANES>();
    for x in blocks {
        m = _mm256_max_epu32(m, _mm256_and_si256(_mm256_castps_si256(load(x)), magnitude));
    }
    let mut lanes = [0.0; LANES];
    store(&mut lanes, _mm256_castsi256_ps(m));
    scalar::max_abs_bits(&lanes).max(scalar::max_abs_bits(tail))
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn range_columns(x: &[f32], lo: &mut [f32], hi: &mut [f32]) {
    let d = lo.len();
    let body = d - d % LANES;
    for c in (0..body).step_by(LANES) {
        let mut min = _mm256_set1_ps(f32::INFINITY);
        let mut max = _mm256_set1_ps(f32::NEG_INFINITY);
        for row in x.chunks_exact(d) {
            let v = load(at(row, c));
            min = _mm256_min_ps(v, min);
            max = _mm256_max_ps(v, max);
        }
        store(at_mut(lo, c), min);
        store(at_mut(hi, c), max);
    }
    for c in body..d {
        let column = x.chunks_exact(d).map(|row| row[c]);
        (lo[c], hi[c]) = column.fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), x| {
            (if x < lo { x } else { lo }, if x > hi { x } else { hi })
        });
    }
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn range_groups(x: &[f32], d: usize, group: usize, lo: &mut [f32], hi: &mut [f32]) {
    let groups = x.chunks_exact(d).flat_map(|row| row.chunks(group));
    for ((x, lo), hi) in groups.zip(lo).zip(hi) {
        let (blocks, tail) = x.as_chunks::<LANES>();
        let mut min = _mm256_set1_ps(f32::INFINITY);
        let mut max = _mm256_set1_ps(f32::NEG_INFINITY);
        for x in blocks {
            let v = load(x);
            min = _mm256_min_ps(v, min);
            max = _mm256_max_ps(v, max);
        }
        let (mut mins, mut maxs) = ([0.0; LANES], [0.0; LANES]);
        store(&mut mins, min);
        store(&mut maxs, max);
        let (tail_lo, tail_hi) = scalar::range(tail);
        *lo = scalar::range(&mins).0.min(tail_lo);
        *hi = scalar::range(&maxs).1.max(tail_hi);
    }
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn params(
    inv_factor: f32,
    max: f32,
    lo: &mut [f32],
    hi: &mut [f32],
    lo_f16: &mut [u8],
    scale_f16: &mut [u8],
) {
    let body = lo.len() - lo.len() % LANES;
    let (zero, one) = (_mm256_setzero_ps(), _mm256_set1_ps(1.0));
    let (factors, maxs) = (_mm256_set1_ps(inv_factor), _mm256_set1_ps(max));
    for c in (0..body).step_by(LANES) {
        // Adding zero turns -0, which compares equal to 0 and so may win either way, into 0.
        let min = _mm256_add_ps(_mm256_mul_ps(load(at(lo, c)), factors), zero);
        let top = _mm256_add_ps(_mm256_mul_ps(load(at(hi, c)), factors), zero);
        let lo_half = _mm256_cvtps_ph::<DOWN>(min);
        let min = _mm256_cvtph_ps(lo_half);
        let scale_half = _mm256_cvtps_ph::<UP>(_mm256_div_ps(_mm256_sub_ps(top, min), maxs));
        let scale = _mm256_cvtph_ps(scale_half);
        let some = _mm256_cmp_ps::<_CMP_NEQ_OQ>(scale, zero);
        store(at_mut(lo, c), min);
        store(at_mut(hi, c), _mm256_and_ps(some, _mm256_div_ps(one, scale)));
        for (out, v) in [(&mut *lo_f16, lo_half), (&mut *scale_f16, scale_half)] {
            let out: &mut [u8; 2 * LANES] =
                (&mut out[2 * c..2 * (c + LANES)]).try_into().expect("sixteen bytes");
            // SAFETY: the array holds sixteen bytes.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), v) };
        }
    }
    let (lo_f16, scale_f16) = (&mut lo_f16[2 * body..], &mut scale_f16[2 * body..]);
    scalar::params(inv_factor, max, &mut lo[body..], &mut hi[body..], lo_f16, scale_f16);
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn quantize(
    x: &[f32; LANES],
    inv_factor: __m256,
    lo: __m256,
    inv: __m256,
    max: __m256,
    codes: &mut [u8; LANES],
) {
    let v = _mm256_mul_ps(_mm256_sub_ps(_mm256_mul_ps(load(x), inv_factor), lo), inv);
    let q = _mm256_cvtps_epi32(_mm256_min_ps(v, max));
    let words = _mm_packus_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
    *codes = _mm_cvtsi128_si64(_mm_packus_epi16(words, words)).to_le_bytes();
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn quantize_columns(
    x: &[f32],
    inv_factor: f32,
    lo: &[f32],
    inv: &[f32],
    max: f32,
    codes: &mut [u8],
) {
    let d = lo.len();
    let body = d - d % LANES;
    let (factors, maxs) = (_mm256_set1_ps(inv_factor), _mm256_set1_ps(max));
    for (x, codes) in x.chunks_exact(d).zip(codes.chunks_exact_mut(d)) {
        for c in (0..body).step_by(LANES) {
            let (lo, inv) = (load(at(lo, c)), load(at(inv, c)));
            quantize(at(x, c), factors, lo, inv, maxs, at_mut(codes, c));
        }
        scalar::quantize_row(&x[body..], inv_factor, &lo[body..], &inv[body..], max, &mut codes[body..]);
    }
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn quantize_groups(
    x: &[f32],
    (d, group): (usize, usize),
    inv_factor: f32,
    (lo, inv): (&[f32], &[f32]),
    max: f32,
    codes: &mut [u8],
) {
    let (factors, maxs) = (_mm256_set1_ps(inv_factor), _mm256_set1_ps(max));
    let groups = x.chunks_exact(d).flat_map(|row| row.chunks(group));
    let codes = codes.chunks_exact_mut(d).flat_map(|row| row.chunks_mut(group));
    for (((x, codes), lo), inv) in groups.zip(codes).zip(lo).zip(inv) {
        let (x, x_tail) = x.as_chunks::<LANES>();
        let (codes, codes_tail) = codes.as_chunks_mut::<LANES>();
        for (x, codes) in x.iter().zip(codes) {
            quantize(x, factors, _mm256_set1_ps(*lo), _mm256_set1_ps(*inv), maxs, codes);
        }
        scalar::quantize_run(x_tail, inv_factor, *lo, *inv, max, codes_tail);
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dequantize(codes: &[u8; LANES], factor: __m256, lo: __m256, scale: __m256, out: &mut [f32; LANES]) {
    let codes = _mm_cvtsi64_si128(i64::from_le_bytes(*codes));
    let q = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes));
    let y = _mm256_mul_ps(_mm256_add_ps(lo, _mm256_mul_ps(q, scale)), factor);
    store(out, _mm256_min_ps(_mm256_max_ps(y, _mm256_set1_ps(f32::MIN)), _mm256_set1_ps(f32::MAX)));
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn dequantize_columns(codes: &[u8], factor: f32, lo: &[f32], scale: &[f32], out: &mut [f32]) {
    let d = lo.len();
    let body = d - d % LANES;
    let factors = _mm256_set1_ps(factor);
    for (codes, out) in codes.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
        for c in (0..body).step_by(LANES) {
            dequantize(at(codes, c), factors, load(at(lo, c)), load(at(scale, c)), at_mut(out, c));
        }
        scalar::dequantize_row(&codes[body..], factor, &lo[body..], &scale[body..], &mut out[body..]);
    }
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn dequantize_groups(
    codes: &[u8],
    (d, group): (usize, usize),
    factor: f32,
    (lo, scale): (&[f32], &[f32]),
    out: &mut [f32],
) {
    let factors = _mm256_set1_ps(factor);
    let groups = codes.chunks_exact(d).flat_map(|row| row.chunks(group));
    let out = out.chunks_exact_mut(d).flat_map(|row| row.chunks_mut(group));
    for (((codes, out), lo), scale) in groups.zip(out).zip(lo).zip(scale) {
        let (codes, codes_tail) = codes.as_chunks::<LANES>();
        let (out, out_tail) = out.as_chunks_mut::<LANES>();
        for (codes, out) in codes.iter().zip(out) {
            dequantize(codes, factors, _mm256_set1_ps(*lo), _mm256_set1_ps(*scale), out);
        }
        scalar::dequantize_run(codes_tail, factor, *lo, *scale, out_tail);
    }
}
