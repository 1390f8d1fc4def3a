//! Exit codes, refusals, targets, and destinations that are absent, old or whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

mod run;

use std::fs;
use std::time::Duration;

use run::{run, tersa, with_sample};

fn json(output: &std::process::Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn usage_errors_exit_with_2_and_failures_with_1() {
    let dir = with_sample();
    let dir = dir.path();
    for args in [
        "compress kv.safetensors --codec q7",
        "compress kv.safetensors --layers 99",
        "compress kv.safetensors -o kv.safetensors -f",
        "compress kv.safetensors kv.safetensors -o one.tersa",
    ] {
        run(dir, args, 2);
    }
    for args in
        ["frobnicate", "compress", "compress kv.safetensors --bits 0", "compress x --bits 1 --ratio 2", ""]
    {
        let status = tersa(dir).args(args.split(' ').filter(|a| !a.is_empty())).output().unwrap().status;
        assert_eq!(status.code(), Some(2), "{args}");
    }
    fs::write(dir.join("text"), "no dump").unwrap();
    for args in [
        "compress missing",
        "compress text",
        "decompress missing",
        "decompress text",
        "decompress .",
        "inspect text",
        "verify missing",
    ] {
        run(dir, args, 1);
    }
    run(dir, "compress kv.safetensors -o no/such/folder/x.tersa", 1);
    run(dir, "compress kv.safetensors", 0);
    run(dir, "compress kv.safetensors", 1); // kv.tersa is there
    run(dir, "compress kv.safetensors -f", 0);
    let level = tersa(dir).arg("inspect").arg("kv.tersa").env("TERSA_CPU", "sse9").output().unwrap();
    assert_eq!(level.status.code(), Some(2));
}

#[test]
fn damage_exits_with_3() {
    let dir = with_sample();
    let dir = dir.path();
    run(dir, "compress kv.safetensors -o a.tersa --codec had+lm4", 0);
    let good = fs::read(dir.join("a.tersa")).unwrap();
    for at in [0, 9, 70, good.len() / 2, good.len() - 40, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(dir.join("bad.tersa"), bad).unwrap();
        run(dir, "verify bad.tersa", 3);
    }
    for len in [0, 10, 64, 128, good.len() - 1] {
        fs::write(dir.join("cut.tersa"), &good[..len]).unwrap();
        run(dir, "verify cut.tersa", 3);
    }
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(dir.join("bad.tersa"), bad).unwrap();
    run(dir, "decompress bad.tersa -o back", 3);
    assert!(!dir.join("back").exists());
}

#[test]
fn targets_are_met_or_exit_with_4() {
    let dir = with_sample();
    let dir = dir.path();
    for (target, at_most) in [("--bits 4.6", 4.6), ("--ratio 5", 16.0 / 5.0), ("--bits 8.2", 8.2)] {
        let output = run(dir, &format!("compress kv.safetensors -f -o a.tersa --json --kv-only {target}"), 0);
        let bits = json(&output)["kv"]["bits_per_value"].as_f64().unwrap();
        assert!(bits <= at_most && bits > at_most * 0.8, "{target}: {bits}");
    }
    for max in ["0.3", "0.05", "0.004", "0.0000001"] {
        let output =
            run(dir, &format!("compress kv.safetensors -f -o a.tersa --json --max-rel-error {max}"), 0);
        for stream in json(&output)["streams"].as_array().unwrap() {
            assert!(stream["rel_error"].as_f64().unwrap() <= max.parse().unwrap(), "{stream}");
        }
        run(dir, &format!("verify a.tersa --against kv.safetensors --max-rel {max}"), 0);
    }
    run(dir, "compress kv.safetensors -o none.tersa --ratio 200", 4);
    assert!(!dir.join("none.tersa").exists());
    run(dir, "compress kv.safetensors -f -o a.tersa --codec had+lm2", 0);
    run(dir, "verify a.tersa --against kv.safetensors --max-rel 0.01", 4);
}

#[test]
fn policies_give_codecs_to_layers_and_heads() {
    let dir = with_sample();
    let dir = dir.path();
    let policy = "[[rule]]\nlayers = \"1\"\nkind = \"k\"\ncodec = \"q8_0\"\n[[rule]]\nheads = \"2\"\ncodec = \"had+lm6\"\n";
    fs::write(dir.join("p.toml"), policy).unwrap();
    run(dir, "compress kv.safetensors -o a.tersa --policy p.toml --codec had+lm3", 0);
    let all = json(&run(dir, "inspect a.tersa --json", 0));
    let codecs = |stream: usize| all["streams"][stream]["codecs"].clone();
    assert_eq!(codecs(0), serde_json::json!(["q8_0", "q8_0", "q8_0"]));
    assert_eq!(codecs(1), serde_json::json!(["had+lm3", "had+lm3", "had+lm6"]));
    run(dir, "verify a.tersa --against kv.safetensors", 0);
    fs::write(dir.join("p.toml"), "[[rule]]\nlayer = \"1\"\ncodec = \"raw\"\n").unwrap();
    run(dir, "compress kv.safetensors -o b.tersa --policy p.toml", 2);
}

/// A limit on the size of files stands in for a full disk: the write fails just the same.
#[test]
#[cfg(unix)]
fn a_full_disk_is_one_line_and_leaves_nothing() {
    let dir = with_sample();
    let dir = dir.path();
    let command =
        format!("ulimit -f 100; exec {} compress kv.safetensors -o a.tersa", env!("CARGO_BIN_EXE_tersa"));
    let output = std::process::Command::new("sh").args(["-c", &command]).current_dir(dir).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(talk.lines().count() == 1 && talk.contains("a.tersa: cannot write it"), "{talk}");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1, "only the dump is left");
    run(dir, "compress kv.safetensors -o /dev/null", 0);
    if std::path::Path::new("/dev/full").exists() {
        run(dir, "compress kv.safetensors -o /dev/full", 1);
    }
}

