//! The index section: what selection needs of the keys of some heads, one entry for each.

use alloc::vec::Vec;

use super::ReadAt;
use super::bytes::{Fields, PutFields};
use super::error::{FormatError, ReadError, Region};
use super::layout::{Location, MAX_INDEXES, SEED, Section, check_range};
use super::reader::{Reader, read_into};
use crate::num::hash::xxh64;

const HEADER_LEN: usize = 16;
const RECORD_LEN: usize = 40;
const HEADER: u64 = HEADER_LEN as u64;
const RECORD: u64 = RECORD_LEN as u64;

/// Part, layer and head of an index, and its bytes.
pub(super) type Index = ((u32, u32, u32), Vec<u8>);

/// An index over the keys of one head. Its bytes are [`kv`](crate::kv)'s affair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Which of several caches in one source.
    pub part: u32,
    /// Layer.
    pub layer: u32,
    /// KV head.
    pub head: u32,
    /// Where its bytes are.
    at: Location,
}

impl IndexEntry {
    /// Bytes of the index.
    #[must_use]
    pub const fn len_bytes(&self) -> u64 {
        self.at.length
    }

    const fn key(&self) -> (u32, u32, u32) {
        (self.part, self.layer, self.head)
    }
}

/// The section of indexes that ascend by (part, layer, head).
pub(super) fn section(indexes: &[Index]) -> Result<Vec<u8>, FormatError> {
    if let Some(at) = indexes.windows(2).position(|pair| pair[0].0 >= pair[1].0) {
        return Err(FormatError::Order { what: "indexes", index: at + 1 });
    }
    let mut records = Vec::new();
    let mut offset = HEADER + RECORD * indexes.len() as u64;
    for ((part, layer, head), bytes) in indexes {
        records.put_u32(*part);
        records.put_u32(*layer);
        records.put_u32(*head);
        records.put_u32(0);
        records.put_u64(offset);
        records.put_u64(bytes.len() as u64);
        records.put_u64(xxh64(SEED, bytes));
        offset += bytes.len() as u64;
    }
    let mut out = Vec::new();
    out.put_u32(u32::try_from(indexes.len()).expect("`add_index` capped them"));
    out.put_u32(0);
    out.put_u64(xxh64(SEED, &records));
    out.extend_from_slice(&records);
    indexes.iter().for_each(|(_, bytes)| out.extend_from_slice(bytes));
    Ok(out)
}

impl<R: ReadAt> Reader<R> {
    /// The indexes there are, ascending by (part, layer, head). Reads 16 bytes and 40 for each.
    ///
    /// # Errors
    /// If reading fails or the bytes are not sound.
    pub fn indexes(&self) -> Result<Vec<IndexEntry>, ReadError<R::Error>> {
        let Some(section) = self.section(Section::Index) else { return Ok(Vec::new()) };
        let region = Region::IndexTable;
        let short = |needed| FormatError::Short { region, needed, got: section.length };
        if section.length < HEADER {
            return Err(short(HEADER).into());
        }
        let mut header = [0; HEADER_LEN];
        self.inner.read_at(section.offset, &mut header).map_err(ReadError::Io)?;
        let mut fields = Fields::new(region, &header);
        let count = u64::from(fields.u32()?);
        fields.zeros(4)?;
        let xxh64 = fields.u64()?;
        check_range("count of indexes", count, MAX_INDEXES)?;
        let end = HEADER + RECORD * count;
        if section.length < end {
            return Err(short(end).into());
        }
        let mut bytes = Vec::new();
        let table = Location { offset: section.offset + HEADER, length: RECORD * count, xxh64 };
        read_into(&self.inner, region, table, &mut bytes)?;
        Ok(parse(&bytes, section, end)?)
    }

    /// Reads the bytes of an index into `buf`, which is resized to them, and checks them. `entry` is the position in what
    /// [`indexes`](Self::indexes) gave.
    ///
    /// # Errors
    /// If there is no such entry, reading fails, or the bytes are not those that were written.
    pub fn read_index(
        &self,
        indexes: &[IndexEntry],
        entry: usize,
        buf: &mut Vec<u8>,
    ) -> Result<(), ReadError<R::Error>> {
        let count = indexes.len();
        let at = indexes.get(entry).ok_or(FormatError::NoSuch { what: "index", index: entry, count })?;
        read_into(&self.inner, Region::IndexEntry { entry }, at.at, buf)
    }
}

/// The records of a table; the entries follow it without holes and use up the section.
fn parse(bytes: &[u8], section: Location, mut end: u64) -> Result<Vec<IndexEntry>, FormatError> {
    let region = Region::IndexTable;
    let mut fields = Fields::new(region, bytes);
    let mut entries: Vec<IndexEntry> = Vec::with_capacity(bytes.len() / RECORD_LEN);
    while fields.remaining() > 0 {
        let (part, layer, head) = (fields.u32()?, fields.u32()?, fields.u32()?);
        fields.zeros(4)?;
        let (offset, length, xxh64) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let entry = entries.len();
        if offset != end || length > section.length - end {
            return Err(FormatError::Misplaced { region: Region::IndexEntry { entry }, offset, length });
        }
        let at = Location { offset: section.offset + offset, length, xxh64 };
        let record = IndexEntry { part, layer, head, at };
        if entries.last().is_some_and(|last| last.key() >= record.key()) {
            return Err(FormatError::Order { what: "indexes", index: entry });
        }
        end += length;
        entries.push(record);
    }
    if end != section.length {
        return Err(FormatError::Excess { region, excess: section.length - end });
    }
    Ok(entries)
}
