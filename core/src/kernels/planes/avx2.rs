use super::scalar;
use core::arch::x86_64::*;

const LANES: usize = 32;
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
fn load(bytes: &[u8; LANES]) -> __m256i {
    // SAFETY: 32 bytes; any alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
fn store(bytes: &mut [u8; LANES], v: __m256i) {
    // SAFETY: 32 bytes; any alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), v) }
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn split<const N: usize>(src: &[u8], mut planes: [&mut [u8]; N]) {
    // Steps of N vectors, one for each plane.
    let steps = src.len() / (N * LANES);
    let (vectors, _) = src.as_chunks::<LANES>();
    if N == 2 {
        let by_byte =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
        for (step, v) in vectors.chunks_exact(2).enumerate() {
            let grouped =
                |v| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(load(v), by_byte));
            let (a, b) = (grouped(&v[0]), grouped(&v[1]));
            store(&mut planes[0].as_chunks_mut().0[step], _mm256_permute2x128_si256::<0x20>(a, b));
            store(&mut planes[1].as_chunks_mut().0[step], _mm256_permute2x128_si256::<0x31>(a, b));
        }
    } else if N == 4 {
        let by_byte =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
        let by_plane = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        for (step, v) in vectors.chunks_exact(4).enumerate() {
            // Each vector becomes eight bytes of plane 0, of plane 1, ...; then four by four words are transposed.
            let grouped = |v| _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(load(v), by_byte), by_plane);
            let words = transpose_words([grouped(&v[0]), grouped(&v[1]), grouped(&v[2]), grouped(&v[3])]);
            for (plane, v) in planes.iter_mut().zip(words) {
                store(&mut plane.as_chunks_mut().0[step], v);
            }
        }
    } else {
        return scalar::split(src, planes);
    }
    scalar::split(&src[steps * N * LANES..], planes.map(|p| &mut p[steps * LANES..]));
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn merge<const N: usize>(planes: [&[u8]; N], dst: &mut [u8]) {
    let steps = dst.len() / (N * LANES);
    let (vectors, _) = dst.as_chunks_mut::<LANES>();
    if N == 2 {
        for (step, out) in vectors.chunks_exact_mut(2).enumerate() {
            let [a, b] = [0, 1].map(|j| load(&planes[j].as_chunks().0[step]));
            let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
            store(&mut out[0], _mm256_permute2x128_si256::<0x20>(low, high));
            store(&mut out[1], _mm256_permute2x128_si256::<0x31>(low, high));
        }
    } else if N == 4 {
        let by_element =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
        let by_half = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
        for (step, out) in vectors.chunks_exact_mut(4).enumerate() {
            let words = transpose_words([0, 1, 2, 3].map(|j| load(&planes[j].as_chunks().0[step])));
            for (out, v) in out.iter_mut().zip(words) {
                store(out, _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(v, by_half), by_element));
            }
        }
    } else {
        return scalar::merge(planes, dst);
    }
    scalar::merge(planes.map(|p| &p[steps * LANES..]), &mut dst[steps * N * LANES..]);
}

/// Transposes four rows of four 64-bit words.
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
fn transpose_words([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let (ab0, ab1) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let (cd0, cd1) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
    [
        _mm256_permute2x128_si256::<0x20>(ab0, cd0),
        _mm256_permute2x128_si256::<0x20>(ab1, cd1),
        _mm256_permute2x128_si256::<0x31>(ab0, cd0),
        _mm256_permute2x128_si256::<0x31>(ab1, cd1),
    ]
}

/// The portable code, vectorised by the compiler for this level.
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
pub(super) fn column_bases(plane: &[u8], bases: &mut [u8]) {
    scalar::column_bases(plane, bases);
}
