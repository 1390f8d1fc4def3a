use std::vec;
use std::vec::Vec;

use super::*;
use crate::view::{KvShape, KvStrides};

/// Stores the upper byte of every f16, refuses infinities and NaN: a lossy codec that is easy to check.
struct Halved;

fn is_finite(bytes: &[u8]) -> bool {
    bytes[1] & 0x7c != 0x7c
}

impl TileCodec for Halved {
    fn bound(&self, n_rows: usize) -> usize {
        n_rows * 4
    }
    fn workspace(&self, n_rows: usize) -> WorkspaceSize {
        WorkspaceSize { floats: 3, bytes: n_rows }
    }
    fn encode(&self, rows: &[u8], out: &mut [u8], ws: &mut Workspace<'_>) -> Result<usize, CodecError> {
        assert!(ws.floats.len() >= 3 && ws.bytes.len() >= rows.len() / 8);
        for (i, (x, o)) in rows.chunks(2).zip(&mut *out).enumerate() {
            if !is_finite(x) {
                return Err(CodecError::NonFinite { row: i / 4 });
            }
            *o = x[1];
        }
        Ok(rows.len() / 2)
    }
    fn decode(&self, code: &[u8], rows: &mut [u8], _: &mut Workspace<'_>) -> Result<(), CodecError> {
        if 2 * code.len() != rows.len() {
            return Err(CodecError::Corrupt { what: "length" });
        }
        for (x, c) in rows.chunks_mut(2).zip(code) {
            x.copy_from_slice(&[0, *c]);
        }
        Ok(())
    }
}

/// Always wants more than the rows' own bytes.
struct Bloated;

impl TileCodec for Bloated {
    fn bound(&self, n_rows: usize) -> usize {
        n_rows * 8 + 1
    }
    fn workspace(&self, _: usize) -> WorkspaceSize {
        WorkspaceSize::default()
    }
    fn encode(&self, rows: &[u8], out: &mut [u8], _: &mut Workspace<'_>) -> Result<usize, CodecError> {
        out[..=rows.len()].fill(9);
        Ok(rows.len() + 1)
    }
    fn decode(&self, _: &[u8], _: &mut [u8], _: &mut Workspace<'_>) -> Result<(), CodecError> {
        panic!("its tiles are stored raw");
    }
}

const DIM: usize = 4;

fn halved(n_kv_heads: usize) -> Vec<Arc<dyn TileCodec>> {
    (0..n_kv_heads).map(|_| Arc::new(Halved) as Arc<dyn TileCodec>).collect()
}

fn source(n_tokens: usize, n_kv_heads: usize) -> (Vec<u8>, KvShape) {
    let shape = KvShape { dtype: DType::F16, n_tokens, n_kv_heads, head_dim: DIM };
    // Finite f16: the upper byte stays below 0x7c.
    let mut bytes = vec![0; shape.n_values() * 2];
    for (i, b) in bytes.iter_mut().enumerate() {
        *b = u8::try_from(i * 37 % if i % 2 == 0 { 251 } else { 113 }).unwrap();
    }
    (bytes, shape)
}

fn stream(codecs: Vec<Arc<dyn TileCodec>>, exact: &[u32]) -> StreamCodec {
    StreamCodec::new(DType::F16, DIM, codecs, exact.to_vec()).unwrap()
}

fn encode(
    s: &StreamCodec,
    view: &KvView<'_>,
    tokens: Range<usize>,
) -> Result<(Vec<u8>, Vec<HeadStats>), CodecError> {
    let mut out = vec![0xee; s.bound(tokens.clone())];
    let mut stats = vec![HeadStats::default(); s.n_kv_heads()];
    let size = s.workspace(tokens.len());
    let (mut floats, mut bytes) = (vec![0.0; size.floats], vec![0; size.bytes]);
    let mut ws = Workspace { floats: &mut floats, bytes: &mut bytes, coder: None };
    let n = s.encode(view, tokens, &mut out, &mut ws, Some(&mut stats))?;
    out.truncate(n);
    Ok((out, stats))
}

fn decode(s: &StreamCodec, chunk: &[u8], tokens: Range<usize>, head: usize) -> Result<Vec<u8>, CodecError> {
    let mut rows = vec![0x55; tokens.len() * s.row_bytes()];
    let size = s.workspace(tokens.len());
    let (mut floats, mut bytes) = (vec![0.0; size.floats], vec![0; size.bytes]);
    let mut ws = Workspace { floats: &mut floats, bytes: &mut bytes, coder: None };
    s.decode_head(chunk, tokens, head, &mut rows, &mut ws).map(|()| rows)
}

