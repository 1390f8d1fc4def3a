//! `q8_0`, `q4_0`, `had+q8_0`, `had+q4_0`: llama.cpp's blocks of 32, plain or of rotated rows.
//!
//! A tile is the rows' blocks side by side, the bytes that llama.cpp's reference quantizer gives for the (rotated)
//! row. A source that already is of the block type is copied when there is no rotation.

use super::buffers::{count_rows, lent};
use super::{CodecError, Side, TileCodec, Workspace, WorkspaceSize};
use crate::num::DType;
use crate::num::convert::{ConvertError, from_f32, to_f32};
use crate::rotate::Rotation;

/// Elements that pass through the scratch memory at once: 16 KiB, so that they stay in the first-level cache.
const PIECE: usize = 4096;

/// Rows of one type as blocks of another.
pub(super) struct Block {
    /// `Q8_0` or `Q4_0`.
    block: DType,
    rotation: Option<Rotation>,
    dtype: DType,
    head_dim: usize,
    row_bytes: usize,
    code_bytes: usize,
}

impl Block {
    /// The codec with the rotation whose signs `side` holds, or without one.
    pub(super) fn from_side(
        block: DType,
        rotate: bool,
        head_dim: usize,
        dtype: DType,
        side: &Side,
    ) -> Result<Self, CodecError> {
        let rotation = if rotate {
            if side.signs.len() != head_dim.div_ceil(8) {
                return Err(CodecError::Unsupported { why: "had needs a sign for each element of a row" });
            }
            let rotation = Rotation::from_signs(head_dim, &side.signs);
            Some(rotation.map_err(|_| CodecError::Unsupported { why: "had needs a shorter head_dim" })?)
        } else {
            None
        };
        Self::new(block, rotation, head_dim, dtype)
    }

    pub(super) fn new(
        block: DType,
        rotation: Option<Rotation>,
        head_dim: usize,
        dtype: DType,
    ) -> Result<Self, CodecError> {
        const WHY: CodecError =
            CodecError::Unsupported { why: "block formats need a head_dim that is a multiple of 32" };
        let code_bytes = block.bytes_for(head_dim).filter(|n| *n > 0).ok_or(WHY)?;
        let row_bytes = dtype.bytes_for(head_dim).ok_or(WHY)?;
        if rotation.as_ref().is_some_and(|r| r.head_dim() != head_dim) {
            return Err(CodecError::Unsupported { why: "the rotation is for rows of another length" });
        }
        Ok(Self { block, rotation, dtype, head_dim, row_bytes, code_bytes })
    }

    fn copies(&self) -> bool {
        self.dtype == self.block && self.rotation.is_none()
    }

    /// Rows that pass through the scratch memory at once.
    fn piece_rows(&self) -> usize {
        (PIECE / self.head_dim).max(1)
    }

    /// Pieces of `rows` and of `code` that hold the same rows, and how many rows come before each.
    fn pieces(&self) -> (usize, usize, usize) {
        let n = self.piece_rows();
        (n, n * self.row_bytes, n * self.code_bytes)
    }
}

impl TileCodec for Block {
    fn bound(&self, n_rows: usize) -> usize {
        n_rows * self.code_bytes
    }

    fn is_exact(&self) -> bool {
        self.copies()
    }

    fn workspace(&self, n_rows: usize) -> WorkspaceSize {
        let rows = if self.copies() { 0 } else { n_rows.min(self.piece_rows()) };
        WorkspaceSize { floats: rows * self.head_dim, bytes: 0 }
    }

    fn encode(&self, rows: &[u8], out: &mut [u8], ws: &mut Workspace<'_>) -> Result<usize, CodecError> {
        let n_rows = count_rows(rows.len(), self.row_bytes)?;
        let out = lent(out, n_rows * self.code_bytes)?;
        if self.copies() {
            out.copy_from_slice(rows);
            return Ok(rows.len());
        }
        let (step, row_step, code_step) = self.pieces();
        let floats = lent(ws.floats, n_rows.min(step) * self.head_dim)?;
        for (i, (rows, code)) in rows.chunks(row_step).zip(out.chunks_mut(code_step)).enumerate() {
            let x = &mut floats[..rows.len() / self.row_bytes * self.head_dim];
            to_f32(self.dtype, rows, x).map_err(|_| MISMATCH)?;
            if let Some(rotation) = &self.rotation {
                rotation.forward(x);
            }
            from_f32(self.block, x, code).map_err(|e| match e {
                ConvertError::NonFinite { index } => {
                    CodecError::NonFinite { row: i * step + index / self.head_dim }
                }
                _ => MISMATCH,
            })?;
        }
        Ok(out.len())
    }

    fn decode(&self, code: &[u8], rows: &mut [u8], ws: &mut Workspace<'_>) -> Result<(), CodecError> {
        let n_rows = count_rows(rows.len(), self.row_bytes)?;
        if code.len() != n_rows * self.code_bytes {
            return Err(CodecError::Corrupt { what: "blocks and rows differ in number" });
        }
        if self.copies() {
            rows.copy_from_slice(code);
            return Ok(());
        }
        let (step, row_step, code_step) = self.pieces();
        let floats = lent(ws.floats, n_rows.min(step) * self.head_dim)?;
        for (rows, code) in rows.chunks_mut(row_step).zip(code.chunks(code_step)) {
            if code.chunks_exact(self.block.block_bytes()).any(|block| block[1] & 0x7C == 0x7C) {
                return Err(CodecError::Corrupt { what: "a block's scale is not finite" });
            }
            let x = &mut floats[..code.len() / self.code_bytes * self.head_dim];
            to_f32(self.block, code, x).map_err(|_| MISMATCH)?;
            if let Some(rotation) = &self.rotation {
                rotation.inverse(x);
            }
            from_f32(self.dtype, x, rows).map_err(|_| MISMATCH)?;
        }
        Ok(())
    }
}

