//! A zip of numpy arrays, one for each stream, stored so that readers can map them.
//!
//! A zip wants each member's CRC-32 in front of and behind its data; the data come last, so both are patched when they
//! are there.

use anyhow::Result;
use tersa_core::view::KvStrides;

use super::npy::{descr, numpy_type};
use super::{Finish, Layout, OutFile, Placement};
use crate::dump::{Positions, Skeleton, npy};

pub(super) fn layout(source: &Skeleton) -> Result<Layout> {
    let mut notes = super::common_notes(source);
    let mut zip = Zip::default();
    let mut placements = Vec::new();
    for ((stream, s), name) in source.streams.iter().enumerate().zip(super::array_names(source)) {
        let (plain, unrotate) = super::plain_type(s, source)?;
        let dtype = numpy_type(plain, &mut notes);
        let shape = [s.shape.n_kv_heads, s.shape.n_tokens, s.shape.head_dim];
        let len = super::stream_len(s, dtype)?;
        let offset = zip.add(&name, descr(dtype), &shape, len)?;
        let strides = KvStrides::head_major(&s.shape);
        placements.push(Placement { stream, file: 0, offset, dtype, strides, unrotate });
    }
    for (name, list) in super::positions(source) {
        let offset = zip.add(&name, "<i4", &[list.len()], (list.len() * super::POSITION_BYTES) as u64)?;
        zip.positions.push((offset, list));
    }
    notes.extend(super::left_out(source, false, false));
    let (file, finish) = zip.finish()?;
    Ok(Layout { files: vec![file], placements, finish, notes })
}

/// A zip archive that is laid out before its data are there.
#[derive(Default)]
struct Zip {
    at: u64,
    verbatim: Vec<(u64, Vec<u8>)>,
    positions: Vec<(u64, Positions)>,
    members: Vec<Member>,
}

struct Member {
    name: String,
    header_at: u64,
    data: std::ops::Range<u64>,
}

/// Where a local header's and a central entry's CRC-32 stand.
const LOCAL_CRC: u64 = 14;
const CENTRAL_CRC: u64 = 16;
/// Sizes and offsets from here on go to zip64 fields.
const LIMIT: u64 = 0xffff_ffff;
/// Version needed: 2.0, or 4.5 for zip64.
const VERSION: [u16; 2] = [20, 45];
/// 1980-01-01, the zero of a zip's calendar: equal input gives equal bytes.
const DATE: u16 = 0x21;

impl Zip {
    /// Adds an array and returns where its `len` bytes of data begin.
    fn add(&mut self, array: &str, descr: &str, shape: &[usize], len: u64) -> Result<u64> {
        let name = format!("{array}.npy");
        let header_at = self.at;
        // The data may make the member cross the limit that decides about this header's own size, so be generous.
        let wide = len + (1 << 16) >= LIMIT;
        let extra_len = if wide { 20 } else { 0 };
        let member_at = header_at + 30 + name.len() as u64 + extra_len;
        let npy = npy::header(descr, shape, member_at)?;
        let size = npy.len() as u64 + len;
        let mut head = Vec::new();
        put32(&mut head, 0x0403_4b50);
        put16(&mut head, VERSION[usize::from(wide)]);
        put_entry(&mut head, if wide { LIMIT } else { size }, &name, extra_len)?;
        head.extend_from_slice(name.as_bytes());
        if wide {
            put16(&mut head, 1);
            put16(&mut head, 16);
            put64(&mut head, size);
            put64(&mut head, size);
        }
        head.extend_from_slice(&npy);
        self.verbatim.push((header_at, head));
        self.at = member_at + size;
        self.members.push(Member { name, header_at, data: member_at..self.at });
        Ok(self.at - len)
    }

    fn finish(mut self) -> Result<(OutFile, Vec<Finish>)> {
        let start = self.at;
        let mut tail = Vec::new();
        let mut finish = Vec::new();
        for m in &self.members {
            let entry_at = start + tail.len() as u64;
            let at = vec![m.header_at + LOCAL_CRC, entry_at + CENTRAL_CRC];
            finish.push(Finish::Crc32 { file: 0, range: m.data.clone(), at });
            let size = m.data.end - m.data.start;
            let wide = size >= LIMIT || m.header_at >= LIMIT;
            let (size32, at32) = if wide { (LIMIT, LIMIT) } else { (size, m.header_at) };
            put32(&mut tail, 0x0201_4b50);
            put16(&mut tail, VERSION[usize::from(wide)]);
            put16(&mut tail, VERSION[usize::from(wide)]);
            put_entry(&mut tail, size32, &m.name, if wide { 28 } else { 0 })?;
            // Comment length, disk, attributes.
            tail.extend_from_slice(&[0; 10]);
            put32(&mut tail, u32::try_from(at32)?);
            tail.extend_from_slice(m.name.as_bytes());
            if wide {
                put16(&mut tail, 1);
                put16(&mut tail, 24);
                put64(&mut tail, size);
                put64(&mut tail, size);
                put64(&mut tail, m.header_at);
            }
        }
        let (n, len) = (self.members.len() as u64, tail.len() as u64);
        let wide = start + len >= LIMIT || n >= 0xffff;
        if wide {
            let end_at = start + len;
            put32(&mut tail, 0x0606_4b50);
            put64(&mut tail, 44);
            put16(&mut tail, VERSION[1]);
            put16(&mut tail, VERSION[1]);
            put64(&mut tail, 0);
            for value in [n, n, len, start] {
                put64(&mut tail, value);
            }
            put32(&mut tail, 0x0706_4b50);
            put32(&mut tail, 0);
            put64(&mut tail, end_at);
            put32(&mut tail, 1);
        }
        put32(&mut tail, 0x0605_4b50);
        put32(&mut tail, 0);
        for _ in 0..2 {
            put16(&mut tail, if wide { 0xffff } else { u16::try_from(n)? });
        }
        put32(&mut tail, if wide { u32::MAX } else { u32::try_from(len)? });
        put32(&mut tail, if wide { u32::MAX } else { u32::try_from(start)? });
        put16(&mut tail, 0);
        let len = start + tail.len() as u64;
        self.verbatim.push((start, tail));
        self.verbatim.sort_by_key(|(at, _)| *at);
        Ok((
            OutFile { name: "kv.npz".into(), len, verbatim: self.verbatim, positions: self.positions },
            finish,
        ))
    }
}

/// The fields that local and central entries share: flags to extra length. The CRC-32 is patched later.
fn put_entry(out: &mut Vec<u8>, size: u64, name: &str, extra_len: u64) -> Result<()> {
    // Flags (none), method (stored), time.
    out.extend_from_slice(&[0; 6]);
    put16(out, DATE);
    put32(out, 0);
    put32(out, u32::try_from(size)?);
    put32(out, u32::try_from(size)?);
    put16(out, u16::try_from(name.len())?);
    put16(out, u16::try_from(extra_len)?);
    Ok(())
}

fn put16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}
