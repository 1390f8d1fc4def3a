//! How much of a large file the reader touches.

use core::cell::Cell;
use core::convert::Infallible;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::super::*;
use crate::num::DType;
use crate::view::KvShape;

const LAYERS: u32 = 32;
const CHUNKS: usize = 512;
/// 256 tokens x 8 heads x 80 values at 4 bits and a norm for each row.
const PAYLOAD: usize = 8 * 4 + 256 * 8 * (40 + 2);

/// Keeps what is written but chunks, which all are the same here.
#[derive(Default)]
struct Sparse {
    len: u64,
    pieces: BTreeMap<u64, Vec<u8>>,
    read: Cell<u64>,
    reads: Cell<u64>,
}

impl Sink for Sparse {
    type Error = Infallible;
    fn write(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        if bytes.len() != PAYLOAD {
            self.pieces.insert(self.len, bytes.to_vec());
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

impl ReadAt for Sparse {
    type Error = Infallible;
    fn len(&self) -> Result<u64, Infallible> {
        Ok(self.len)
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Infallible> {
        self.read.set(self.read.get() + buf.len() as u64);
        self.reads.set(self.reads.get() + 1);
        buf.fill(0);
        if let Some((start, piece)) = self.pieces.range(..=offset).next_back() {
            let from = usize::try_from(offset - start).unwrap();
            if let Some(rest) = piece.get(from..from + buf.len()) {
                buf.copy_from_slice(rest);
            }
        }
        Ok(())
    }
}

/// The shape of a 10 GiB f16 cache: 131072 tokens, 32 layers, 8 heads of 80.
fn large() -> Sparse {
    let mut writer = Writer::new(Sparse::default()).unwrap();
    let shape = KvShape { dtype: DType::F16, n_tokens: CHUNKS * 256, n_kv_heads: 8, head_dim: 80 };
    let payload = vec![0; PAYLOAD];
    let side = SideData { grid: vec![0.5; 16], signs: vec![1; 10], codebook: None };
    let side = writer.write_side(&side).unwrap();
    let exact = writer.write_exact(&[0, 1, 2, 3]).unwrap();
    let codec = writer.codec("had+lm4").unwrap();
    let mut streams = Vec::new();
    for layer in 0..LAYERS {
        for kind in [Kind::K, Kind::V] {
            for chunk in 0..CHUNKS {
                writer.write_chunk(streams.len(), chunk, &payload).unwrap();
            }
            let info = StreamInfo { part: 0, layer, kind, shape, chunk_tokens: 256, hadamard: 0 };
            let (heads, stats) = (vec![Head { codec, side }; 8], vec![HeadStats::default(); 8]);
            streams.push(StreamEntry { info, heads, exact, stats });
        }
    }
    writer.finish(&streams, "{}", None).unwrap()
}

#[test]
fn reading_256_tokens_of_a_layer_touches_little_else() {
    let file = large();
    let reader = Reader::open(&file).unwrap();
    let (open_bytes, open_reads) = (file.read.get(), file.reads.get());
    std::println!("open: {open_bytes} bytes in {open_reads} reads, file of {} bytes", file.len);
    assert!(open_bytes < 8 << 10, "{open_bytes}");
    let mut buf = Vec::new();
    let mut payload = 0;
    for kind in [Kind::K, Kind::V] {
        let stream = reader.find(0, 17, kind).unwrap();
        for head in reader.heads(stream).unwrap() {
            reader.side(&head).unwrap();
        }
        reader.exact(stream).unwrap();
        let index = reader.chunk_index(stream).unwrap();
        for chunk in index.covering(256 * 300..256 * 301) {
            reader.read_chunk(&index, chunk, &mut buf).unwrap();
            payload += buf.len() as u64;
        }
    }
    assert_eq!(payload, 2 * PAYLOAD as u64);
    std::println!("256 tokens: {} bytes in {} reads, payload {payload}", file.read.get(), file.reads.get());
    assert!(file.read.get() <= payload * 11 / 10 + (64 << 10), "{}", file.read.get());
}