/// Cannot happen: lengths were checked, scales are finite and so are sums of a thousand of them.
const MISMATCH: CodecError = CodecError::Corrupt { what: "blocks do not fit the rows" };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::rng::Xoshiro256pp;
    use std::vec;
    use std::vec::Vec;

    const DIM: usize = 96;

    fn rows(dtype: DType, n_rows: usize) -> Vec<u8> {
        let mut rng = Xoshiro256pp::new(4);
        #[allow(clippy::cast_possible_truncation, reason = "any f32 will do")]
        let x: Vec<f32> = (0..n_rows * DIM).map(|_| (rng.f64() * 8.0 - 4.0) as f32).collect();
        let mut bytes = vec![0; dtype.bytes_for(x.len()).unwrap()];
        from_f32(dtype, &x, &mut bytes).unwrap();
        bytes
    }

    fn floats(dtype: DType, bytes: &[u8]) -> Vec<f32> {
        let mut x = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
        to_f32(dtype, bytes, &mut x).unwrap();
        x
    }

    fn encode(codec: &Block, rows: &[u8]) -> Result<Vec<u8>, CodecError> {
        let n_rows = rows.len() / codec.row_bytes;
        let mut code = vec![0; codec.bound(n_rows)];
        let mut scratch = vec![0.0; codec.workspace(n_rows).floats];
        let ws = &mut Workspace { floats: &mut scratch, bytes: &mut [], coder: None };
        assert_eq!(codec.encode(rows, &mut code, ws)?, code.len());
        Ok(code)
    }

    fn decode(codec: &Block, code: &[u8], n_rows: usize) -> Result<Vec<u8>, CodecError> {
        let mut rows = vec![0; n_rows * codec.row_bytes];
        let mut scratch = vec![0.0; codec.workspace(n_rows).floats];
        codec.decode(
            code,
            &mut rows,
            &mut Workspace { floats: &mut scratch, bytes: &mut [], coder: None },
        )?;
        Ok(rows)
    }

    #[test]
    fn every_source_type_comes_back_within_the_blocks_error() {
        for (block, bound) in [(DType::Q8_0, 0.01), (DType::Q4_0, 0.15)] {
            for dtype in DType::ALL {
                for rotation in [None, Some(Rotation::new(DIM, 3).unwrap())] {
                    let codec = Block::new(block, rotation, DIM, dtype).unwrap();
                    for n_rows in [0, 1, 42, 43, 100] {
                        let rows = rows(dtype, n_rows);
                        let back = decode(&codec, &encode(&codec, &rows).unwrap(), n_rows).unwrap();
                        let (x, y) = (floats(dtype, &rows), floats(dtype, &back));
                        let norm = |it: &mut dyn Iterator<Item = f32>| it.map(|v| v * v).sum::<f32>().sqrt();
                        let error = norm(&mut x.iter().zip(&y).map(|(a, b)| a - b));
                        // Narrow source types round once more.
                        let bound =
                            if dtype.block_bytes() == 1 || !dtype.is_plain() { bound + 0.15 } else { bound };
                        assert!(error <= bound * norm(&mut x.iter().copied()), "{dtype} as {block}");
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_are_the_blocks_of_the_reference_quantizer() {
        let rows = rows(DType::F16, 50);
        let mut want = vec![0; 50 * DIM / 32 * 18];
        from_f32(DType::Q4_0, &floats(DType::F16, &rows), &mut want).unwrap();
        assert_eq!(encode(&Block::new(DType::Q4_0, None, DIM, DType::F16).unwrap(), &rows), Ok(want));
    }

    #[test]
    fn blocks_of_the_same_type_are_copied() {
        let codec = Block::new(DType::Q8_0, None, DIM, DType::Q8_0).unwrap();
        let mut rows = rows(DType::Q8_0, 3);
        rows[1] = 0x7E; // a NaN scale is copied like any other
        assert!(codec.is_exact());
        assert_eq!(encode(&codec, &rows).unwrap(), rows);
        assert_eq!(decode(&codec, &rows, 3).unwrap(), rows);
    }

    #[test]
    fn rows_that_are_not_finite_are_named() {
        for rotation in [None, Some(Rotation::new(DIM, 3).unwrap())] {
            let codec = Block::new(DType::Q8_0, rotation, DIM, DType::F16).unwrap();
            for (row, bits) in [(0, 0x7C00_u16), (41, 0x7E00), (42, 0xFC00), (90, 0x7C01)] {
                let mut rows = rows(DType::F16, 91);
                let at = (row * DIM + 17) * 2;
                rows[at..at + 2].copy_from_slice(&bits.to_le_bytes());
                assert_eq!(encode(&codec, &rows), Err(CodecError::NonFinite { row }));
            }
        }
    }

    #[test]
    fn damaged_tiles_are_refused() {
        let codec = Block::new(DType::Q4_0, None, DIM, DType::F16).unwrap();
        let mut code = encode(&codec, &rows(DType::F16, 5)).unwrap();
        for len in 0..code.len() {
            assert!(matches!(decode(&codec, &code[..len], 5), Err(CodecError::Corrupt { .. })));
        }
        code[19] = 0x7C;
        assert!(matches!(decode(&codec, &code, 5), Err(CodecError::Corrupt { .. })));
    }

    #[test]
    fn rows_that_are_not_whole_blocks_are_unsupported() {
        for head_dim in [0, 16, 80] {
            let codec = Block::new(DType::Q8_0, None, head_dim, DType::F16);
            assert!(matches!(codec, Err(CodecError::Unsupported { .. })));
        }
    }
}
