//! Where results go: a file that appears under its name only when it is whole, or standard output.
//!
//! A destination is written as a temporary file beside it, synced and renamed. Errors, SIGINT and SIGTERM remove
//! the temporary; after SIGKILL at most the temporary is left behind, the destination is absent, old, or whole.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use tempfile::NamedTempFile;

use crate::exit::Fault;

/// What `-` stands for on the command line.
#[must_use]
pub fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A file being written.
pub struct Output {
    file: Target,
    path: PathBuf,
}

enum Target {
    Named(NamedTempFile),
    /// Bytes for standard output or a device wait in an unnamed file, so that a failure sends nothing.
    Spooled(File),
}

/// Temporary files to remove if a signal ends the process.
static TEMPORARIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn temporaries() -> MutexGuard<'static, Vec<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes SIGINT, SIGTERM and SIGHUP remove unfinished files before they end the process, and a file-size limit an
/// ordinary write error.
///
/// # Errors
/// If the handlers cannot be installed.
#[cfg(unix)]
pub fn remove_temporaries_on_signals() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP, SIGXFSZ])
        .context("cannot install signal handlers")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever().filter(|&s| s != SIGXFSZ) {
                // The lock stays held: nothing may be created or renamed between here and the end.
                let held = temporaries();
                for path in held.iter() {
                    let _ = if path.is_dir() {
                        std::fs::remove_dir_all(path)
                    } else {
                        std::fs::remove_file(path)
                    };
                }
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        })
        .context("cannot start the signal thread")?;
    Ok(())
}

/// Refuses what cannot or must not be written, before any work is done.
///
/// # Errors
/// If `path` exists and `force` is off, is one of the `inputs`, or is a terminal.
pub fn check(path: &Path, force: bool, inputs: &[PathBuf]) -> Result<()> {
    if is_dash(path) {
        if std::io::stdout().is_terminal() {
            return Err(Fault::usage("standard output is a terminal: redirect it or name a file with -o"));
        }
        return Ok(());
    }
    let Ok(there) = path.canonicalize() else { return Ok(()) };
    if inputs.iter().any(|i| i.canonicalize().is_ok_and(|i| i == there)) {
        return Err(Fault::usage(format!(
            "{}: is the input itself; name another file with -o",
            path.display()
        )));
    }
    if there.is_dir() {
        bail!("{}: is a directory; name a file with -o", path.display());
    }
    if !force && !is_device(path) {
        bail!("{}: exists already; overwrite it with -f or name another file with -o", path.display());
    }
    Ok(())
}

impl Output {
    /// A temporary beside `path`, or an unnamed one for `-`.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn create(path: &Path) -> Result<Self> {
        if is_dash(path) || is_device(path) {
            let file = tempfile::tempfile()
                .with_context(|| format!("{}: cannot make a temporary file for it", path.display()))?;
            return Ok(Self { file: Target::Spooled(file), path: path.into() });
        }
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let name = path.file_name().with_context(|| format!("{}: is not a file name", path.display()))?;
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask
        let mut held = temporaries();
        let temporary = builder
            .tempfile_in(folder)
            .map_err(cause)
            .with_context(|| format!("{}: cannot create it", path.display()))?;
        held.push(temporary.path().to_owned());
        Ok(Self { file: Target::Named(temporary), path: path.into() })
    }

    /// The file to write into.
    #[must_use]
    pub fn file(&self) -> &File {
        match &self.file {
            Target::Named(t) => t.as_file(),
            Target::Spooled(f) => f,
        }
    }

    /// The name it will have, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the whole file its name, or sends it to standard output.
    ///
    /// # Errors
    /// If it cannot be synced, renamed or sent; the temporary is gone then.
    pub fn finish(self, force: bool) -> Result<()> {
        match self.file {
            Target::Named(temporary) => {
                let failed = || format!("{}: cannot write it", self.path.display());
                temporary.as_file().sync_all().with_context(failed)?;
                let mut held = temporaries();
                let name = temporary.path().to_owned();
                // Whatever happens, the temporary's name is free afterwards: renamed, or removed with the error.
                held.retain(|t| *t != name);
                if force {
                    temporary.persist(&self.path).map_err(|e| e.error).with_context(failed)?;
                } else {
                    temporary.persist_noclobber(&self.path).map_err(|e| e.error).with_context(failed)?;
                }
                drop(held);
                sync_folder(&self.path)
            }
            Target::Spooled(mut file) => {
                use std::io::Seek as _;
                let name = || {
                    if is_dash(&self.path) {
                        "standard output".into()
                    } else {
                        self.path.display().to_string()
                    }
                };
                file.rewind().with_context(name)?;
                if is_dash(&self.path) {
                    let mut out = std::io::stdout().lock();
                    std::io::copy(&mut file, &mut out).and_then(|_| out.flush()).with_context(name)
                } else {
                    let mut out = File::options().write(true).open(&self.path).with_context(name)?;
                    std::io::copy(&mut file, &mut out).map(|_| ()).with_context(name)
                }
            }
        }
    }
}

