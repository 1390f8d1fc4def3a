//! Streams, their heads and their chunks.

use alloc::vec::Vec;

use super::bytes::{Fields, PutFields};
use super::error::{FormatError, Region};
use super::layout::{
    ALIGN, FRAME, Location, MAX_CHUNK_BYTES, MAX_CHUNK_TOKENS, MAX_HEAD_DIM, MAX_HEADS, MAX_TOKENS, Section,
    check_range,
};
use crate::num::DType;
use crate::view::KvShape;

pub(super) const STREAM_RECORD: usize = 96;
pub(super) const HEAD_RECORD: usize = 32;
pub(super) const CHUNK_RECORD: usize = 24;
pub(super) const STATS_RECORD: usize = 40;

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Keys.
    K = 0,
    /// Values.
    V = 1,
}

impl Kind {
    /// `k` or `v`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::K => "k",
            Self::V => "v",
        }
    }
}

/// What a stream is: the keys or the values of one layer, `[n_tokens][n_kv_heads][head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// 0, or which of several caches in one source.
    pub part: u32,
    /// Layer number as the source has it.
    pub layer: u32,
    /// Keys or values.
    pub kind: Kind,
    /// Shape and element type.
    pub shape: KvShape,
    /// Tokens in a chunk; the last chunk may have fewer.
    pub chunk_tokens: u32,
    /// Size of the Walsh–Hadamard matrix that the source multiplied its rows by, 0 if none.
    pub hadamard: u32,
}

impl StreamInfo {
    /// Chunks of the stream.
    #[must_use]
    pub const fn n_chunks(&self) -> usize {
        self.shape.n_tokens.div_ceil(self.chunk_tokens as usize)
    }

    /// Order in which streams stand in a file.
    pub(super) const fn key(&self) -> (u32, u32, Kind) {
        (self.part, self.layer, self.kind)
    }

    pub(super) fn check(&self) -> Result<(), FormatError> {
        let at_least_one = |what, value: u64, max| {
            if value == 0 {
                return Err(FormatError::Mismatch { what, expected: 1, got: 0 });
            }
            check_range(what, value, max)
        };
        check_range("n_tokens", self.shape.n_tokens as u64, MAX_TOKENS)?;
        at_least_one("n_kv_heads", self.shape.n_kv_heads as u64, MAX_HEADS)?;
        at_least_one("head_dim", self.shape.head_dim as u64, MAX_HEAD_DIM)?;
        at_least_one("chunk_tokens", u64::from(self.chunk_tokens), MAX_CHUNK_TOKENS)?;
        let Some(row) = self.shape.dtype.bytes_for(self.shape.head_dim) else {
            let (what, block) = ("elements of a row of whole blocks", self.shape.dtype.block_len() as u64);
            return Err(FormatError::Mismatch { what, expected: block, got: self.shape.head_dim as u64 });
        };
        // At most 2^20 tokens of 2^16 heads of 2^18 bytes by the caps above.
        let tokens = u64::from(self.chunk_tokens).min(self.shape.n_tokens as u64);
        check_range(
            "bytes of a chunk's rows",
            tokens * self.shape.n_kv_heads as u64 * row as u64,
            MAX_CHUNK_BYTES,
        )
    }
}

/// A piece of the data area that heads and streams refer to: side data or an exact token set. [`Writer`](super::Writer)
/// hands it out, and the same one may stand in many places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlobRef {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) xxh64: u64,
}

impl BlobRef {
    pub(super) fn put(blob: Option<Self>, out: &mut Vec<u8>) {
        let blob = blob.unwrap_or(Self { offset: 0, length: 0, xxh64: 0 });
        out.put_u64(blob.offset);
        out.put_u64(blob.length);
        out.put_u64(blob.xxh64);
    }

    pub(super) fn parse(
        fields: &mut Fields<'_>,
        region: Region,
        data_end: u64,
    ) -> Result<Option<Self>, FormatError> {
        let blob = Self { offset: fields.u64()?, length: fields.u64()?, xxh64: fields.u64()? };
        if blob == (Self { offset: 0, length: 0, xxh64: 0 }) {
            return Ok(None);
        }
        check_data(region, blob.offset, blob.length, data_end)?;
        Ok(Some(blob))
    }

    pub(super) const fn location(&self) -> Location {
        Location { offset: self.offset, length: self.length, xxh64: self.xxh64 }
    }
}

