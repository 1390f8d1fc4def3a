pub(super) fn split<const N: usize>(src: &[u8], planes: [&mut [u8]; N]) {
    let (elements, _) = src.as_chunks::<N>();
    for (j, plane) in planes.into_iter().enumerate() {
        for (byte, element) in plane.iter_mut().zip(elements) {
            *byte = element[j];
        }
    }
}

pub(super) fn merge<const N: usize>(planes: [&[u8]; N], dst: &mut [u8]) {
    for (i, element) in dst.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        for (byte, plane) in element.iter_mut().zip(planes) {
            *byte = plane[i];
        }
    }
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the mean of seven-bit numbers; rows of a tile")]
pub(super) fn column_bases(plane: &[u8], bases: &mut [u8]) {
    let width = bases.len();
    let n = (plane.len() / width) as u32;
    // 64 columns at a time, so that the sums stay in registers or nearly so.
    for (i, bases) in bases.chunks_mut(64).enumerate() {
        let (mut sums, mut signs) = ([0_u32; 64], [0_u32; 64]);
        for row in plane.chunks_exact(width) {
            let row = &row[i * 64..i * 64 + bases.len()];
            for ((sum, sign), b) in sums.iter_mut().zip(&mut signs).zip(row) {
                *sum += u32::from(b & 0x7f);
                *sign += u32::from(b >> 7);
            }
        }
        for ((base, sum), sign) in bases.iter_mut().zip(sums).zip(signs) {
            *base = (sum / n.max(1)) as u8 | u8::from(sign * 2 > n) << 7;
        }
    }
}
