//! `tersa decompress`.

use std::fs::File;
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use serde_json::json;
use tersa_core::format::ReadAt;

use crate::archive::{Archive, Pick};
use crate::args::{DecompressArgs, SelectArgs, ToArg};
use crate::dump::layout::{Layout, Target};
use crate::dump::{Skeleton, SourceFormat};
use crate::exit::Fault;
use crate::files::{FileBytes, Writeback, write_all_at};
use crate::output::{self, Output, OutputFolder, is_dash};
use crate::progress::Progress;
use crate::report::{Bytes, Rate};
use crate::unpack::{write_streams, write_verbatim};

/// Runs the verb.
///
/// # Errors
/// If the input is damaged, cannot be written in that format, or the output cannot be written.
pub fn run(args: &DecompressArgs) -> Result<()> {
    let start = Instant::now();
    let archive = Archive::open(&args.input)?;
    let restore = Restore::plan(&archive, args)?;
    let folder = restore.layout.files.len() > 1;
    let output = destination(args, &archive, &restore.layout)?;
    if folder {
        output::check_folder(&output, args.force)?;
    } else {
        output::check(&output, args.force, std::slice::from_ref(&args.input))?;
    }
    output::remove_temporaries_on_signals()?;
    let written: u64 = restore.layout.files.iter().map(|f| f.len).sum();
    let mut progress = Progress::new("decompressing", written, args.talk.quiet);
    let jobs = args.jobs.get();
    if folder {
        let out = OutputFolder::create(&output)?;
        let names = restore.layout.files.iter().map(|f| safe_name(&f.name)).collect::<Result<Vec<_>>>()?;
        let files = names.iter().map(|n| out.file(n)).collect::<Result<Vec<File>>>()?;
        restore.write(&archive, &files.iter().collect::<Vec<_>>(), &output, jobs, &mut progress)?;
        files.iter().try_for_each(File::sync_all).with_context(|| output.display().to_string())?;
        out.finish(&names)?;
    } else {
        let out = Output::create(&output)?;
        restore.write(&archive, &[out.file()], &output, jobs, &mut progress)?;
        out.finish(args.force)?;
    }
    drop(progress);
    report(args, &archive, &restore.layout, &output, written, start.elapsed().as_secs_f64())
}

/// What to write.
struct Restore {
    picks: Vec<Pick>,
    layout: Layout,
    /// The source's own files: their other bytes come from the archive, block by block.
    as_source: bool,
}

impl Restore {
    fn plan<R>(archive: &Archive<R>, args: &DecompressArgs) -> Result<Self>
    where
        R: ReadAt,
        R::Error: std::error::Error + Send + Sync + 'static,
    {
        let picks = archive.pick(&args.select)?;
        let has_source = archive.reader.source().map_err(|e| archive.explain(e))?.is_some();
        if args.to.is_none() && args.select.is_all() && has_source {
            let layout = Layout::of_source(&archive.skeleton(&picks, false)?);
            return Ok(Self { picks, layout, as_source: true });
        }
        let target = match args.to {
            None => Target::Safetensors,
            Some(ToArg::Format(target)) => target,
            Some(ToArg::Llama(version)) => match archive.meta.format() {
                Some(SourceFormat::LlamaSession) => Target::LlamaSession(version),
                _ => Target::LlamaSequence(version),
            },
        };
        let llama = matches!(target, Target::LlamaSession(_) | Target::LlamaSequence(_));
        if llama && !args.select.is_all() {
            return Err(Fault::usage(
                "a llama.cpp state is written whole: leave out --layers, --tokens and --heads",
            ));
        }
        if llama && !has_source {
            return Err(anyhow!(
                "{}: the llama.cpp cell data is not there (packed with --kv-only or a selection); use --to safetensors",
                archive.name()
            ));
        }
        let mut skeleton = archive.skeleton(&picks, llama)?;
        let dropped = keep_matching_queries(&mut skeleton, &args.select);
        if !llama && target == Target::Safetensors && !skeleton.queries.is_empty() {
            // Their bytes are among those beside the keys and values.
            skeleton.files = archive.skeleton(&picks, true)?.files;
        }
        let mut layout = Layout::new(&skeleton, target)
            .map_err(|e| anyhow!("{}: cannot be written in that format: {e:#}", archive.name()))?;
        if dropped {
            layout.notes.push("left out: captured queries, which belong to all tokens and heads".into());
        }
        Ok(Self { picks, layout, as_source: false })
    }

