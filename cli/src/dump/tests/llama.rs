//! llama.cpp state files.

use super::*;

/// Multiplies by the orthonormal Walsh–Hadamard matrix, in f64.
pub(super) fn rotate(row: &[f32]) -> Vec<f32> {
    let n = row.len();
    (0..n)
        .map(|i| {
            let sum: f64 = (0..n)
                .map(|j| {
                    if (i & j).count_ones().is_multiple_of(2) {
                        f64::from(row[j])
                    } else {
                        -f64::from(row[j])
                    }
                })
                .sum();
            (sum / (n as f64).sqrt()) as f32
        })
        .collect()
}

pub(super) fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(x, y)| f(f64::from(*x), f64::from(*y))).sum()
    };
    (sum(&|x, y| (x - y) * (x - y)) / sum(&|x, _| x * x).max(f64::MIN_POSITIVE)).sqrt()
}

#[test]
fn both_llama_versions_give_equal_streams() {
    for (old, layers) in [("smollm2-2tok-k_f16-v_f16.ggsq3", 60), ("smollm2-2tok-k_f16-v_f16.ggsq4", 60)] {
        let dump = read(&format!("llama/{old}"), &smollm2()).unwrap();
        assert_eq!(dump.format, SourceFormat::LlamaSequence);
        assert_eq!(dump.streams.len(), layers);
        let s = &dump.streams[59];
        assert_eq!((s.layer, s.kind, s.hadamard, s.part), (29, Kind::V, 0, 0));
        assert_eq!((s.shape.n_tokens, s.shape.n_kv_heads, s.shape.head_dim), (2, 3, 64));
        assert_eq!(s.positions, Positions::counted(0, 2));
        assert_eq!(s.sequences, None);
        assert!(dump.heads_known);
    }
}

#[test]
fn transposed_values_are_the_plain_ones() {
    // Flash attention off computes attention another way, so layers after the first differ in the last bits.
    let plain = read("llama/smollm2-2tok-k_f16-v_f16.ggsq3", &smollm2()).unwrap();
    let trans = read("llama/smollm2-2tok-k_f16-v_f16-vtrans.ggsq3", &smollm2()).unwrap();
    for stream in 0..60 {
        for (head, token) in (0..3).flat_map(|h| [(h, 0), (h, 1)]) {
            let (a, b) = (row(&plain, stream, head, token), row(&trans, stream, head, token));
            assert!(relative_error(&a, &b) < if stream < 2 { 1e-6 } else { 0.1 }, "stream {stream}");
        }
    }
}

#[test]
fn quantized_rows_are_rotated_as_their_hadamard_size_says() {
    let exact = read("llama/smollm2-2tok-k_f16-v_f16.ggsq3", &smollm2()).unwrap();
    for (name, bound) in [("q8_0", 0.01), ("q4_0", 0.15)] {
        let coded = read(&format!("llama/smollm2-2tok-k_{name}-v_{name}.ggsq3"), &smollm2()).unwrap();
        assert_eq!(coded.assumptions.len(), 1);
        for stream in 0..2 {
            assert_eq!(coded.streams[stream].hadamard, 64);
            for (head, token) in (0..3).flat_map(|h| [(h, 0), (h, 1)]) {
                let (a, b) = (row(&exact, stream, head, token), row(&coded, stream, head, token));
                assert!(relative_error(&rotate(&a), &b) < bound, "{name} {stream} {head} {token}");
                assert!(relative_error(&a, &b) > 0.5, "{name}: rows are not rotated at all");
            }
        }
    }
    // Version 4 says so itself.
    let coded = read("llama/smollm2-2tok-k_q8_0-v_q8_0.ggsq4", &smollm2()).unwrap();
    assert_eq!(coded.assumptions, Vec::<String>::new());
    assert!(coded.streams.iter().all(|s| s.hadamard == 64));
    let options = OpenOptions { rotation: Rotation::None, ..smollm2() };
    let plain = read("llama/smollm2-2tok-k_q8_0-v_q8_0.ggsq3", &options).unwrap();
    assert!(plain.streams.iter().all(|s| s.hadamard == 0));
}

