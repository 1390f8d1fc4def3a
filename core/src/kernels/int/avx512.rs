use core::arch::x86_64::*;

const LANES: usize = 16;
/// Rounding modes of the conversion to f16.
const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
const UP: i32 = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;

/// The first `n` lanes, at most 16.
fn first(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1 << n) - 1 }
}

/// The first elements of `x`, at most 16, zeros after them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn load(x: &[f32]) -> __m512 {
    // SAFETY: lanes past the slice's end are masked and so not read.
    unsafe { _mm512_maskz_loadu_ps(first(x.len()), x.as_ptr()) }
}

/// Fills the first elements of `x`, at most 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store(x: &mut [f32], v: __m512) {
    // SAFETY: lanes past the slice's end are masked and so not written.
    unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr(), first(x.len()), v) }
}

/// Fills the first halves of `out`, at most 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store_f16(out: &mut [u8], v: __m256i) {
    // SAFETY: lanes past the slice's end are masked and so not written.
    unsafe { _mm256_mask_storeu_epi16(out.as_mut_ptr().cast(), first(out.len() / 2), v) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn max_abs_bits(x: &[f32]) -> u32 {
    let magnitude = _mm512_set1_epi32(0x7fff_ffff);
    let mut m = _mm512_setzero_si512();
    for x in x.chunks(LANES) {
        let bits = _mm512_castps_si512(load(x));
        m = _mm512_max_epu32(m, _mm512_and_si512(bits, magnitude));
    }
    _mm512_reduce_max_epu32(m)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn range_columns(x: &[f32], lo: &mut [f32], hi: &mut [f32]) {
    let d = lo.len();
    for c in (0..d).step_by(LANES) {
        let mut min = _mm512_set1_ps(f32::INFINITY);
        let mut max = _mm512_set1_ps(f32::NEG_INFINITY);
        for row in x.chunks_exact(d) {
            let v = load(&row[c..]);
            min = _mm512_min_ps(v, min);
            max = _mm512_max_ps(v, max);
        }
        store(&mut lo[c..], min);
        store(&mut hi[c..], max);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn range_groups(x: &[f32], d: usize, group: usize, lo: &mut [f32], hi: &mut [f32]) {
    let groups = x.chunks_exact(d).flat_map(|row| row.chunks(group));
    for ((x, lo), hi) in groups.zip(lo).zip(hi) {
        let mut min = _mm512_set1_ps(f32::INFINITY);
        let mut max = _mm512_set1_ps(f32::NEG_INFINITY);
        for x in x.chunks(LANES) {
            let mask = first(x.len());
            let v = load(x);
            min = _mm512_mask_min_ps(min, mask, v, min);
            max = _mm512_mask_max_ps(max, mask, v, max);
        }
        *lo = _mm512_reduce_min_ps(min);
        *hi = _mm512_reduce_max_ps(max);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn params(
    inv_factor: f32,
    max: f32,
    lo: &mut [f32],
    hi: &mut [f32],
    lo_f16: &mut [u8],
    scale_f16: &mut [u8],
) {
    let (zero, one) = (_mm512_setzero_ps(), _mm512_set1_ps(1.0));
    let (inv_factor, max) = (_mm512_set1_ps(inv_factor), _mm512_set1_ps(max));
    let f16 = lo_f16.chunks_mut(2 * LANES).zip(scale_f16.chunks_mut(2 * LANES));
    for ((lo, hi), (lo_f16, scale_f16)) in lo.chunks_mut(LANES).zip(hi.chunks_mut(LANES)).zip(f16) {
        // Adding zero turns -0, which compares equal to 0 and so may win either way, into 0.
        let min = _mm512_add_ps(_mm512_mul_ps(load(lo), inv_factor), zero);
        let top = _mm512_add_ps(_mm512_mul_ps(load(hi), inv_factor), zero);
        let lo_half = _mm512_cvtps_ph::<DOWN>(min);
        let min = _mm512_cvtph_ps(lo_half);
        let scale_half = _mm512_cvtps_ph::<UP>(_mm512_div_ps(_mm512_sub_ps(top, min), max));
        let scale = _mm512_cvtph_ps(scale_half);
        let some = _mm512_cmp_ps_mask::<_CMP_NEQ_OQ>(scale, zero);
        store(lo, min);
        store(hi, _mm512_maskz_div_ps(some, one, scale));
        store_f16(lo_f16, lo_half);
        store_f16(scale_f16, scale_half);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn quantize(x: __m512, inv_factor: __m512, lo: __m512, inv: __m512, max: __m512) -> __m128i {
    let v = _mm512_mul_ps(_mm512_sub_ps(_mm512_mul_ps(x, inv_factor), lo), inv);
    _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_min_ps(v, max)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store_codes(codes: &mut [u8], v: __m128i) {
    // SAFETY: lanes past the slice's end are masked and so not written.
    unsafe { _mm_mask_storeu_epi8(codes.as_mut_ptr().cast(), first(codes.len()), v) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize_columns(
    x: &[f32],
    inv_factor: f32,
    lo: &[f32],
    inv: &[f32],
    max: f32,
    codes: &mut [u8],
) {
    let d = lo.len();
    let (inv_factor, max) = (_mm512_set1_ps(inv_factor), _mm512_set1_ps(max));
    for c in (0..d).step_by(LANES) {
        let (lo, inv) = (load(&lo[c..]), load(&inv[c..]));
        for (x, codes) in x.chunks_exact(d).zip(codes.chunks_exact_mut(d)) {
            store_codes(&mut codes[c..], quantize(load(&x[c..]), inv_factor, lo, inv, max));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize_groups(
    x: &[f32],
    (d, group): (usize, usize),
    inv_factor: f32,
    (lo, inv): (&[f32], &[f32]),
    max: f32,
    codes: &mut [u8],
) {
    let (inv_factor, max) = (_mm512_set1_ps(inv_factor), _mm512_set1_ps(max));
    let groups = x.chunks_exact(d).flat_map(|row| row.chunks(group));
    let codes = codes.chunks_exact_mut(d).flat_map(|row| row.chunks_mut(group));
    for (((x, codes), lo), inv) in groups.zip(codes).zip(lo).zip(inv) {
        let (lo, inv) = (_mm512_set1_ps(*lo), _mm512_set1_ps(*inv));
        for (x, codes) in x.chunks(LANES).zip(codes.chunks_mut(LANES)) {
            store_codes(codes, quantize(load(x), inv_factor, lo, inv, max));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn dequantize(codes: &[u8], factor: __m512, lo: __m512, scale: __m512) -> __m512 {
    // SAFETY: lanes past the slice's end are masked and so not read.
    let codes = unsafe { _mm_maskz_loadu_epi8(first(codes.len()), codes.as_ptr().cast()) };
    let q = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes));
    let y = _mm512_mul_ps(_mm512_add_ps(lo, _mm512_mul_ps(q, scale)), factor);
    _mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps(f32::MIN)), _mm512_set1_ps(f32::MAX))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn dequantize_columns(codes: &[u8], factor: f32, lo: &[f32], scale: &[f32], out: &mut [f32]) {
    let d = lo.len();
    let factor = _mm512_set1_ps(factor);
    for c in (0..d).step_by(LANES) {
        let (lo, scale) = (load(&lo[c..]), load(&scale[c..]));
        for (codes, out) in codes.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            store(&mut out[c..], dequantize(&codes[c..], factor, lo, scale));
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn dequantize_groups(
    codes: &[u8],
    (d, group): (usize, usize),
    factor: f32,
    (lo, scale): (&[f32], &[f32]),
    out: &mut [f32],
) {
    let factor = _mm512_set1_ps(factor);
    let groups = codes.chunks_exact(d).flat_map(|row| row.chunks(group));
    let out = out.chunks_exact_mut(d).flat_map(|row| row.chunks_mut(group));
    for (((codes, out), lo), scale) in groups.zip(out).zip(lo).zip(scale) {
        let (lo, scale) = (_mm512_set1_ps(*lo), _mm512_set1_ps(*scale));
        for (codes, out) in codes.chunks(LANES).zip(out.chunks_mut(LANES)) {
            store(out, dequantize(codes, factor, lo, scale));
        }
    }
}
