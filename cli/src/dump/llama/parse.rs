//! The bytes of llama.cpp's session and sequence files, headers only: where each layer's rows lie.
//!
//! The files carry no flags for two things: whether cells have 12 more bytes (models with several position axes), and
//! whether layers have values (latent-attention models have none). Both are found by trying: only a reading that ends
//! exactly at the end of the file can be right, and where two readings do, the file is refused.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use tersa_core::num::DType;

use crate::dump::{Positions, Sequences};

/// Bytes of a file of which the tensors' may be absent: the parser only reads headers.
#[derive(Clone, Debug)]
pub(crate) struct Pieces<'a> {
    len: u64,
    /// Offset and bytes, ascending.
    pieces: Vec<(u64, &'a [u8])>,
}

impl<'a> Pieces<'a> {
    pub(crate) fn whole(bytes: &'a [u8]) -> Self {
        Self { len: bytes.len() as u64, pieces: vec![(0, bytes)] }
    }

    pub(crate) fn new(len: u64, verbatim: &'a [(u64, Vec<u8>)]) -> Self {
        Self { len, pieces: verbatim.iter().map(|(at, b)| (*at, b.as_slice())).collect() }
    }

    /// `n` bytes at `at`, if one piece holds them all.
    pub(crate) fn get(&self, at: u64, n: usize) -> Option<&'a [u8]> {
        let next = self.pieces.partition_point(|(start, _)| *start <= at);
        let (start, bytes) = self.pieces.get(next.checked_sub(1)?)?;
        let from = usize::try_from(at - start).ok()?;
        bytes.get(from..from.checked_add(n)?)
    }
}

/// Session files hold a whole context, sequence files one sequence of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    Session,
    Sequence,
}

/// A file version whose layout is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) container: Container,
    pub(crate) number: u32,
    /// Whether cache sections say how their rows are rotated.
    pub(crate) rotation_sizes: bool,
}

pub(crate) const MAGIC_SESSION: u32 = 0x6767_736e;
pub(crate) const MAGIC_SEQUENCE: u32 = 0x6767_7371;

/// llama.cpp raises these numbers without a reader for the old ones; each line was checked against a release.
pub(crate) const VERSIONS: [Version; 4] = [
    // llama.cpp 0.5.0
    Version { container: Container::Session, number: 10, rotation_sizes: false },
    Version { container: Container::Sequence, number: 3, rotation_sizes: false },
    // llama.cpp 0.6.0
    Version { container: Container::Session, number: 11, rotation_sizes: true },
    Version { container: Container::Sequence, number: 4, rotation_sizes: true },
];

/// A parsed file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) version: Version,
    pub(crate) n_tokens: u32,
    /// Session files name the architecture.
    pub(crate) arch: Option<String>,
    /// Every stream of every section, empty ones included.
    pub(crate) caches: Vec<Cache>,
}

/// One stream of a cache section.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cache {
    /// 0, or 1 for the sliding-window layers of models that have them.
    pub(crate) section: u32,
    /// Position of each cell.
    pub(crate) positions: Positions,
    /// Sequences of each cell, if there are several.
    pub(crate) sequences: Option<Sequences>,
    /// Offset at which the rotation sizes stand, or would.
    pub(crate) rotation_at: u64,
    /// Sizes of the Hadamard matrices of keys and values, if the file says.
    pub(crate) rotation: Option<[u32; 2]>,
    pub(crate) k: Vec<Rows>,
    pub(crate) v: Vec<Rows>,
}

/// The keys or values of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rows {
    pub(crate) dtype: DType,
    /// Elements of a token's row: heads x head size.
    pub(crate) width: usize,
    /// Where the data begin.
    pub(crate) offset: u64,
    /// Whether each channel's tokens lie together instead of each token's channels.
    pub(crate) transposed: bool,
}