/// A region of the data area must be aligned, not empty, and end before the sections.
pub(super) fn check_data(region: Region, offset: u64, length: u64, data_end: u64) -> Result<(), FormatError> {
    let fits = offset <= data_end && length <= data_end - offset;
    if !offset.is_multiple_of(ALIGN) || offset < FRAME || length == 0 || !fits {
        return Err(FormatError::Misplaced { region, offset, length });
    }
    Ok(())
}

/// How one head of a stream is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Index into [`Reader::codecs`](super::Reader::codecs); from [`Writer::codec`](super::Writer::codec).
    pub codec: u32,
    /// What the codec needs beyond its name; from [`Writer::write_side`](super::Writer::write_side).
    pub side: Option<BlobRef>,
}

impl Head {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u32(self.codec);
        out.put_u32(0);
        BlobRef::put(self.side, out);
    }

    pub(super) fn parse(
        fields: &mut Fields<'_>,
        n_codecs: usize,
        data_end: u64,
    ) -> Result<Self, FormatError> {
        let codec = fields.u32()?;
        fields.zeros(4)?;
        let side = BlobRef::parse(fields, Region::Side, data_end)?;
        let index = usize::try_from(codec).unwrap_or(usize::MAX);
        if index >= n_codecs {
            return Err(FormatError::NoSuch { what: "codec", index, count: n_codecs });
        }
        Ok(Self { codec, side })
    }
}

/// What encoding did to the values of one head. Merge in chunk order to get the same sums at every thread count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadStats {
    /// Sum of squared differences between source and decoded values.
    pub sum_sq_error: f64,
    /// Sum of squares of the source's values. Tiles with a NaN or an infinity, which are always stored exactly, add
    /// nothing here.
    pub sum_sq: f64,
    /// Largest absolute difference.
    pub max_abs_error: f64,
    /// Values seen, exact rows included.
    pub n_values: u64,
    /// Tiles whose rows were stored as they are because the codec refused them or would have needed more.
    pub raw_tiles: u64,
}

impl HeadStats {
    /// Adds what happened to further values.
    pub fn merge(&mut self, other: &Self) {
        self.sum_sq_error += other.sum_sq_error;
        self.sum_sq += other.sum_sq;
        self.max_abs_error = self.max_abs_error.max(other.max_abs_error);
        self.n_values += other.n_values;
        self.raw_tiles += other.raw_tiles;
    }

    /// Frobenius norm of the error relative to that of the source; 0 without any error.
    #[must_use]
    pub fn rel_error(&self) -> f64 {
        if self.sum_sq_error == 0.0 { 0.0 } else { libm::sqrt(self.sum_sq_error / self.sum_sq) }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_f64(self.sum_sq_error);
        out.put_f64(self.sum_sq);
        out.put_f64(self.max_abs_error);
        out.put_u64(self.n_values);
        out.put_u64(self.raw_tiles);
    }

    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            sum_sq_error: fields.f64()?,
            sum_sq: fields.f64()?,
            max_abs_error: fields.f64()?,
            n_values: fields.u64()?,
            raw_tiles: fields.u64()?,
        })
    }
}

/// Everything about a stream that [`Writer::finish`](super::Writer::finish) records.
#[derive(Clone, Debug)]
pub struct StreamEntry {
    /// What the stream is.
    pub info: StreamInfo,
    /// How each head is coded.
    pub heads: Vec<Head>,
    /// Tokens stored exactly; from [`Writer::write_exact`](super::Writer::write_exact).
    pub exact: Option<BlobRef>,
    /// What encoding lost, for each head.
    pub stats: Vec<HeadStats>,
}

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// Offset in the file, a multiple of [`ALIGN`].
    pub offset: u64,
    /// Bytes.
    pub length: u32,
    /// XXH64 of those bytes.
    pub xxh64: u64,
}

impl ChunkRef {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.offset);
        out.put_u32(self.length);
        out.put_u32(0);
        out.put_u64(self.xxh64);
    }

    pub(super) fn parse(fields: &mut Fields<'_>, region: Region, data_end: u64) -> Result<Self, FormatError> {
        let (offset, length) = (fields.u64()?, fields.u32()?);
        fields.zeros(4)?;
        check_data(region, offset, u64::from(length), data_end)?;
        Ok(Self { offset, length, xxh64: fields.u64()? })
    }

    pub(super) fn location(&self) -> Location {
        Location { offset: self.offset, length: u64::from(self.length), xxh64: self.xxh64 }
    }
}

