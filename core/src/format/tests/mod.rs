//! What the container promises, on containers small enough to try every byte of.

mod hostile;
mod reach;

use std::string::ToString;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::num::DType;
use crate::view::{KvShape, KvStrides};

fn info(layer: u32, kind: Kind, n_tokens: usize) -> StreamInfo {
    let shape = KvShape { dtype: DType::F16, n_tokens, n_kv_heads: 2, head_dim: 4 };
    StreamInfo { part: 0, layer, kind, shape, chunk_tokens: 4, hadamard: 0 }
}

fn side() -> SideData {
    let codebook = CodebookData { nbits: 1, dsub: vec![3, 1], centroids: vec![0.25; 8] };
    SideData { grid: vec![-1.0, 1.0], signs: vec![0b1010], codebook: Some(codebook) }
}

#[test]
fn a_chunk_whose_rows_would_not_fit_memory_is_out_of_range() {
    let whole = StreamInfo { chunk_tokens: 1 << 20, ..info(0, Kind::K, 1 << 20) };
    let wide = |head_dim| StreamInfo { shape: KvShape { head_dim, ..whole.shape }, ..whole };
    assert_eq!(wide(256).check(), Ok(()));
    let (what, max) = ("bytes of a chunk's rows", 1 << 30);
    assert_eq!(wide(257).check(), Err(FormatError::OutOfRange { what, value: 257 << 22, max }));
    let few = StreamInfo { shape: KvShape { head_dim: 1 << 16, n_tokens: 9, ..whole.shape }, ..whole };
    assert_eq!(few.check(), Ok(()));
}

/// One source file of 300 bytes: two tensors of 5 tokens (80 bytes each) at 40 and 160, one stream without tokens.
fn source() -> Source {
    let strides = KvStrides { token: 8, head: 4, dim: 1 };
    let tensors = vec![Extent { offset: 40, length: 80 }, Extent { offset: 160, length: 80 }];
    let place = |offset| Placement { file: 0, offset, strides };
    Source {
        files: vec![SourceFile { name: "dir/kv.bin".into(), length: 300, tensors }],
        placements: vec![place(40), place(160), place(0)],
    }
}

/// A container with a bit of everything, and its chunks' payloads by stream.
fn sample() -> (Vec<u8>, Vec<Vec<Vec<u8>>>) {
    let mut writer = Writer::new(Vec::new()).unwrap();
    let payload = |seed: u8, n: usize| (0..=255).cycle().skip(31 * usize::from(seed)).take(n).collect();
    let chunks: Vec<Vec<Vec<u8>>> =
        vec![vec![payload(1, 70), payload(2, 64)], vec![payload(3, 8), payload(4, 129)], vec![]];
    // Out of order on purpose: streams and chunks may come as threads finish them.
    writer.write_chunk(1, 1, &chunks[1][1]).unwrap();
    writer.write_verbatim(VerbatimMethod::Raw, 140, &payload(9, 140)).unwrap();
    writer.write_chunk(0, 0, &chunks[0][0]).unwrap();
    let shared = writer.write_side(&side()).unwrap();
    assert_eq!(writer.write_side(&side()).unwrap(), shared);
    assert_eq!(writer.write_side(&SideData::default()).unwrap(), None);
    writer.write_chunk(0, 1, &chunks[0][1]).unwrap();
    writer.write_chunk(1, 0, &chunks[1][0]).unwrap();
    let exact = writer.write_exact(&[0, 3]).unwrap();
    writer.add_index(0, 3, 1, payload(7, 21)).unwrap();
    writer.add_index(0, 3, 0, payload(8, 40)).unwrap();
    let (a, b) = (writer.codec("had+lm4").unwrap(), writer.codec("raw").unwrap());
    assert_eq!(writer.codec("had+lm4").unwrap(), a);
    let stats =
        HeadStats { sum_sq_error: 0.5, sum_sq: 2.0, max_abs_error: 0.125, n_values: 20, raw_tiles: 1 };
    let entry = |info, exact| StreamEntry {
        info,
        heads: vec![Head { codec: a, side: shared }, Head { codec: b, side: None }],
        exact,
        stats: vec![stats, HeadStats::default()],
    };
    let streams = [
        entry(info(3, Kind::K, 5), exact),
        entry(info(3, Kind::V, 5), None),
        entry(info(4, Kind::K, 0), None),
    ];
    (writer.finish(&streams, "{\"model\":\"m\"}", Some(&source())).unwrap(), chunks)
}

