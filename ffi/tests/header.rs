//! `include/tersa.h` is what cbindgen makes of this crate. `cargo xtask header` writes it, this test compares.

use std::path::Path;

fn generated() -> String {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config =
        cbindgen::Config::from_file(crate_dir.join("cbindgen.toml")).expect("cbindgen.toml is sound");
    // A text is no constant that cbindgen knows.
    config.after_includes = Some(format!(
        "\n/** The version as a text. */\n#define TERSA_VERSION \"{}\"",
        env!("CARGO_PKG_VERSION")
    ));
    let mut out = Vec::new();
    let bindings = cbindgen::generate_with_config(crate_dir, config).expect("the crate parses");
    bindings.write(&mut out);
    let text = String::from_utf8(out).expect("a header is UTF-8");
    // Doc comments speak to Rust too: sections about safety and paths in brackets are not C's.
    let mut lines: Vec<&str> = Vec::new();
    let mut safety = false;
    for line in text.lines() {
        let bare = line.trim();
        if bare == "* # Safety" {
            safety = true;
            while lines.last().is_some_and(|l| l.trim() == "*") {
                lines.pop();
            }
        } else if bare == "*/" {
            safety = false;
        }
        if !safety {
            lines.push(line);
        }
    }
    lines.join("\n").replace("[`", "`").replace("`]", "`") + "\n"
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/tersa.h");
    let text = generated();
    if std::env::var_os("TERSA_WRITE_HEADER").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    for (i, (have, want)) in committed.lines().zip(text.lines()).enumerate() {
        assert_eq!(have, want, "include/tersa.h, line {}: run `cargo xtask header`", i + 1);
    }
    assert!(committed == text, "include/tersa.h is not whole: run `cargo xtask header`");
}
