//! `raw`: the rows' own bytes.

use super::buffers::{count_rows, lent};
use super::{CodecError, TileCodec, Workspace, WorkspaceSize};
use crate::num::DType;

/// Copies rows of any type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw {
    row_bytes: usize,
}

impl Raw {
    pub(super) fn new(head_dim: usize, dtype: DType) -> Result<Self, CodecError> {
        let row_bytes = dtype.bytes_for(head_dim).filter(|n| *n > 0);
        let row_bytes = row_bytes.ok_or(CodecError::Unsupported { why: "a row holds whole blocks" })?;
        Ok(Self { row_bytes })
    }
}

impl TileCodec for Raw {
    fn bound(&self, n_rows: usize) -> usize {
        n_rows * self.row_bytes
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn workspace(&self, _n_rows: usize) -> WorkspaceSize {
        WorkspaceSize::default()
    }

    fn encode(&self, rows: &[u8], out: &mut [u8], _ws: &mut Workspace<'_>) -> Result<usize, CodecError> {
        count_rows(rows.len(), self.row_bytes)?;
        lent(out, rows.len())?.copy_from_slice(rows);
        Ok(rows.len())
    }

    fn decode(&self, code: &[u8], rows: &mut [u8], _ws: &mut Workspace<'_>) -> Result<(), CodecError> {
        count_rows(rows.len(), self.row_bytes)?;
        if code.len() != rows.len() {
            return Err(CodecError::Corrupt { what: "raw bytes and rows differ in length" });
        }
        rows.copy_from_slice(code);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_wrong_lengths_are_refused() {
        let raw = Raw::new(32, DType::Q8_0).unwrap();
        let rows: [u8; 68] = core::array::from_fn(|i| u8::try_from(i).unwrap());
        let ws = &mut Workspace { floats: &mut [], bytes: &mut [], coder: None };
        let (mut code, mut back) = ([0; 70], [0; 68]);
        assert_eq!(raw.encode(&rows, &mut code, ws), Ok(68));
        assert_eq!(raw.decode(&code[..68], &mut back, ws), Ok(()));
        assert_eq!(back, rows);
        assert!(matches!(raw.decode(&code, &mut back, ws), Err(CodecError::Corrupt { .. })));
        assert!(matches!(raw.encode(&rows[1..], &mut code, ws), Err(CodecError::Corrupt { .. })));
        assert_eq!(
            raw.encode(&rows, &mut code[..67], ws),
            Err(CodecError::ShortBuffer { needed: 68, got: 67 })
        );
    }
}
