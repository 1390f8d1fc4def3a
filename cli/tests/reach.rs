//! How much of a file a partial read touches.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

mod run;

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use run::{run, with_sample};
use tersa_cli::archive::Archive;
use tersa_cli::args::SelectArgs;
use tersa_cli::dump::layout::{Layout, Target};
use tersa_cli::files::Writeback;
use tersa_cli::progress::Progress;
use tersa_cli::unpack::write_streams;
use tersa_core::format::{PastEnd, ReadAt};

/// Bytes that remember how many of them were read.
struct Counting<'a> {
    bytes: Vec<u8>,
    read: &'a AtomicU64,
}

impl ReadAt for Counting<'_> {
    type Error = PastEnd;

    fn len(&self) -> Result<u64, PastEnd> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), PastEnd> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.bytes.as_slice().read_at(offset, buf)
    }
}

#[test]
fn reading_256_tokens_of_a_layer_touches_its_chunks_and_little_else() {
    let dir = with_sample();
    for codec in ["raw", "mean+had+lm4+ls", "kivi4g64"] {
        run(dir.path(), &format!("compress kv.safetensors -f -o a.tersa --codec {codec}"), 0);
        let bytes = fs::read(dir.path().join("a.tersa")).unwrap();
        let read = AtomicU64::new(0);
        let archive = Archive::new(Counting { bytes, read: &read }, "a.tersa".into()).unwrap();
        let select = SelectArgs {
            layers: Some("1".parse().unwrap()),
            tokens: Some("0..256".parse().unwrap()),
            heads: None,
        };
        let picks = archive.pick(&select).unwrap();
        assert_eq!(picks.len(), 2, "keys and values of one layer");
        let payload: u64 = picks
            .iter()
            .map(|p| u64::from(archive.reader.chunk_index(p.stream).unwrap().chunks()[0].length))
            .sum();
        let mut skeleton = archive.skeleton(&picks, false).unwrap();
        skeleton.queries.clear(); // as `decompress --tokens` does: they belong to all tokens
        let layout = Layout::new(&skeleton, Target::Safetensors).unwrap();
        let out = tempfile::tempfile().unwrap();
        let (mut writeback, mut progress) = (Writeback::new(&[&out]), Progress::new("", 0, true));
        write_streams(&archive, &picks, &layout, &[&out], &mut writeback, 2, &mut progress).unwrap();
        let read = read.load(Ordering::Relaxed);
        assert!(read >= payload, "the chunks were read at all");
        assert!(read <= payload + payload / 10 + (64 << 10), "{codec}: {read} bytes read for {payload}");
    }
}