#[test]
fn what_was_written_is_read_back() {
    let (bytes, chunks) = sample();
    let reader = Reader::open(bytes.as_slice()).unwrap();
    assert_eq!(reader.version(), VERSION);
    assert_eq!(reader.codecs(), ["had+lm4", "raw"]);
    assert_eq!(reader.streams(), [info(3, Kind::K, 5), info(3, Kind::V, 5), info(4, Kind::K, 0)]);
    assert_eq!((reader.find(0, 3, Kind::V), reader.find(0, 5, Kind::V)), (Some(1), None));
    assert_eq!(reader.metadata().unwrap(), "{\"model\":\"m\"}");
    assert_eq!(reader.source().unwrap(), Some(source()));
    assert_eq!(reader.exact(0).unwrap(), [0, 3]);
    assert!(reader.exact(1).unwrap().is_empty());
    let heads = reader.heads(1).unwrap();
    assert_eq!(reader.side(&heads[0]).unwrap(), side());
    assert_eq!(reader.side(&heads[1]).unwrap(), SideData::default());
    assert_eq!(reader.stats().unwrap()[2][0].n_values, 20);
    let mut buf = Vec::new();
    for (stream, payloads) in chunks.iter().enumerate() {
        let index = reader.chunk_index(stream).unwrap();
        assert_eq!(index.chunks().len(), payloads.len());
        for (chunk, payload) in payloads.iter().enumerate() {
            reader.read_chunk(&index, chunk, &mut buf).unwrap();
            assert_eq!(&buf, payload);
        }
    }
    let indexes = reader.indexes().unwrap();
    let keys: Vec<_> = indexes.iter().map(|i| (i.part, i.layer, i.head, i.len_bytes())).collect();
    assert_eq!(keys, [(0, 3, 0, 40), (0, 3, 1, 21)]);
    reader.read_index(&indexes, 1, &mut buf).unwrap();
    assert_eq!((buf.len(), buf[0]), (21, 217));
    assert!(reader.read_index(&indexes, 2, &mut buf).is_err());
    let blocks = reader.verbatim().unwrap();
    reader.read_verbatim(&blocks, 0, &mut buf).unwrap();
    assert_eq!((blocks.len(), buf.len()), (1, 140));
    let verified = reader.verify(|done, all| assert!(done <= all)).unwrap();
    assert_eq!((verified.chunks, verified.chunk_bytes, verified.verbatim_blocks), (4, 271, 1));
}

#[test]
fn chunks_cover_their_tokens() {
    let (bytes, _) = sample();
    let index = Reader::open(bytes.as_slice()).unwrap().chunk_index(0).unwrap();
    assert_eq!((index.tokens(0), index.tokens(1)), (0..4, 4..5));
    assert_eq!(index.covering(0..1), 0..1);
    assert_eq!(index.covering(3..5), 0..2);
    assert_eq!(index.covering(4..100), 1..2);
    assert_eq!(index.covering(5..100), 0..0);
}

#[test]
fn an_empty_container_is_sound() {
    let bytes = Writer::new(Vec::new()).unwrap().finish(&[], "", None).unwrap();
    let reader = Reader::open(bytes.as_slice()).unwrap();
    assert_eq!(reader.streams(), []);
    assert_eq!(reader.source().unwrap(), None);
    reader.verify(|_, _| ()).unwrap();
}

#[test]
fn equal_calls_give_equal_bytes() {
    assert_eq!(sample().0, sample().0);
}

#[test]
fn payloads_written_at_their_places_give_the_same_bytes() {
    let payloads: [&[u8]; 3] = [&[1; 70], &[2; 64], &[3; 5]];
    let entry = |head| StreamEntry {
        info: StreamInfo { chunk_tokens: 2, ..info(0, Kind::K, 5) },
        heads: vec![head; 2],
        exact: None,
        stats: vec![HeadStats::default(); 2],
    };
    let mut whole = Writer::new(Vec::new()).unwrap();
    let mut apart = Writer::new(Vec::new()).unwrap();
    let mut places = Vec::new();
    for (i, payload) in payloads.into_iter().enumerate() {
        whole.write_chunk(0, i, payload).unwrap();
        places.push(apart.place_chunk(0, i, Seal::of(payload)).unwrap());
    }
    assert_eq!(places, [64, 192, 256]);
    assert!(apart.place_chunk(0, 1, Seal::of(&[1])).is_err(), "twice");
    assert!(apart.place_chunk(0, 3, Seal::of(&[])).is_err(), "empty");
    let finish = |mut w: Writer<Vec<u8>>| {
        let side = w.write_side(&side()).unwrap();
        let codec = w.codec("raw").unwrap();
        w.finish(&[entry(Head { codec, side })], "", None).unwrap()
    };
    let mut bytes = finish(apart);
    assert_ne!(bytes, finish(whole.clone()));
    for (payload, place) in payloads.into_iter().zip(places) {
        let at = usize::try_from(place).unwrap();
        bytes[at..at + payload.len()].copy_from_slice(payload);
    }
    assert_eq!(bytes, finish(whole));
}

