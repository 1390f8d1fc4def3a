//! Small containers of every codec, and the Rust way to decode them.

#![allow(dead_code, reason = "each test program uses its part")]

use std::sync::Arc;

use tersa_core::codec::chunk::StreamCodec;
use tersa_core::codec::{self, ByteCoder, CodecSpec, Side, Workspace};
use tersa_core::format::HeadStats;
use tersa_core::format::{
    Extent, Head, Kind, Placement, Reader, Source, SourceFile, StreamEntry, StreamInfo, VerbatimMethod,
    Writer,
};
use tersa_core::num::DType;
use tersa_core::num::convert;
use tersa_core::num::rng::Xoshiro256pp;
use tersa_core::view::{KvShape, KvStrides, KvView};

#[path = "../zstd_coder/mod.rs"]
mod zstd_coder;

use zstd_coder::Zstd;

/// What a container holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) spec: &'static str,
    pub(crate) dtype: DType,
    pub(crate) head_dim: usize,
}

const fn recipe(spec: &'static str, dtype: DType, head_dim: usize) -> Recipe {
    Recipe { spec, dtype, head_dim }
}

/// Every codec, every plain type, and head dimensions that are no power of two or no multiple of a group.
pub(crate) const RECIPES: &[Recipe] = &[
    recipe("raw", DType::F16, 24),
    recipe("raw", DType::Q8_0, 32),
    recipe("lossless", DType::F16, 64),
    recipe("lossless", DType::Bf16, 40),
    recipe("lossless", DType::F32, 33),
    recipe("lossless", DType::F8E4m3, 32),
    recipe("lossless", DType::Q4_0, 64),
    recipe("q8_0", DType::F16, 64),
    recipe("q8_0", DType::Q8_0, 32),
    recipe("q4_0", DType::Bf16, 64),
    recipe("had+q8_0", DType::F32, 96),
    recipe("had+q4_0", DType::F16, 64),
    recipe("had+lm2", DType::F8E5m2, 64),
    recipe("had+lm3", DType::F16, 80),
    recipe("had+lm4", DType::F16, 64),
    recipe("mean+had+lm4", DType::Bf16, 64),
    recipe("mean+had+lm5+ls", DType::F32, 48),
    recipe("had+lm6+unbiased", DType::F16, 64),
    recipe("had+lm8", DType::F8E4m3, 64),
    recipe("int2c32", DType::F16, 64),
    recipe("int4t32", DType::F16, 80),
    recipe("int8c64", DType::F32, 40),
    recipe("int8t128", DType::Bf16, 64),
    recipe("pq:4x4", DType::F16, 10),
    recipe("pq:7x6", DType::F32, 32),
    recipe("pq:3x8", DType::Bf16, 32),
];

const N_TOKENS: usize = 53;
const CHUNK: u32 = 36;
const HEADS: usize = 2;
const EXACT: [u32; 5] = [0, 1, 2, 37, 52];
/// Bytes before, between and after the two tensors of the source file.
const GAPS: [usize; 3] = [37, 5, 300];

impl Recipe {
    pub(crate) fn shape(&self) -> KvShape {
        KvShape { dtype: self.dtype, n_tokens: N_TOKENS, n_kv_heads: HEADS, head_dim: self.head_dim }
    }

    fn strides(&self, kind: Kind) -> KvStrides {
        // Keys lie token by token, values head by head, so that both ways of placing rows are tried.
        match kind {
            Kind::K => KvStrides::token_major(&self.shape()),
            Kind::V => KvStrides::head_major(&self.shape()),
        }
    }

    fn tensor_bytes(&self) -> usize {
        self.dtype.bytes_for(self.shape().n_values()).unwrap()
    }

    /// Where the tensor of `kind` starts in the source file.
    fn tensor_offset(&self, kind: Kind) -> usize {
        match kind {
            Kind::K => GAPS[0],
            Kind::V => GAPS[0] + self.tensor_bytes() + GAPS[1],
        }
    }

