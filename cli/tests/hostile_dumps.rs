//! Damaged dumps: cut off at every byte, and with single bytes changed. A reader answers with an error, or with a dump
//! whose every tensor lies within the file, and never takes memory because a header says so.
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tersa_cli::dump::{OpenOptions, open_bytes};

/// Counts what each thread holds, and the most it held.
struct Counting;

thread_local! {
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(change: isize) {
    // A thread that is ending has no counter any more.
    let _ = HELD.try_with(|held| {
        let now = held.get().0 + change;
        held.set((now, held.get().1.max(now)));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Opens `bytes`; checks the promise of a dump, and that memory stayed within a multiple of what is there.
fn open_and_check(bytes: &[u8], options: &OpenOptions) -> bool {
    let owned = bytes.to_vec();
    let before = HELD.get().0;
    HELD.set((before, before));
    let dump = open_bytes("hostile", owned, options);
    let peak = HELD.get().1 - before;
    // Parsed headers are larger than their bytes: a zip's member takes 250 times its shortest entry.
    let allowed = (1 << 20) + 300 * bytes.len().cast_signed();
    assert!(peak < allowed, "{peak} bytes held for a file of {}", bytes.len());
    let Ok(dump) = dump else { return false };
    for (i, s) in dump.streams.iter().enumerate() {
        let view = dump.view(i).unwrap();
        if s.shape.n_tokens != 0 {
            let mut row = vec![0; s.shape.row_bytes()];
            view.copy_rows(s.shape.n_kv_heads - 1, s.shape.n_tokens - 1..s.shape.n_tokens, &mut row);
        }
    }
    for q in &dump.queries {
        let len = q.dtype.bytes_for(q.shape.iter().product()).unwrap();
        assert!(dump.files[q.file].bytes.get(q.offset..q.offset + len).is_some());
    }
    for (file, filled) in dump.files.iter().zip(dump.regions()) {
        assert!(filled.iter().all(|r| r.start < r.end && r.end <= file.bytes.len() as u64));
        assert!(filled.windows(2).all(|w| w[0].end < w[1].start));
    }
    let kept: u64 = dump.regions().iter().flatten().map(|r| r.end - r.start).sum();
    assert_eq!(kept, dump.streams.iter().map(|s| s.len_bytes()).sum::<u64>(), "streams share no bytes");
    true
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

fn options() -> OpenOptions {
    OpenOptions { n_kv_heads: Some(3), ..OpenOptions::default() }
}

/// A small file of every format, with options that read it.
fn corpus() -> Vec<(PathBuf, OpenOptions)> {
    let mut list = Vec::new();
    for folder in ["formats", "formats/vllm", "formats/vllm-older", "formats/vllm-latent"] {
        for entry in std::fs::read_dir(data(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let layout = match path.file_stem().and_then(|s| s.to_str()) {
                    Some("2lhtd" | "fortran") => Some("2lhtd"),
                    Some("2lt-hd") => Some("2lt(hd)"),
                    _ => None,
                };
                list.push((path, OpenOptions { layout: layout.map(|l| l.parse().unwrap()), ..options() }));
            }
        }
    }
    for name in
        ["k_q4_0-v_q4_0.ggsq3", "k_q8_0-v_q8_0.ggsq4", "k_f16-v_f16-vtrans.ggsq3", "k_f16-v_f16-2seq.ggsn10"]
    {
        list.push((data("llama").join(format!("smollm2-2tok-{name}")), options()));
    }
    assert!(list.len() > 20);
    list
}

#[test]
fn files_cut_off_at_any_byte_are_refused() {
    for (path, options) in corpus() {
        let bytes = std::fs::read(&path).unwrap();
        let readable = open_and_check(&bytes, &options);
        let name = path.display();
        let refused = ["mlx-quantized", "ambiguous"].iter().any(|n| name.to_string().contains(n));
        assert_eq!(readable, !refused, "{name} whole");
        // Every cut in and around headers, every 7th within the data of the larger files.
        for len in (0..bytes.len()).filter(|len| bytes.len() < 4096 || *len < 512 || len % 7 == 0) {
            assert!(!open_and_check(&bytes[..len], &options), "{name} cut to {len} bytes");
        }
    }
}

#[test]
fn files_with_one_byte_changed_are_refused_or_stay_within_bounds() {
    for (path, options) in corpus() {
        let mut bytes = std::fs::read(&path).unwrap();
        let small = bytes.len() < 4096;
        for at in (0..bytes.len()).filter(|at| small || *at < 512 || at % 7 == 0) {
            for change in [0x01, 0x80, 0xff, 0x10] {
                bytes[at] ^= change;
                open_and_check(&bytes, &options);
                bytes[at] ^= change;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Several changes at once, most of them where headers are.
    #[test]
    fn files_with_some_bytes_changed_are_refused_or_stay_within_bounds(
        pick in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u8>()), 1..6),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let corpus = corpus();
        let (path, options) = &corpus[pick.index(corpus.len())];
        let mut bytes = std::fs::read(path).unwrap();
        for (at, head, value) in changes {
            let n = if head { bytes.len().min(300) } else { bytes.len() };
            bytes[at.index(n)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        open_and_check(&bytes, options);
    }

    /// Every magic, then anything.
    #[test]
    fn anything_behind_a_magic_is_refused_or_stays_within_bounds(
        magic in prop::sample::select(vec![
            &b"\x71\x73\x67\x67\x03\0\0\0"[..], b"\x71\x73\x67\x67\x04\0\0\0", b"\x6e\x73\x67\x67\x0a\0\0\0",
            b"\x93NUMPY\x01\0", b"\x93NUMPY\x03\0", b"PK\x03\x04", b"PK\x05\x06", b"\x20\0\0\0\0\0\0\0{",
        ]),
        tail in prop::collection::vec(prop_oneof![4 => 0u8..4, 1 => any::<u8>()], 0..200),
    ) {
        open_and_check(&[magic, &tail].concat(), &options());
    }
}
