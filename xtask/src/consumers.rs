//! The installed library as strangers use it: their projects, configured, built and run.

use std::fs;
use std::path::Path;

use crate::install::Install;
use crate::run::{program, root, run, target, works};
use crate::test::Outcome;

/// What `examples/*/read_range` reads.
const FILE: &str = "tests/golden/format-0.1/had_lm4-f16-64.tersa";

/// Installs into a staging folder, as a packager does, and builds copies of `examples/c` (make, pkg-config) and
/// `examples/cpp` (CMake) against it, shared and static.
pub(crate) fn build_and_run() -> Result<Outcome, String> {
    if !cfg!(target_os = "linux") {
        return Ok(Outcome::Skipped("installing is known for Linux only, skipped".into()));
    }
    let required = std::env::var("TERSA_TEST_REQUIRE").unwrap_or_default();
    for tool in ["cmake", "pkg-config", "make"] {
        if !works(program(tool).arg("--version")) {
            let why = format!("{tool}: not installed");
            if required.split(',').any(|t| t == tool) {
                return Err(why);
            }
            return Ok(Outcome::Skipped(format!(
                "{why}, no project is built against the installed library, skipped"
            )));
        }
    }
    let dir = target().join("consumers");
    if dir.exists() {
        fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let stage = dir.join("stage");
    let destdir = stage.to_str().ok_or("the target folder has a UTF-8 name")?;
    // Debian's kind of libdir, deeper than most.
    let prefix = Install::parse(&[
        "--prefix",
        "/usr",
        "--destdir",
        destdir,
        "--libdir",
        "lib/somewhere",
        "--profile",
        "dev",
    ])?
    .run()?;
    let file = root().join(FILE);

    let pkgconfig = prefix.join("lib/somewhere/pkgconfig");
    for link in [&[][..], &["STATIC=1"]] {
        let home = dir.join(if link.is_empty() { "make-shared" } else { "make-static" });
        copy(&root().join("examples/c"), &home)?;
        let mut make = program("make");
        make.args(["--quiet", "check", "-C"]).arg(&home).args(link);
        make.arg(format!("TERSA_FILE={}", file.display()));
        run(make.env("PKG_CONFIG_PATH", &pkgconfig).env_remove("MAKEFLAGS"))?;
    }

    let home = dir.join("cmake");
    copy(&root().join("examples/cpp"), &home)?;
    let build = home.join("build");
    let mut configure = program("cmake");
    configure.arg("-S").arg(&home).arg("-B").arg(&build);
    configure.arg(format!("-DTersa_DIR={}", prefix.join("lib/somewhere/cmake/Tersa").display()));
    configure.arg(format!("-DTERSA_FILE={}", file.display()));
    run(&mut configure)?;
    run(program("cmake").arg("--build").arg(&build))?;
    run(program("ctest").arg("--output-on-failure").arg("--test-dir").arg(&build))?;
    Ok(Outcome::Passed)
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let copied = fs::create_dir_all(to).and_then(|()| {
        fs::read_dir(from)?.try_for_each(|entry| {
            let entry = entry?;
            if entry.path().is_file() {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
            Ok(())
        })
    });
    copied.map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))
}