    /// The source file: noise with a few outlier channels, one NaN and one infinity where the type has them.
    pub(crate) fn source_bytes(&self) -> Vec<u8> {
        let mut rng = Xoshiro256pp::new(self.head_dim as u64);
        let mut file: Vec<u8> = Vec::new();
        for (kind, gap) in [(Kind::K, GAPS[0]), (Kind::V, GAPS[1])] {
            file.extend((0..gap).map(|i| u8::try_from(i % 251).unwrap()));
            let mut values: Vec<f32> = (0..self.shape().n_values())
                .map(|i| {
                    let wide = if i % self.head_dim == 3 { 8.0 } else { 1.0 };
                    (0..4)
                        .map(|_| f32::from(u16::try_from(rng.below(4096)).unwrap()) / 2048.0 - 1.0)
                        .sum::<f32>()
                        * wide
                })
                .collect();
            if kind == Kind::V && self.dtype.is_plain() {
                // In the second chunk of the second head.
                values[(N_TOKENS + 45) * self.head_dim + 1] = f32::NAN;
            }
            let at = file.len();
            file.resize(at + self.tensor_bytes(), 0);
            if self.dtype.is_plain() {
                convert::from_f32(self.dtype, &values, &mut file[at..]).unwrap();
                if kind == Kind::V {
                    self.poison(&mut file[at..]);
                }
            } else {
                file[at..].iter_mut().for_each(|b| *b = u8::try_from(rng.below(256)).unwrap());
            }
        }
        file.extend((0..GAPS[2]).map(|i| u8::try_from(i % 7).unwrap()));
        file
    }

    /// Puts a NaN with a payload where conversion may have saturated it.
    fn poison(&self, tensor: &mut [u8]) {
        let size = self.dtype.block_bytes();
        let at = ((N_TOKENS + 45) * self.head_dim + 1) * size;
        tensor[at..at + size].fill(0xff);
    }

