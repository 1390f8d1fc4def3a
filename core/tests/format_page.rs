//! The example at the end of `docs/format.md` is what the writer writes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and prints what it skips"
)]

use std::fmt::Write as _;

use tersa_core::format::{Head, HeadStats, Kind, Reader, StreamEntry, StreamInfo, Writer};
use tersa_core::num::DType;
use tersa_core::view::KvShape;

fn example() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    let codec = writer.codec("raw").unwrap();
    let shape = KvShape { dtype: DType::F16, n_tokens: 2, n_kv_heads: 1, head_dim: 2 };
    let info = StreamInfo { part: 0, layer: 0, kind: Kind::K, shape, chunk_tokens: 256, hadamard: 0 };
    // One tile of 8 bytes: 1, 2 and 3, 4 in f16.
    writer.write_chunk(0, 0, &[8, 0, 0, 0, 0, 0x3c, 0, 0x40, 0, 0x42, 0, 0x44]).unwrap();
    let stats = HeadStats { sum_sq: 30.0, n_values: 4, ..HeadStats::default() };
    let heads = vec![Head { codec, side: None }];
    writer.finish(&[StreamEntry { info, heads, exact: None, stats: vec![stats] }], "{}", None).unwrap()
}

fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (i, line) in bytes.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|&b| b != 0)) {
        write!(text, "{:04x} ", i * 16).unwrap();
        line.iter().for_each(|b| write!(text, " {b:02x}").unwrap());
        text.push('\n');
    }
    text
}

#[test]
fn the_page_shows_the_bytes_that_are_written() {
    let bytes = example();
    Reader::open(bytes.as_slice()).unwrap().verify(|_, _| ()).unwrap();
    let page = include_str!("../../docs/format.md");
    let shown = page.split("```hex\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let dump = dump(&bytes);
    assert!(shown == dump, "{} bytes; the page should show\n{dump}", bytes.len());
}
