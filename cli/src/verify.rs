//! `tersa verify`: every byte, every chunk, and the error against the original.

use std::io::Write as _;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use tersa_core::num::convert;

use crate::archive::{Archive, OpenStream, Pick};
use crate::args::{SelectArgs, VerifyArgs, kind_letter};
use crate::coding::Scratch;
use crate::dump::{self, Dump, Kind};
use crate::exit::{Exit, Fault, exit_of};
use crate::files::FileBytes;
use crate::pipeline::ordered;
use crate::progress::Progress;
use crate::report::{Bytes, RelError, Table};
use crate::select::{Part, select};

/// Runs the verb.
///
/// # Errors
/// [`Exit::Damage`] for anything that is not a sound container, [`Exit::TargetMissed`] if the error is too large.
pub fn run(args: &VerifyArgs) -> Result<()> {
    // Here a file that is no container at all is damaged too: somebody thought it was one.
    let archive = Archive::open(&args.input).map_err(|e| {
        let readable = std::fs::File::open(&args.input).is_ok() && !args.input.is_dir();
        if exit_of(&e) == Exit::Failure && readable { Fault::damage(format!("{e:#}")) } else { e }
    })?;
    let original = args
        .against
        .as_ref()
        .map(|path| dump::open(std::slice::from_ref(path), &args.dump.open_options()))
        .transpose()?;
    let parts = original.as_ref().map(|dump| matching(&archive, dump, args)).transpose()?;
    let mut progress = Progress::new("checking", 2 * archive.reader.file_len(), args.talk.quiet);
    let mut seen = 0;
    let verified = archive
        .reader
        .verify(|done, _| {
            progress.add(done - seen);
            seen = done;
        })
        .map_err(|e| archive.explain(e))?;
    verbatim(&archive, original.as_ref(), args.jobs.get())?;
    let errors = decode_all(&archive, parts.as_deref(), args.jobs.get(), &mut progress)?;
    drop(progress);
    report(args, &archive, verified.chunks, &errors)
}

/// The original's streams, in the order of the archive's.
fn matching<'d>(archive: &Archive<FileBytes>, dump: &'d Dump, args: &VerifyArgs) -> Result<Vec<Part<'d>>> {
    let selection =
        archive.meta.selection.args().ok_or_else(|| {
            Fault::damage(format!("{}: metadata: the selection is not one", archive.name()))
        })?;
    let mut all: Vec<Option<Part<'d>>> = select(dump, &selection)?.into_iter().map(Some).collect();
    archive
        .reader
        .streams()
        .iter()
        .map(|info| {
            let here = (info.part, info.layer, info.kind);
            let found = all
                .iter_mut()
                .find(|p| p.as_ref().is_some_and(|p| (p.stream.part, p.stream.layer, p.stream.kind) == here));
            let name = || format!("layer {} {}", info.layer, kind_letter(here.2));
            let original = args.against.as_ref().map_or_else(String::new, |p| p.display().to_string());
            let part = found
                .and_then(Option::take)
                .ok_or_else(|| anyhow!("{original}: has no {}, which {} holds", name(), archive.name()))?;
            if part.stream.shape != info.shape {
                let (a, b) = (part.stream.shape, info.shape);
                return Err(anyhow!(
                    "{original}: {} is {} tokens x {} heads x {} {}, in {} it is {} x {} x {} {}",
                    name(),
                    a.n_tokens,
                    a.n_kv_heads,
                    a.head_dim,
                    a.dtype,
                    archive.name(),
                    b.n_tokens,
                    b.n_kv_heads,
                    b.head_dim,
                    b.dtype,
                ));
            }
            Ok(part)
        })
        .collect()
}

