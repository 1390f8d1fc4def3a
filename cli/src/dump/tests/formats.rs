//! Every other format, each holding the numbers of `formats/reference.safetensors`.

use super::*;

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
    assert_eq!(crate::heads::scale(&dump, 1).unwrap(), 0.125);
}

fn open_format(name: &str, options: &OpenOptions) -> Dump {
    read(&format!("formats/{name}"), options).unwrap_or_else(|e| panic!("{name}: {e:#}"))
}

/// Checks that a dump's part 0 holds the reference's two layers.
fn assert_reference(dump: &Dump, name: &str) {
    let reference = open_format("reference.safetensors", &OpenOptions::default());
    let streams: Vec<usize> = (0..dump.streams.len()).filter(|&i| dump.streams[i].part == 0).collect();
    assert_eq!(streams.len(), 4, "{name}");
    for (i, &stream) in streams.iter().enumerate() {
        let (a, b) = (&dump.streams[stream], &reference.streams[i]);
        assert_eq!((a.layer, a.kind, a.hadamard), (b.layer, b.kind, 0), "{name}");
        let sizes = |s: KvShape| (s.n_tokens, s.n_kv_heads, s.head_dim);
        assert_eq!(sizes(a.shape), (6, 3, 16), "{name}");
        for (head, token) in (0..3).flat_map(|h| (0..6).map(move |t| (h, t))) {
            assert_eq!(
                row(dump, stream, head, token),
                row(&reference, i, head, token),
                "{name} {i} {head} {token}"
            );
        }
    }
}

fn layout_option(order: &str) -> OpenOptions {
    OpenOptions { layout: Some(order.parse().unwrap()), ..OpenOptions::default() }
}

fn heads(n: usize) -> OpenOptions {
    OpenOptions { n_kv_heads: Some(n), head_dim: Some(16), ..OpenOptions::default() }
}

#[test]
fn the_reference_is_itself() {
    let dump = open_format("reference.safetensors", &OpenOptions::default());
    assert_reference(&dump, "reference");
    assert_eq!(dump.assumptions, Vec::<String>::new());
}

#[test]
fn safetensors_under_every_naming_and_order_are_read() {
    for (name, options, assumptions) in [
        ("past-key-values.safetensors", OpenOptions::default(), 1),
        ("past-key-values.safetensors", layout_option("bhtd"), 0),
        ("past-key-values.safetensors", heads(3), 0),
        ("layers-bthd.safetensors", OpenOptions::default(), 1),
        ("layers-bthd.safetensors", heads(3), 0),
        ("batch-of-two.safetensors", OpenOptions::default(), 1),
        ("flat-f32.safetensors", heads(3), 0),
    ] {
        let dump = open_format(name, &options);
        assert_eq!(dump.format, SourceFormat::Safetensors);
        assert_eq!(dump.assumptions.len(), assumptions, "{name}: {:?}", dump.assumptions);
        assert_reference(&dump, name);
    }
}

#[test]
fn sequences_of_a_batch_are_parts() {
    let dump = open_format("batch-of-two.safetensors", &OpenOptions::default());
    assert_eq!(dump.streams.len(), 8);
    for i in 0..4 {
        assert_eq!((dump.streams[i].part, dump.streams[i + 4].part), (0, 1));
        assert_eq!(row(&dump, i, 1, 0), row(&dump, i + 4, 1, 5));
    }
}

#[test]
fn heads_side_by_side_without_a_head_size_are_one_head() {
    let dump = open_format("flat-f32.safetensors", &OpenOptions::default());
    assert!(!dump.heads_known);
    assert_eq!((dump.streams[0].shape.n_kv_heads, dump.streams[0].shape.head_dim), (1, 48));
}

#[test]
fn as_many_tokens_as_heads_is_refused_until_an_option_decides() {
    let refused = |options: &OpenOptions| {
        format!("{:#}", read("formats/ambiguous.safetensors", options).err().unwrap())
    };
    for options in [OpenOptions::default(), heads(3)] {
        let message = refused(&options);
        assert!(message.contains("--layout htd") && message.contains("--layout thd"), "{message}");
    }
    let (a, b) = (
        open_format("ambiguous.safetensors", &layout_option("htd")),
        open_format("ambiguous.safetensors", &layout_option("thd")),
    );
    assert_eq!(row(&a, 0, 0, 2), row(&b, 0, 2, 0));
}

