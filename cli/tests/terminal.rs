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
    with_env(dir, args, if no_color { &[("NO_COLOR", "1")] } else { &[] })
}

fn with_env(dir: &std::path::Path, args: &str, env: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new("python3");
    command.args(["-c", PTY, env!("CARGO_BIN_EXE_tersa")]).args(args.split(' ')).current_dir(dir);
    command.env("TERM", "xterm").env_remove("NO_COLOR").envs(env.iter().copied());
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
fn a_bar_appears_for_those_who_wait_and_is_gone_in_the_end() {
    if missing() {
        return;
    }
    let dir = with_sample();
    // Training at the scalar level is slow enough anywhere; how many layers that takes, the clock decides.
    for layers in ["1", "1,6", "1,6,16,26"] {
        let codec = "--codec pq:16x8 -j 2 -f";
        let args = format!("compress kv.safetensors -o a.tersa {codec} --layers {layers}");
        let start = std::time::Instant::now();
        let (code, shown) = with_env(dir.path(), &args, &[("TERSA_CPU", "scalar")]);
        assert_eq!(code, Some(0), "{shown}");
        if start.elapsed() < std::time::Duration::from_millis(1500) {
            continue;
        }
        let bar = shown.find("compressing [").unwrap_or_else(|| panic!("no bar in {shown:?}"));
        let result = shown.rfind("kv.safetensors → a.tersa").unwrap();
        assert!(bar < result, "{shown:?}");
        assert!(shown[bar..].contains("MiB/") && shown[bar..].contains('%'), "{shown:?}");
        let cleared = shown[bar..result].rfind("\u{1b}[2K").expect("the bar's line is erased");
        assert!(!shown[bar + cleared..].contains("compressing ["), "{shown:?}");
        let quiet = with_env(dir.path(), &format!("{args} -q"), &[("TERSA_CPU", "scalar")]);
        assert_eq!(quiet, (Some(0), String::new()));
        return;
    }
    panic!("scalar training of four layers took less than a second and a half");
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