/// Unpacks every verbatim block, and compares the bytes with the original's if there is one of the same layout.
fn verbatim(archive: &Archive<FileBytes>, original: Option<&Dump>, jobs: usize) -> Result<()> {
    let blocks = archive.reader.verbatim().map_err(|e| archive.explain(e))?;
    let source = archive.reader.source().map_err(|e| archive.explain(e))?;
    let gaps = source.as_ref().map(crate::archive::Gaps::new);
    // Other bytes can only be compared where the original is laid out as the source was.
    let lengths = |dump: &&Dump| {
        let same =
            |(f, s): (&dump::SourceFile, &tersa_core::format::SourceFile)| f.bytes.len() as u64 == s.length;
        source
            .as_ref()
            .is_some_and(|s| dump.files.len() == s.files.len() && dump.files.iter().zip(&s.files).all(same))
    };
    let original = original.filter(lengths);
    let check = |scratch: &mut Scratch, block: usize, _: &mut ()| {
        let raw = archive.verbatim_block(&blocks, block, scratch)?;
        let (Some(dump), Some(gaps)) = (original, &gaps) else { return Ok(()) };
        gaps.scatter((block * tersa_core::format::VERBATIM_BLOCK) as u64, &raw, |file, offset, piece| {
            let bytes = dump.files.get(file).map_or(&[][..], |f| &f.bytes[..]);
            let at = usize::try_from(offset)?;
            if bytes.get(at..).and_then(|b| b.get(..piece.len())) == Some(piece) {
                return Ok(());
            }
            Err(anyhow!(
                "{}: the original differs outside keys and values, near byte {offset} of file {file}",
                archive.name()
            ))
        })
    };
    ordered(jobs, blocks.len(), 4 * jobs, Scratch::new, check, |_, ()| Ok(()))
}

/// How decoded rows differ from the original's.
#[derive(Clone, Copy, Debug, Default)]
struct Difference {
    sum_sq_error: f64,
    sum_sq: f64,
    sum_sq_decoded: f64,
    dot: f64,
    max_abs: f64,
    /// Values that are not finite on one side only, or differently.
    broken: u64,
}

impl Difference {
    fn add(&mut self, original: &[f32], decoded: &[f32]) {
        for (&a, &b) in original.iter().zip(decoded) {
            if !a.is_finite() || !b.is_finite() {
                // Equal infinities and NaNs are no difference; anything else is beyond measure.
                self.broken += u64::from(a != b && !(a.is_nan() && b.is_nan()));
                continue;
            }
            let (a, b) = (f64::from(a), f64::from(b));
            self.sum_sq_error += (a - b) * (a - b);
            self.sum_sq += a * a;
            self.sum_sq_decoded += b * b;
            self.dot += a * b;
            self.max_abs = self.max_abs.max((a - b).abs());
        }
    }

    fn merge(&mut self, other: &Self) {
        self.sum_sq_error += other.sum_sq_error;
        self.sum_sq += other.sum_sq;
        self.sum_sq_decoded += other.sum_sq_decoded;
        self.dot += other.dot;
        self.max_abs = self.max_abs.max(other.max_abs);
        self.broken += other.broken;
    }

    fn rel_error(&self) -> f64 {
        match (self.broken, self.sum_sq_error) {
            (0, 0.0) => 0.0,
            (0, e) => (e / self.sum_sq).sqrt(),
            _ => f64::INFINITY,
        }
    }

    fn cosine(&self) -> f64 {
        let norms = (self.sum_sq * self.sum_sq_decoded).sqrt();
        if norms == 0.0 { 1.0 } else { self.dot / norms }
    }
}

/// One stream's result.
struct StreamError {
    layer: u32,
    part: u32,
    kind: Kind,
    difference: Option<Difference>,
}

/// A chunk's differences; chunks are merged in order so that sums do not depend on threads.
#[derive(Default)]
struct Worker {
    scratch: Scratch,
    payload: Vec<u8>,
    rows: Vec<u8>,
    original: Vec<u8>,
    values: [Vec<f32>; 2],
}

