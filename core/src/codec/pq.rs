//! `pq:{m}x{nbits}`: product quantization.
//!
//! A tile is the rows' packed codes and nothing else: `m` codes of `nbits` bits, a bit stream from the least
//! significant bit of each byte on, each row filled up to a whole byte with zeros. A row decodes to its centroids,
//! rounded to the stream's type; for plain types that rounding is done once, when the codec is made, and decoding
//! copies.

use super::buffers::{count_rows, lent};
use super::{CodecError, Side, TileCodec, Workspace, WorkspaceSize};
use crate::num::{DType, convert};
use crate::pq::{Codebook, PqError, PqShape};
use alloc::vec;
use alloc::vec::Vec;

/// Product quantization of rows of one type.
pub(super) struct PqTile {
    codebook: Codebook,
    dtype: DType,
    /// Bytes of a row in the stream's own type.
    row_bytes: usize,
    /// The centroids in the stream's own type, `[m][ksub][dsub]`; empty for block types, where a sub-vector has no
    /// bytes of its own.
    centroids: Vec<u8>,
}

impl PqTile {
    pub(super) fn new(
        m: u16,
        nbits: u8,
        head_dim: usize,
        dtype: DType,
        side: &Side,
    ) -> Result<Self, CodecError> {
        let unsupported = |why| CodecError::Unsupported { why };
        let shape = PqShape::new(head_dim, usize::from(m), nbits).map_err(|_| {
            unsupported("pq needs at most head_dim sub-quantizers and codes of 4, 6 or 8 bits")
        })?;
        let codebook = side.codebook.as_ref().filter(|c| c.shape() == shape);
        let codebook = codebook.ok_or(unsupported("pq needs a codebook of its own shape"))?.clone();
        let row_bytes =
            dtype.bytes_for(head_dim).ok_or(unsupported("a row of this type holds whole blocks"))?;
        let mut centroids = Vec::new();
        if dtype.is_plain() {
            centroids = vec![0; shape.codebook_len() * dtype.block_bytes()];
            convert::from_f32(dtype, codebook.all_centroids(), &mut centroids)
                .map_err(|_| unsupported("the codebook does not fit the type"))?;
        }
        Ok(Self { codebook, dtype, row_bytes, centroids })
    }
}

impl TileCodec for PqTile {
    fn bound(&self, n_rows: usize) -> usize {
        n_rows * self.codebook.shape().code_bytes()
    }

    fn workspace(&self, n_rows: usize) -> WorkspaceSize {
        let shape = self.codebook.shape();
        WorkspaceSize { floats: n_rows * shape.d(), bytes: n_rows * shape.m() }
    }

    fn encode(&self, rows: &[u8], out: &mut [u8], ws: &mut Workspace<'_>) -> Result<usize, CodecError> {
        let n = count_rows(rows.len(), self.row_bytes)?;
        let shape = self.codebook.shape();
        let floats = lent(ws.floats, n * shape.d())?;
        let codes = lent(ws.bytes, n * shape.m())?;
        let out = lent(out, self.bound(n))?;
        convert::to_f32(self.dtype, rows, floats)
            .map_err(|_| CodecError::Corrupt { what: "a part of a row" })?;
        self.codebook.encode(floats, codes).map_err(|e| match e {
            PqError::NonFinite { row } => CodecError::NonFinite { row },
            _ => CodecError::Corrupt { what: "a part of a row" },
        })?;
        shape.pack(codes, out);
        Ok(out.len())
    }

