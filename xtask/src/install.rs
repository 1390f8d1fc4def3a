//! `cargo xtask install`: the C library where other programs find it, with pkg-config and CMake files.
//!
//! ```text
//! <prefix>/include/tersa.h, tersa.hpp
//! <prefix>/<libdir>/libtersa.a
//! <prefix>/<libdir>/libtersa.so -> libtersa.so.<abi> -> libtersa.so.<version>
//! <prefix>/<libdir>/pkgconfig/tersa.pc
//! <prefix>/<libdir>/cmake/Tersa/TersaConfig.cmake, TersaConfigVersion.cmake
//! ```

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::run::{cargo, root, run, target};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const TEMPLATES: &str = "ffi/cmake";

/// Where to install, and what.
pub(crate) struct Install {
    prefix: PathBuf,
    /// A folder that stands for the file system's root: packagers install there.
    destdir: Option<PathBuf>,
    /// Below the prefix.
    libdir: PathBuf,
    /// `release`, or `dev`, which the tests have built already.
    profile: String,
}

impl Install {
    /// From `--prefix P --destdir D --libdir L --profile NAME`, all of which may be left out.
    pub(crate) fn parse(args: &[&str]) -> Result<Self, String> {
        let mut install = Self {
            prefix: "/usr/local".into(),
            destdir: None,
            libdir: "lib".into(),
            profile: "release".into(),
        };
        let mut args = args.iter();
        while let Some(&arg) = args.next() {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (arg, args.next().copied()),
            };
            let value = value.ok_or_else(|| format!("{name}: a value is missing"))?;
            match name {
                "--prefix" => install.prefix = value.into(),
                "--destdir" => install.destdir = Some(value.into()),
                "--libdir" => install.libdir = value.into(),
                "--profile" => install.profile = value.into(),
                _ => {
                    return Err(format!("{name}: install knows --prefix, --destdir, --libdir and --profile"));
                }
            }
        }
        if !install.prefix.is_absolute() {
            return Err(format!("--prefix {}: an absolute path is wanted", install.prefix.display()));
        }
        let plain = |c| matches!(c, Component::Normal(_));
        if install.libdir.as_os_str().is_empty() || !install.libdir.components().all(plain) {
            return Err(format!(
                "--libdir {}: a folder below the prefix is wanted",
                install.libdir.display()
            ));
        }
        Ok(install)
    }

    /// Builds and installs; where the prefix is now.
    pub(crate) fn run(&self) -> Result<PathBuf, String> {
        if !cfg!(target_os = "linux") {
            return Err("installing is known for Linux only; `cargo build --release -p tersa-ffi` leaves the libraries in target/release".into());
        }
        let mut build = cargo();
        // The tests built the whole workspace; alone, a package may get other features and be built anew.
        build.args(["build", "--quiet", "--profile", &self.profile]);
        build.args(if self.profile == "dev" { &["--workspace"][..] } else { &["-p", "tersa-ffi"] });
        run(&mut build)?;
        let built = target().join(if self.profile == "dev" { "debug" } else { &self.profile });
        let native = native_libs()?;
        let abi = abi_version()?;

        let prefix = match &self.destdir {
            Some(dir) => dir.join(self.prefix.strip_prefix("/").unwrap_or(&self.prefix)),
            None => self.prefix.clone(),
        };
        let libdir = prefix.join(&self.libdir);
        for header in ["tersa.h", "tersa.hpp"] {
            put(&root().join("include").join(header), &prefix.join("include"), header)?;
        }
        put(&built.join("libtersa.a"), &libdir, "libtersa.a")?;
        let (name, soname) = (format!("libtersa.so.{VERSION}"), format!("libtersa.so.{abi}"));
        put(&built.join("libtersa.so"), &libdir, &name)?;
        link(&libdir, &name, &soname)?;
        link(&libdir, &soname, "libtersa.so")?;

        let up = vec![".."; self.libdir.components().count()].join("/");
        let flags: Vec<String> = native.iter().map(|lib| format!("-l{lib}")).collect();
        let mut numbers = VERSION.split('.');
        let mut number = || numbers.next().unwrap_or("0");
        let values = [
            ("VERSION", VERSION),
            ("MAJOR", number()),
            ("MINOR", number()),
            ("ABI", &abi),
            ("UP", &up),
            ("NATIVE_FLAGS", &flags.join(" ")),
            ("NATIVE_LIBS", &native.join(";")),
            ("POINTER_BYTES", &size_of::<usize>().to_string()),
        ];
        fill("tersa.pc", &libdir.join("pkgconfig"), &values)?;
        for name in ["TersaConfig.cmake", "TersaConfigVersion.cmake"] {
            fill(name, &libdir.join("cmake/Tersa"), &values)?;
        }
        Ok(prefix)
    }
}

/// `cargo xtask install`.
pub(crate) fn install(args: &[&str]) -> Result<(), String> {
    let prefix = Install::parse(args)?.run()?;
    eprintln!("installed below {}", prefix.display());
    Ok(())
}

/// The system libraries that a program needs beside `libtersa.a`, as the compiler says them.
fn native_libs() -> Result<Vec<String>, String> {
    let dir = target().join("native-libs");
    let source = dir.join("empty.rs");
    let io = |e| format!("{}: {e}", dir.display());
    fs::create_dir_all(&dir).map_err(io)?;
    fs::write(&source, "").map_err(io)?;
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let mut cmd = Command::new(rustc);
    cmd.args(["--crate-type", "staticlib", "--print", "native-static-libs", "--out-dir"])
        .arg(&dir)
        .arg(&source);
    let out = cmd.current_dir(root()).output().map_err(|e| format!("rustc: {e}"))?;
    let text = String::from_utf8_lossy(&out.stderr);
    let line = text.lines().find_map(|line| line.split_once("native-static-libs:"));
    let (_, libs) = line.ok_or_else(|| format!("rustc names no native libraries: {text}"))?;
    Ok(libs.split_whitespace().map(|flag| flag.trim_start_matches("-l").to_owned()).collect())
}

/// `TERSA_ABI_VERSION`, which is the number in the soname too.
fn abi_version() -> Result<String, String> {
    let path = root().join("include/tersa.h");
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("#define TERSA_ABI_VERSION "));
    number.map(str::to_owned).ok_or_else(|| format!("{}: no TERSA_ABI_VERSION", path.display()))
}

/// Copies under another name first: programs that run the old library keep it.
fn put(from: &Path, dir: &Path, name: &str) -> Result<(), String> {
    let (to, part) = (dir.join(name), dir.join(format!(".{name}.part")));
    fs::create_dir_all(dir)
        .and_then(|()| fs::copy(from, &part))
        .and_then(|_| fs::rename(&part, &to))
        .map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))
}

fn link(dir: &Path, to: &str, name: &str) -> Result<(), String> {
    let path = dir.join(name);
    let _ = fs::remove_file(&path);
    #[cfg(unix)]
    std::os::unix::fs::symlink(to, &path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(())
}

/// Writes the template `name`.in with every `@NAME@` replaced.
fn fill(name: &str, dir: &Path, values: &[(&str, &str)]) -> Result<(), String> {
    let template = root().join(TEMPLATES).join(format!("{name}.in"));
    let mut text = fs::read_to_string(&template).map_err(|e| format!("{}: {e}", template.display()))?;
    for (key, value) in values {
        text = text.replace(&format!("@{key}@"), value);
    }
    if text.contains('@') {
        return Err(format!("{}: a name between @ has no value", template.display()));
    }
    let path = dir.join(name);
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&path, text))
        .map_err(|e| format!("{}: {e}", path.display()))
}
