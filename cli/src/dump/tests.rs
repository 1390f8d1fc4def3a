//! Readers and output layouts on the files in `tests/data`.
#![allow(clippy::cast_possible_truncation, reason = "small test files")]

use std::path::PathBuf;

use super::*;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

fn read(name: &str, options: &OpenOptions) -> Result<Dump> {
    open(&[data(name)], options)
}

fn smollm2() -> OpenOptions {
    OpenOptions { head_dim: Some(64), ..OpenOptions::default() }
}

/// One row of a stream as `f32`.
fn row(dump: &Dump, stream: usize, head: usize, token: usize) -> Vec<f32> {
    let view = dump.view(stream).unwrap();
    let mut bytes = vec![0; view.shape().row_bytes()];
    view.copy_rows(head, token..token + 1, &mut bytes);
    match view.shape().dtype {
        DType::F16 => bytes.chunks_exact(2).map(|b| f16([b[0], b[1]])).collect(),
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::Q8_0 => bytes
            .chunks_exact(34)
            .flat_map(|b| b[2..].iter().map(|q| f16([b[0], b[1]]) * f32::from(q.cast_signed())))
            .collect(),
        DType::Q4_0 => bytes
            .chunks_exact(18)
            .flat_map(|b| {
                let value = |q: u8| f16([b[0], b[1]]) * (f32::from(q) - 8.0);
                b[2..].iter().map(move |q| value(q & 15)).chain(b[2..].iter().map(move |q| value(q >> 4)))
            })
            .collect(),
        other => panic!("{other}"),
    }
}

fn f16(bytes: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bytes).to_f32()
}

/// Multiplies by the orthonormal Walsh–Hadamard matrix, in f64.
fn rotate(row: &[f32]) -> Vec<f32> {
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

fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(x, y)| f(f64::from(*x), f64::from(*y))).sum()
    };
    (sum(&|x, y| (x - y) * (x - y)) / sum(&|x, _| x * x)).sqrt()
}

#[test]
fn the_shipped_dump_is_read_without_assumptions_about_numbers() {
    let dump = read("smollm2-135m-1k-sample.safetensors", &OpenOptions::default()).unwrap();
    assert_eq!(dump.format, SourceFormat::Safetensors);
    assert_eq!(dump.assumptions, Vec::<String>::new());
    assert!(dump.heads_known && dump.rotation_known);
    let layers: Vec<_> = dump.streams.iter().map(|s| (s.layer, s.kind)).collect();
    assert_eq!(layers[..3], [(1, Kind::K), (1, Kind::V), (6, Kind::K)]);
    assert_eq!(layers.len(), 8);
    let shape = KvShape { dtype: DType::F16, n_tokens: 1024, n_kv_heads: 3, head_dim: 64 };
    assert!(dump.streams.iter().all(|s| s.shape == shape && s.strides == KvStrides::head_major(&shape)));
    assert_eq!(dump.queries.iter().map(|q| (q.layer, q.shape)).next(), Some((1, [9, 128, 64])));
    assert_eq!(dump.queries.len(), 4);
    assert_eq!(dump.scale(), Some(0.125));
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
        assert_eq!(s.positions.as_deref(), Some(&[0, 1][..]));
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
    assert_eq!(dump.streams[0].positions.as_deref(), Some(&[0, 0][..]));
}

#[test]
fn files_are_rebuilt_from_regions_and_what_lies_between() {
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(data("llama")).unwrap().map(|e| e.unwrap().path()).collect();
    names.push(data("smollm2-135m-1k-sample.safetensors"));
    assert!(names.len() > 9);
    for path in names {
        let dump =
            open(std::slice::from_ref(&path), &OpenOptions { n_kv_heads: Some(3), ..Default::default() })
                .unwrap();
        let skeleton = dump.skeleton();
        assert_eq!(
            rebuild(&dump, &layout::Layout::of_source(&skeleton)),
            [dump.files[0].bytes.to_vec()],
            "{path:?}"
        );
        let verbatim: usize = skeleton.files[0].verbatim.iter().map(|(_, b)| b.len()).sum();
        assert!(verbatim < dump.files[0].bytes.len() / 5, "{path:?} keeps {verbatim} bytes verbatim");
    }
}

/// Fills a layout of unchanged element types, byte by byte, and checks that every byte is written exactly once.
fn rebuild(dump: &Dump, layout: &layout::Layout) -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<Option<u8>>> = layout.files.iter().map(|f| vec![None; f.len as usize]).collect();
    let mut put = |file: usize, at: usize, bytes: &[u8]| {
        for (i, b) in bytes.iter().enumerate() {
            assert_eq!(files[file][at + i].replace(*b), None, "byte {} is written twice", at + i);
        }
    };
    for (i, f) in layout.files.iter().enumerate() {
        f.verbatim.iter().for_each(|(at, bytes)| put(i, *at as usize, bytes));
    }
    for p in &layout.placements {
        let view = dump.view(p.stream).unwrap();
        let shape = *view.shape();
        assert_eq!((shape.dtype, p.unrotate), (p.dtype, 0));
        let (bytes, block) = (p.dtype.block_bytes(), p.dtype.block_len());
        let mut row = vec![0; shape.row_bytes()];
        for (head, token) in (0..shape.n_kv_heads).flat_map(|h| (0..shape.n_tokens).map(move |t| (h, t))) {
            view.copy_rows(head, token..token + 1, &mut row);
            for (i, element) in row.chunks(bytes).enumerate() {
                let at = (token * p.strides.token + head * p.strides.head) / block + i * p.strides.dim;
                put(p.file, p.offset as usize + at * bytes, element);
            }
        }
    }
    files.into_iter().map(|f| f.into_iter().map(|b| b.expect("every byte is written")).collect()).collect()
}
