//! What goes along to another format, and that what does not is said.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

mod run;

use run::{data, run, with_sample};

fn talk(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn captured_queries_go_along_to_safetensors() {
    let dir = with_sample();
    let dir = dir.path();
    run(dir, "compress kv.safetensors -o a.tersa --codec raw", 0);
    let said = talk(&run(dir, "decompress a.tersa --to safetensors -o x.safetensors", 0));
    assert!(!said.contains("queries"), "{said}");
    // The same queries on the same keys and values: the same errors, once of the source and once of its export.
    run(dir, "compress kv.safetensors -o 4.tersa --codec had+lm4", 0);
    let eval = |against: &str| run(dir, &format!("eval 4.tersa --against {against} --json"), 0).stdout;
    assert!(eval("kv.safetensors") == eval("x.safetensors"));

    run(dir, "decompress a.tersa --layers 6,16 -o layers.safetensors", 0);
    let text = run(dir, "inspect layers.safetensors", 0).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("queries    layers 6,16: 9 heads x 128 x 64, f16"), "{text}");
}

#[test]
fn what_an_export_leaves_out_is_said_in_one_note() {
    let dir = with_sample();
    let dir = dir.path();
    run(dir, "compress kv.safetensors -o a.tersa --codec raw", 0);
    for to in ["npz", "npy"] {
        let said = talk(&run(dir, &format!("decompress a.tersa --to {to} -o x.{to}"), 0));
        assert_eq!(said.matches("left out:").count(), 1, "{said}");
        assert!(
            said.contains("left out: captured queries (safetensors takes them), tensor `tokens`, metadata"),
            "{said}"
        );
    }
    let said = talk(&run(dir, "decompress a.tersa --to safetensors -o x.safetensors", 0));
    assert!(said.contains("note: left out: tensor `tokens`\n"), "{said}");
    let said = talk(&run(dir, "decompress a.tersa --tokens 0..9 -o part.safetensors", 0));
    assert!(said.contains("left out: captured queries, which belong to all tokens and heads"), "{said}");
    let said = talk(&run(dir, "compress kv.safetensors -o part.tersa --layers 6", 0));
    assert!(
        said.contains("a selection holds keys and values only, not captured queries, tensor `tokens`"),
        "{said}"
    );
    let state = data().join("llama/smollm2-2tok-k_f16-v_f16.ggsq4");
    let state = state.display();
    run(dir, &format!("compress {state} -o s.tersa --head-dim 64"), 0);
    let said = talk(&run(dir, "decompress s.tersa --to safetensors -o s.safetensors", 0));
    assert!(said.contains("left out: llama.cpp's tokens and cells"), "{said}");
    let said = talk(&run(dir, "decompress s.tersa --to llama-session -o s.bin", 1));
    assert!(said.contains("a llama-sequence file, whose cells a llama-session file cannot hold"), "{said}");
}

#[test]
fn a_file_larger_than_its_source_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let state = data().join("llama/smollm2-2tok-k_q8_0-v_q8_0.ggsq4");
    let said = talk(&run(dir.path(), &format!("compress {} -o s.tersa", state.display()), 0));
    assert!(
        said.contains("note: larger than the source: 2 tokens save less than the tables of 60 streams"),
        "{said}"
    );
}

#[test]
fn inspect_shows_dumps_as_compress_would_read_them() {
    let dir = with_sample();
    let dir = dir.path();
    let text = String::from_utf8(run(dir, "inspect kv.safetensors", 0).stdout).unwrap();
    assert!(text.contains("safetensors dump, not compressed"), "{text}");
    assert!(text.contains("1,6,16,26  K    1024      3   64  f16"), "{text}");
    let json: serde_json::Value =
        serde_json::from_slice(&run(dir, "inspect kv.safetensors --json", 0).stdout).unwrap();
    assert_eq!(json["streams"].as_array().unwrap().len(), 8);
    let ambiguous = data().join("formats/2lhtd.npy");
    let said = talk(&run(dir, &format!("inspect {}", ambiguous.display()), 1));
    assert!(said.contains("--layout l2htd"), "{said}");
    run(dir, &format!("inspect {} --layout 2lhtd", ambiguous.display()), 0);
    std::fs::write(dir.join("x.tersa"), "no container").unwrap();
    assert!(talk(&run(dir, "inspect x.tersa", 1)).contains("not a .tersa file"));
}