    fn write(
        &self,
        archive: &Archive<FileBytes>,
        files: &[&File],
        output: &Path,
        jobs: usize,
        progress: &mut Progress,
    ) -> Result<()> {
        let failed = || match is_dash(output) {
            true => "standard output".to_owned(),
            false => format!("{}: cannot write it", output.display()),
        };
        for (file, out) in self.layout.files.iter().zip(files) {
            out.set_len(file.len).with_context(failed)?;
            file.write_extras(|offset, bytes| write_all_at(out, offset, bytes)).with_context(failed)?;
        }
        let mut writeback = Writeback::new(files);
        write_streams(archive, &self.picks, &self.layout, files, &mut writeback, jobs, progress)
            .map_err(|e| output::blame(e, failed))?;
        if self.as_source {
            write_verbatim(archive, files, jobs, progress).map_err(|e| output::blame(e, failed))?;
        }
        let owned =
            files.iter().map(|f| f.try_clone()).collect::<Result<Vec<_>, _>>().with_context(failed)?;
        self.layout.finish(&owned).with_context(failed)?;
        writeback.finish().with_context(failed)
    }
}

/// Queries belong to the last tokens and to all heads of a layer: those of other selections are removed, and whether
/// there were any is returned.
fn keep_matching_queries(skeleton: &mut Skeleton, select: &SelectArgs) -> bool {
    let whole = select.tokens.is_none() && select.heads.is_none();
    let dropped = !whole && !skeleton.queries.is_empty();
    let picked = |layer: u32| select.layers.as_ref().is_none_or(|l| l.contains(layer as usize));
    skeleton.queries.retain(|q| whole && picked(q.layer));
    dropped
}

/// Where the result goes.
fn destination<R>(args: &DecompressArgs, archive: &Archive<R>, layout: &Layout) -> Result<PathBuf>
where
    R: ReadAt,
    R::Error: std::error::Error + Send + Sync + 'static,
{
    let folder = layout.files.len() > 1;
    if let Some(output) = &args.output {
        if folder && is_dash(output) {
            return Err(Fault::usage(format!(
                "{}: {} files cannot go to standard output; name a folder with -o",
                archive.name(),
                layout.files.len()
            )));
        }
        if !folder
            && !is_dash(output)
            && (output.is_dir() || output.as_os_str().as_encoded_bytes().ends_with(b"/"))
        {
            std::fs::create_dir_all(output)
                .with_context(|| format!("{}: cannot make the folder", output.display()))?;
            let name = layout.files.first().map_or("kv", |f| f.name.as_str());
            return Ok(output.join(safe_name(name)?));
        }
        return Ok(output.clone());
    }
    if is_dash(&args.input) {
        return if folder {
            Err(Fault::usage("several files: name a folder with -o"))
        } else {
            Ok("-".into())
        };
    }
    let beside = args.input.parent().unwrap_or(Path::new(""));
    let stem = args.input.file_stem().unwrap_or_default();
    Ok(match &layout.files[..] {
        // Another format or a part is named after the archive, the source itself after the source.
        [one] if args.to.is_none() && args.select.is_all() => beside.join(safe_name(&one.name)?),
        [one] => {
            let extension = Path::new(&one.name).extension().unwrap_or("out".as_ref());
            beside.join(Path::new(stem).with_extension(extension))
        }
        _ => beside.join(stem),
    })
}

/// A file name from an archive, which must not lead out of the folder it is written into.
fn safe_name(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    let inside = path.components().all(|c| matches!(c, Component::Normal(_)));
    if name.is_empty() || !inside {
        return Err(anyhow!(
            "the archive names a file `{}` outside its folder; name one with -o",
            name.escape_debug()
        ));
    }
    Ok(path.into())
}

fn report(
    args: &DecompressArgs,
    archive: &Archive<FileBytes>,
    layout: &Layout,
    output: &Path,
    written: u64,
    seconds: f64,
) -> Result<()> {
    let rate = Rate { bytes: written, seconds };
    if args.talk.json {
        let text = format!(
            "{:#}\n",
            json!({
                "input": args.input, "output": output, "bytes_in": archive.reader.file_len(),
                "bytes_out": written, "files": layout.files.len(), "notes": layout.notes,
                "seconds": seconds, "gb_per_s": rate.gb_per_s(),
            })
        );
        return match is_dash(output) {
            true => std::io::stderr().write_all(text.as_bytes()).context("standard error"),
            false => std::io::stdout().write_all(text.as_bytes()).context("standard output"),
        };
    }
    if args.talk.quiet {
        return Ok(());
    }
    let mut text: String = layout.notes.iter().map(|n| format!("note: {n}\n")).collect();
    let name = |p: &Path, dash: &str| if is_dash(p) { dash.to_owned() } else { p.display().to_string() };
    text += &format!(
        "{} → {}  {} → {}  {rate}\n",
        name(&args.input, "stdin"),
        name(output, "stdout"),
        Bytes(archive.reader.file_len()),
        Bytes(written),
    );
    std::io::stderr().write_all(text.as_bytes()).context("standard error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_out_of_the_folder() {
        for bad in ["", "../x", "/etc/x", "a/../../x", ".."] {
            assert!(safe_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(safe_name("a/b.safetensors").unwrap(), Path::new("a/b.safetensors"));
    }
}