/// What `Halved` keeps of the rows of `head`, with the exact tokens whole.
fn expected(view: &KvView<'_>, tokens: Range<usize>, head: usize, exact: &[u32]) -> Vec<u8> {
    let mut rows = vec![0; tokens.len() * DIM * 2];
    view.copy_rows(head, tokens.clone(), &mut rows);
    for (row, token) in rows.chunks_mut(DIM * 2).zip(tokens) {
        if !exact.iter().any(|t| *t as usize == token) {
            row.iter_mut().step_by(2).for_each(|b| *b = 0);
        }
    }
    rows
}

#[test]
fn rows_come_back_in_token_order_with_exact_ones_whole() {
    let (bytes, shape) = source(40, 3);
    let transposed = KvStrides { token: 1, head: DIM * 40, dim: 40 };
    for strides in [KvStrides::token_major(&shape), KvStrides::head_major(&shape), transposed] {
        let view = KvView::new(&bytes, shape, strides).unwrap();
        for exact in [&[][..], &[0, 1, 2, 3], &[9], &[5, 7, 8, 39], &[10, 11, 18, 19], &[3, 12, 12, 1, 90]] {
            let s = stream(halved(3), exact);
            for tokens in [0..40, 10..20, 5..6, 8..8, 39..40] {
                let (chunk, stats) = encode(&s, &view, tokens.clone()).unwrap();
                for (head, stats) in stats.iter().enumerate() {
                    let rows = decode(&s, &chunk, tokens.clone(), head).unwrap();
                    assert_eq!(
                        rows,
                        expected(&view, tokens.clone(), head, exact),
                        "{exact:?} {tokens:?} {head}"
                    );
                    assert_eq!(stats.n_values, (tokens.len() * DIM) as u64);
                }
            }
        }
    }
}

#[test]
fn tiles_that_cannot_hold_their_rows_are_refused_without_taking_memory_for_them() {
    let (bytes, shape) = source(40, 2);
    let view = KvView::new(&bytes, shape, KvStrides::head_major(&shape)).unwrap();
    let s = stream(vec![Arc::new(Halved), Arc::new(Bloated)], &[1]);
    let (chunk, _) = encode(&s, &view, 0..20).unwrap();
    for head in 0..2 {
        assert_eq!(s.check_head(&chunk, 0..20, head), Ok(()));
        // What a forged count of tokens would ask for.
        for tokens in [0..0, 0..1, 0..19, 0..21, 0..1 << 30] {
            assert!(matches!(s.check_head(&chunk, tokens, head), Err(CodecError::Corrupt { .. })));
        }
    }
}

#[test]
fn tiles_lie_as_the_layout_says() {
    let (bytes, shape) = source(6, 2);
    let view = KvView::new(&bytes, shape, KvStrides::head_major(&shape)).unwrap();
    let s = stream(vec![Arc::new(Halved), Arc::new(Bloated)], &[1]);
    let (chunk, stats) = encode(&s, &view, 0..3).unwrap();
    let row = |head: usize, token: usize| &bytes[(head * 6 + token) * 8..][..8];
    let upper = |token| row(0, token).iter().skip(1).step_by(2).copied();
    let mut expected = Vec::new();
    expected.extend((8u32 + 2 * 4).to_le_bytes());
    expected.extend(((8u32 + 2 * 8) | (1 << 31)).to_le_bytes());
    expected.extend(row(0, 1));
    expected.extend(upper(0).chain(upper(2)));
    expected.extend([row(1, 1), row(1, 0), row(1, 2)].concat());
    assert_eq!(chunk, expected);
    assert_eq!(stats[1].raw_tiles, 1);
    assert_eq!(stats[1].sum_sq_error, 0.0);
    assert_eq!(decode(&s, &chunk, 0..3, 1).unwrap(), [row(1, 0), row(1, 1), row(1, 2)].concat());
}

#[test]
fn a_tile_with_nan_is_stored_raw_and_counted() {
    let (mut bytes, shape) = source(8, 2);
    bytes[(8 + 5) * 8 + 3] = 0x7e;
    let view = KvView::new(&bytes, shape, KvStrides::head_major(&shape)).unwrap();
    let s = stream(halved(2), &[]);
    let (chunk, stats) = encode(&s, &view, 0..8).unwrap();
    assert_eq!(decode(&s, &chunk, 0..8, 1).unwrap(), bytes[64..]);
    assert_eq!((stats[0].raw_tiles, stats[1].raw_tiles), (0, 1));
    assert_eq!((stats[1].sum_sq, stats[1].sum_sq_error, stats[1].n_values), (0.0, 0.0, 32));
    // The same token kept exact leaves a tile that the codec takes.
    let (_, stats) = encode(&stream(halved(2), &[5]), &view, 0..8).unwrap();
    assert_eq!(stats[1].raw_tiles, 0);
    assert!(stats[1].sum_sq.is_finite() && stats[1].sum_sq_error > 0.0);
}

