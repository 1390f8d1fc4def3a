//! Key/value-cache dumps: reading every format we know into one description, and writing it back.
//!
//! A [`Dump`] borrows its tensors from the memory-mapped source files; nothing is copied until a tile is encoded.
//!
//! | file | idea |
//! |---|---|
//! | `open` | paths and bytes to a dump: mapping, folders, which format it is |
//! | `options`, `known` | what a user, a model's config or metadata say that tensors do not |
//! | `tensor`, `safetensors`, `npy`, `npz` | containers of named arrays |
//! | `names`, `axes` | which array is which layer's, and which axis is what |
//! | `mlx`, `vllm`, `llama` | caches of these programs |
//! | `region` | which bytes of the source are tensors; the rest is kept verbatim |
//! | `layout` | the files that a dump is written to, and where each stream goes in them |

mod axes;
mod known;
mod llama;
mod mlx;
mod names;
mod npy;
mod npz;
mod open;
mod options;
mod positions;
mod region;
mod safetensors;
mod tensor;
mod vllm;

pub mod layout;

use std::path::PathBuf;

use anyhow::{Result, ensure};
pub use open::{open, open_bytes};
pub use options::{AxisOrder, NameMap, OpenOptions, Rotation};
pub use positions::{Positions, Sequences};
pub use region::{Skeleton, SkeletonFile};
pub use tersa_core::format::Kind;
use tersa_core::num::DType;
use tersa_core::view::{KvShape, KvStrides, KvView};

/// Everything we know about a cache dump.
pub struct Dump {
    /// The source, in the order of their names where it is several files.
    pub files: Vec<SourceFile>,
    /// K and V of every layer, ordered by (part, layer, kind).
    pub streams: Vec<DumpStream>,
    /// Captured queries, if the dump carries any.
    pub queries: Vec<Queries>,
    /// Names of the tensors that are neither keys, values nor queries, in the source's order.
    pub others: Vec<String>,
    /// What kind of files these are.
    pub format: SourceFormat,
    /// Free-form facts from the source (model, rope base, scale, ...), as written there.
    pub meta: serde_json::Map<String, serde_json::Value>,
    /// What the reader had to assume; shown to the user, never silent.
    pub assumptions: Vec<String>,
    /// False if nobody said how many heads a row has (llama.cpp files do not): each stream is then one head as
    /// wide as the row, which only `raw` and `lossless` may store.
    pub heads_known: bool,
    /// False if rows may or may not be rotated: an old llama.cpp quantized cache whose head size nobody said.
    /// Such rows cannot be exported to formats of plain values.
    pub rotation_known: bool,
}

/// One file of a dump.
pub struct SourceFile {
    /// Where it was read from.
    pub path: PathBuf,
    /// Name relative to the dump's folder, or the file's own name.
    pub name: String,
    /// Its bytes.
    pub bytes: FileBytes,
}

/// Mapped or owned bytes of a file.
pub enum FileBytes {
    /// A read-only map.
    Mapped(memmap2::Mmap),
    /// Bytes from a stream, or inflated from an archive.
    Owned(Vec<u8>),
}

impl std::ops::Deref for FileBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(m) => m,
            Self::Owned(v) => v,
        }
    }
}

/// The keys or the values of one layer.
#[derive(Clone, Debug)]
pub struct DumpStream {
    /// 0, or which of several caches in one source: sliding-window sections and unified-off streams of llama.cpp.
    pub part: u32,
    /// Layer number as the source has it.
    pub layer: u32,
    /// Keys or values.
    pub kind: Kind,
    /// Shape and element type.
    pub shape: KvShape,
    /// Index into [`Dump::files`].
    pub file: usize,
    /// Byte offset of element `[0][0][0]` in that file.
    pub offset: usize,
    /// Strides in elements.
    pub strides: KvStrides,
    /// Size of the Walsh–Hadamard matrix that the source multiplied its rows by, 0 if none (llama.cpp's quantized caches).
    pub hadamard: u32,
    /// Token positions by row, where rows are not simply positions 0.. (llama.cpp cells).
    pub positions: Option<Positions>,
    /// The sequences that rows belong to, where there are several (llama.cpp session files); containers do not keep them.
    pub sequences: Option<Sequences>,
}