    fn decode(&self, code: &[u8], rows: &mut [u8], ws: &mut Workspace<'_>) -> Result<(), CodecError> {
        let n = count_rows(rows.len(), self.row_bytes)?;
        let shape = self.codebook.shape();
        if code.len() != self.bound(n) {
            return Err(CodecError::Corrupt { what: "the packed codes have the wrong length" });
        }
        let codes = lent(ws.bytes, n * shape.m())?;
        shape
            .unpack(code, codes)
            .map_err(|_| CodecError::Corrupt { what: "bits after a row's last code" })?;
        let table = &self.centroids;
        match self.dtype.block_bytes() {
            1 if self.dtype.is_plain() => shape.gather(table, codes, rows),
            2 if self.dtype.is_plain() => {
                shape.gather(table.as_chunks::<2>().0, codes, rows.as_chunks_mut::<2>().0)
            }
            4 if self.dtype.is_plain() => {
                shape.gather(table.as_chunks::<4>().0, codes, rows.as_chunks_mut::<4>().0)
            }
            _ => {
                let floats = lent(ws.floats, n * shape.d())?;
                shape.gather(self.codebook.all_centroids(), codes, floats);
                convert::from_f32(self.dtype, floats, rows)
                    .map_err(|_| CodecError::Corrupt { what: "centroids beyond the type's range" })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::rng::Xoshiro256pp;
    use crate::pq::{TrainParams, train};

    #[allow(clippy::cast_possible_truncation, reason = "test data")]
    fn floats(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = Xoshiro256pp::new(seed);
        (0..n).map(|_| (rng.f64() * 8.0 - 4.0) as f32).collect()
    }

    fn codec(m: u16, nbits: u8, d: usize, dtype: DType) -> PqTile {
        let shape = PqShape::new(d, usize::from(m), nbits).unwrap();
        let (codebook, _) = train(&floats(300 * d, 1), shape, &TrainParams::default()).unwrap();
        let side = Side { codebook: Some(codebook), ..Side::default() };
        PqTile::new(m, nbits, d, dtype, &side).unwrap()
    }

    fn stored(dtype: DType, x: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; dtype.bytes_for(x.len()).unwrap()];
        convert::from_f32(dtype, x, &mut bytes).unwrap();
        bytes
    }

    /// Runs `f` with scratch memory for `n` rows, full of rubbish.
    fn with_scratch<T>(codec: &PqTile, n: usize, f: impl FnOnce(&mut Workspace<'_>) -> T) -> T {
        let size = codec.workspace(n);
        let (mut floats, mut bytes) = (vec![f32::NAN; size.floats], vec![0xa5; size.bytes]);
        f(&mut Workspace { floats: &mut floats, bytes: &mut bytes, coder: None })
    }

    #[test]
    fn rows_decode_to_their_nearest_centroids_in_every_type() {
        for (m, nbits, d) in [(2, 6, 64), (3, 6, 64), (16, 4, 64), (5, 4, 96), (7, 8, 32), (64, 8, 64)] {
            for dtype in DType::ALL {
                let codec = codec(m, nbits, d, dtype);
                for n in [0, 1, 5, 67] {
                    let rows = stored(dtype, &floats(n * d, 2));
                    let mut tile = vec![0x77; codec.bound(n)];
                    let len = with_scratch(&codec, n, |ws| codec.encode(&rows, &mut tile, ws)).unwrap();
                    assert_eq!(len, n * (usize::from(m) * usize::from(nbits)).div_ceil(8));
                    let mut got = vec![0; rows.len()];
                    with_scratch(&codec, n, |ws| codec.decode(&tile, &mut got, ws)).unwrap();

                    let mut x = vec![0.0; n * d];
                    convert::to_f32(dtype, &rows, &mut x).unwrap();
                    let mut codes = vec![0; n * usize::from(m)];
                    codec.codebook.encode(&x, &mut codes).unwrap();
                    codec.codebook.decode(&codes, &mut x).unwrap();
                    assert_eq!(got, stored(dtype, &x), "pq:{m}x{nbits} d {d} {dtype} n {n}");
                }
            }
        }
    }

    #[test]
    fn codes_lie_in_the_row_from_the_lowest_bit_on() {
        let codec = codec(2, 6, 8, DType::F32);
        let mut tile = [0; 4];
        codec.codebook.shape().pack(&[1, 2, 63, 0], &mut tile);
        assert_eq!(tile, [0b1000_0001, 0, 0b0011_1111, 0]);
    }

    #[test]
    fn what_is_no_tile_is_refused() {
        let codec = codec(2, 6, 8, DType::F16);
        let rows = stored(DType::F16, &floats(3 * 8, 4));
        let mut tile = [0; 6];
        with_scratch(&codec, 3, |ws| codec.encode(&rows, &mut tile, ws)).unwrap();
        let decode = |tile: &[u8], bytes: usize| {
            with_scratch(&codec, 3, |ws| codec.decode(tile, &mut vec![0; bytes], ws))
        };
        assert_eq!(decode(&tile, 48), Ok(()));
        for len in 0..6 {
            assert!(matches!(decode(&tile[..len], 48), Err(CodecError::Corrupt { .. })));
        }
        assert!(matches!(decode(&tile, 47), Err(CodecError::Corrupt { .. })));
        tile[3] |= 0x10;
        assert_eq!(decode(&tile, 48), Err(CodecError::Corrupt { what: "bits after a row's last code" }));
    }

    #[test]
    fn not_a_number_and_short_buffers_are_named() {
        let codec = codec(2, 4, 8, DType::F32);
        let mut x = floats(3 * 8, 5);
        let rows = stored(DType::F32, &x);
        let encode = |rows: &[u8], room: usize| {
            with_scratch(&codec, 3, |ws| codec.encode(rows, &mut vec![0; room], ws))
        };
        assert_eq!(encode(&rows, 3), Ok(3));
        assert_eq!(encode(&rows, 2), Err(CodecError::ShortBuffer { needed: 3, got: 2 }));
        with_scratch(&codec, 2, |ws| {
            assert_eq!(
                codec.encode(&rows, &mut [0; 3], ws),
                Err(CodecError::ShortBuffer { needed: 24, got: 16 })
            );
        });
        x[17] = f32::NAN;
        assert_eq!(encode(&stored(DType::F32, &x), 3), Err(CodecError::NonFinite { row: 2 }));
    }

    #[test]
    fn a_codebook_of_another_shape_is_refused() {
        let side = Side { codebook: Some(codec(2, 6, 8, DType::F32).codebook), ..Side::default() };
        assert!(PqTile::new(2, 6, 8, DType::F16, &side).is_ok());
        assert!(PqTile::new(2, 4, 8, DType::F16, &side).is_err());
        assert!(PqTile::new(2, 6, 8, DType::Q8_0, &side).is_err());
        assert!(PqTile::new(2, 6, 8, DType::F16, &Side::default()).is_err());
        assert!(PqTile::new(9, 6, 8, DType::F16, &side).is_err());
    }
}
