//! Rebuilding sources and writing other formats.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use super::*;
use crate::dump::layout::{Layout, Target};

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
        assert_eq!(rebuild(&dump, &Layout::of_source(&skeleton)), [dump.files[0].bytes.to_vec()], "{path:?}");
        let verbatim: usize = skeleton.files[0].verbatim.iter().map(|(_, b)| b.len()).sum();
        assert!(verbatim < dump.files[0].bytes.len() / 5, "{path:?} keeps {verbatim} bytes verbatim");
    }
}

/// Fills a layout row by row and checks that every byte is written exactly once. Elements that change type go through
/// `f32`, rotated rows through the definition of the rotation.
pub(super) fn rebuild(dump: &Dump, layout: &Layout) -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<Option<u8>>> = layout.files.iter().map(|f| vec![None; f.len as usize]).collect();
    let mut put = |file: usize, at: usize, bytes: &[u8]| {
        for (i, b) in bytes.iter().enumerate() {
            assert_eq!(files[file][at + i].replace(*b), None, "byte {} is written twice", at + i);
        }
    };
    for (i, f) in layout.files.iter().enumerate() {
        let extras = f.write_extras(|at, bytes| {
            put(i, usize::try_from(at).unwrap(), bytes);
            Ok::<_, ()>(())
        });
        extras.unwrap();
    }
    for p in &layout.placements {
        let view = dump.view(p.stream).unwrap();
        let shape = *view.shape();
        let (bytes, block) = (p.dtype.block_bytes(), p.dtype.block_len());
        for (head, token) in (0..shape.n_kv_heads).flat_map(|h| (0..shape.n_tokens).map(move |t| (h, t))) {
            let out = if shape.dtype == p.dtype && p.unrotate == 0 {
                let mut raw = vec![0; shape.row_bytes()];
                view.copy_rows(head, token..token + 1, &mut raw);
                raw
            } else {
                let values = row(dump, p.stream, head, token);
                let values = match p.unrotate as usize {
                    0 => values,
                    n => values.chunks(n).flat_map(super::llama::rotate).collect(),
                };
                match p.dtype {
                    DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    DType::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
                    other => panic!("{other}"),
                }
            };
            for (i, element) in out.chunks(bytes).enumerate() {
                let at = (token * p.strides.token + head * p.strides.head) / block + i * p.strides.dim;
                put(p.file, p.offset as usize + at * bytes, element);
            }
        }
    }
    files.into_iter().map(|f| f.into_iter().map(|b| b.expect("every byte is written")).collect()).collect()
}

/// Writes `dump` as `target` into a file, finishes it, and reads that file back.
fn convert(dump: &Dump, target: Target) -> (Layout, Vec<u8>) {
    let layout = Layout::new(&dump.skeleton(), target).unwrap();
    let bytes = rebuild(dump, &layout).remove(0);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    layout.finish(&[file.try_clone().unwrap()]).unwrap();
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    (layout, bytes)
}

fn reopen(bytes: &[u8]) -> Dump {
    open_bytes("again", bytes.to_vec(), &OpenOptions::default()).unwrap_or_else(|e| panic!("{e:#}"))
}

/// Largest relative error of any row of `b` against the same row of `a`.
fn worst_row(a: &Dump, b: &Dump) -> f64 {
    assert_eq!(a.streams.len(), b.streams.len());
    let mut worst = 0f64;
    for i in 0..a.streams.len() {
        let (s, t) = (&a.streams[i], &b.streams[i]);
        assert_eq!((s.part, s.layer, s.kind, s.shape.n_tokens), (t.part, t.layer, t.kind, t.shape.n_tokens));
        for (head, token) in (0..s.shape.n_kv_heads).flat_map(|h| (0..s.shape.n_tokens).map(move |t| (h, t)))
        {
            let mut own = row(a, i, head, token);
            if s.hadamard != 0 && t.hadamard == 0 {
                own = own.chunks(s.hadamard as usize).flat_map(super::llama::rotate).collect();
            }
            worst = worst.max(super::llama::relative_error(&own, &row(b, i, head, token)));
        }
    }
    worst
}

