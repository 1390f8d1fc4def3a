//! Real C and C++ programs, compiled by the system's compilers with every warning an error, linked statically and
//! dynamically, and run; once more with AddressSanitizer and under valgrind. The C++ ones must also compile with every
//! compiler there is, as C++17 and C++20.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What a Rust static library wants on Linux (`rustc --print native-static-libs`).
const STATIC_LIBS: &[&str] = &["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("ffi is a folder of the repository").to_owned()
}

/// Where cargo put `libtersa.a` and `libtersa.so` for this test program: beside it.
fn libraries() -> PathBuf {
    let exe = std::env::current_exe().expect("a running program has a path");
    let dir = exe.parent().expect("target/<profile>/deps/<test>").to_owned();
    // Named by its soname, as an installed one is.
    static LINK: OnceLock<()> = OnceLock::new();
    LINK.get_or_init(|| {
        let link = dir.join("libtersa.so.0");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink("libtersa.so", &link).expect("the target folder can be written");
    });
    dir
}

fn run(cmd: &mut Command) {
    let out = cmd.output().unwrap_or_else(|e| panic!("{cmd:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{cmd:?}: {}\n{}{}", out.status, text(&out.stdout), text(&out.stderr));
}

fn works(cmd: &mut Command) -> bool {
    cmd.output().is_ok_and(|out| out.status.success())
}

/// Sources in `tests/c` or `tests/cpp`, and `examples/c` or `examples/cpp` beside them.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in ["tests/c", "tests/cpp", "examples/c", "examples/cpp"] {
        let Ok(entries) = std::fs::read_dir(root().join(dir)) else { continue };
        let paths = entries.map(|e| e.expect("a folder can be read").path());
        found.extend(paths.filter(|p| p.extension().is_some_and(|e| e == "c" || e == "cpp")));
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

const WARNINGS: &[&str] = &["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
const CPP_WARNINGS: &[&str] = &["-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wold-style-cast"];

fn is_cpp(source: &Path) -> bool {
    source.extension().is_some_and(|e| e == "cpp")
}

/// Warnings and include folders for one source. Where its name says so, it goes without exceptions.
fn compile(compiler: &str, std: &str, source: &Path) -> Command {
    let mut cmd = Command::new(compiler);
    cmd.arg(std).args(WARNINGS);
    if is_cpp(source) {
        cmd.args(CPP_WARNINGS);
        if source.file_stem().is_some_and(|s| s == "no_exceptions") {
            cmd.arg("-fno-exceptions");
        }
    }
    cmd.arg("-I").arg(root().join("include")).arg(source);
    cmd
}

/// Compiles and links one source with `flags`; the program's path.
fn build(source: &Path, tag: &str, flags: &[&str], link: &[&str]) -> PathBuf {
    let cpp = is_cpp(source);
    let (variable, default, std) = if cpp { ("CXX", "c++", "-std=c++17") } else { ("CC", "cc", "-std=c11") };
    let stem = source.file_stem().and_then(|s| s.to_str()).expect("a UTF-8 name");
    let dir = libraries().join("c-programs");
    std::fs::create_dir_all(&dir).expect("the target folder can be written");
    let kind = if source.starts_with(root().join("examples")) { "example" } else { "test" };
    let program = dir.join(format!("{kind}-{stem}-{}-{tag}", if cpp { "cpp" } else { "c" }));
    let mut cmd = compile(&std::env::var(variable).unwrap_or_else(|_| default.into()), std, source);
    cmd.args(["-O1", "-g"]).args(flags).arg("-o").arg(&program);
    if link.is_empty() {
        cmd.arg(libraries().join("libtersa.a")).args(STATIC_LIBS);
    } else {
        cmd.arg("-L").arg(libraries()).args(link);
    }
    run(&mut cmd);
    program
}

/// What a program gets as its only argument: examples a container to read, tests a folder of their own to write to.
fn argument(source: &Path, dir: &tempfile::TempDir) -> PathBuf {
    if source.starts_with(root().join("examples")) {
        return root().join("tests/golden/format-0.1/had_lm4-f16-64.tersa");
    }
    dir.path().to_owned()
}

fn start(source: &Path, program: &Path) -> (Command, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut cmd = Command::new(program);
    cmd.arg(argument(source, &dir)).env("LD_LIBRARY_PATH", libraries());
    (cmd, dir)
}

#[test]
fn programs_run_linked_statically() {
    for source in sources() {
        let (mut cmd, _dir) = start(&source, &build(&source, "static", &[], &[]));
        run(&mut cmd);
    }
}

#[test]
fn programs_run_linked_dynamically() {
    for source in sources() {
        let (mut cmd, _dir) =
            start(&source, &build(&source, "shared", &[], &["-ltersa", "-lpthread", "-lm"]));
        run(&mut cmd);
    }
}

/// Every compiler there is, every standard, with and without exceptions.
#[test]
fn cpp_sources_are_free_of_warnings_everywhere() {
    for compiler in ["g++", "clang++"] {
        if !works(Command::new(compiler).arg("--version")) {
            let required =
                std::env::var("TERSA_TEST_REQUIRE").is_ok_and(|l| l.split(',').any(|t| t == compiler));
            assert!(!required, "{compiler} is required by TERSA_TEST_REQUIRE and not installed");
            eprintln!("{compiler}: not installed, skipped");
            continue;
        }
        for std in ["-std=c++17", "-std=c++20"] {
            for source in sources().iter().filter(|s| is_cpp(s)) {
                run(compile(compiler, std, source).arg("-fsyntax-only"));
            }
            let header = root().join("include/tersa.hpp");
            for mode in [&["-fno-exceptions"][..], &["-DTERSA_NO_EXCEPTIONS"], &[]] {
                run(compile(compiler, std, &header).arg("-fsyntax-only").args(mode));
            }
        }
    }
}

/// The programs' own memory under the sanitizers; the library itself is not instrumented, valgrind watches it.
#[test]
fn programs_run_under_address_sanitizer() {
    let probe = libraries().join("asan-probe");
    let mut cc = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
    cc.args(["-fsanitize=address,undefined", "-x", "c", "-", "-o"]).arg(&probe);
    let source = root().join("tests/c/nothing.h");
    cc.stdin(std::fs::File::open(source).expect("tests/c/nothing.h"));
    if !works(&mut cc) || !works(&mut Command::new(&probe)) {
        eprintln!("address sanitizer: the C compiler has none, skipped");
        return;
    }
    for source in sources() {
        let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
        let (mut cmd, _dir) = start(&source, &build(&source, "asan", &flags, &[]));
        run(&mut cmd);
    }
}

#[test]
fn programs_run_under_valgrind() {
    if !works(Command::new("valgrind").arg("--version")) {
        eprintln!("valgrind: not installed, skipped");
        return;
    }
    for source in sources() {
        let program = build(&source, "valgrind", &["-DTERSA_SLOW"], &[]);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut cmd = Command::new("valgrind");
        cmd.args(["--quiet", "--error-exitcode=1", "--leak-check=full", "--errors-for-leak-kinds=definite"]);
        // Valgrind offers AVX2 at most.
        run(cmd.arg(&program).arg(argument(&source, &dir)).env("TERSA_CPU", "avx2"));
    }
}

#[test]
fn exported_symbols_are_those_of_the_list() {
    let out = Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(libraries().join("libtersa.so"))
        .output()
        .expect("nm, which comes with the C compiler");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut exported: Vec<&str> = text.lines().filter_map(|l| l.split(' ').next()).collect();
    exported.sort_unstable();
    let path = root().join("tests/abi/symbols.txt");
    if std::env::var_os("TERSA_WRITE_HEADER").is_some() {
        std::fs::write(&path, exported.join("\n") + "\n").expect("tests/abi can be written");
        return;
    }
    let listed = std::fs::read_to_string(&path).unwrap_or_default();
    let listed: Vec<&str> = listed.lines().collect();
    assert_eq!(exported, listed, "exported symbols (left) are not those of tests/abi/symbols.txt (right)");
    let header = std::fs::read_to_string(root().join("include/tersa.h")).expect("include/tersa.h");
    for name in listed {
        assert!(header.contains(&format!("{name}(")), "{name} is exported and not in the header");
    }
}

#[test]
fn the_shared_library_has_its_soname() {
    let out = Command::new("readelf").arg("-d").arg(libraries().join("libtersa.so")).output();
    let out = out.expect("readelf, which comes with the C compiler");
    assert!(String::from_utf8_lossy(&out.stdout).contains("soname: [libtersa.so.0]"));
}