#[test]
fn maps_choose_tensors_by_name() {
    let map = "K=past_key_values.{i}.value,V=past_key_values.{i}.key".parse().unwrap();
    let options = OpenOptions { map: Some(map), ..layout_option("bhtd") };
    let swapped = open_format("past-key-values.safetensors", &options);
    let plain = open_format("past-key-values.safetensors", &layout_option("bhtd"));
    assert_eq!(row(&swapped, 0, 2, 5), row(&plain, 1, 2, 5));
}

#[test]
fn mlx_caches_of_both_metadata_forms_are_read() {
    for name in ["mlx.safetensors", "mlx-older.safetensors", "mlx-rotating.safetensors"] {
        let dump = open_format(name, &OpenOptions::default());
        assert_eq!(dump.format, SourceFormat::Mlx);
        assert_reference(&dump, name);
        assert_eq!(dump.assumptions.iter().any(|a| a.contains("ring")), name.contains("rotating"));
    }
    let message =
        format!("{:#}", read("formats/mlx-quantized.safetensors", &OpenOptions::default()).err().unwrap());
    assert!(message.contains("QuantizedKVCache") && message.contains("dequantize"), "{message}");
}

#[test]
fn vllm_folders_of_every_form_are_read() {
    for (folder, options) in [("vllm", OpenOptions::default()), ("vllm", heads(3)), ("vllm-older", heads(3))]
    {
        let dump = open_format(folder, &options);
        assert_eq!(dump.format, SourceFormat::VllmExample);
        assert_eq!(dump.files.len(), 2);
        assert_reference(&dump, folder);
        // Keys and values alternate, and still only the headers are kept verbatim.
        let skeleton = dump.skeleton();
        assert!(skeleton.files.iter().all(|f| f.verbatim.len() == 1));
        let rebuilt = layouts::rebuild(&dump, &layout::Layout::of_source(&skeleton));
        for (file, bytes) in dump.files.iter().zip(rebuilt) {
            assert_eq!(*file.bytes, bytes);
        }
    }
    let latent = open_format("vllm-latent", &OpenOptions::default());
    assert_eq!(latent.streams.len(), 2);
    assert!(latent.streams.iter().all(|s| s.kind == Kind::K && s.shape.head_dim == 48));
    let message = read("formats/vllm-older", &heads(5)).err().map(|e| format!("{e:#}")).unwrap();
    assert!(message.contains("48"), "{message}");
}

#[test]
fn one_vllm_file_is_its_layer() {
    let name = "vllm/model.layers.1.self_attn.attn.safetensors";
    let dump = open_format(name, &OpenOptions::default());
    assert_eq!((dump.streams.len(), dump.streams[0].layer), (2, 1));
}

#[test]
fn arrays_of_everything_are_read_by_their_layout() {
    for (name, order) in [("2lhtd.npy", "2lhtd"), ("2lt-hd.npy", "2lt(hd)"), ("fortran.npy", "2lhtd")] {
        let options = OpenOptions { n_kv_heads: Some(3), ..layout_option(order) };
        let dump = open_format(name, &options);
        assert_eq!(dump.format, SourceFormat::Npy);
        assert_reference(&dump, name);
    }
    // Three layers: only one axis is two.
    let dump = open_format("l2htd.npy", &OpenOptions::default());
    assert_eq!((dump.streams.len(), dump.assumptions.len()), (6, 1));
    assert_eq!(row(&dump, 0, 1, 3), row(&dump, 4, 1, 3));
    let message = read("formats/2lhtd.npy", &OpenOptions::default()).err().map(|e| format!("{e:#}")).unwrap();
    assert!(message.contains("--layout l2htd") && message.contains("--layout 2lhtd"), "{message}");
}