/// A line of the streams section.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamRecord {
    pub(super) info: StreamInfo,
    pub(super) heads_xxh64: u64,
    pub(super) chunks_xxh64: u64,
    pub(super) exact: Option<BlobRef>,
}

impl StreamRecord {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let StreamInfo { part, layer, kind, shape, chunk_tokens, hadamard } = self.info;
        let narrow = |n: usize| u32::try_from(n).expect("StreamInfo::check capped it");
        out.put_u32(part);
        out.put_u32(layer);
        out.extend_from_slice(&[kind as u8, shape.dtype.code(), 0, 0]);
        out.put_u32(chunk_tokens);
        out.put_u64(shape.n_tokens as u64);
        out.put_u32(narrow(shape.n_kv_heads));
        out.put_u32(narrow(shape.head_dim));
        out.put_u32(hadamard);
        out.put_u32(0);
        out.put_u64(self.heads_xxh64);
        out.put_u64(self.chunks_xxh64);
        BlobRef::put(self.exact, out);
        out.put_zeros(16);
    }

    pub(super) fn parse(fields: &mut Fields<'_>, stream: usize, data_end: u64) -> Result<Self, FormatError> {
        let part = fields.u32()?;
        let layer = fields.u32()?;
        let kind = match fields.u8()? {
            0 => Kind::K,
            1 => Kind::V,
            code => return Err(FormatError::UnknownCode { what: "stream kind", code: code.into() }),
        };
        let code = fields.u8()?;
        let dtype = DType::from_code(code)
            .ok_or(FormatError::UnknownCode { what: "element type", code: code.into() })?;
        fields.zeros(2)?;
        let chunk_tokens = fields.u32()?;
        let (n_tokens, n_kv_heads, head_dim) = (fields.u64()?, fields.u32()?, fields.u32()?);
        let hadamard = fields.u32()?;
        fields.zeros(4)?;
        let wide = |what, n: u64| {
            usize::try_from(n).map_err(|_| FormatError::OutOfRange { what, value: n, max: usize::MAX as u64 })
        };
        let shape = KvShape {
            dtype,
            n_tokens: wide("n_tokens", n_tokens)?,
            n_kv_heads: wide("n_kv_heads", n_kv_heads.into())?,
            head_dim: wide("head_dim", head_dim.into())?,
        };
        let info = StreamInfo { part, layer, kind, shape, chunk_tokens, hadamard };
        info.check()?;
        let (heads_xxh64, chunks_xxh64) = (fields.u64()?, fields.u64()?);
        let exact = BlobRef::parse(fields, Region::ExactOf { stream }, data_end)?;
        fields.zeros(16)?;
        Ok(Self { info, heads_xxh64, chunks_xxh64, exact })
    }
}

/// Parses the streams section and checks the order.
pub(super) fn parse_streams(bytes: &[u8], data_end: u64) -> Result<Vec<StreamRecord>, FormatError> {
    let region = Region::Section(Section::Streams);
    let mut fields = Fields::new(region, bytes);
    let mut records: Vec<StreamRecord> = Vec::with_capacity(bytes.len() / STREAM_RECORD);
    while fields.remaining() > 0 {
        let index = records.len();
        let record = StreamRecord::parse(&mut fields, index, data_end)?;
        if records.last().is_some_and(|last| last.info.key() >= record.info.key()) {
            return Err(FormatError::Order { what: "streams", index });
        }
        records.push(record);
    }
    Ok(records)
}

/// An exact token set's bytes.
pub(super) fn exact_bytes(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
}

/// Parses an exact token set: ascending, all below `n_tokens`.
pub(super) fn parse_exact(bytes: &[u8], stream: usize, n_tokens: usize) -> Result<Vec<u32>, FormatError> {
    let mut fields = Fields::new(Region::ExactOf { stream }, bytes);
    let mut tokens = Vec::with_capacity(bytes.len() / 4);
    while fields.remaining() > 0 {
        tokens.push(fields.u32()?);
    }
    check_exact(&tokens, n_tokens)?;
    Ok(tokens)
}

pub(super) fn check_exact(tokens: &[u32], n_tokens: usize) -> Result<(), FormatError> {
    if let Some(i) = tokens.windows(2).position(|w| w[0] >= w[1]) {
        return Err(FormatError::Order { what: "exact tokens", index: i + 1 });
    }
    match tokens.last() {
        Some(&last) if last as usize >= n_tokens => {
            Err(FormatError::NoSuch { what: "token", index: last as usize, count: n_tokens })
        }
        _ => Ok(()),
    }
}
