//! Checking every byte of a container.

use alloc::vec::Vec;

use super::ReadAt;
use super::error::{FormatError, ReadError, Region};
use super::layout::{FRAME, FRAME_LEN, Location, SEED, align_up, check_hash};
use super::reader::{Reader, read_checked};
use super::side::SideData;
use crate::num::hash::Xxh64;

/// Bytes read at a time.
const STEP: usize = 256 << 10;

/// What [`Reader::verify`] went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Chunks whose checksum was right.
    pub chunks: u64,
    /// Bytes of those.
    pub chunk_bytes: u64,
    /// Verbatim blocks whose checksum was right.
    pub verbatim_blocks: u64,
}

/// A piece of the data area, ordered by place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Piece {
    at: Location,
    region: Region,
}

impl<R: ReadAt> Reader<R> {
    /// Reads the whole file and checks that every byte of it is covered by a right checksum or is zero padding, that
    /// every table parses, and that nothing overlaps. `progress` gets (bytes done, bytes of the file).
    ///
    /// Cost: one read of the file, one XXH64; memory: 64 bytes for each chunk.
    ///
    /// # Errors
    /// The first damage found.
    pub fn verify(&self, mut progress: impl FnMut(u64, u64)) -> Result<Verified, ReadError<R::Error>> {
        let (pieces, verified) = self.pieces()?;
        let mut buf = Vec::new();
        let mut end = FRAME;
        for piece in &pieces {
            self.check_piece(piece, end, &mut buf)?;
            end = piece.at.offset + piece.at.length;
            progress(end, self.file_len);
        }
        for entry in &self.sections {
            self.check_piece(&Piece { at: entry.location, region: entry.region() }, end, &mut buf)?;
            end = entry.location.offset + entry.location.length;
        }
        self.check_piece(&Piece { at: self.directory, region: Region::Directory }, end, &mut buf)?;
        self.check_padding(self.directory.offset + self.directory.length, self.file_len - FRAME)?;
        self.stats()?;
        self.metadata()?;
        self.check_source()?;
        self.indexes()?;
        progress(self.file_len, self.file_len);
        Ok(verified)
    }

    /// Everything that the tables say lies in the data area, by place; parses side data and exact sets on the way.
    fn pieces(&self) -> Result<(Vec<Piece>, Verified), ReadError<R::Error>> {
        let mut verified = Verified::default();
        let mut pieces = Vec::new();
        let mut blobs = Vec::new();
        for stream in 0..self.streams().len() {
            for head in self.heads(stream)? {
                blobs.extend(head.side.map(|b| (b, Region::Side)));
            }
            self.exact(stream)?;
            blobs.extend(self.exact_blob(stream).map(|b| (b, Region::ExactOf { stream })));
            for (chunk, at) in self.chunk_index(stream)?.chunks().iter().enumerate() {
                pieces.push(Piece { at: at.location(), region: Region::Chunk { stream, chunk } });
                verified.chunks += 1;
                verified.chunk_bytes += u64::from(at.length);
            }
        }
        for (block, at) in self.verbatim()?.iter().enumerate() {
            pieces.push(Piece { at: at.location(), region: Region::Verbatim { block } });
            verified.verbatim_blocks += 1;
        }
        // Many heads and streams share a blob; only blobs may be shared.
        blobs.sort_unstable_by_key(|(blob, _)| *blob);
        blobs.dedup_by_key(|(blob, _)| *blob);
        for (blob, region) in blobs {
            if region == Region::Side {
                SideData::parse(&read_checked(&self.inner, region, blob.location())?)?;
            }
            pieces.push(Piece { at: blob.location(), region });
        }
        pieces.sort_unstable_by_key(|p| p.at.offset);
        Ok((pieces, verified))
    }

    /// Checks a piece that must start at the first boundary after `end`, and the padding before it.
    fn check_piece(&self, piece: &Piece, end: u64, buf: &mut Vec<u8>) -> Result<(), ReadError<R::Error>> {
        let Location { offset, length, xxh64 } = piece.at;
        if offset != align_up(end) {
            return Err(FormatError::Misplaced { region: piece.region, offset, length }.into());
        }
        self.check_padding(end, offset)?;
        let mut hash = Xxh64::new(SEED);
        let mut done = 0;
        while done < length {
            let step = usize::try_from(length - done).unwrap_or(STEP).min(STEP);
            buf.resize(step, 0);
            self.inner.read_at(offset + done, buf).map_err(ReadError::Io)?;
            hash.update(buf);
            done += step as u64;
        }
        Ok(check_hash(piece.region, xxh64, hash.finish())?)
    }

    fn check_padding(&self, start: u64, end: u64) -> Result<(), ReadError<R::Error>> {
        let mut bytes = [0; FRAME_LEN];
        let length = usize::try_from(end - start).expect("padding is below 64");
        self.inner.read_at(start, &mut bytes[..length]).map_err(ReadError::Io)?;
        if bytes.iter().any(|&b| b != 0) {
            return Err(FormatError::NotZero { region: Region::Padding { offset: start } }.into());
        }
        Ok(())
    }

    /// The verbatim blocks must hold what the source recipe leaves out.
    fn check_source(&self) -> Result<(), ReadError<R::Error>> {
        let got = self.verbatim()?.iter().map(|b| u64::from(b.raw_len)).sum();
        let expected = self.source()?.map_or(0, |s| s.verbatim_len());
        if expected != got {
            return Err(FormatError::Mismatch { what: "verbatim bytes", expected, got }.into());
        }
        Ok(())
    }
}
