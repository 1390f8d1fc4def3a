//! Damaged and forged containers: clean errors only.

use core::ops::Range;
use proptest::prelude::*;
use std::vec::Vec;

use super::super::layout::{FRAME_LEN, SEED};
use super::super::stream::{CHUNK_RECORD, HEAD_RECORD, STREAM_RECORD};
use super::super::*;
use super::sample;
use crate::num::hash::xxh64;

/// Reads everything there is by every way there is; whether all of it was sound.
fn read_all(bytes: &[u8]) -> Result<(), ReadError<PastEnd>> {
    let reader = Reader::open(bytes)?;
    let mut buf = Vec::new();
    let mut first_error = None;
    let mut note = |result: Result<(), ReadError<PastEnd>>| {
        if let Err(e) = result {
            first_error.get_or_insert(e);
        }
    };
    for stream in 0..reader.streams().len() {
        note(reader.exact(stream).map(drop));
        match reader.heads(stream) {
            Ok(heads) => heads.iter().for_each(|head| note(reader.side(head).map(drop))),
            Err(e) => note(Err(e)),
        }
        match reader.chunk_index(stream) {
            Ok(index) => (0..index.chunks().len()).for_each(|i| note(reader.read_chunk(&index, i, &mut buf))),
            Err(e) => note(Err(e)),
        }
    }
    match reader.verbatim() {
        Ok(blocks) => (0..blocks.len()).for_each(|i| note(reader.read_verbatim(&blocks, i, &mut buf))),
        Err(e) => note(Err(e)),
    }
    match reader.indexes() {
        Ok(indexes) => (0..indexes.len()).for_each(|i| note(reader.read_index(&indexes, i, &mut buf))),
        Err(e) => note(Err(e)),
    }
    note(reader.verify(|_, _| ()).map(drop));
    // Memory follows the file: nothing that was read is longer than it.
    assert!(buf.capacity() <= bytes.len());
    first_error.map_or(Ok(()), Err)
}

#[test]
fn every_flipped_byte_is_found() {
    let (mut bytes, _) = sample();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x10, 0x80, 0xff] {
            bytes[at] ^= flip;
            let result = read_all(&bytes);
            assert!(matches!(result, Err(ReadError::Format(_))), "byte {at} ^ {flip:#x}: {result:?}");
            bytes[at] ^= flip;
        }
    }
    read_all(&bytes).unwrap();
}

#[test]
fn every_truncation_is_found() {
    let (bytes, _) = sample();
    for len in 0..bytes.len() {
        assert!(matches!(Reader::open(&bytes[..len]), Err(ReadError::Format(_))), "cut at {len}");
    }
}

#[test]
fn appended_bytes_are_found() {
    let (mut bytes, _) = sample();
    for _ in 0..130 {
        bytes.push(0);
        assert!(Reader::open(bytes.as_slice()).is_err());
    }
}

/// Sets the checksums in the stream records right: of each stream's slice of the heads and of the chunks section.
fn rehash_slices(bytes: &mut [u8], streams: Range<usize>, mut heads: usize, mut chunks: usize) {
    for at in streams.step_by(STREAM_RECORD) {
        let Some(record) = bytes.get(at..at + STREAM_RECORD) else { return };
        let half = |i: usize| u32::from_le_bytes(record[i..i + 4].try_into().unwrap()) as usize;
        let n_chunks = half(16).div_ceil(half(12).max(1));
        let (heads_end, chunks_end) = (heads + HEAD_RECORD * half(24), chunks + CHUNK_RECORD * n_chunks);
        let hash = |span: Range<usize>| bytes.get(span).map_or(0, |slice| xxh64(SEED, slice)).to_le_bytes();
        let (heads_hash, chunks_hash) = (hash(heads..heads_end), hash(chunks..chunks_end));
        bytes[at + 40..at + 48].copy_from_slice(&heads_hash);
        bytes[at + 48..at + 56].copy_from_slice(&chunks_hash);
        (heads, chunks) = (heads_end, chunks_end);
    }
}

/// Sets every checksum of the tables right, as someone who forges a file would.
fn rehash(bytes: &mut [u8]) {
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let span = |bytes: &[u8], at: usize| {
        let start = usize::try_from(word(bytes, at)).ok()?;
        let end = start.checked_add(usize::try_from(word(bytes, at + 8)).ok()?)?;
        (end <= bytes.len()).then_some(start..end)
    };
    let put = |bytes: &mut [u8], at: usize, hash: u64| bytes[at..at + 8].copy_from_slice(&hash.to_le_bytes());
    let trailer = bytes.len() - FRAME_LEN;
    if let Some(directory) = span(bytes, trailer + 16) {
        let records = (directory.len().saturating_sub(8) / 32).min(64);
        let section =
            |bytes: &[u8], i: usize| (i < records).then(|| span(bytes, directory.start + 16 + 32 * i))?;
        if let (Some(streams), Some(heads), Some(chunks)) =
            (section(bytes, 1), section(bytes, 2), section(bytes, 3))
        {
            rehash_slices(bytes, streams, heads.start, chunks.start);
        }
        for record in 0..records {
            let at = directory.start + 8 + 32 * record;
            if let Some(section) = span(bytes, at + 8) {
                let hash = xxh64(SEED, &bytes[section]);
                put(bytes, at + 24, hash);
            }
        }
        let hash = xxh64(SEED, &bytes[directory]);
        put(bytes, trailer + 32, hash);
    }
    for frame in [0, trailer] {
        let hash = xxh64(SEED, &bytes[frame..frame + 56]);
        put(bytes, frame + 56, hash);
    }
}