fn decode_all(
    archive: &Archive<FileBytes>,
    parts: Option<&[Part<'_>]>,
    jobs: usize,
    progress: &mut Progress,
) -> Result<Vec<StreamError>> {
    let picks: Vec<Pick> = archive.pick(&SelectArgs::default())?;
    let mut errors = Vec::new();
    for (i, pick) in picks.into_iter().enumerate() {
        let info = archive.reader.streams()[i];
        let stream = archive.open_stream(pick)?;
        let part = parts.map(|p| &p[i]);
        let mut sum = Difference::default();
        ordered(
            jobs,
            stream.index.chunks().len(),
            4 * jobs,
            Worker::default,
            |w: &mut Worker, chunk, out: &mut Difference| {
                *out = check_chunk(archive, &stream, chunk, part, w)?;
                Ok(())
            },
            |chunk, out| {
                sum.merge(out);
                progress.add(u64::from(stream.index.chunks()[chunk].length));
                Ok(())
            },
        )?;
        let difference = part.map(|_| sum);
        errors.push(StreamError { layer: info.layer, part: info.part, kind: info.kind, difference });
    }
    Ok(errors)
}

fn check_chunk(
    archive: &Archive<FileBytes>,
    stream: &OpenStream,
    chunk: usize,
    part: Option<&Part<'_>>,
    w: &mut Worker,
) -> Result<Difference> {
    let tokens = archive.decode_chunk(stream, chunk, &mut w.payload, &mut w.rows, &mut w.scratch)?;
    let mut sum = Difference::default();
    let Some(part) = part else { return Ok(sum) };
    let shape = stream.shape;
    let tile = tokens.len() * shape.row_bytes();
    w.original.resize(tile, 0);
    let [a, b] = &mut w.values;
    a.resize(tokens.len() * shape.head_dim, 0.0);
    b.resize(tokens.len() * shape.head_dim, 0.0);
    for (head, decoded) in w.rows.chunks_exact(tile.max(1)).enumerate() {
        part.copy_rows(head, tokens.clone(), &mut w.original);
        convert::to_f32(shape.dtype, &w.original, a)?;
        convert::to_f32(shape.dtype, decoded, b)?;
        sum.add(a, b);
    }
    Ok(sum)
}

fn report(
    args: &VerifyArgs,
    archive: &Archive<FileBytes>,
    chunks: u64,
    errors: &[StreamError],
) -> Result<()> {
    let worst =
        errors.iter().filter_map(|e| e.difference.as_ref()).map(Difference::rel_error).fold(0.0, f64::max);
    let of = |kind: Kind| {
        let mut sum = Difference::default();
        errors
            .iter()
            .filter(|e| e.kind == kind)
            .filter_map(|e| e.difference.as_ref())
            .for_each(|d| sum.merge(d));
        sum
    };
    let missed = args.max_rel.is_some_and(|max| worst > max);
    let size = archive.reader.file_len();
    let text = if args.talk.json {
        let one = |e: &StreamError| {
            let d = e.difference.as_ref();
            json!({
                "part": e.part, "layer": e.layer, "kind": kind_letter(e.kind),
                "rel_error": d.map(Difference::rel_error), "cosine": d.map(Difference::cosine),
                "max_abs_error": d.map(|d| d.max_abs),
            })
        };
        let streams: Vec<Value> = errors.iter().map(one).collect();
        let all = json!({
            "file": archive.name(), "bytes": size, "chunks": chunks, "sound": true,
            "against": args.against, "worst_rel_error": args.against.as_ref().map(|_| worst),
            "max_rel": args.max_rel, "met": !missed, "streams": streams,
        });
        format!("{all:#}\n")
    } else if args.talk.quiet {
        String::new()
    } else {
        let mut text = String::new();
        if args.against.is_some() {
            let mut table = Table::new(&["layer", "", "rel. error", "cosine", "max. error"]);
            let parts = errors.iter().any(|e| e.part != 0);
            for e in errors {
                let Some(d) = &e.difference else { continue };
                table.row([
                    if parts { format!("{}.{}", e.part, e.layer) } else { e.layer.to_string() },
                    kind_letter(e.kind).into(),
                    RelError(d.rel_error()).to_string(),
                    format!("{:.6}", d.cosine()),
                    RelError(d.max_abs).to_string(),
                ]);
            }
            text += &table.to_string();
        }
        text += &format!("{}: sound: {} in {chunks} chunks, every byte checked", archive.name(), Bytes(size));
        if args.against.is_some() {
            text += &format!(
                "; rel. error K {} V {}, worst layer {}",
                RelError(of(Kind::K).rel_error()),
                RelError(of(Kind::V).rel_error()),
                RelError(worst)
            );
        }
        text + "\n"
    };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")?;
    match args.max_rel {
        Some(max) if missed => Err(Fault::target_missed(format!(
            "{}: the relative error of a layer is {}, more than {max}",
            archive.name(),
            RelError(worst)
        ))),
        _ => Ok(()),
    }
}