#[test]
fn stats_are_those_of_the_decoded_values() {
    let (bytes, shape) = source(30, 2);
    let view = KvView::new(&bytes, shape, KvStrides::token_major(&shape)).unwrap();
    let s = stream(halved(2), &[2, 3]);
    let widen = |rows: &[u8]| -> Vec<f64> {
        rows.chunks(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f64()).collect()
    };
    let (chunk, stats) = encode(&s, &view, 0..30).unwrap();
    for (head, stats) in stats.iter().enumerate() {
        let mut rows = vec![0; 30 * 8];
        view.copy_rows(head, 0..30, &mut rows);
        let (x, y) = (widen(&rows), widen(&decode(&s, &chunk, 0..30, head).unwrap()));
        let err: f64 = x.iter().zip(&y).map(|(x, y)| (x - y) * (x - y)).sum();
        let sq: f64 = x.iter().map(|x| x * x).sum();
        let max = x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        assert!((stats.sum_sq_error / err - 1.0).abs() < 1e-12);
        assert!((stats.sum_sq / sq - 1.0).abs() < 1e-12);
        assert_eq!(stats.max_abs_error, max);
        assert!((stats.rel_error() - (err / sq).sqrt()).abs() < 1e-12);
    }
    let mut merged = stats[0];
    merged.merge(&stats[1]);
    assert_eq!(merged.n_values, 240);
}

#[test]
fn damage_never_panics() {
    let (mut bytes, shape) = source(12, 3);
    bytes[(12 + 5) * 8 + 3] = 0x7e;
    let view = KvView::new(&bytes, shape, KvStrides::head_major(&shape)).unwrap();
    let s = stream(halved(3), &[0, 7]);
    let (chunk, _) = encode(&s, &view, 0..12).unwrap();
    for cut in 0..chunk.len() {
        for head in 0..3 {
            assert!(
                matches!(decode(&s, &chunk[..cut], 0..12, head), Err(CodecError::Corrupt { .. })),
                "{cut}"
            );
        }
    }
    for at in 0..chunk.len() {
        for flip in 1..=255 {
            let mut damaged = chunk.clone();
            damaged[at] ^= flip;
            for head in 0..3 {
                match decode(&s, &damaged, 0..12, head) {
                    // Lengths guard themselves, and bit 31 does for its own head; payload damage is what the
                    // container's checksums are for.
                    Ok(_) => assert!(
                        at >= 12 || (flip == 0x80 && at % 4 == 3 && at / 4 != head),
                        "byte {at} of the table changed by {flip:#x} unnoticed by head {head}"
                    ),
                    Err(e) => assert!(matches!(e, CodecError::Corrupt { .. }), "{e}"),
                }
            }
        }
    }
    // Another token range than the one encoded.
    assert!(matches!(decode(&s, &chunk, 0..13, 0), Err(CodecError::Corrupt { .. })));
}

#[test]
fn wrong_shapes_and_short_buffers_are_refused() {
    let (bytes, shape) = source(8, 2);
    let view = KvView::new(&bytes, shape, KvStrides::head_major(&shape)).unwrap();
    let refused =
        |s: &StreamCodec, tokens| matches!(encode(s, &view, tokens), Err(CodecError::Unsupported { .. }));
    assert!(refused(&stream(halved(3), &[]), 0..8));
    assert!(refused(&stream(halved(2), &[]), 0..9));
    let s = stream(halved(2), &[]);
    let mut out = vec![0; s.bound(0..8) - 1];
    let mut ws = Workspace { floats: &mut [0.0; 3], bytes: &mut [0; 999], coder: None };
    let short = CodecError::ShortBuffer { needed: s.bound(0..8), got: out.len() };
    assert_eq!(s.encode(&view, 0..8, &mut out, &mut ws, None), Err(short));
    assert!(matches!(
        s.decode_head(&[0; 8], 0..8, 0, &mut [0; 63], &mut ws),
        Err(CodecError::ShortBuffer { .. })
    ));
}