#[test]
fn rehashing_an_untouched_file_changes_nothing() {
    let (bytes, _) = sample();
    let mut again = bytes.clone();
    rehash(&mut again);
    assert_eq!(bytes, again);
}

#[test]
fn forged_counts_and_offsets_never_panic() {
    let (bytes, _) = sample();
    let reader = Reader::open(bytes.as_slice()).unwrap();
    let tables = usize::try_from(reader.data_end()).unwrap();
    // Every field of every table, with the values that break sums, under checksums that are right.
    for at in (0..FRAME_LEN).chain(tables..bytes.len()).step_by(4) {
        for value in [0, 1, 0x40, 0x7fff_ffff, 0x8000_0000, u32::MAX - 63, u32::MAX] {
            let mut forged = bytes.clone();
            forged[at..at + 4].copy_from_slice(&value.to_le_bytes());
            rehash(&mut forged);
            let _ = read_all(&forged);
            if at % 8 == 0 {
                forged[at + 4..at + 8].copy_from_slice(&u32::MAX.to_le_bytes());
                rehash(&mut forged);
                let _ = read_all(&forged);
            }
        }
    }
}

/// A sample with one change to its directory or frame, checksums set right.
fn forged(change: impl FnOnce(&mut Vec<u8>, usize)) -> FormatError {
    let (mut bytes, _) = sample();
    let trailer = bytes.len() - FRAME_LEN;
    let directory = u64::from_le_bytes(bytes[trailer + 16..trailer + 24].try_into().unwrap());
    change(&mut bytes, usize::try_from(directory).unwrap());
    rehash(&mut bytes);
    match Reader::open(bytes.as_slice()) {
        Err(ReadError::Format(e)) => e,
        other => panic!("{other:?}"),
    }
}

#[test]
fn versions_and_sections_follow_the_rules() {
    assert_eq!(forged(|b, _| b[8] = 1), FormatError::UnknownMajor { major: 1, minor: 1 });
    assert!(matches!(forged(|b, _| b[12] = 1), FormatError::NotZero { region: Region::Header }));
    let stats = |d: usize| d + 8 + 4 * 32;
    assert!(matches!(forged(|b, d| b[stats(d)] = 4), FormatError::DuplicateSection { section: 4 }));
    let critical = forged(|b, d| {
        b[stats(d)] = 99;
        b[stats(d) + 4] = 1;
    });
    assert_eq!(critical, FormatError::UnknownCriticalSection { kind: 99 });
    assert!(matches!(forged(|b, d| b[stats(d) + 4] = 2), FormatError::NotZero { .. }));
    let no_streams = forged(|b, d| {
        b[d + 8 + 32] = 99;
        b[d + 8 + 36] = 0;
    });
    assert_eq!(no_streams, FormatError::MissingSection { section: Section::Streams });
}

#[test]
fn later_minor_versions_and_unknown_optional_sections_are_readable() {
    let (mut bytes, _) = sample();
    let trailer = bytes.len() - FRAME_LEN;
    let directory = u64::from_le_bytes(bytes[trailer + 16..trailer + 24].try_into().unwrap());
    let stats = usize::try_from(directory).unwrap() + 8 + 4 * 32;
    bytes[stats] = 99;
    bytes[10] = 7;
    rehash(&mut bytes);
    let reader = Reader::open(bytes.as_slice()).unwrap();
    assert_eq!(reader.version(), Version { major: 0, minor: 7 });
    assert!(reader.stats().unwrap().is_empty());
    reader.verify(|_, _| ()).unwrap();
}

proptest! {
    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Reader::open(bytes.as_slice()).is_err());
    }

    #[test]
    fn forged_tables_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (mut bytes, _) = sample();
        let tables = usize::try_from(Reader::open(bytes.as_slice()).unwrap().data_end()).unwrap();
        for (index, value) in edits {
            let at = tables + index.index(bytes.len() - tables);
            bytes[at] = value;
        }
        rehash(&mut bytes);
        let _ = read_all(&bytes);
    }

    #[test]
    fn side_data_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = SideData::parse(&bytes);
    }

    #[test]
    fn sources_never_panic(bytes in prop::collection::vec(0..3_u8, 0..160)) {
        let _ = Source::parse(&bytes, &[]);
    }
}
