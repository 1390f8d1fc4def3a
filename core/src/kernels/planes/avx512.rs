use super::scalar;
use core::arch::x86_64::*;

const LANES: usize = 64;
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx2")]
fn load(bytes: &[u8; LANES]) -> __m512i {
    // SAFETY: 64 bytes; any alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx2")]
fn store(bytes: &mut [u8; LANES], v: __m512i) {
    // SAFETY: 64 bytes; any alignment.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), v) }
}

/// The bytes `index(0), index(1), ...` of two vectors, numbered through.
const fn indices(stride: usize, period: usize, jump: usize, start: usize) -> [u8; LANES] {
    let mut table = [0; LANES];
    let mut i = 0;
    while i < LANES {
        let index = start + i % period * stride + i / period * jump;
        assert!(index < 2 * LANES);
        #[allow(clippy::cast_possible_truncation, reason = "below 128")]
        let index = index as u8;
        table[i] = index;
        i += 1;
    }
    table
}

/// All even, and all odd bytes.
const EVEN: [u8; LANES] = indices(2, 64, 0, 0);
const ODD: [u8; LANES] = indices(2, 64, 0, 1);
/// One byte of each vector in turn, from their first and from their second halves.
const FIRST_HALVES: [u8; LANES] = indices(64, 2, 1, 0);
const SECOND_HALVES: [u8; LANES] = indices(64, 2, 1, 32);
/// Bytes 0 of all 4-byte elements, then bytes 1; the same of bytes 2 and 3.
const BYTES_0_1: [u8; LANES] = indices(4, 32, 1, 0);
const BYTES_2_3: [u8; LANES] = indices(4, 32, 1, 2);
/// Elements from planes 0, 1 in the halves of one vector and planes 2, 3 in those of the other.
const ELEMENTS_0: [u8; LANES] = indices(32, 4, 1, 0);
const ELEMENTS_16: [u8; LANES] = indices(32, 4, 1, 16);

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx2")]
pub(super) fn split<const N: usize>(src: &[u8], mut planes: [&mut [u8]; N]) {
    let steps = src.len() / (N * LANES);
    let (vectors, _) = src.as_chunks::<LANES>();
    if N == 2 {
        let (even, odd) = (load(&EVEN), load(&ODD));
        for (step, v) in vectors.chunks_exact(2).enumerate() {
            let (a, b) = (load(&v[0]), load(&v[1]));
            store(&mut planes[0].as_chunks_mut().0[step], _mm512_permutex2var_epi8(a, even, b));
            store(&mut planes[1].as_chunks_mut().0[step], _mm512_permutex2var_epi8(a, odd, b));
        }
    } else if N == 4 {
        let order = [load(&BYTES_0_1), load(&BYTES_2_3)];
        for (step, v) in vectors.chunks_exact(4).enumerate() {
            let (a, b, c, d) = (load(&v[0]), load(&v[1]), load(&v[2]), load(&v[3]));
            for (pair, order) in planes.chunks_exact_mut(2).zip(order) {
                let ab = _mm512_permutex2var_epi8(a, order, b);
                let cd = _mm512_permutex2var_epi8(c, order, d);
                store(&mut pair[0].as_chunks_mut().0[step], _mm512_shuffle_i64x2::<0x44>(ab, cd));
                store(&mut pair[1].as_chunks_mut().0[step], _mm512_shuffle_i64x2::<0xEE>(ab, cd));
            }
        }
    } else {
        return scalar::split(src, planes);
    }
    scalar::split(&src[steps * N * LANES..], planes.map(|p| &mut p[steps * LANES..]));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx2")]
pub(super) fn merge<const N: usize>(planes: [&[u8]; N], dst: &mut [u8]) {
    let steps = dst.len() / (N * LANES);
    let (vectors, _) = dst.as_chunks_mut::<LANES>();
    if N == 2 {
        let (first, second) = (load(&FIRST_HALVES), load(&SECOND_HALVES));
        for (step, out) in vectors.chunks_exact_mut(2).enumerate() {
            let (a, b) = (load(&planes[0].as_chunks().0[step]), load(&planes[1].as_chunks().0[step]));
            store(&mut out[0], _mm512_permutex2var_epi8(a, first, b));
            store(&mut out[1], _mm512_permutex2var_epi8(a, second, b));
        }
    } else if N == 4 {
        let (first, second) = (load(&ELEMENTS_0), load(&ELEMENTS_16));
        for (step, out) in vectors.chunks_exact_mut(4).enumerate() {
            let [a, b, c, d] = [0, 1, 2, 3].map(|j| load(&planes[j].as_chunks().0[step]));
            let low = [_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0x44>(c, d)];
            let high = [_mm512_shuffle_i64x2::<0xEE>(a, b), _mm512_shuffle_i64x2::<0xEE>(c, d)];
            for (out, [ab, cd]) in out.chunks_exact_mut(2).zip([low, high]) {
                store(&mut out[0], _mm512_permutex2var_epi8(ab, first, cd));
                store(&mut out[1], _mm512_permutex2var_epi8(ab, second, cd));
            }
        }
    } else {
        return scalar::merge(planes, dst);
    }
    scalar::merge(planes.map(|p| &p[steps * LANES..]), &mut dst[steps * N * LANES..]);
}

/// The portable code, vectorised by the compiler for this level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx2")]
pub(super) fn column_bases(plane: &[u8], bases: &mut [u8]) {
    scalar::column_bases(plane, bases);
}
