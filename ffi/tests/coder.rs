//! The zstd coder stands in the command line and here, since neither may use the other: equal caches must give equal bytes.

#[test]
fn both_zstd_coders_are_the_same() {
    let code = |text: &str| {
        let lines = text.lines().filter(|l| !l.starts_with("//!"));
        lines.collect::<Vec<_>>().join("\n").replace("pub(crate)", "pub")
    };
    let (here, there) = (include_str!("../src/zstd_coder.rs"), include_str!("../../cli/src/zstd_coder.rs"));
    assert_eq!(code(here), code(there));
}