#[test]
fn safetensors_keep_queries_scale_and_values() {
    let dump = read("smollm2-135m-1k-sample.safetensors", &OpenOptions::default()).unwrap();
    let (layout, bytes) = convert(&dump, Target::Safetensors);
    assert_eq!(layout.notes, ["left out: tensor `tokens`"]);
    let again = reopen(&bytes);
    assert_eq!(again.assumptions, Vec::<String>::new());
    assert_eq!(crate::heads::scale(&again, 1).unwrap(), 0.125);
    assert_eq!(worst_row(&dump, &again), 0.0);
    for (a, b) in dump.queries.iter().zip(&again.queries) {
        let bytes = |d: &Dump, q: &Queries| d.files[0].bytes[q.offset..][..9 * 128 * 64 * 2].to_vec();
        assert_eq!((a.layer, a.shape, bytes(&dump, a)), (b.layer, b.shape, bytes(&again, b)));
    }
    assert_eq!(again.queries.len(), 4);
}

#[test]
fn every_source_can_become_safetensors_or_npz() {
    for (name, options) in [
        ("formats/batch-of-two.safetensors", OpenOptions::default()),
        ("formats/mlx.safetensors", OpenOptions::default()),
        ("formats/vllm", OpenOptions::default()),
        ("formats/flat-f32.safetensors", OpenOptions::default()),
        ("formats/l2htd.npy", OpenOptions::default()),
        ("formats/deflated.npz", OpenOptions::default()),
        ("llama/smollm2-2tok-k_f16-v_f16-vtrans.ggsq3", smollm2()),
        ("llama/smollm2-2tok-k_f16-v_f16-2seq.ggsn10", smollm2()),
    ] {
        let dump = read(name, &options).unwrap();
        for target in [Target::Safetensors, Target::Npz] {
            let (layout, bytes) = convert(&dump, target);
            let options = OpenOptions { layout: Some("htd".parse().unwrap()), ..OpenOptions::default() };
            let again = open_bytes("again", bytes, &options).unwrap();
            assert_eq!(worst_row(&dump, &again), 0.0, "{name} as {target:?}");
            let llama = name.starts_with("llama");
            let metadata = target == Target::Npz && !dump.meta.is_empty();
            let others = !dump.others.is_empty();
            let left_out = layout.notes.iter().filter(|n| n.starts_with("left out")).count();
            assert_eq!(left_out, usize::from(llama || metadata || others), "{name} as {target:?}");
            assert_eq!(layout.notes.len() - left_out, usize::from(!dump.heads_known), "{:?}", layout.notes);
        }
    }
}

#[test]
fn quantized_rows_are_written_unrotated_as_f16() {
    for name in ["q8_0-v_q8_0", "q4_0-v_q4_0"] {
        let dump = read(&format!("llama/smollm2-2tok-k_{name}.ggsq3"), &smollm2()).unwrap();
        let exact = read("llama/smollm2-2tok-k_f16-v_f16.ggsq3", &smollm2()).unwrap();
        for target in [Target::Safetensors, Target::Npz] {
            let (layout, bytes) = convert(&dump, target);
            assert_eq!(layout.notes.len(), 3, "{:?}", layout.notes);
            let options = OpenOptions { layout: Some("htd".parse().unwrap()), ..OpenOptions::default() };
            let again = open_bytes("again", bytes, &options).unwrap();
            assert!(again.streams.iter().all(|s| s.shape.dtype == DType::F16));
            assert!(worst_row(&dump, &again) < 2e-3);
            // The first layer is that of the f16 cache.
            let error = super::llama::relative_error(&row(&exact, 0, 1, 1), &row(&again, 0, 1, 1));
            assert!(error < 0.15, "{error}");
        }
    }
    let unknown = read("llama/smollm2-2tok-k_q8_0-v_q8_0.ggsq3", &OpenOptions::default()).unwrap();
    let message = Layout::new(&unknown.skeleton(), Target::Safetensors).unwrap_err().to_string();
    assert!(message.contains("--head-dim"), "{message}");
}

#[test]
fn positions_that_are_not_simply_counted_go_along() {
    let dump = read("llama/smollm2-2tok-k_f16-v_f16-2seq.ggsn10", &smollm2()).unwrap();
    let (_, bytes) = convert(&dump, Target::Npz);
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let npy = npyz::NpyFile::new(zip.by_name("positions.npy").unwrap()).unwrap();
    assert_eq!(npy.into_vec::<i32>().unwrap(), [0, 0]);
}

