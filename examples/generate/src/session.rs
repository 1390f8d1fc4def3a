//! The tokens of a text and the caches of all layers, and both in a `.tersa` file.
//!
//! The file holds a K and a V stream for each layer, coded by any codec (`lossless` gives back every bit), and in its
//! section of indexes what selection needs, so that a resumed session trains nothing. `tersa inspect` and `tersa
//! decompress --to safetensors` read it too.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tersa_core::codec::chunk::StreamCodec;
use tersa_core::codec::{self, ByteCoder, CodecSpec, Side, Workspace};
use tersa_core::format::{Head, HeadStats, Kind, Reader, StreamEntry, StreamInfo, Writer};
use tersa_core::kv::store::RowStore;
use tersa_core::num::convert;
use tersa_core::view::{KvShape, KvStrides, KvView};

use crate::attention::{LayerCache, Select};
use crate::model::Config;

/// Tokens of a chunk, the command line's choice.
const CHUNK_TOKENS: u32 = 256;
/// Seed of rotations and codebooks.
const SEED: u64 = 4321;

/// A text on its way.
#[derive(Debug)]
pub struct Session {
    tokens: Vec<u32>,
    layers: Vec<LayerCache>,
}

/// What a file says besides keys, values and indexes.
#[derive(Debug, Serialize, Deserialize)]
struct Metadata {
    creator: String,
    /// Keys have their positions in them.
    rope: String,
    tokens: Vec<u32>,
    /// The token that was chosen last and has not been run.
    next: Option<u32>,
}

/// A session out of a file.
#[derive(Debug)]
pub struct Resumed {
    /// The session.
    pub session: Session,
    /// The token to go on with.
    pub next: Option<u32>,
    /// Whether the file had no indexes of the wanted kind, so that they were made without the prompt's queries.
    pub reindexed: bool,
}

impl Session {
    /// An empty session; steps allocate nothing for caches up to `capacity` tokens.
    ///
    /// # Errors
    /// If the model's heads have a shape that Tersa does not serve.
    pub fn new(config: &Config, select: &Select, capacity: usize) -> Result<Self> {
        let layer = |_| LayerCache::new(select, config.n_kv_heads, config.group(), config.head_dim, capacity);
        Ok(Self { tokens: Vec::new(), layers: (0..config.n_layers).map(layer).collect::<Result<_>>()? })
    }

    /// Tokens that were run.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The caches, to be given the next tokens.
    pub fn layers_mut(&mut self) -> &mut [LayerCache] {
        &mut self.layers
    }