/// The version that the first eight bytes name.
pub(crate) fn version(file: &Pieces) -> Result<Version> {
    let mut r = Reader { file, at: 0 };
    let (magic, number) = r.u32().zip(r.u32()).context("too short for a llama.cpp state file")?;
    let container = match magic {
        MAGIC_SESSION => Container::Session,
        MAGIC_SEQUENCE => Container::Sequence,
        _ => bail!("not a llama.cpp state file (magic {magic:08x})"),
    };
    let found = VERSIONS.into_iter().find(|v| v.container == container && v.number == number);
    found.with_context(|| {
        let known = VERSIONS.iter().filter(|v| v.container == container).map(|v| v.number.to_string());
        format!(
            "llama.cpp {container:?} file of version {number}; the layouts of versions {} are known",
            known.collect::<Vec<_>>().join(" and ")
        )
    })
}

/// What a file does not say about itself.
#[derive(Clone, Copy, Debug)]
struct Variant {
    /// Cells have two more position axes and a token id.
    ext: bool,
    /// Layers have values.
    values: bool,
}

const VARIANTS: [Variant; 4] = [
    Variant { ext: false, values: true },
    Variant { ext: true, values: true },
    Variant { ext: false, values: false },
    Variant { ext: true, values: false },
];

/// Parses a whole file.
pub(crate) fn parse(file: &Pieces) -> Result<State> {
    let version = version(file)?;
    let mut readings = Vec::new();
    let mut first_error = None;
    for variant in VARIANTS {
        match parse_as(file, version, variant) {
            // Without cells the variants do not differ.
            Ok(state) if !readings.contains(&state) => readings.push(state),
            Ok(_) => {}
            Err(e) => first_error = first_error.or(Some(e)),
        }
    }
    ensure!(
        readings.len() < 2,
        "the file can be read in more than one way (cells with or without extra positions, layers with or without values)"
    );
    match (readings.pop(), first_error) {
        (Some(state), _) => Ok(state),
        (None, Some(e)) => Err(e),
        (None, None) => bail!("no reading of the file"),
    }
}

/// Sections: one for a plain cache, two for models with sliding-window layers.
const MAX_SECTIONS: u32 = 2;

fn parse_as(file: &Pieces, version: Version, variant: Variant) -> Result<State> {
    let mut r = Reader { file, at: 8 };
    let n_tokens = r.u32().context("cut off before the token list")?;
    r.skip(u64::from(n_tokens) * 4).context("cut off within the token list")?;
    let arch = match version.container {
        Container::Sequence => None,
        Container::Session => Some(r.arch().context("damaged architecture name")?),
    };
    let mut caches = Vec::new();
    let mut section = 0;
    while section == 0 || r.at < file.len {
        ensure!(section < MAX_SECTIONS, "{} bytes follow the last cache section", file.len - r.at);
        let n_streams = r.u32().context("cut off before a cache section")?;
        ensure!(n_streams != 0, "a cache section without streams");
        for _ in 0..n_streams {
            caches.push(r.cache(section, version, variant)?);
        }
        section += 1;
    }
    Ok(State { version, n_tokens, arch, caches })
}

struct Reader<'a, 'b> {
    file: &'b Pieces<'a>,
    at: u64,
}