#[test]
fn archives_are_what_other_readers_take() {
    let dump = read("formats/reference.safetensors", &OpenOptions::default()).unwrap();
    let (_, bytes) = convert(&dump, Target::Npz);
    // The zip crate checks each member's CRC-32 as it reads it, npyz its header.
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(&bytes)).unwrap();
    assert_eq!(zip.len(), 4);
    for i in 0..zip.len() {
        let mut member = zip.by_index(i).unwrap();
        assert_eq!(member.compression(), zip::CompressionMethod::Stored);
        let mut array = Vec::new();
        member.read_to_end(&mut array).unwrap();
        let start = member.data_start().unwrap() + array.len() as u64 - 6 * 3 * 16 * 2;
        assert_eq!(start % 64, 0, "data are aligned for whoever maps them");
        let npy = npyz::NpyFile::new(array.as_slice()).unwrap();
        assert_eq!((npy.shape(), npy.order()), (&[3, 6, 16][..], npyz::Order::C));
    }
}

#[test]
fn archives_past_four_gib_use_wide_fields() {
    // One stream of 5 GiB, then a small one; the file is sparse and its data are never written.
    let mut skeleton = read("formats/reference.safetensors", &OpenOptions::default()).unwrap().skeleton();
    skeleton.streams.truncate(2);
    skeleton.streams[0].shape.n_tokens = 5 << 20;
    skeleton.streams[0].shape.n_kv_heads = 32;
    let layout = Layout::new(&skeleton, Target::Npz).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(layout.files[0].len).unwrap();
    for (at, bytes) in &layout.files[0].verbatim {
        (&file).seek(SeekFrom::Start(*at)).unwrap();
        (&file).write_all(bytes).unwrap();
    }
    let mut zip = zip::ZipArchive::new(&file).unwrap();
    for (i, p) in layout.placements.iter().enumerate() {
        let member = zip.by_index_raw(i).unwrap();
        let end = member.data_start().unwrap() + member.size();
        let len = skeleton.streams[i].shape.n_values() as u64 * 2;
        assert_eq!(end - len, p.offset);
    }
    assert!(layout.placements[1].offset > 5 << 30);
}

#[test]
fn one_array_is_written_where_all_streams_are_alike() {
    let dump = read("formats/reference.safetensors", &OpenOptions::default()).unwrap();
    let (layout, bytes) = convert(&dump, Target::Npy);
    assert_eq!(layout.notes, ["left out: metadata"]);
    let npy = npyz::NpyFile::new(bytes.as_slice()).unwrap();
    assert_eq!(npy.shape(), [2, 2, 3, 6, 16]);
    let options = OpenOptions { layout: Some("l2htd".parse().unwrap()), ..OpenOptions::default() };
    assert_eq!(worst_row(&dump, &open_bytes("x", bytes, &options).unwrap()), 0.0);
    let parts = read("formats/batch-of-two.safetensors", &OpenOptions::default()).unwrap();
    let message = Layout::new(&parts.skeleton(), Target::Npy).unwrap_err().to_string();
    assert!(message.contains("npz"), "{message}");
    // Layers 1, 6, 16 and 26 lose their numbers, and the layout says so.
    let sample = read("smollm2-135m-1k-sample.safetensors", &OpenOptions::default()).unwrap();
    let layout = Layout::new(&sample.skeleton(), Target::Npy).unwrap();
    assert!(layout.notes[0].contains("1, 6, 16, 26"));
}

#[test]
fn types_that_numpy_lacks_become_the_next_wider_one() {
    let header = r#"{"k.L0":{"dtype":"BF16","shape":[1,2,2],"data_offsets":[0,8]},"v.L0":{"dtype":"F8_E4M3","shape":[1,2,2],"data_offsets":[8,12]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(0..12);
    let skeleton = open_bytes("x", bytes, &layout_htd()).unwrap().skeleton();
    let layout = Layout::new(&skeleton, Target::Npz).unwrap();
    assert_eq!(layout.placements.iter().map(|p| p.dtype).collect::<Vec<_>>(), [DType::F32, DType::F16]);
    assert_eq!(layout.notes.len(), 2);
    assert!(Layout::new(&skeleton, Target::Npy).is_err(), "two types are not one array");
}

