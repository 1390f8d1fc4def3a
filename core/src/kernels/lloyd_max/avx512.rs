//! One 512-bit register for sixteen lanes, 32 fixed-point coordinates to a register when quantizing.

use super::{Coder, Fit, Plain, Quantizer, Shape, row};
use crate::kernels::lanes::LANES;
use crate::kernels::lanes::avx512::Avx512;
use core::arch::x86_64::*;

/// Byte orders and shifts for each number of bits.
struct Orders {
    /// For [`pack`]: which byte of the joined codes comes where in the stream.
    gather: [[u8; 64]; 9],
    /// For [`Coder::dequantize`]: the four bytes that hold the code of each lane, ...
    spread: [[u8; 64]; 9],
    /// ... and where in them it starts.
    shift: [[u32; LANES]; 9],
}

#[allow(clippy::cast_possible_truncation, reason = "byte numbers below 64")]
static ORDERS: Orders = {
    let mut o = Orders { gather: [[0; 64]; 9], spread: [[0; 64]; 9], shift: [[0; LANES]; 9] };
    let mut nbits = 2;
    while nbits <= 8 {
        let mut i = 0;
        while i < 4 * nbits {
            o.gather[nbits][i] = if nbits % 2 == 0 {
                // Four codes are `nbits / 2` bytes. VPACKSSDW left quads 0..4 in even 64-bit words, 4..8 in odd ones.
                let (quad, byte) = (i / (nbits / 2), i % (nbits / 2));
                8 * (2 * (quad % 4) + quad / 4) + byte
            } else {
                // Eight codes are `nbits` bytes, at the start of each 128-bit lane.
                16 * (i / nbits) + i % nbits
            } as u8;
            i += 1;
        }
        let mut lane = 0;
        while lane < LANES {
            let bit = lane * nbits;
            o.shift[nbits][lane] = (bit % 8) as u32;
            let mut byte = 0;
            while byte < 4 {
                let from = bit / 8 + byte;
                o.spread[nbits][4 * lane + byte] = if from < 16 { from } else { 15 } as u8;
                byte += 1;
            }
            lane += 1;
        }
        nbits += 1;
    }
    o
};