#[test]
fn the_writer_refuses_what_does_not_fit_together() {
    let writer = || Writer::new(Vec::new()).unwrap();
    let entry = |info: StreamInfo| StreamEntry {
        info,
        heads: vec![Head { codec: 0, side: None }; 2],
        exact: None,
        stats: vec![HeadStats::default(); 2],
    };
    let finish = |mut w: Writer<Vec<u8>>, streams: &[StreamEntry]| {
        w.codec("raw").unwrap();
        w.finish(streams, "", None).unwrap_err().to_string()
    };
    let mut twice = writer();
    twice.write_chunk(0, 0, &[1]).unwrap();
    let error = twice.write_chunk(0, 0, &[1]).unwrap_err().to_string();
    assert_eq!(error, "chunk 0 of stream 0 was written 2 times");
    assert!(writer().write_chunk(0, 0, &[]).is_err());
    assert_eq!(finish(twice, &[entry(info(0, Kind::K, 5))]), "chunks of a stream: 2 expected, 1 found");
    let mut gap = writer();
    gap.write_chunk(0, 1, &[1]).unwrap();
    assert_eq!(finish(gap, &[entry(info(0, Kind::K, 5))]), "chunk 0 of stream 0 was written 0 times");
    let swapped = [entry(info(0, Kind::V, 0)), entry(info(0, Kind::K, 0))];
    assert_eq!(finish(writer(), &swapped), "streams: entry 1 is not above the one before it");
    let mut missing_head = entry(info(0, Kind::K, 0));
    missing_head.heads.pop();
    assert_eq!(finish(writer(), &[missing_head]), "heads of a stream: 2 expected, 1 found");
    let mut stray = writer();
    stray.write_chunk(1, 0, &[1]).unwrap();
    assert_eq!(finish(stray, &[entry(info(0, Kind::K, 0))]), "no stream 1, there are 1");
    let mut verbatim = writer();
    verbatim.write_verbatim(VerbatimMethod::Raw, 1, &[1]).unwrap();
    assert_eq!(finish(verbatim, &[]), "verbatim bytes: 0 expected, 1 found");
    assert!(writer().write_verbatim(VerbatimMethod::Raw, 2, &[1]).is_err());
    assert!(writer().write_exact(&[3, 3]).is_err());
}

#[test]
fn source_recipes_must_fit_their_files_and_streams() {
    let infos = [info(3, Kind::K, 5), info(3, Kind::V, 5), info(4, Kind::K, 0)];
    let broken = |change: fn(&mut Source)| {
        let mut source = source();
        change(&mut source);
        source.to_bytes(&infos).unwrap_err()
    };
    assert_eq!(Source::parse(&source().to_bytes(&infos).unwrap(), &infos), Ok(source()));
    assert_eq!(source().verbatim_len(), 140);
    use FormatError::{Mismatch, NoSuch, Order, OutOfRange};
    assert!(matches!(broken(|s| s.placements[0].offset = 221), OutOfRange { .. }));
    assert!(matches!(broken(|s| s.placements[0].strides.token = usize::MAX), OutOfRange { .. }));
    assert!(matches!(broken(|s| s.placements[1].file = 1), NoSuch { .. }));
    assert!(matches!(broken(|s| s.files[0].tensors[1].offset = 100), Order { .. }));
    assert!(matches!(broken(|s| s.files[0].tensors[1].length = 141), OutOfRange { .. }));
    assert!(matches!(broken(|s| s.files[0].tensors[1].length = 79), Mismatch { .. }));
    assert!(matches!(broken(|s| s.placements.truncate(2)), Mismatch { .. }));
    for name in ["", "../kv", "/kv", "a//b", "a\\b", "a/./b", "a\0b"] {
        let mut source = source();
        source.files[0].name = name.into();
        assert!(matches!(source.to_bytes(&infos), Err(FormatError::FileName { file: 0 })), "{name:?}");
    }
    let mut double = source();
    double.files.push(SourceFile { name: "dir/kv.bin".into(), length: 0, tensors: vec![] });
    assert_eq!(double.to_bytes(&infos), Err(FormatError::FileName { file: 1 }));
}