#[test]
#[cfg(unix)]
fn a_killed_run_leaves_the_destination_old_and_a_terminated_one_cleans_up() {
    let dir = with_sample();
    let dir = dir.path();
    fs::write(dir.join("a.tersa"), "old").unwrap();
    let mut whole = 0;
    for (signal, delay) in (0..24).map(|i| (["KILL", "TERM"][i % 2], i as u64 * 3)) {
        let args = ["compress", "kv.safetensors", "-f", "-o", "a.tersa", "--codec", "pq:32x8", "-q"];
        let mut child = tersa(dir).args(args).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        let _ =
            std::process::Command::new("kill").arg(format!("-{signal}")).arg(child.id().to_string()).status();
        let ended = child.wait().unwrap();
        if fs::read(dir.join("a.tersa")).unwrap() != b"old" {
            run(dir, "verify a.tersa", 0);
            whole += 1;
        }
        if signal == "TERM" || ended.success() {
            let left =
                fs::read_dir(dir).unwrap().filter(|e| e.as_ref().unwrap().file_name() != "kv.safetensors");
            assert_eq!(left.count(), 1, "no temporary after SIG{signal}");
        }
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().ends_with(".tmp") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        fs::write(dir.join("a.tersa"), "old").unwrap();
    }
    assert!(whole < 24, "some run must have been stopped");
}

#[test]
fn several_inputs_go_to_a_folder() {
    let dir = with_sample();
    let dir = dir.path();
    fs::copy(dir.join("kv.safetensors"), dir.join("b.safetensors")).unwrap();
    run(dir, "compress kv.safetensors b.safetensors -o out/", 0);
    run(dir, "verify out/kv.tersa", 0);
    run(dir, "verify out/b.tersa", 0);
}

#[test]
fn help_completions_and_manual_pages_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let text = |args: &str| String::from_utf8(run(dir, args, 0).stdout).unwrap();
    for verb in ["compress", "decompress", "inspect", "verify"] {
        assert!(text(&format!("{verb} --help")).contains("Examples:"), "{verb}");
    }
    assert!(text("--help").contains("Exit codes"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&format!("completions {shell}")).contains("decompress"));
    }
    assert!(text("man").contains(".TH"));
    run(dir, "man pages", 0);
    assert!(dir.join("pages/tersa-compress.1").is_file());
}