#[test]
fn without_a_head_size_rows_are_one_head_and_say_so() {
    let dump = read("llama/smollm2-8tok-k_q5_1-v_q5_1.ggsq3", &OpenOptions::default()).unwrap();
    assert!(!dump.heads_known && !dump.rotation_known);
    assert_eq!((dump.streams[0].shape.n_kv_heads, dump.streams[0].shape.head_dim), (1, 192));
    assert!(dump.assumptions.iter().any(|a| a.contains("--head-dim")));
    let heads = OpenOptions { n_kv_heads: Some(3), ..OpenOptions::default() };
    let dump = read("llama/smollm2-8tok-k_q5_1-v_q5_1.ggsq3", &heads).unwrap();
    assert_eq!((dump.streams[0].shape.dtype, dump.streams[0].shape.head_dim), (DType::Q5_1, 64));
    let wrong = OpenOptions { head_dim: Some(80), ..OpenOptions::default() };
    assert!(read("llama/smollm2-8tok-k_q5_1-v_q5_1.ggsq3", &wrong).is_err());
}

#[test]
fn a_session_file_with_two_sequences_names_its_architecture() {
    let dump = read("llama/smollm2-2tok-k_f16-v_f16-2seq.ggsn10", &smollm2()).unwrap();
    assert_eq!(dump.format, SourceFormat::LlamaSession);
    assert_eq!(dump.meta["arch"], "llama");
    assert_eq!(dump.streams[0].positions, Some([0, 0].into_iter().collect()));
    let own = Sequences::new(vec![1, 2], vec![0, 1]);
    assert_eq!(dump.streams[0].sequences, own);
}

/// A state file under construction; numbers as the format has them.
#[derive(Default)]
struct Builder(Vec<u8>);

impl Builder {
    fn new(version: u32) -> Self {
        let mut b = Self::default();
        b.u32(if version > 9 { 0x6767_736e } else { 0x6767_7371 }).u32(version).u32(1).u32(42);
        if version > 9 {
            b.u32(5);
            b.0.extend_from_slice(b"llama");
        }
        b
    }

