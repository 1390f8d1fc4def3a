//! The examples of the README, of every help text and of docs/policy.md, run as they stand on the shipped dump.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot run has failed")]

mod run;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use run::{data, run, sample, states, with_sample};

fn repository(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
}

/// Runs a line of shell in `dir` with the command in the path.
fn shell(dir: &Path, line: &str) {
    let bin = Path::new(env!("CARGO_BIN_EXE_tersa")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    // Timing as long as a person would wait for is not what is tested; a missing jq is not either.
    let mut line = line.to_owned();
    for bench in ["tersa bench select", "tersa bench"] {
        if line.starts_with(bench) {
            line = line.replacen(bench, &format!("{bench} --seconds 0.002"), 1);
            break;
        }
    }
    if Command::new("jq").arg("--version").output().is_err() {
        line = line.split(" | jq ").next().unwrap().to_owned();
    }
    let output = Command::new("sh").args(["-c", &line]).env("PATH", path).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The lines that begin with `prompt` and then the command, alone or behind a pipe.
fn examples<'a>(text: &'a str, prompt: &'a str) -> Vec<&'a str> {
    let command = |line: &&str| line.starts_with("tersa ") || line.contains("| tersa ");
    text.lines().filter_map(|l| l.strip_prefix(prompt)).filter(command).collect()
}

/// A folder with the files that the examples name, but for those that they make.
fn folder(verb: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let state = states().into_iter().find(|f| f.to_string_lossy().contains("f16-v_f16.ggsq3")).unwrap();
    fs::copy(sample(), at("kv.safetensors")).unwrap();
    fs::copy(sample(), at("q.safetensors")).unwrap();
    fs::copy(state, at("slot0.bin")).unwrap();
    fs::create_dir(at("dumps")).unwrap();
    fs::copy(sample(), at("dumps/a.safetensors")).unwrap();
    fs::copy(sample(), at("dumps/b.safetensors")).unwrap();
    if !matches!(verb, "" | "compress") {
        run(dir.path(), "compress kv.safetensors slot0.bin -o .", 0);
    }
    if verb == "decompress" {
        fs::remove_file(at("kv.safetensors")).unwrap();
        fs::remove_file(at("slot0.bin")).unwrap();
    }
    dir
}

#[test]
fn the_readmes_commands_run_one_after_another() {
    let readme = repository("README.md");
    let commands = examples(&readme, "$ ");
    assert!(commands.len() >= 6, "{commands:?}");
    let dir = with_sample();
    commands.iter().for_each(|line| shell(dir.path(), line));
}

#[test]
fn the_examples_of_every_help_run_one_after_another() {
    for verb in ["", "compress", "decompress", "inspect", "verify", "eval", "bench", "bench select"] {
        let help = run(data().as_path(), format!("{verb} --help").trim_start(), 0).stdout;
        let help = String::from_utf8(help).unwrap();
        let commands = examples(&help, "  ");
        assert!(commands.len() >= 3, "{verb}: {commands:?}");
        let dir = folder(verb);
        commands.iter().for_each(|line| shell(dir.path(), line));
    }
}

#[test]
fn the_policy_of_the_documentation_is_what_the_page_says() {
    let page = repository("docs/policy.md");
    let policy = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = with_sample();
    fs::write(dir.path().join("policy.toml"), policy).unwrap();
    run(dir.path(), "compress kv.safetensors -o a.tersa --policy policy.toml", 0);
    let text = run(dir.path(), "inspect a.tersa --json", 0).stdout;
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let codecs: Vec<&str> =
        json["streams"].as_array().unwrap().iter().map(|s| s["codec"].as_str().unwrap()).collect();
    let rest = ["mean+had+lm4+ls", "had+lm3+ls"];
    // Layer 1 has a rule of its own; of the other layers of this dump none has.
    assert_eq!(codecs, [["had+lm8", "had+lm8"], rest, rest, rest].concat());
}

#[test]
fn a_dump_of_several_files_comes_back_as_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let source = data().join("formats/vllm");
    run(dir.path(), &format!("compress {} -o a.tersa --codec lossless", source.display()), 0);
    run(dir.path(), "decompress a.tersa -o back", 0);
    let files = |dir: &Path| {
        let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    };
    let (old, new) = (files(&source), files(&dir.path().join("back")));
    assert_eq!(old.len(), 2);
    assert_eq!(old.len(), new.len());
    for (old, new) in old.iter().zip(&new) {
        assert_eq!(old.file_name(), new.file_name());
        assert!(fs::read(old).unwrap() == fs::read(new).unwrap(), "{}", old.display());
    }
    run(dir.path(), "decompress a.tersa -o back", 1); // it is there and not empty
    run(dir.path(), "decompress a.tersa -o back -f", 0);
    run(dir.path(), "decompress a.tersa -o -", 2); // two files on one stream
    run(dir.path(), &format!("verify a.tersa --against {} --max-rel 0", source.display()), 0);
}