// SAFETY of the blocks below: inlined into kernels that run only after detection saw the AVX-512 level; pointers come
// from arrays and slices of at least the length read or written.
impl Coder for Avx512 {
    #[inline(always)]
    fn quantize(z: &[Self], k: f32, quantizer: &Quantizer, out: &mut [u8]) {
        let step = 4 * quantizer.nbits as usize;
        for (i, pair) in z.chunks(2).enumerate() {
            let at = i * step;
            // SAFETY: see above.
            unsafe {
                let fixed = |z: &Self| _mm512_cvtps_epi32(_mm512_mul_ps(z.0, _mm512_set1_ps(k)));
                let q = match pair {
                    [a, b] => _mm512_packs_epi32(fixed(a), fixed(b)),
                    [a, ..] => _mm512_packs_epi32(fixed(a), _mm512_setzero_si512()),
                    [] => continue,
                };
                let bytes = _mm512_castsi512_si256(pack(codes(q, quantizer), quantizer.nbits));
                // The bytes beyond these codes are overwritten by the next ones.
                match out.get_mut(at..at + 32) {
                    Some(out) => _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes),
                    None => {
                        let mut whole = [0u8; 32];
                        _mm256_storeu_si256(whole.as_mut_ptr().cast(), bytes);
                        out[at..at + step].copy_from_slice(&whole[..step]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn dequantize(packed: &[u8], quantizer: &Quantizer, z: &mut [Self]) {
        let nbits = quantizer.nbits as usize;
        for (i, z) in z.iter_mut().enumerate() {
            // SAFETY: see above.
            unsafe {
                let bytes = sixteen_bytes(packed, 2 * nbits * i, 2 * nbits);
                let spread = _mm512_loadu_si512(ORDERS.spread[nbits].as_ptr().cast());
                let shift = _mm512_loadu_si512(ORDERS.shift[nbits].as_ptr().cast());
                let words = _mm512_permutexvar_epi8(spread, _mm512_castsi128_si512(bytes));
                *z = Self(levels(_mm512_srlv_epi32(words, shift), quantizer));
            }
        }
    }
}

/// Codes of 32 fixed-point numbers: one table lookup and a carry, see [`Quantizer`].
#[inline(always)]
fn codes(q: __m512i, quantizer: &Quantizer) -> __m512i {
    let table = quantizer.bins.as_ptr();
    // SAFETY: as for the implementation above; the table has 1024 entries, the arms read up to 128.
    unsafe {
        let shift = _mm_cvtsi32_si128(quantizer.shift.cast_signed());
        let bin = _mm512_srl_epi16(q, shift);
        let load = |at: usize| _mm512_loadu_si512(table.add(at).cast());
        let carry = match quantizer.shift {
            11 => _mm512_permutexvar_epi16(bin, load(0)),
            10 => _mm512_permutex2var_epi16(load(0), bin, load(32)),
            9 => {
                let low = _mm512_permutex2var_epi16(load(0), bin, load(32));
                let high = _mm512_permutex2var_epi16(load(64), bin, load(96));
                _mm512_mask_mov_epi16(low, _mm512_movepi16_mask(q), high)
            }
            _ => return codes_by_guess(q, quantizer),
        };
        _mm512_srl_epi16(_mm512_add_epi16(q, carry), shift)
    }
}

/// 8-bit codes of 32 fixed-point numbers: counts thresholds up to the magnitude `m = q - 1` for positive `q`, `-q` for
/// others; see [`Guess`](super::quantizer::Guess).
#[inline(always)]
fn codes_by_guess(q: __m512i, quantizer: &Quantizer) -> __m512i {
    // SAFETY: as for the implementation above; the tables have 64 and 128 words.
    unsafe {
        let load = |table: &[u16], at: usize| _mm512_loadu_si512(table[at..at + 32].as_ptr().cast());
        let all = |x: i16| _mm512_set1_epi16(x);
        let t = _mm512_subs_epi16(q, all(1));
        let sign = _mm512_srai_epi16::<15>(t);
        let m = _mm512_xor_si512(t, sign);
        let bin = _mm512_srli_epi16::<9>(m);
        let (base, slope) = (&quantizer.guess.base, &quantizer.guess.slope);
        let base = _mm512_permutex2var_epi16(load(base, 0), bin, load(base, 32));
        let slope = _mm512_permutex2var_epi16(load(slope, 0), bin, load(slope, 32));
        // The shift by 7 drops the bin's own bits.
        let rise = _mm512_mulhi_epu16(_mm512_slli_epi16::<7>(m), slope);
        let g = _mm512_srli_epi16::<8>(_mm512_add_epi16(base, rise));
        let g = _mm512_min_epu16(g, all(126));
        let threshold = |at: usize| _mm512_loadu_si512(quantizer.positive[at..at + 32].as_ptr().cast());
        let near = _mm512_permutex2var_epi16(threshold(0), g, threshold(32));
        let far = _mm512_permutex2var_epi16(threshold(64), g, threshold(96));
        let next = _mm512_mask_mov_epi16(near, _mm512_test_epi16_mask(g, all(64)), far);
        let count = _mm512_mask_add_epi16(g, _mm512_cmpge_epi16_mask(m, next), g, all(1));
        let code = _mm512_and_si512(_mm512_xor_si512(count, sign), all(0xff));
        _mm512_xor_si512(code, all(0x80))
    }
}

/// Joins 32 codes, one to a 16-bit word in VPACKSSDW's order, to `4 * nbits` bytes.
#[inline(always)]
fn pack(codes: __m512i, nbits: u32) -> __m512i {
    // SAFETY: as for the implementation above; the tables have rows of 64 bytes.
    unsafe {
        let count = |n: u32| _mm_cvtsi32_si128(n.cast_signed());
        let two = _mm512_madd_epi16(codes, _mm512_set1_epi32((1 << (16 + nbits)) | 1));
        let four = _mm512_or_si512(two, _mm512_srl_epi64(two, count(32 - 2 * nbits)));
        let joined = if nbits.is_multiple_of(2) {
            four
        } else {
            let in_order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
            let four = _mm512_and_si512(four, _mm512_set1_epi64((1 << (4 * nbits)) - 1));
            let four = _mm512_permutexvar_epi64(in_order, four);
            let next = _mm512_sll_epi64(_mm512_bsrli_epi128::<8>(four), count(4 * nbits));
            _mm512_or_si512(four, next)
        };
        let order = _mm512_loadu_si512(ORDERS.gather[nbits as usize].as_ptr().cast());
        _mm512_permutexvar_epi8(order, joined)
    }
}

/// `len <= 16` bytes from `at`; after them, anything.
#[inline(always)]
fn sixteen_bytes(packed: &[u8], at: usize, len: usize) -> __m128i {
    // SAFETY: as for the implementation above.
    let load = |bytes: &[u8; 16]| unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    match packed.get(at..at + 16) {
        Some(bytes) => load(bytes.try_into().expect("the slice has sixteen bytes")),
        None => {
            let mut bytes = [0; 16];
            bytes[..len].copy_from_slice(&packed[at..at + len]);
            load(&bytes)
        }
    }
}

/// Levels of sixteen codes in the low bits of `index`, whose upper bits may hold anything.
#[inline(always)]
fn levels(index: __m512i, quantizer: &Quantizer) -> __m512 {
    let table = quantizer.levels.as_ptr();
    // SAFETY: as for the implementation above; the table has 256 entries and repeats the grid.
    unsafe {
        let load = |at: usize| _mm512_loadu_ps(table.add(at));
        match quantizer.nbits {
            0..=4 => _mm512_permutexvar_ps(index, load(0)),
            5 => _mm512_permutex2var_ps(load(0), index, load(16)),
            6 => {
                let low = _mm512_permutex2var_ps(load(0), index, load(16));
                let high = _mm512_permutex2var_ps(load(32), index, load(48));
                _mm512_mask_mov_ps(low, _mm512_test_epi32_mask(index, _mm512_set1_epi32(32)), high)
            }
            _ => {
                // The grid mirrors itself: 128 positive levels and a sign. `c ^ 0x7f` for the lower half, ...
                let upper = _mm512_srai_epi32::<31>(_mm512_slli_epi32::<24>(index));
                let place = _mm512_xor_si512(index, _mm512_andnot_si512(upper, _mm512_set1_epi32(0x7f)));
                let pair = |at: usize| _mm512_permutex2var_ps(load(at), place, load(at + 16));
                let bit = |b: i32| _mm512_test_epi32_mask(place, _mm512_set1_epi32(b));
                let (odd, high) = (bit(32), bit(64));
                let low_half = _mm512_mask_mov_ps(pair(128), odd, pair(160));
                let high_half = _mm512_mask_mov_ps(pair(192), odd, pair(224));
                let level = _mm512_mask_mov_ps(low_half, high, high_half);
                // ... whose levels are negative.
                let sign = _mm512_andnot_si512(upper, _mm512_set1_epi32(i32::MIN));
                _mm512_xor_ps(level, _mm512_castsi512_ps(sign))
            }
        }
    }
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx2,fma,f16c,bmi1,bmi2"
)]
pub(super) fn encode(
    shape: &Shape<'_>,
    plain: Plain,
    fit: Fit,
    src: &[u8],
    scales: &mut [f32],
    codes: &mut [u8],
) -> Result<(), usize> {
    row::encode::<Avx512>(shape, plain, fit, src, scales, codes)
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx2,fma,f16c,bmi1,bmi2"
)]
pub(super) fn decode(shape: &Shape<'_>, plain: Plain, scales: &[f32], codes: &[u8], out: &mut [u8]) {
    row::decode::<Avx512>(shape, plain, scales, codes, out);
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx2,fma,f16c,bmi1,bmi2"
)]
pub(super) fn add_rows(head_dim: usize, plain: Plain, rows: &[u8], share: f32, sums: &mut [f32]) {
    row::add_rows::<Avx512>(head_dim, plain, rows, share, sums);
}
