//! `tersa compress`.

use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use tersa_core::codec::Preset;
use tersa_core::format::HeadStats;

use crate::args::{CompressArgs, SelectArgs, kind_letter};
use crate::coding::Keep;
use crate::dump::{self, Dump, Kind};
use crate::exit::Fault;
use crate::measure::Sample;
use crate::meta::{Metadata, Selection};
use crate::output::{self, Output, is_dash};
use crate::pack::{Pack, Packed, total};
use crate::plan::policy::Policy;
use crate::plan::{self, Codecs, Search, Target, Verdict};
use crate::progress::Progress;
use crate::report::{Bytes, Rate, Ratio, RelError, Table, runs};
use crate::select::{Part, select};

/// Files that a search writes before it gives up. Each one turns estimates into knowledge; two nearly always do.
const ROUNDS: usize = 5;

/// Runs the verb.
///
/// # Errors
/// If an input cannot be read, its output cannot be written, or the target cannot be met.
pub fn run(args: &CompressArgs) -> Result<()> {
    let policy = args.policy.as_deref().map(Policy::read).transpose()?.unwrap_or_default();
    let outputs = outputs(args)?;
    for output in &outputs {
        output::check(output, args.force, &args.inputs)?;
    }
    output::remove_temporaries_on_signals()?;
    let mut reports = Vec::new();
    for (input, output) in args.inputs.iter().zip(&outputs) {
        let report = compress(args, &policy, input, output)?;
        report.tell(args)?;
        reports.push(report.json());
    }
    if args.talk.json {
        let all = if reports.len() == 1 { reports.remove(0) } else { Value::Array(reports) };
        // The container itself may be on standard output; the report then goes where talk goes.
        let text = format!("{all:#}\n");
        match outputs.iter().any(|o| is_dash(o)) {
            true => std::io::stderr().write_all(text.as_bytes())?,
            false => std::io::stdout().write_all(text.as_bytes()).context("standard output")?,
        }
    }
    Ok(())
}

/// Where each input goes.
fn outputs(args: &CompressArgs) -> Result<Vec<PathBuf>> {
    let own_name = |input: &Path| -> Result<PathBuf> {
        if is_dash(input) {
            return Ok("-".into());
        }
        // `dir/` and `dir/.` have the folder's name.
        let name = input.canonicalize().with_context(|| input.display().to_string())?;
        let name =
            name.file_name().ok_or_else(|| anyhow!("{}: has no name; give one with -o", input.display()))?;
        let stem = if input.is_dir() { name } else { Path::new(name).file_stem().unwrap_or(name) };
        let mut name = stem.to_owned();
        name.push(".tersa");
        Ok(name.into())
    };
    let Some(output) = &args.output else {
        return args
            .inputs
            .iter()
            .map(|i| Ok(i.parent().unwrap_or(Path::new("")).join(own_name(i)?)))
            .collect();
    };
    let is_folder = output.is_dir() || output.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !is_folder {
        return match &args.inputs[..] {
            [_] => Ok(vec![output.clone()]),
            _ => Err(Fault::usage(format!(
                "{}: several inputs need a folder to go to; write -o {}/",
                output.display(),
                output.display()
            ))),
        };
    }
    std::fs::create_dir_all(output)
        .with_context(|| format!("{}: cannot make the folder", output.display()))?;
    let all: Vec<PathBuf> =
        args.inputs.iter().map(|i| Ok(output.join(own_name(i)?))).collect::<Result<_>>()?;
    for (i, path) in all.iter().enumerate() {
        if all[..i].contains(path) {
            return Err(Fault::usage(format!(
                "{}: two inputs have this name; pack them apart",
                path.display()
            )));
        }
    }
    Ok(all)
}

