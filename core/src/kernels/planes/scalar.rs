use core::ops::Range;

/// Side of the squares in which the transpose proceeds: source and destination stay in a few cache lines.
const SQUARE: usize = 16;

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

/// Transposes the part of the matrix in `rows` and `columns`.
pub(super) fn transpose(src: &[u8], width: usize, dst: &mut [u8], rows: Range<usize>, columns: Range<usize>) {
    let height = src.len() / width;
    for row in rows.clone().step_by(SQUARE) {
        for column in columns.clone().step_by(SQUARE) {
            for c in column..(column + SQUARE).min(columns.end) {
                for r in row..(row + SQUARE).min(rows.end) {
                    dst[c * height + r] = src[r * width + c];
                }
            }
        }
    }
}
