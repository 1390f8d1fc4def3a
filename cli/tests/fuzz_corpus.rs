//! Runs the fuzz targets' bodies over the committed corpus, so that what a fuzzer once found stays found.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use std::path::Path;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut n = 0;
    for file in files {
        let path = file.unwrap().path();
        // Shown if the body panics.
        println!("{}", path.display());
        body(&std::fs::read(&path).unwrap());
        n += 1;
    }
    assert!(n > 0, "{} holds no seeds", folder.display());
}

macro_rules! targets {
    ($($target:ident)*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target), bodies::$target);
        })*

        #[test]
        fn every_target_of_the_fuzzer_is_replayed() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
            let mut targets: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            targets.sort();
            let mut replayed = vec![$(stringify!($target)),*];
            replayed.sort();
            assert_eq!(targets, replayed);
        }
    };
}

targets! { spec safetensors npy npz llama container tile round_trip }