/// What was aimed at, in words and as a target.
fn target(args: &CompressArgs, dump: &Dump) -> Result<(String, Target)> {
    let t = &args.target;
    Ok(if let Some(spec) = &t.codec {
        let parsed = spec.parse().map_err(|e| Fault::usage(format!("--codec {spec}: {e}")))?;
        (format!("codec {spec}"), Target::Codec(parsed))
    } else if let Some(bits) = t.bits {
        (format!("at most {bits} bits"), Target::Bits(bits))
    } else if let Some(ratio) = t.ratio {
        (format!("at least {ratio}x"), Target::Ratio(ratio))
    } else if let Some(max) = t.max_rel_error {
        (format!("rel. error at most {}", RelError(max)), Target::MaxRelError(max))
    } else {
        // A default must serve every dump: without heads only exact codecs can.
        let preset: Preset = match t.preset {
            Some(preset) => preset.into(),
            None if !dump.heads_known => Preset::Lossless,
            None => Preset::Safe,
        };
        let spec = preset.spec();
        (format!("preset {preset} ({spec})"), Target::Codec(spec))
    })
}

fn compress(args: &CompressArgs, policy: &Policy, input: &Path, output: &Path) -> Result<Report> {
    let start = Instant::now();
    let dump = dump::open(std::slice::from_ref(&input.to_path_buf()), &args.dump.open_options())?;
    let parts = select(&dump, &args.select)?;
    let (aim, target) = target(args, &dump)?;
    let keep = Keep { sinks: args.keep_sinks, recent: args.keep_recent };
    let chunk_tokens = u32::try_from(args.chunk.get())
        .ok()
        .filter(|&n| n <= 1 << 20)
        .ok_or_else(|| Fault::usage(format!("--chunk {}: at most 1048576 tokens", args.chunk)))?;
    let jobs = args.jobs.get();
    let whole_source = !args.kv_only && args.select.is_all();
    let kv_len: u64 = parts.iter().map(Part::len_bytes).sum();
    let source_len: u64 = dump.files.iter().map(|f| f.bytes.len() as u64).sum();
    let input_len = if whole_source { source_len } else { kv_len };
    let n_values: u64 = parts.iter().map(|p| p.stream.shape.n_values() as u64).sum();

    let sample = Sample { chunk_tokens: args.chunk.get(), max_tokens: usize::MAX, keep, jobs };
    let new_search = || Search::new(&parts, dump.heads_known, &sample, args.talk.quiet);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a budget is positive and exact to 53 bits; casts from float saturate"
    )]
    let mut search = match &target {
        Target::Codec(_) => None,
        Target::Bits(bits) => {
            let mut search = new_search()?;
            search.within_bytes((n_values as f64 * bits / 8.0) as u64)?;
            Some(search)
        }
        Target::Ratio(ratio) => {
            let mut search = new_search()?;
            search.within_bytes((kv_len as f64 / ratio) as u64)?;
            Some(search)
        }
        Target::MaxRelError(max) => {
            let mut search = new_search()?;
            search.within_error(*max)?;
            Some(search)
        }
    };

    let out = Output::create(output)?;
    let failed = || match is_dash(output) {
        true => "standard output".to_owned(),
        false => format!("{}: cannot write it", output.display()),
    };
    let mut round = 1;
    let (codecs, packed) = loop {
        let codecs = match (&search, &target) {
            (Some(search), _) => search.codecs(&parts),
            (None, Target::Codec(spec)) => plan::fixed(&parts, *spec, policy),
            (None, _) => return Err(anyhow!("a target without a search")),
        };
        plan::check_heads(&dump, &codecs)?;
        let pack = Pack { dump: &dump, parts: &parts, plan: &codecs, keep, chunk_tokens, whole_source, jobs };
        let metadata = metadata(&dump, &parts, &aim, keep, &args.select, whole_source);
        let mut progress = Progress::new("compressing", input_len, args.talk.quiet);
        let packed =
            pack.write(out.file(), &metadata, &mut progress).map_err(|e| output::blame(e, failed))?;
        let verdict = search.as_mut().map_or(Ok(Verdict::Met), |s| s.judge(&packed))?;
        match verdict {
            Verdict::Met => break (codecs, packed),
            Verdict::TryAgain if round < ROUNDS => {
                round += 1;
                out.file().set_len(0).with_context(failed)?;
                out.file().rewind().with_context(failed)?;
            }
            Verdict::TryAgain | Verdict::Missed => {
                let kv = Ratio { from: kv_len, to: packed.kv_bytes() };
                return Err(Fault::target_missed(format!(
                    "{}: {aim} was not met; reached {} ({kv})",
                    input.display(),
                    Bytes(packed.kv_bytes())
                )));
            }
        }
    };
    out.finish(args.force)?;
    let mut notes = dump.assumptions.clone();
    if !args.select.is_all() && !args.kv_only {
        notes.extend(left_out(&dump));
    }
    if packed.file_len > input_len {
        notes.push(format!(
            "larger than the source: {} tokens save less than the tables of {} streams take",
            parts.iter().map(|p| p.stream.shape.n_tokens).max().unwrap_or(0),
            parts.len()
        ));
    }
    Ok(Report {
        input: input.into(),
        output: output.into(),
        aim,
        searched: search.is_some(),
        defaulted: args.policy.is_none() && is_default(args),
        notes,
        source_len: input_len,
        kv_len,
        n_values,
        seconds: start.elapsed().as_secs_f64(),
        streams: streams(&parts, &codecs, &packed),
        packed,
    })
}

