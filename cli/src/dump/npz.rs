//! A zip of numpy arrays. Stored members are used in place; deflated ones are first unpacked into an equal archive of
//! stored members, in memory.

use std::io::{Cursor, Read};

use anyhow::{Context, Result, ensure};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::Content;
use super::npy;
use super::tensor::Tensor;

/// Whether `bytes` begin as a zip archive.
pub(crate) fn sniff(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06")
}

fn archive(bytes: &[u8]) -> Result<ZipArchive<Cursor<&[u8]>>> {
    ZipArchive::new(Cursor::new(bytes)).context("damaged zip archive")
}

/// The same archive with every member stored, or `None` if it already is so.
///
/// Memory: the members' unpacked bytes, as many as really come out; never what a header claims.
pub(crate) fn unpack(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut from = archive(bytes)?;
    let mut packed = false;
    for i in 0..from.len() {
        packed |= from.by_index_raw(i)?.compression() != CompressionMethod::Stored;
    }
    if !packed {
        return Ok(None);
    }
    let mut to = ZipWriter::new(Cursor::new(Vec::new()));
    for i in 0..from.len() {
        let member = from.by_index(i).context("cannot unpack a member of the archive")?;
        let name = member.name().to_owned();
        let size = member.size();
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(size > u64::from(u32::MAX))
            .with_alignment(64);
        to.start_file(name.as_str(), options)?;
        let copied = std::io::copy(&mut member.take(size.saturating_add(1)), &mut to)
            .with_context(|| format!("cannot unpack `{name}`"))?;
        ensure!(copied == size, "`{name}` unpacks to another length than its header says");
    }
    Ok(Some(to.finish()?.into_inner()))
}

/// The arrays of an archive of stored members, by name without `.npy`.
pub(crate) fn read(bytes: &[u8], file: usize, content: &mut Content) -> Result<Vec<Tensor>> {
    let mut archive = archive(bytes)?;
    let mut tensors = Vec::new();
    let mut taken = Vec::new();
    for i in 0..archive.len() {
        let member = archive.by_index_raw(i)?;
        let name = member.name().to_owned();
        let Some(array) = name.strip_suffix(".npy") else { continue };
        ensure!(
            member.compression() == CompressionMethod::Stored && !member.encrypted(),
            "`{name}` is compressed or encrypted"
        );
        let start = member.data_start().and_then(|s| usize::try_from(s).ok());
        let len = usize::try_from(member.compressed_size()).ok();
        let range = start.zip(len).and_then(|(s, n)| Some(s..s.checked_add(n)?));
        let data = range.clone().and_then(|r| bytes.get(r));
        let (range, data) = range.zip(data).with_context(|| format!("`{name}` lies outside the file"))?;
        ensure!(crc32fast::hash(data) == member.crc32(), "`{name}` is damaged: its CRC-32 is another");
        let (tensor, note) =
            npy::read(array, data, file, range.start).with_context(|| format!("in `{name}`"))?;
        if let Some(note) = note {
            content.assume(note);
        }
        tensors.push(tensor);
        taken.push(range);
    }
    taken.sort_by_key(|r| (r.start, r.end));
    ensure!(taken.windows(2).all(|w| w[0].end <= w[1].start), "members of the archive overlap");
    Ok(tensors)
}