#[test]
fn stored_archives_are_used_in_place_and_deflated_ones_unpacked() {
    let stored = open_format("stored.npz", &OpenOptions::default());
    assert!(matches!(stored.files[0].bytes, FileBytes::Mapped(_)));
    assert_reference(&stored, "stored.npz");
    let deflated = open_format("deflated.npz", &OpenOptions::default());
    assert!(matches!(deflated.files[0].bytes, FileBytes::Owned(_)));
    assert!(deflated.assumptions.iter().any(|a| a.contains("deflated")));
    assert_reference(&deflated, "deflated.npz");
    // The unpacked archive is one that opens by itself.
    let again = open_bytes("x.npz", deflated.files[0].bytes.to_vec(), &OpenOptions::default()).unwrap();
    assert_reference(&again, "unpacked");
}

#[test]
fn damaged_archive_members_are_found_by_their_checksum() {
    let dump = open_format("stored.npz", &OpenOptions::default());
    let mut bytes = dump.files[0].bytes.to_vec();
    bytes[dump.streams[2].offset] ^= 1;
    let message = format!("{:#}", open_bytes("x.npz", bytes, &OpenOptions::default()).err().unwrap());
    assert!(message.contains("CRC-32"), "{message}");
}

#[test]
fn files_of_a_folder_that_are_no_dump_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let name = "model.layers.0.self_attn.attn.safetensors";
    std::fs::copy(data("formats/vllm").join(name), folder.path().join(name)).unwrap();
    std::fs::write(folder.path().join("README.md"), "not a dump").unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"head_dim": 16, "num_key_value_heads": 3}"#)
        .unwrap();
    let dump = open(&[folder.path().to_owned()], &OpenOptions::default()).unwrap();
    assert_eq!(dump.streams.len(), 2);
    assert!(dump.assumptions.iter().any(|a| a.contains("README.md")));
    assert!(open(&[data("")], &OpenOptions::default()).is_ok(), "the sample lies beside folders");
    assert!(open(&[data("formats")], &OpenOptions::default()).is_err(), "a mix of formats");
    assert!(open(&[], &OpenOptions::default()).is_err());
    assert!(open(&[folder.path().join("absent")], &OpenOptions::default()).is_err());
}

#[test]
fn a_config_beside_the_dump_tells_the_heads() {
    let folder = tempfile::tempdir().unwrap();
    let name = "smollm2-8tok-k_q4_0-v_q4_0.ggsq3";
    std::fs::copy(data("llama").join(name), folder.path().join(name)).unwrap();
    let config = r#"{"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}"#;
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let dump = open(&[folder.path().join(name)], &OpenOptions::default()).unwrap();
    assert!(dump.heads_known && dump.assumptions.iter().any(|a| a.contains("config.json")));
    assert_eq!(dump.streams[0].shape.head_dim, 64);
}

#[test]
fn unknown_bytes_are_refused_with_the_known_formats() {
    for bytes in [vec![], vec![0; 100], b"hello world, this is no dump".to_vec()] {
        let message = open_bytes("x", bytes, &OpenOptions::default()).err().unwrap().to_string();
        assert!(message.contains("llama-sequence"), "{message}");
    }
    let forced = OpenOptions { format: Some(SourceFormat::Npy), ..OpenOptions::default() };
    assert!(open_bytes("x", b"PK\x03\x04".to_vec(), &forced).is_err());
}

#[test]
fn caches_without_tokens_are_read() {
    let header = r#"{"k.L0":{"dtype":"F16","shape":[3,0,64],"data_offsets":[0,0]},"v.L0":{"dtype":"F16","shape":[3,0,64],"data_offsets":[0,0]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let dump = open_bytes("empty", bytes, &layout_option("htd")).unwrap();
    assert_eq!(dump.streams.iter().map(|s| s.shape.n_tokens).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(dump.regions(), [vec![]]);
}

#[test]
fn an_empty_file_is_no_dump() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.safetensors");
    std::fs::write(&path, b"").unwrap();
    assert!(open(&[path], &OpenOptions::default()).is_err());
}