/// What a selection does not take along, in words.
fn left_out(dump: &Dump) -> Option<String> {
    let queries = (!dump.queries.is_empty()).then(|| "captured queries".to_owned());
    let others = match &dump.others[..] {
        [] => None,
        [one] => Some(format!("tensor `{one}`")),
        [first, rest @ ..] => Some(format!("tensor `{first}` and {} more", rest.len())),
    };
    let parts: Vec<String> = queries.into_iter().chain(others).collect();
    (!parts.is_empty()).then(|| format!("a selection holds keys and values only, not {}", parts.join(", ")))
}

fn is_default(args: &CompressArgs) -> bool {
    let t = &args.target;
    t.codec.is_none()
        && t.preset.is_none()
        && t.bits.is_none()
        && t.ratio.is_none()
        && t.max_rel_error.is_none()
}

fn metadata(
    dump: &Dump,
    parts: &[Part<'_>],
    aim: &str,
    keep: Keep,
    selection: &SelectArgs,
    whole_source: bool,
) -> String {
    let streams: Vec<_> = parts.iter().map(|p| &p.stream).collect();
    let plan = json!({ "target": aim, "keep_sinks": keep.sinks, "keep_recent": keep.recent });
    let mut meta = Metadata::of(dump, &streams, plan);
    meta.selection = Selection::of(selection);
    if whole_source {
        meta = meta.with_others(dump);
    }
    serde_json::to_string(&meta).expect("maps with string keys are JSON")
}

/// One stream of the finished file.
struct StreamReport {
    part: u32,
    layer: u32,
    kind: Kind,
    codec: String,
    bits: f64,
    stats: HeadStats,
}

fn streams(parts: &[Part<'_>], codecs: &Codecs, packed: &Packed) -> Vec<StreamReport> {
    let one = |i: usize| {
        let s = &parts[i].stream;
        let mut names: Vec<String> = codecs[i].iter().map(ToString::to_string).collect();
        names.dedup();
        #[allow(clippy::cast_precision_loss, reason = "bits are shown with three digits")]
        let bits = packed.stream_bytes[i] as f64 * 8.0 / s.shape.n_values().max(1) as f64;
        StreamReport {
            part: s.part,
            layer: s.layer,
            kind: s.kind,
            codec: names.join(" "),
            bits,
            stats: total(&packed.stats[i]),
        }
    };
    (0..parts.len()).map(one).collect()
}

/// What one input became.
struct Report {
    input: PathBuf,
    output: PathBuf,
    aim: String,
    searched: bool,
    defaulted: bool,
    /// What was assumed or left out.
    notes: Vec<String>,
    source_len: u64,
    kv_len: u64,
    n_values: u64,
    seconds: f64,
    streams: Vec<StreamReport>,
    packed: Packed,
}

impl Report {
    fn error(&self, kind: Kind) -> HeadStats {
        total(self.streams.iter().filter(|s| s.kind == kind).map(|s| &s.stats))
    }

    fn rate(&self) -> Rate {
        Rate { bytes: self.source_len, seconds: self.seconds }
    }

    #[allow(clippy::cast_precision_loss, reason = "bits are shown with three digits")]
    fn bits(&self) -> f64 {
        self.packed.kv_bytes() as f64 * 8.0 / self.n_values.max(1) as f64
    }

    fn tell(&self, args: &CompressArgs) -> Result<()> {
        if args.talk.quiet || args.talk.json {
            return Ok(());
        }
        let mut text = String::new();
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        let raw: u64 = self.streams.iter().map(|s| s.stats.raw_tiles).sum();
        let lossy = self.streams.iter().any(|s| s.stats.sum_sq_error > 0.0);
        if raw > 0 && (args.talk.verbose || lossy) {
            text += &format!(
                "note: {raw} tiles are stored exactly: their codec cannot hold them, or saves nothing\n"
            );
        }
        if args.talk.verbose {
            text += &self.table().to_string();
        } else if self.searched {
            text += &self.summary();
        }
        let name = |p: &Path, dash: &str| if is_dash(p) { dash.to_owned() } else { p.display().to_string() };
        let (from, to) = (self.source_len, self.packed.file_len);
        // Where much of the source is not keys and values, one ratio alone would mislead.
        let verbatim = self.packed.verbatim_len;
        let apart = if verbatim * 100 > from {
            let kv = Ratio { from: self.kv_len, to: self.packed.kv_bytes() };
            format!("; K and V {kv}, {} of other data kept", Bytes(verbatim))
        } else {
            String::new()
        };
        text += &format!(
            "{} → {}  {} → {} ({}{apart})  rel. error K {} V {}  {}",
            name(&self.input, "stdin"),
            name(&self.output, "stdout"),
            Bytes(from),
            Bytes(to),
            Ratio { from, to },
            RelError(self.error(Kind::K).rel_error()),
            RelError(self.error(Kind::V).rel_error()),
            self.rate(),
        );
        if self.defaulted {
            text += &format!("  [{}]", self.aim);
        }
        text.push('\n');
        std::io::stderr().write_all(text.as_bytes()).context("standard error")
    }

    /// Every codec that was chosen, and for which layers.
    fn summary(&self) -> String {
        let mut codecs: Vec<&str> = self.streams.iter().map(|s| s.codec.as_str()).collect();
        codecs.sort_unstable();
        codecs.dedup();
        let mut text = format!("chosen for {} ({:.3} bits a value):\n", self.aim, self.bits());
        for codec in codecs {
            for kind in [Kind::K, Kind::V] {
                let chosen = self.streams.iter().filter(|s| s.codec == codec && s.kind == kind);
                let mut layers: Vec<u32> = chosen.map(|s| s.layer).collect();
                layers.dedup();
                if !layers.is_empty() {
                    text += &format!("  {} of layers {}: {codec}\n", kind_letter(kind), runs(&layers));
                }
            }
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["layer", "", "codec", "bits", "rel. error", "max. error"]);
        let parts = self.streams.iter().any(|s| s.part != 0);
        for s in &self.streams {
            table.row([
                if parts { format!("{}.{}", s.part, s.layer) } else { s.layer.to_string() },
                kind_letter(s.kind).into(),
                s.codec.clone(),
                format!("{:.3}", s.bits),
                RelError(s.stats.rel_error()).to_string(),
                RelError(s.stats.max_abs_error).to_string(),
            ]);
        }
        table
    }

    fn json(&self) -> Value {
        let (from, to) = (self.source_len, self.packed.file_len);
        let streams: Vec<Value> = self
            .streams
            .iter()
            .map(|s| {
                json!({
                    "part": s.part, "layer": s.layer, "kind": kind_letter(s.kind), "codec": s.codec,
                    "bits_per_value": s.bits, "rel_error": s.stats.rel_error(),
                    "max_abs_error": s.stats.max_abs_error, "raw_tiles": s.stats.raw_tiles,
                })
            })
            .collect();
        let kv = Ratio { from: self.kv_len, to: self.packed.kv_bytes() };
        json!({
            "input": self.input, "output": self.output, "target": self.aim,
            "bytes_in": from, "bytes_out": to, "ratio": Ratio { from, to }.get(),
            "kv": {
                "bytes_in": self.kv_len, "bytes_out": self.packed.kv_bytes(), "ratio": kv.get(),
                "bits_per_value": self.bits(),
            },
            "other": { "bytes_in": self.packed.verbatim_len, "bytes_out": self.packed.verbatim_stored },
            "rel_error": {
                "k": self.error(Kind::K).rel_error(), "v": self.error(Kind::V).rel_error(),
            },
            "seconds": self.seconds, "gb_per_s": self.rate().gb_per_s(),
            "notes": self.notes, "streams": streams,
        })
    }
}