    fn u32(&mut self, n: u32) -> &mut Self {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    fn cells(&mut self, positions: &[u32], ext: bool) -> &mut Self {
        self.u32(positions.len() as u32);
        for p in positions {
            self.u32(*p).u32(1);
            if ext {
                self.u32(100).u32(200).u32(300);
            }
            self.u32(0);
        }
        self
    }

    /// `n` layers of f16 rows of `width`, each value a number of its own.
    fn rows(&mut self, n: u32, width: u32, cells: u32) -> &mut Self {
        for layer in 0..n {
            self.u32(1).u32(width * 2).u32(0);
            for i in 0..width * cells {
                let value = half::f16::from_f32((layer * 100 + i) as f32);
                self.0.extend_from_slice(&value.to_le_bytes());
            }
        }
        self
    }

    fn read(&self) -> Result<Dump> {
        let options = OpenOptions { head_dim: Some(4), ..OpenOptions::default() };
        open_bytes("x", self.0.clone(), &options)
    }
}

#[test]
fn sliding_window_sections_and_streams_are_parts() {
    let mut b = Builder::new(10);
    b.u32(1).cells(&[0, 1, 2], false).u32(0).u32(1).rows(1, 8, 3).rows(1, 8, 3);
    b.u32(2).cells(&[2], false).u32(0).u32(2).rows(2, 8, 1).rows(2, 8, 1).u32(0);
    let dump = b.read().unwrap();
    let parts: Vec<_> = dump.streams.iter().map(|s| (s.part, s.layer, s.shape.n_tokens)).collect();
    assert_eq!(parts, [(0, 0, 3), (0, 0, 3), (1, 0, 1), (1, 0, 1), (1, 1, 1), (1, 1, 1)]);
    assert_eq!(dump.streams[2].positions, Positions::counted(2, 1));
    assert_eq!(dump.meta["arch"], "llama");
    assert!(dump.assumptions.iter().any(|a| a.contains("sliding-window")));
    assert_eq!(row(&dump, 5, 1, 0), [104.0, 105.0, 106.0, 107.0]);
}

#[test]
fn cells_with_more_position_axes_are_found_by_trying() {
    for ext in [false, true] {
        let mut b = Builder::new(3);
        b.u32(1).cells(&[5, 6], ext).u32(0).u32(2).rows(2, 8, 2).rows(2, 8, 2);
        let dump = b.read().unwrap();
        assert_eq!(dump.streams.len(), 4);
        assert_eq!(dump.streams[0].positions, Positions::counted(5, 2));
        assert_eq!(row(&dump, 3, 1, 1), [112.0, 113.0, 114.0, 115.0]);
    }
}

#[test]
fn layers_without_values_are_keys_only() {
    let mut b = Builder::new(4);
    b.u32(1).cells(&[0, 1], false).u32(0).u32(3).u32(0).u32(0).rows(3, 8, 2);
    let dump = b.read().unwrap();
    assert_eq!(dump.streams.iter().map(|s| s.kind).collect::<Vec<_>>(), [Kind::K; 3]);
}

#[test]
fn a_file_that_reads_in_two_ways_is_refused() {
    // A cell of no sequence and no layers. Plain: flags, then a second section of two empty streams. With more
    // position axes: those swallow the first three words.
    let mut b = Builder::new(10);
    b.u32(1).u32(1).u32(7).u32(0);
    for word in [0, 0, 2, 0, 0] {
        b.u32(word);
    }
    let message = format!("{:#}", b.read().err().unwrap());
    assert!(message.contains("more than one way"), "{message}");
}

#[test]
fn an_empty_cache_is_read_and_says_so() {
    let mut b = Builder::new(4);
    b.u32(1).u32(0);
    let dump = b.read().unwrap();
    assert!(dump.streams.is_empty() && dump.assumptions.iter().any(|a| a.contains("no cells")));
    assert_eq!(dump.skeleton().files[0].verbatim, [(0, b.0.clone())]);
}

#[test]
fn unknown_versions_are_refused_with_the_known_ones() {
    for version in [2, 5, 9, 12] {
        let message = format!("{:#}", Builder::new(version).u32(1).read().err().unwrap());
        assert!(message.contains("version") && message.contains("are known"), "{message}");
    }
}

#[test]
fn impossible_headers_are_refused() {
    let part = |f: &dyn Fn(&mut Builder)| {
        let mut b = Builder::new(4);
        f(&mut b);
        format!("{:#}", b.read().err().unwrap())
    };
    let plain = |b: &mut Builder, trans, k_rot, kind| {
        b.u32(1).cells(&[0], false).u32(trans).u32(1).u32(k_rot).u32(0).u32(kind).u32(16).u32(0);
        b.0.extend_from_slice(&[0; 16]);
    };
    assert!(part(&|b| plain(b, 2, 0, 1)).contains("transposed"));
    assert!(part(&|b| plain(b, 0, 3, 1)).contains("rotation"));
    assert!(part(&|b| plain(b, 0, 0, 5)).contains("ggml type 5"));
    assert!(part(&|b| plain(b, 0, 0, 8)).contains("not whole q8_0"));
    assert!(
        part(&|b| {
            b.u32(1).u32(u32::MAX);
        })
        .contains("cell list")
    );
    assert!(
        part(&|b| {
            b.u32(0);
        })
        .contains("without streams")
    );
}

#[test]
fn the_default_rotation_is_llamas_rule() {
    use crate::dump::llama::default_rotation;
    for (head_dim, k, v) in
        [(64, 64, 64), (80, 0, 0), (128, 128, 64), (192, 64, 64), (256, 256, 64), (32, 0, 0)]
    {
        assert_eq!((default_rotation(Kind::K, head_dim), default_rotation(Kind::V, head_dim)), (k, v));
    }
}
