//! What goes in comes out: exactly from exact codecs, equally large and whole from all others.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

mod run;

use std::fs;

use run::{run, sample, states, tersa, with_sample, write_dump};

#[test]
fn exact_codecs_restore_every_source_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for source in states().iter().chain([&sample()]) {
        let original = fs::read(source).unwrap();
        for codec in ["raw", "lossless"] {
            run(dir, &format!("compress {} -f -o a.tersa --codec {codec}", source.display()), 0);
            run(dir, "decompress a.tersa -f -o back", 0);
            assert!(fs::read(dir.join("back")).unwrap() == original, "{codec}: {}", source.display());
            run(dir, &format!("verify a.tersa --against {} --max-rel 0", source.display()), 0);
        }
    }
}

#[test]
fn lossy_codecs_restore_llama_states_of_equal_size_with_their_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for source in states() {
        let original = fs::read(&source).unwrap();
        for codec in ["had+lm8", "had+lm4", "mean+had+lm3+ls", "q8_0", "had+q4_0", "kivi4g32", "pq:16x4"] {
            let common = format!("{} -f -o a.tersa --head-dim 64 --keep-sinks 0", source.display());
            run(dir, &format!("compress {common} --codec {codec}"), 0);
            run(dir, "decompress a.tersa -f -o back", 0);
            let back = fs::read(dir.join("back")).unwrap();
            assert_eq!(back.len(), original.len());
            // Everything before the first row: magic, tokens, cells, counts.
            assert_eq!(back[..64], original[..64], "{codec}: {}", source.display());
            // The result is a state that this program reads again, with the same shapes.
            run(dir, "compress back -f -o b.tersa --codec raw --head-dim 64", 0);
        }
    }
}

#[test]
fn output_does_not_depend_on_threads_or_instructions() {
    let dir = with_sample();
    let dir = dir.path();
    for codec in ["mean+had+lm4+ls", "had+lm3", "q4_0", "kivi2g32", "pq:16x6", "lossless"] {
        let mut first: Option<Vec<u8>> = None;
        for (jobs, level) in [("1", "scalar"), ("2", "scalar"), ("2", "avx2"), ("3", "avx512")] {
            let args = ["compress", "kv.safetensors", "-f", "-o", "a.tersa", "--codec", codec, "-j", jobs];
            assert!(tersa(dir).args(args).env("TERSA_CPU", level).status().unwrap().success());
            let bytes = fs::read(dir.join("a.tersa")).unwrap();
            assert!(*first.get_or_insert(bytes.clone()) == bytes, "{codec} -j{jobs} {level}");
        }
    }
}

#[test]
fn streams_go_through_pipes() {
    let dir = with_sample();
    let dir = dir.path();
    let input = || fs::File::open(dir.join("kv.safetensors")).unwrap();
    let packed =
        tersa(dir).args(["compress", "-", "-o", "-", "--codec", "lossless"]).stdin(input()).output().unwrap();
    assert!(packed.status.success());
    fs::write(dir.join("p.tersa"), &packed.stdout).unwrap();
    let stdin = fs::File::open(dir.join("p.tersa")).unwrap();
    let back = tersa(dir).args(["decompress", "-", "-o", "-"]).stdin(stdin).output().unwrap();
    assert!(back.status.success());
    assert!(back.stdout == fs::read(sample()).unwrap());
}

#[test]
fn selections_hold_the_same_values_packed_before_or_after() {
    let dir = with_sample();
    let dir = dir.path();
    let select = "--layers 6,16 --tokens 300..700 --heads 0,2";
    run(dir, "compress kv.safetensors -o all.tersa --codec raw", 0);
    run(dir, &format!("decompress all.tersa -o a.safetensors {select}"), 0);
    run(dir, &format!("compress kv.safetensors -o part.tersa --codec raw {select}"), 0);
    run(dir, "decompress part.tersa -o b.safetensors", 0);
    run(dir, "verify part.tersa --against kv.safetensors --max-rel 0", 0);
    run(dir, "compress a.safetensors -o c.tersa --codec raw --kv-only", 0);
    run(dir, "verify c.tersa --against b.safetensors --max-rel 0", 0);
    for to in ["npz", "npy", "safetensors"] {
        run(dir, &format!("decompress all.tersa --to {to} -o x.{to}"), 0);
        run(dir, &format!("verify all.tersa --against x.{to} --max-rel 0"), if to == "npy" { 1 } else { 0 });
    }
}

/// Value of (head, token, dim).
type Value = fn(usize, usize, usize) -> f32;

#[test]
fn odd_values_and_sizes_are_restored_or_kept_exact() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let odd: [(&str, Value); 6] = [
        ("nan", |h, t, d| if (h, t, d) == (0, 5, 3) { f32::NAN } else { 0.5 }),
        ("inf", |_, t, _| if t % 7 == 0 { f32::NEG_INFINITY } else { 1.0 }),
        ("denormal", |_, t, d| f32::from_bits(u32::try_from(t * 64 + d).unwrap())),
        ("zero", |_, _, _| 0.0),
        ("constant", |h, _, _| h as f32 + 0.25),
        ("large", |_, t, d| if (t + d) % 2 == 0 { 3e38 } else { -3e38 }),
    ];
    for tokens in [0, 1, 300] {
        for (name, value) in odd {
            write_dump(&dir.join("kv.safetensors"), 2, tokens, 64, value);
            for codec in
                ["raw", "lossless", "had+lm4", "mean+had+lm2+ls", "q8_0", "had+q4_0", "kivi2g32", "pq:8x4"]
            {
                run(dir, &format!("compress kv.safetensors -f -o a.tersa --codec {codec} --chunk 128"), 0);
                run(dir, "decompress a.tersa -f -o back.safetensors", 0);
                run(dir, "verify a.tersa", 0);
                let (a, b) = (
                    fs::read(dir.join("kv.safetensors")).unwrap(),
                    fs::read(dir.join("back.safetensors")).unwrap(),
                );
                assert_eq!(a.len(), b.len());
                if codec == "raw" || codec == "lossless" {
                    assert!(a == b, "{name} x {tokens} under {codec}");
                } else if name == "zero" {
                    // By value: a rotated zero may come back as minus zero.
                    run(dir, "verify a.tersa --against kv.safetensors --max-rel 0", 0);
                }
            }
        }
    }
}