/// Whether `path` is there and neither a file nor a folder: a pipe or a device, which nothing can replace.
fn is_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// The system's own error, without the temporary's name, which means nothing to who named another file.
fn cause(e: std::io::Error) -> std::io::Error {
    let inner = e.get_ref().and_then(|e| e.source()).and_then(|e| e.downcast_ref::<std::io::Error>());
    match inner.and_then(std::io::Error::raw_os_error) {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => e,
    }
}

/// As [`check`] for a folder of files.
///
/// # Errors
/// If `path` is there and `force` is off, or is no folder.
pub fn check_folder(path: &Path, force: bool) -> Result<()> {
    match path.metadata() {
        Err(_) => Ok(()),
        Ok(there) if !there.is_dir() => bail!("{}: is a file; several files need a folder", path.display()),
        Ok(_) if !force && std::fs::read_dir(path).is_ok_and(|mut d| d.next().is_some()) => {
            bail!(
                "{}: is there already and not empty; write into it with -f or name another one with -o",
                path.display()
            )
        }
        Ok(_) => Ok(()),
    }
}

/// Names the output in an error of writing it, which is one of I/O that names no file: reading names the input.
pub fn blame(e: anyhow::Error, failed: impl FnOnce() -> String) -> anyhow::Error {
    if e.is::<std::io::Error>() && e.chain().count() == 1 { e.context(failed()) } else { e }
}

/// A folder of files being written.
pub struct OutputFolder {
    temporary: tempfile::TempDir,
    path: PathBuf,
}

impl OutputFolder {
    /// A temporary folder beside `path`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let beside = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let name = path.file_name().with_context(|| format!("{}: is not a folder's name", path.display()))?;
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777)); // less the umask
        let mut held = temporaries();
        let temporary = builder
            .tempdir_in(beside)
            .map_err(cause)
            .with_context(|| format!("{}: cannot create it", path.display()))?;
        held.push(temporary.path().to_owned());
        Ok(Self { temporary, path: path.into() })
    }

    /// A new file in the folder, readable and writable.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn file(&self, name: &Path) -> Result<File> {
        let path = self.temporary.path().join(name);
        let failed = || format!("{}: cannot create it", self.path.join(name).display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(failed)?;
        }
        File::options().read(true).write(true).create_new(true).open(path).with_context(failed)
    }

    /// Gives the files their names: the whole folder at once, or one by one into a folder that is there.
    ///
    /// # Errors
    /// If a file cannot be renamed.
    pub fn finish(self, names: &[PathBuf]) -> Result<()> {
        let failed = || format!("{}: cannot write it", self.path.display());
        let mut held = temporaries();
        let own = self.temporary.path().to_owned();
        held.retain(|t| *t != own);
        if self.path.is_dir() {
            for name in names {
                let to = self.path.join(name);
                if let Some(parent) = to.parent() {
                    std::fs::create_dir_all(parent).with_context(failed)?;
                }
                std::fs::rename(own.join(name), to).with_context(failed)?;
            }
            sync_folder(&self.path.join("x"))
        } else {
            std::fs::rename(&own, &self.path).with_context(failed)?;
            // The folder has another name now: there is nothing left to remove.
            let _ = self.temporary.keep();
            sync_folder(&self.path)
        }
    }
}

/// Makes a rename survive a power cut.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|f| f.sync_all()) {
        // Some file systems cannot sync a folder; the file itself is synced.
        Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
        other => other.with_context(|| format!("{}: cannot sync the folder", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_appears_under_the_name_before_finish() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let output = Output::create(&path).unwrap();
        output.file().write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(output);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the temporary is gone too");
    }

    #[test]
    fn finish_replaces_only_when_forced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        std::fs::write(&path, b"old").unwrap();
        assert!(Output::create(&path).unwrap().finish(false).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let output = Output::create(&path).unwrap();
        output.file().write_all(b"new").unwrap();
        output.finish(true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn existing_files_inputs_and_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in");
        std::fs::write(&path, b"x").unwrap();
        assert!(check(&path, false, &[]).is_err());
        assert!(check(&path, true, &[]).is_ok());
        assert!(check(&path, true, std::slice::from_ref(&path)).is_err());
        assert!(check(dir.path(), true, &[]).is_err());
        assert!(check(&dir.path().join("new"), false, &[path]).is_ok());
    }
}