impl<'a> Reader<'a, '_> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let bytes = self.file.get(self.at, n)?;
        self.at += n as u64;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Passes over `n` bytes, which need not be present but must lie within the file.
    fn skip(&mut self, n: u64) -> Option<Range<u64>> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.file.len)?;
        let start = std::mem::replace(&mut self.at, end);
        Some(start..end)
    }

    fn arch(&mut self) -> Option<String> {
        let len = usize::try_from(self.u32()?).ok()?;
        String::from_utf8(self.bytes(len)?.to_vec()).ok()
    }

    fn cache(&mut self, section: u32, version: Version, variant: Variant) -> Result<Cache> {
        let n_cells = self.u32().context("cut off before a cell count")?;
        if n_cells == 0 {
            let empty = Cache {
                section,
                positions: Positions::from_iter([]),
                sequences: None,
                rotation_at: self.at,
                rotation: None,
                k: Vec::new(),
                v: Vec::new(),
            };
            return Ok(empty);
        }
        let (positions, sequences) =
            self.cells(n_cells, version, variant).context("damaged or cut off cell list")?;
        let (transposed, n_layers) = self.u32().zip(self.u32()).context("cut off before the layer count")?;
        ensure!(transposed <= 1, "the flag for transposed values is {transposed}");
        let rotation_at = self.at;
        let rotation = if version.rotation_sizes {
            let sizes = self.u32().zip(self.u32()).context("cut off before the rotation sizes")?;
            let sizes = [sizes.0, sizes.1];
            ensure!(sizes.iter().all(|n| *n == 0 || n.is_power_of_two()), "rotation sizes {sizes:?}");
            Some(sizes)
        } else {
            None
        };
        let n_cells = u64::from(n_cells);
        let mut layers = |transposed: bool| -> Result<Vec<Rows>> {
            (0..n_layers)
                .map(|_| if transposed { self.columns(n_cells) } else { self.rows(n_cells) })
                .collect()
        };
        let k = layers(false)?;
        let v = if variant.values { layers(transposed == 1)? } else { Vec::new() };
        Ok(Cache { section, positions, sequences, rotation_at, rotation, k, v })
    }

    fn cells(
        &mut self,
        n: u32,
        version: Version,
        variant: Variant,
    ) -> Option<(Positions, Option<Sequences>)> {
        let (mut positions, mut ends, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..n {
            positions.push(self.i32()?);
            let n_seq = self.u32()?;
            if version.container == Container::Sequence && n_seq != 1 {
                return None;
            }
            let ext = if variant.ext { 12 } else { 0 };
            self.bytes(ext)?;
            let listed = self.bytes(usize::try_from(u64::from(n_seq) * 4).ok()?)?;
            ids.extend(listed.as_chunks::<4>().0.iter().map(|id| i32::from_le_bytes(*id)));
            ends.push(u32::try_from(ids.len()).ok()?);
        }
        Some((positions.into_iter().collect(), Sequences::new(ends, ids)))
    }

    fn rows(&mut self, n_cells: u64) -> Result<Rows> {
        let dtype = self.dtype()?;
        let row = self.u64().context("cut off before a row size")?;
        let (block, len) = (dtype.block_bytes() as u64, dtype.block_len() as u64);
        ensure!(row != 0 && row.is_multiple_of(block), "rows of {row} bytes are not whole {dtype}");
        let data = row.checked_mul(n_cells).and_then(|n| self.skip(n));
        let data = data.with_context(|| format!("cut off within rows of {row} bytes"))?;
        let width = usize::try_from(row / block * len)?;
        Ok(Rows { dtype, width, offset: data.start, transposed: false })
    }

    fn columns(&mut self, n_cells: u64) -> Result<Rows> {
        let dtype = self.dtype()?;
        let (element, width) =
            self.u32().zip(self.u32()).context("cut off before the width of transposed values")?;
        ensure!(
            dtype.is_plain() && element as usize == dtype.block_bytes() && width != 0,
            "transposed values of {element} bytes cannot be {dtype}"
        );
        let data = (u64::from(element) * u64::from(width)).checked_mul(n_cells).and_then(|n| self.skip(n));
        let data = data.context("cut off within transposed values")?;
        Ok(Rows { dtype, width: width as usize, offset: data.start, transposed: true })
    }

    fn dtype(&mut self) -> Result<DType> {
        Ok(match self.i32().context("cut off before a layer's type")? {
            0 => DType::F32,
            1 => DType::F16,
            2 => DType::Q4_0,
            3 => DType::Q4_1,
            6 => DType::Q5_0,
            7 => DType::Q5_1,
            8 => DType::Q8_0,
            20 => DType::Iq4Nl,
            30 => DType::Bf16,
            other => bail!("ggml type {other} is not one that caches are kept in"),
        })
    }
}