/// Captured queries of one layer: `[n_q_heads][n_queries][head_dim]`, after RoPE, not scaled.
#[derive(Clone, Debug)]
pub struct Queries {
    /// Layer number.
    pub layer: u32,
    /// Query heads, queries of each, elements of each.
    pub shape: [usize; 3],
    /// Element type (a plain one).
    pub dtype: DType,
    /// Index into [`Dump::files`].
    pub file: usize,
    /// Byte offset of the first element.
    pub offset: usize,
}

/// The formats that dumps come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceFormat {
    /// One K and one V tensor for each layer in safetensors.
    Safetensors,
    /// mlx-lm's `save_prompt_cache`.
    Mlx,
    /// vLLM's example connector: one `kv_cache` tensor for each layer's file.
    VllmExample,
    /// A single array.
    Npy,
    /// A zip of arrays.
    Npz,
    /// llama.cpp session file.
    LlamaSession,
    /// llama.cpp sequence file.
    LlamaSequence,
}

impl SourceFormat {
    /// Every format.
    pub const ALL: [Self; 7] = [
        Self::Safetensors,
        Self::Mlx,
        Self::VllmExample,
        Self::Npy,
        Self::Npz,
        Self::LlamaSession,
        Self::LlamaSequence,
    ];

    /// The name on the command line and in containers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Mlx => "mlx",
            Self::VllmExample => "vllm",
            Self::Npy => "npy",
            Self::Npz => "npz",
            Self::LlamaSession => "llama-session",
            Self::LlamaSequence => "llama-sequence",
        }
    }

    /// The format with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }
}

impl std::fmt::Display for SourceFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for SourceFormat {
    type Err = anyhow::Error;
    fn from_str(name: &str) -> Result<Self> {
        Self::from_name(name).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|f| f.name()).collect();
            anyhow::anyhow!("unknown format `{name}`; there are {}", names.join(", "))
        })
    }
}

/// What readers find in files.
struct Content {
    streams: Vec<DumpStream>,
    queries: Vec<Queries>,
    others: Vec<String>,
    meta: serde_json::Map<String, serde_json::Value>,
    assumptions: Vec<String>,
    heads_known: bool,
    rotation_known: bool,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            streams: Vec::new(),
            queries: Vec::new(),
            others: Vec::new(),
            meta: serde_json::Map::new(),
            assumptions: Vec::new(),
            heads_known: true,
            rotation_known: true,
        }
    }
}

impl Content {
    /// Records an assumption, once.
    fn assume(&mut self, text: String) {
        if !self.assumptions.contains(&text) {
            self.assumptions.push(text);
        }
    }

    /// Heads and head size of a row of `width` elements.
    fn split_row(&mut self, width: usize, known: &known::Known, kind: Kind) -> Result<(usize, usize)> {
        let (heads, dim) = match (known.n_kv_heads, known.head_dim) {
            (Some(n), _) => (n, width / n),
            (None, Some(d)) => (width / d, d),
            (None, None) => {
                self.heads_known = false;
                self.assume(format!(
                    "heads are not told apart: rows of {width} elements are read as one head (say --head-dim)"
                ));
                (1, width)
            }
        };
        // Values may have another head size than keys.
        let as_said = kind == Kind::V || known.head_dim.is_none_or(|d| d == dim);
        ensure!(
            heads * dim == width && as_said,
            "a row of {width} elements is not {heads} heads of {}",
            known.head_dim.unwrap_or(dim)
        );
        Ok((heads, dim))
    }
}

impl Dump {
    /// The tensor of stream `i`.
    ///
    /// # Errors
    /// If it does not lie within its file; readers check this when they open a dump.
    pub fn view(&self, i: usize) -> Result<KvView<'_>> {
        let s = &self.streams[i];
        let bytes = &self.files[s.file].bytes;
        let data = bytes.get(s.offset..).unwrap_or_default();
        Ok(KvView::new(data, s.shape, s.strides)?)
    }
}

#[cfg(test)]
mod tests;