    /// Notes tokens that all layers have taken.
    pub fn took(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Writes the session to a file, under a temporary name until it is whole. `next` is a token that was chosen but not
    /// yet run.
    ///
    /// # Errors
    /// If the codec does not serve the rows, or the file cannot be written.
    pub fn save(&self, path: &Path, spec: &str, next: Option<u32>) -> Result<()> {
        let mut writer = Writer::new(Vec::new())?;
        let mut streams = Vec::new();
        for (layer, cache) in (0..).zip(&self.layers) {
            let (keys, values): (Vec<_>, Vec<_>) = cache.stores().into_iter().unzip();
            for (kind, stores) in [(Kind::K, keys), (Kind::V, values)] {
                streams.push(write_stream(&mut writer, streams.len(), layer, kind, &stores, spec)?);
            }
            for (head, bytes) in (0..).zip(cache.indexes()) {
                writer.add_index(0, layer, head, bytes)?;
            }
        }
        let creator = concat!("tersa-generate ", env!("CARGO_PKG_VERSION")).into();
        let meta = Metadata { creator, rope: "post".into(), tokens: self.tokens.clone(), next };
        let bytes = writer.finish(&streams, &serde_json::to_string(&meta)?, None)?;
        let part = path.with_extension("tersa.part");
        fs::write(&part, bytes)
            .and_then(|()| fs::rename(&part, path))
            .with_context(|| path.display().to_string())
    }

    /// Reads a session that [`save`](Self::save) wrote for a model of these sizes.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or is of another model.
    pub fn resume(path: &Path, config: &Config, select: &Select, more: usize) -> Result<Resumed> {
        let name = || path.display().to_string();
        let bytes = fs::read(path).with_context(name)?;
        Self::from_bytes(&bytes, config, select, more).with_context(name)
    }

    fn from_bytes(bytes: &[u8], config: &Config, select: &Select, more: usize) -> Result<Resumed> {
        let reader = Reader::open(bytes)?;
        let Metadata { tokens, next, .. } = serde_json::from_str(&reader.metadata()?)?;
        let mut session = Self::new(config, select, tokens.len() + more)?;
        let entries = reader.indexes()?;
        let mut reindexed = false;
        for (layer, cache) in (0..).zip(&mut session.layers) {
            let stream = |kind| {
                let stream =
                    reader.find(0, layer, kind).with_context(|| format!("layer {layer} is not there"))?;
                let shape = reader.streams()[stream].shape;
                let fits = (shape.n_tokens, shape.n_kv_heads, shape.head_dim)
                    == (tokens.len(), config.n_kv_heads, config.head_dim);
                ensure!(fits, "layer {layer} is of another model: {shape:?}");
                read_stream(&reader, stream)
            };
            let (keys, values) = (stream(Kind::K)?, stream(Kind::V)?);
            for (head, (keys, values)) in (0..).zip(keys.into_iter().zip(values)) {
                let mut index = None;
                if let Some(i) = entries.iter().position(|e| (e.part, e.layer, e.head) == (0, layer, head)) {
                    reader.read_index(&entries, i, index.insert(Vec::new()))?;
                }
                reindexed |= cache.restore(head as usize, &keys, &values, index.as_deref())?;
            }
        }
        session.tokens = tokens;
        Ok(Resumed { session, next, reindexed })
    }
}

/// Codes the rows of a layer's heads, chunk by chunk.
fn write_stream(
    writer: &mut Writer<Vec<u8>>,
    stream: usize,
    layer: u32,
    kind: Kind,
    stores: &[&RowStore],
    spec: &str,
) -> Result<StreamEntry> {
    let Some(first) = stores.first() else { bail!("a layer without heads") };
    let (dtype, head_dim, n_tokens) = (first.dtype(), first.dim(), first.len());
    let shape = KvShape { dtype, n_tokens, n_kv_heads: stores.len(), head_dim };
    let info = StreamInfo { part: 0, layer, kind, shape, chunk_tokens: CHUNK_TOKENS, hadamard: 0 };
    let rows: Vec<u8> = stores.iter().flat_map(|s| s.blocks()).flatten().copied().collect();
    let view = KvView::new(&rows, shape, KvStrides::head_major(&shape))?;

    let codec = writer.codec(spec)?;
    let spec: CodecSpec = spec.parse()?;
    let (mut heads, mut codecs) = (Vec::new(), Vec::new());
    for store in stores {
        let mut training = vec![0.0; n_tokens * head_dim];
        convert::to_f32(dtype, &store.blocks().flatten().copied().collect::<Vec<u8>>(), &mut training)?;
        let side = Side::make(spec, head_dim, SEED, Some(&training))?;
        heads.push(Head { codec, side: writer.write_side(&side.to_stored())? });
        codecs.push(Arc::from(codec::prepare(spec, head_dim, dtype, &side)?));
    }
    let coder = StreamCodec::new(dtype, head_dim, codecs, Vec::new())?;
    let mut stats = vec![HeadStats::default(); stores.len()];
    let mut buffers = Buffers::new(&coder);
    for chunk in 0..info.n_chunks() {
        let start = chunk * CHUNK_TOKENS as usize;
        let tokens = start..n_tokens.min(start + CHUNK_TOKENS as usize);
        let mut payload = vec![0; coder.bound(tokens.clone())];
        let n = coder.encode(&view, tokens, &mut payload, &mut buffers.workspace(), Some(&mut stats))?;
        writer.write_chunk(stream, chunk, &payload[..n])?;
    }
    Ok(StreamEntry { info, heads, exact: None, stats })
}

/// Decodes a stream: the rows of each head.
fn read_stream(reader: &Reader<&[u8]>, stream: usize) -> Result<Vec<Vec<u8>>> {
    let shape = reader.streams()[stream].shape;
    let coder = StreamCodec::open(reader, stream)?;
    let mut buffers = Buffers::new(&coder);
    let index = reader.chunk_index(stream)?;
    let mut heads = vec![Vec::new(); shape.n_kv_heads];
    let mut payload = Vec::new();
    for chunk in 0..index.chunks().len() {
        reader.read_chunk(&index, chunk, &mut payload)?;
        let tokens = index.tokens(chunk);
        for (head, rows) in heads.iter_mut().enumerate() {
            coder.check_head(&payload, tokens.clone(), head)?;
            let start = rows.len();
            rows.resize(start + tokens.len() * shape.row_bytes(), 0);
            coder.decode_head(
                &payload,
                tokens.clone(),
                head,
                &mut rows[start..],
                &mut buffers.workspace(),
            )?;
        }
    }
    Ok(heads)
}

/// Scratch memory of coding.
struct Buffers {
    floats: Vec<f32>,
    bytes: Vec<u8>,
    coder: Zstd,
}

impl Buffers {
    fn new(coder: &StreamCodec) -> Self {
        let size = coder.workspace(CHUNK_TOKENS as usize);
        Self { floats: vec![0.0; size.floats], bytes: vec![0; size.bytes], coder: Zstd }
    }

    fn workspace(&mut self) -> Workspace<'_> {
        Workspace { floats: &mut self.floats, bytes: &mut self.bytes, coder: Some(&mut self.coder) }
    }
}

/// zstd for the codec `lossless`: the core has no general-purpose coder.
struct Zstd;

impl ByteCoder for Zstd {
    fn bound(&self, len: usize) -> usize {
        zstd::zstd_safe::compress_bound(len)
    }

    fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<usize> {
        zstd::bulk::compress_to_buffer(src, dst, 1).ok()
    }

    fn decompress(&mut self, src: &[u8], dst: &mut [u8]) -> bool {
        zstd::bulk::decompress_to_buffer(src, dst).is_ok_and(|n| n == dst.len())
    }
}