    pub(crate) fn view<'a>(&self, file: &'a [u8], kind: Kind) -> KvView<'a> {
        KvView::new(&file[self.tensor_offset(kind)..], self.shape(), self.strides(kind)).unwrap()
    }

    /// The container.
    pub(crate) fn build(&self) -> Vec<u8> {
        let file = self.source_bytes();
        let spec: CodecSpec = self.spec.parse().unwrap();
        let mut writer = Writer::new(Vec::new()).unwrap();
        let id = writer.codec(self.spec).unwrap();
        let tensors: Vec<usize> = [Kind::K, Kind::V].map(|kind| self.tensor_offset(kind)).into();
        let mut verbatim = file.clone();
        for at in tensors.iter().rev() {
            verbatim.drain(*at..*at + self.tensor_bytes());
        }
        let (a, b) = verbatim.split_at(20);
        writer.write_verbatim(VerbatimMethod::Raw, a.len(), a).unwrap();
        writer.write_verbatim(VerbatimMethod::Zstd, b.len(), &zstd::bulk::compress(b, 3).unwrap()).unwrap();
        let exact = writer.write_exact(&EXACT).unwrap();
        let mut streams = Vec::new();
        for (s, kind) in [Kind::K, Kind::V].into_iter().enumerate() {
            let view = self.view(&file, kind);
            let info =
                StreamInfo { part: 0, layer: 5, kind, shape: self.shape(), chunk_tokens: CHUNK, hadamard: 0 };
            let (mut heads, mut codecs) = (Vec::new(), Vec::new());
            for head in 0..HEADS {
                let mut rows = vec![0; N_TOKENS * self.shape().row_bytes()];
                view.copy_rows(head, 0..N_TOKENS, &mut rows);
                let mut floats = vec![0.0; N_TOKENS * self.head_dim];
                convert::to_f32(self.dtype, &rows, &mut floats).unwrap();
                let side = Side::make(spec, self.head_dim, 11, Some(&floats)).unwrap();
                heads.push(Head { codec: id, side: writer.write_side(&side.to_stored()).unwrap() });
                codecs.push(Arc::from(codec::prepare(spec, self.head_dim, self.dtype, &side).unwrap()));
            }
            let coder = StreamCodec::new(self.dtype, self.head_dim, codecs, EXACT.to_vec()).unwrap();
            let mut stats = vec![HeadStats::default(); HEADS];
            for chunk in 0..info.n_chunks() {
                let start = chunk * CHUNK as usize;
                let tokens = start..N_TOKENS.min(start + CHUNK as usize);
                let mut out = vec![0; coder.bound(tokens.clone())];
                let n = with_workspace(&coder, tokens.len(), |ws| {
                    coder.encode(&view, tokens.clone(), &mut out, ws, Some(&mut stats)).unwrap()
                });
                writer.write_chunk(s, chunk, &out[..n]).unwrap();
            }
            let stats = stats.to_vec();
            streams.push(StreamEntry { info, heads, exact, stats });
        }
        let length = self.tensor_bytes() as u64;
        let source = Source {
            files: vec![SourceFile {
                name: "cache/kv.bin".into(),
                length: file.len() as u64,
                tensors: tensors.iter().map(|at| Extent { offset: *at as u64, length }).collect(),
            }],
            placements: [Kind::K, Kind::V]
                .map(|kind| Placement {
                    file: 0,
                    offset: self.tensor_offset(kind) as u64,
                    strides: self.strides(kind),
                })
                .into(),
        };
        let metadata = format!("{{\"codec\":\"{}\"}}", self.spec);
        writer.finish(&streams, &metadata, Some(&source)).unwrap()
    }

    /// The source file with its tensors replaced by decoded streams.
    pub(crate) fn restored(&self, streams: &[Vec<u8>]) -> Vec<u8> {
        let mut file = self.source_bytes();
        let row = self.shape().row_bytes();
        for (s, kind) in [Kind::K, Kind::V].into_iter().enumerate() {
            let (at, strides) = (self.tensor_offset(kind), self.strides(kind));
            for (i, bytes) in streams[s].chunks_exact(row).enumerate() {
                let (token, head) = (i / HEADS, i % HEADS);
                let elements = token * strides.token + head * strides.head;
                let start = at + self.dtype.bytes_for(elements).unwrap();
                file[start..start + row].copy_from_slice(bytes);
            }
        }
        file
    }
}

fn with_workspace<T>(coder: &StreamCodec, n_tokens: usize, run: impl FnOnce(&mut Workspace<'_>) -> T) -> T {
    let size = coder.workspace(n_tokens);
    let (mut floats, mut bytes) = (vec![0.0; size.floats], vec![0; size.bytes]);
    run(&mut Workspace { floats: &mut floats, bytes: &mut bytes, coder: Some(&mut Zstd::new(3)) })
}

/// Decodes a stream of a container to `[token][head][dim]` in its own type.
pub(crate) fn decode_stream(container: &[u8], stream: usize) -> Vec<u8> {
    let reader = Reader::open(container).unwrap();
    let shape = reader.streams()[stream].shape;
    let row = shape.row_bytes();
    let coder = StreamCodec::open(&reader, stream).unwrap();
    let index = reader.chunk_index(stream).unwrap();
    let mut out = vec![0; shape.n_tokens * shape.n_kv_heads * row];
    let mut payload = Vec::new();
    for chunk in 0..index.chunks().len() {
        reader.read_chunk(&index, chunk, &mut payload).unwrap();
        let tokens = index.tokens(chunk);
        for head in 0..shape.n_kv_heads {
            let mut rows = vec![0; tokens.len() * row];
            with_workspace(&coder, tokens.len(), |ws| {
                coder.decode_head(&payload, tokens.clone(), head, &mut rows, ws).unwrap();
            });
            for (token, bytes) in tokens.clone().zip(rows.chunks_exact(row)) {
                let at = (token * shape.n_kv_heads + head) * row;
                out[at..at + row].copy_from_slice(bytes);
            }
        }
    }
    out
}