fn layout_htd() -> OpenOptions {
    OpenOptions { layout: Some("htd".parse().unwrap()), ..OpenOptions::default() }
}

#[test]
fn llama_versions_switch_there_and_back() {
    for (name, other, own) in [
        ("smollm2-2tok-k_f16-v_f16.ggsq3", 4, 3),
        ("smollm2-2tok-k_f16-v_f16-vtrans.ggsq3", 4, 3),
        ("smollm2-8tok-k_q5_1-v_q5_1.ggsq3", 4, 3),
        ("smollm2-2tok-k_q8_0-v_q8_0.ggsq4", 3, 4),
        ("smollm2-2tok-k_f16-v_f16-2seq.ggsn10", 11, 10),
    ] {
        let target = |n| {
            if own < 10 { Target::LlamaSequence(Some(n)) } else { Target::LlamaSession(Some(n)) }
        };
        let dump = read(&format!("llama/{name}"), &smollm2()).unwrap();
        let (_, switched) = convert(&dump, target(other));
        assert_eq!(switched[4..8], other.to_le_bytes());
        let between = open_bytes("x", switched, &smollm2()).unwrap();
        assert_eq!(between.meta["llama_version"], other);
        for (a, b) in dump.streams.iter().zip(&between.streams) {
            assert_eq!((a.shape, a.hadamard, &a.positions), (b.shape, b.hadamard, &b.positions), "{name}");
        }
        assert_eq!(worst_row_or_bytes(&dump, &between), 0.0);
        let (_, back) = convert(&between, target(own));
        assert_eq!(*back, *dump.files[0].bytes, "{name}");
    }
}

/// Compares rows as stored.
fn worst_row_or_bytes(a: &Dump, b: &Dump) -> f64 {
    let differ = (0..a.streams.len()).any(|i| {
        let tensor =
            |d: &Dump| d.files[0].bytes[d.streams[i].offset..][..d.streams[i].len_bytes() as usize].to_vec();
        tensor(a) != tensor(b)
    });
    f64::from(u8::from(differ))
}

#[test]
fn version_switches_that_would_lie_about_rotation_are_refused() {
    let refused = |dump: &Dump, target| Layout::new(&dump.skeleton(), target).unwrap_err().to_string();
    let unknown = read("llama/smollm2-2tok-k_q8_0-v_q8_0.ggsq3", &OpenOptions::default()).unwrap();
    assert!(refused(&unknown, Target::LlamaSequence(Some(4))).contains("--head-dim"));
    // Version 4 may say "not rotated", which version 3 cannot.
    let none = OpenOptions { rotation: Rotation::None, ..smollm2() };
    let plain = read("llama/smollm2-2tok-k_q8_0-v_q8_0.ggsq3", &none).unwrap();
    let (_, four) = convert(&plain, Target::LlamaSequence(Some(4)));
    let four = open_bytes("x", four, &smollm2()).unwrap();
    assert!(four.streams.iter().all(|s| s.hadamard == 0));
    assert!(refused(&four, Target::LlamaSequence(Some(3))).contains("rotated"));
    assert!(refused(&four, Target::LlamaSequence(Some(9))).contains("unknown"));
    assert!(refused(&four, Target::LlamaSession(None)).contains("sequence"));
    let other = read("formats/reference.safetensors", &OpenOptions::default()).unwrap();
    assert!(refused(&other, Target::LlamaSequence(None)).contains("llama.cpp"));
}

#[test]
fn a_llama_source_can_be_written_back_as_itself() {
    let dump = read("llama/smollm2-2tok-k_q4_0-v_q4_0.ggsq3", &OpenOptions::default()).unwrap();
    let (_, bytes) = convert(&dump, Target::LlamaSequence(None));
    assert_eq!(*bytes, *dump.files[0].bytes);
}

#[test]
fn targets_are_named_as_on_the_command_line() {
    assert_eq!("llama-sequence:4".parse::<Target>().unwrap(), Target::LlamaSequence(Some(4)));
    assert_eq!("npz".parse::<Target>().unwrap(), Target::Npz);
    for bad in ["npz:3", "llama-session:x", "gguf", ""] {
        assert!(bad.parse::<Target>().is_err(), "{bad}");
    }
}
