//! What is different where a person watches: nothing binary, progress, colours unless NO_COLOR.
//!
//! Without `python3`, which makes the terminal, the tests say so and pass; `TERSA_TEST_REQUIRE=python3` makes that a
//! failure.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod run;

use std::process::Command;

use run::{tersa, with_sample};

/// Runs argv[1..] with a terminal for everything, writes what it shows and ends as it did.
const PTY: &str = "\
import os, pty, sys
shown = bytearray()
def read(fd):
    got = os.read(fd, 65536)
    shown.extend(got)
    return got
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
out = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
status = pty.spawn(sys.argv[1:], read)
os.write(out, bytes(shown))
sys.exit(os.waitstatus_to_exitcode(status))
";

fn missing() -> bool {
    let required =
        std::env::var("TERSA_TEST_REQUIRE").is_ok_and(|list| list.split(',').any(|t| t == "python3"));
    let found = Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success());
    assert!(found || !required, "python3 is required");
    if !found {
        eprintln!("python3: not installed, nothing is tried on a terminal");
    }
    !found
}

fn on_terminal(dir: &std::path::Path, args: &str, no_color: bool) -> (Option<i32>, String) {
    let mut command = Command::new("python3");
    command.args(["-c", PTY, env!("CARGO_BIN_EXE_tersa")]).args(args.split(' ')).current_dir(dir);
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    if no_color {
        command.env("NO_COLOR", "1");
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn binary_is_refused_on_a_terminal() {
    if missing() {
        return;
    }
    let dir = with_sample();
    for args in ["compress kv.safetensors -o -", "decompress a.tersa -o -"] {
        tersa(dir.path()).args(["compress", "kv.safetensors", "-o", "a.tersa", "-f", "-q"]).status().unwrap();
        let (code, shown) = on_terminal(dir.path(), args, false);
        assert_eq!(code, Some(2), "{shown}");
        assert_eq!(
            shown.trim_end(),
            "tersa: standard output is a terminal: redirect it or name a file with -o"
        );
    }
}

#[test]
fn colours_are_for_terminals_without_no_color() {
    if missing() {
        return;
    }
    let dir = with_sample();
    assert!(on_terminal(dir.path(), "compress --help", false).1.contains('\x1b'));
    assert!(!on_terminal(dir.path(), "compress --help", true).1.contains('\x1b'));
    let piped = tersa(dir.path()).args(["compress", "--help"]).output().unwrap().stdout;
    assert!(!piped.contains(&0x1b));
}

#[test]
fn the_last_line_is_plain_and_pipes_see_no_progress() {
    if missing() {
        return;
    }
    let dir = with_sample();
    let (code, shown) =
        on_terminal(dir.path(), "compress kv.safetensors -o a.tersa --codec pq:16x6 -j 1", false);
    assert_eq!(code, Some(0), "{shown}");
    // Whether a bar was due depends on the machine; it must be gone before the result, which stands on its own line.
    let last = shown.trim_end().rsplit(['\n', '\r']).next().unwrap();
    assert!(last.contains("kv.safetensors → a.tersa"), "{shown:?}");
    let args = ["compress", "kv.safetensors", "-o", "b.tersa", "--codec", "pq:16x6", "-j", "1"];
    let piped = tersa(dir.path()).args(args).output().unwrap();
    assert!(!piped.stderr.contains(&0x1b) && !piped.stderr.contains(&b'\r'));
}
