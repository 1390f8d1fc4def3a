//! `tersa bench`: codecs side by side on the user's own dump: size, error, speed.

mod quality;
mod selection;
mod speed;

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tersa_core::codec::chunk::StreamCodec;
use tersa_core::codec::{KvSpec, Quantizer};
use tersa_core::cpu;

use crate::args::{DumpArgs, IndexSet, JobsArgs};
use crate::coding::Keep;
use crate::dump::Dump;
use crate::exit::Fault;
use crate::heads::{self, Layer};
use crate::plot::{Plot, Point, svg};
use crate::report::{Table, error, runs};
use quality::{Options, Quality};
use speed::{Method, SampleChunk, Timing};

/// What is compared if the user names nothing: each family at its useful sizes.
const DEFAULT_CODECS: &str = "lossless q8_0 had+q8_0 q4_0 had+q4_0 had+lm8 had+lm6 had+lm5 had+lm4 mean+had+lm4 had+lm3 \
                              had+lm2 kivi8g64 kivi4g32 kivi4g64 kivi2g32 kivi2g64 pq:32x8 pq:16x8 pq:32x4";
/// Layers that are looked at if the user names none: enough to see a model's range, few enough to wait for.
const DEFAULT_LAYERS: usize = 8;
/// Spread above which a timing is not to be trusted.
const NOISY: f64 = 0.10;
/// Tokens in a chunk, as `compress` has them by default.
const CHUNK_TOKENS: usize = 256;

/// `tersa bench`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(disable_help_subcommand = true)]
#[command(after_help = "\
Errors are relative (Frobenius norm), of keys and of values: mean over heads and \
layers. The output error is that of attention outputs with both replaced, mean over the \
last captured queries of each head. Speeds are those of one core, in GB of uncompressed \
rows a second: the best of 7 rounds in which all codecs take turns; `spread` is how \
much longer the median round took. `bits` counts everything that is stored for a value, \
codebooks included. `tersa bench select --help` is about choosing the tokens to attend \
to.

Examples:
  tersa bench kv.safetensors
  tersa bench kv.safetensors --codecs 'had+lm4 kivi4g64 k=had+lm4,v=had+lm3'
  tersa bench kv.safetensors --layers 0-29 --plot rate.svg
  tersa bench kv.safetensors --json | jq '.rows[] | {codec, bits, encode_gb_s}'")]
pub struct BenchArgs {
    /// Something other than codecs
    #[command(subcommand)]
    pub what: Option<What>,
    /// A dump: a file, or the files or folder of one dump
    #[arg(required = true, value_name = "DUMP")]
    pub inputs: Vec<PathBuf>,
    /// Codecs to compare: SPEC or k=SPEC,v=SPEC, with spaces between them
    #[arg(long, value_name = "LIST", default_value = DEFAULT_CODECS, hide_default_value = true)]
    pub codecs: String,
    /// Draw size against error as SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// About how long to time each codec
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    pub seconds: f64,
    /// Only these layers, e.g. 0-3,7 [default: 8, evenly spread]
    #[arg(long, value_name = "LIST")]
    pub layers: Option<IndexSet>,
    /// Keep the first N positions exact
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub keep_sinks: usize,
    /// Use the last N captured queries of each head
    #[arg(long, value_name = "N", default_value = "64", value_parser = crate::args::count)]
    pub last_queries: std::num::NonZeroUsize,
    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap makes a doc comment on a flattened group the verb's description")]
    pub jobs: JobsArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub dump: DumpArgs,
}

/// What else can be measured.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Measure decode steps that attend to chosen tokens, against attention to all
    Select(selection::SelectBenchArgs),
}

fn seconds(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(v) if v.is_finite() && v > 0.0 && v <= 3600.0 => Ok(v),
        _ => Err("expected a number of seconds above 0".into()),
    }
}

/// One line of the report.
struct Row {
    name: String,
    family: usize,
    bits: f64,
    ratio: f64,
    /// Mean errors of keys and values; `None` for rivals, which are exact.
    errors: Option<(f64, f64)>,
    output_error: Option<(f64, f64)>,
    timing: Timing,
}

/// Families of the plot, in the order of its colours.
const FAMILIES: [&str; 6] =
    ["rotated Lloyd–Max", "llama.cpp blocks", "group integers", "product quantization", "lossless", "rivals"];
const RIVAL: usize = 5;

fn family(spec: &KvSpec) -> usize {
    match spec.k.quantizer {
        Quantizer::LloydMax { .. } => 0,
        Quantizer::Q8_0 | Quantizer::Q4_0 => 1,
        Quantizer::Int { .. } => 2,
        Quantizer::Pq { .. } => 3,
        _ => 4,
    }
}

/// Runs the verb.
///
/// # Errors
/// If the dump cannot be read, a codec's name is wrong, or the plot cannot be written.
pub fn run(args: &BenchArgs) -> Result<()> {
    if let Some(What::Select(args)) = &args.what {
        return selection::run(args);
    }
    let specs = parse_codecs(&args.codecs)?;
    let dump = crate::dump::open(&args.inputs, &args.dump.open_options())?;
    for assumption in &dump.assumptions {
        say(&format!("note: {assumption}"));
    }
    let layers = choose_layers(&dump, args.layers.as_ref())?;
    let options = Options {
        chunk_tokens: CHUNK_TOKENS,
        keep: keep(args),
        last_queries: args.last_queries.get(),
        jobs: args.jobs.get(),
    };
    let kv_specs: Vec<KvSpec> = specs.iter().map(|(_, spec)| *spec).collect();
    let measured = quality::measure(&dump, &layers, &kv_specs, &options)?;
    let mut able: Vec<(&str, KvSpec, Quality)> = Vec::new();
    for ((name, spec), quality) in specs.iter().zip(measured) {
        match quality {
            Ok(quality) => able.push((name, *spec, quality)),
            Err(why) => say(&format!("{name}: left out: {why:#}")),
        }
    }
    let rows = time(&dump, &layers, able, args)?;
    let noisy = rows.iter().any(|r| r.timing.encode.spread.max(r.timing.decode.spread) > NOISY);
    if noisy {
        say(&format!(
            "warning: median rounds took over {:.0} % longer than the best: the machine was busy, compare speeds with care",
            NOISY * 100.0
        ));
    }
    if let Some(path) = &args.plot {
        let drawn = plot(&dump, &layers, &rows, args);
        fs::write(path, drawn).with_context(|| format!("{}: cannot write the plot", path.display()))?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&to_json(&dump, &layers, &rows, args, noisy))? + "\n"
    } else {
        format!("{}\n{}", about(&dump, &layers, args), table(&rows))
    };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

fn say(line: &str) {
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Names and specs of a list separated by spaces, or by commas that do not belong to `k=...,v=...`.
fn parse_codecs(list: &str) -> Result<Vec<(String, KvSpec)>> {
    let mut names: Vec<String> = Vec::new();
    for word in list.split_whitespace() {
        for part in word.split(',').filter(|p| !p.is_empty()) {
            match names.last_mut() {
                Some(k) if part.starts_with("v=") && k.starts_with("k=") && !k.contains(',') => {
                    k.push(',');
                    k.push_str(part);
                }
                _ => names.push(part.to_owned()),
            }
        }
    }
    let parse = |name: String| match name.parse::<KvSpec>() {
        Ok(spec) => Ok((name, spec)),
        Err(why) => Err(Fault::usage(format!("codec `{name}`: {why}"))),
    };
    names.into_iter().map(parse).collect()
}

fn choose_layers(dump: &Dump, wanted: Option<&IndexSet>) -> Result<Vec<Layer>> {
    let all = heads::layers(dump);
    let chosen: Vec<Layer> = match wanted {
        Some(set) => all.into_iter().filter(|l| set.contains(l.layer as usize)).collect(),
        None if all.len() <= DEFAULT_LAYERS => all,
        None => (0..DEFAULT_LAYERS).map(|i| all[i * (all.len() - 1) / (DEFAULT_LAYERS - 1)]).collect(),
    };
    if chosen.is_empty() {
        return Err(Fault::usage("no layer with both keys and values is selected"));
    }
    Ok(chosen)
}

/// Times every codec on one core over chunks that are spread evenly over the chosen layers.
fn time(
    dump: &Dump,
    layers: &[Layer],
    able: Vec<(&str, KvSpec, Quality)>,
    args: &BenchArgs,
) -> Result<Vec<Row>> {
    let streams: Vec<usize> = layers.iter().flat_map(|l| [l.k, l.v]).collect();
    let chunks = sample(dump, &streams)?;
    let rivals = [("memcpy", Method::Memcpy), ("zstd -1", Method::Zstd(1)), ("zstd -3", Method::Zstd(3))];
    let codecs: Vec<Vec<StreamCodec>> = able
        .iter()
        .map(|(_, _, quality)| stream_codecs(dump, &streams, quality, keep(args)))
        .collect::<Result<_>>()?;
    let (names, mut methods): (Vec<&str>, Vec<Method<'_>>) = rivals.into_iter().unzip();
    methods.extend(codecs.iter().map(|streams| Method::Codec(streams)));
    let timings = speed::race(&methods, &chunks, args.seconds)?;

    let (rival_timings, codec_timings) = timings.split_at(names.len());
    let source_bits = able.first().map_or(16.0, |(_, _, q)| 8.0 * q.source_bytes as f64 / q.n_values as f64);
    let mut rows: Vec<Row> = able
        .into_iter()
        .zip(codec_timings)
        .map(|((name, spec, q), timing)| Row {
            name: name.to_owned(),
            family: family(&spec),
            bits: 8.0 * q.coded_bytes as f64 / q.n_values as f64,
            ratio: q.source_bytes as f64 / q.coded_bytes as f64,
            errors: Some((q.k_error, q.v_error)),
            output_error: q.output_error,
            timing: *timing,
        })
        .collect();
    rows.sort_by(|a, b| b.bits.total_cmp(&a.bits));
    let rival = |(name, timing): (&str, &Timing)| {
        let ratio = timing.sample_bytes as f64 / timing.coded_bytes as f64;
        Row {
            name: name.to_owned(),
            family: RIVAL,
            bits: source_bits / ratio,
            ratio,
            errors: None,
            output_error: None,
            timing: *timing,
        }
    };
    let mut all: Vec<Row> = names.into_iter().zip(rival_timings).map(rival).collect();
    all.extend(rows);
    Ok(all)
}

/// Chunks of the streams, first chunks of all streams first, up to the sample's size.
fn sample<'a>(dump: &'a Dump, streams: &[usize]) -> Result<Vec<SampleChunk<'a>>> {
    let mut chunks = Vec::new();
    let most =
        streams.iter().map(|s| dump.streams[*s].shape.n_tokens.div_ceil(CHUNK_TOKENS)).max().unwrap_or(0);
    let mut bytes = 0;
    for c in 0..most {
        for (stream, &i) in streams.iter().enumerate() {
            let view = dump.view(i)?;
            let n_tokens = view.shape().n_tokens;
            let tokens = (c * CHUNK_TOKENS).min(n_tokens)..((c + 1) * CHUNK_TOKENS).min(n_tokens);
            let chunk = SampleChunk { stream, view, tokens };
            bytes += chunk.len_bytes();
            if bytes > speed::SAMPLE_BYTES && !chunks.is_empty() {
                return Ok(chunks);
            }
            if chunk.len_bytes() > 0 {
                chunks.push(chunk);
            }
        }
    }
    Ok(chunks)
}

fn keep(args: &BenchArgs) -> Keep {
    Keep { sinks: args.keep_sinks, recent: 0 }
}

fn stream_codecs(dump: &Dump, streams: &[usize], quality: &Quality, keep: Keep) -> Result<Vec<StreamCodec>> {
    let one = |&stream: &usize| {
        let s = &dump.streams[stream];
        let codec = |head| quality.codecs.get(&(stream, head)).context("a head without a codec");
        let codecs = (0..s.shape.n_kv_heads).map(|h| Ok(codec(h)?.codec.clone())).collect::<Result<_>>()?;
        Ok(StreamCodec::new(s.shape.dtype, s.shape.head_dim, codecs, keep.rows(s))?)
    };
    streams.iter().map(one).collect()
}

pub(crate) fn source_name(dump: &Dump) -> String {
    match &dump.files[..] {
        [one] => one.name.clone(),
        [first, rest @ ..] => format!("{} and {} more", first.name, rest.len()),
        [] => "an empty dump".into(),
    }
}

/// What was measured, in one line.
fn about(dump: &Dump, layers: &[Layer], args: &BenchArgs) -> String {
    let shape = dump.streams[layers[0].k].shape;
    let numbers: Vec<u32> = layers.iter().map(|l| l.layer).collect();
    let sinks = match args.keep_sinks {
        0 => String::new(),
        n => format!("; first {n} tokens exact"),
    };
    format!(
        "{}: layers {}, {} tokens, {} kv heads x {}, {}{sinks}; {}",
        source_name(dump),
        runs(&numbers),
        shape.n_tokens,
        shape.n_kv_heads,
        shape.head_dim,
        shape.dtype,
        cpu::level()
    )
}

fn table(rows: &[Row]) -> Table {
    let queries = rows.iter().any(|r| r.output_error.is_some());
    let mut titles = vec!["codec", "bits", "ratio", "K error", "V error"];
    if queries {
        titles.extend(["output error", "p95"]);
    }
    titles.extend(["encode GB/s", "decode GB/s", "spread"]);
    let mut table = Table::new(&titles);
    for row in rows {
        let mut cells = vec![row.name.clone(), format!("{:.2}", row.bits), format!("{:.2}", row.ratio)];
        let (k, v) = row.errors.unwrap_or((0.0, 0.0));
        cells.extend([error(k), error(v)]);
        if queries {
            let (mean, p95) = row.output_error.unwrap_or((0.0, 0.0));
            cells.extend([error(mean), error(p95)]);
        }
        let t = &row.timing;
        cells.extend([t.encode.gb_per_s, t.decode.gb_per_s].map(|speed| format!("{speed:.2}")));
        cells.push(format!("{:.0}%", 100.0 * t.encode.spread.max(t.decode.spread)));
        table.row(cells);
    }
    table
}

fn to_json(dump: &Dump, layers: &[Layer], rows: &[Row], args: &BenchArgs, noisy: bool) -> Value {
    let shape = dump.streams[layers[0].k].shape;
    let row = |r: &Row| {
        let (k, v) = r.errors.unwrap_or((0.0, 0.0));
        json!({
            "codec": r.name,
            "bits": r.bits,
            "ratio": r.ratio,
            "k_error": k,
            "v_error": v,
            "output_error": r.output_error.map(|e| e.0),
            "output_error_p95": r.output_error.map(|e| e.1),
            "encode_gb_s": r.timing.encode.gb_per_s,
            "encode_spread": r.timing.encode.spread,
            "decode_gb_s": r.timing.decode.gb_per_s,
            "decode_spread": r.timing.decode.spread,
        })
    };
    json!({
        "source": source_name(dump),
        "layers": layers.iter().map(|l| l.layer).collect::<Vec<_>>(),
        "n_tokens": shape.n_tokens,
        "n_kv_heads": shape.n_kv_heads,
        "head_dim": shape.head_dim,
        "dtype": shape.dtype.name(),
        "keep_sinks": args.keep_sinks,
        "cpu": cpu::level().name(),
        "noisy": noisy,
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn plot(dump: &Dump, layers: &[Layer], rows: &[Row], args: &BenchArgs) -> String {
    let queries = rows.iter().any(|r| r.output_error.is_some());
    let point = |r: &Row| {
        let (k, v) = r.errors.unwrap_or((0.0, 0.0));
        let y = match r.output_error {
            Some((mean, _)) => mean,
            None => f64::midpoint(k * k, v * v).sqrt(),
        };
        Point { x: r.bits, y, label: r.name.clone(), family: r.family }
    };
    svg(&Plot {
        title: "Size and error of key/value-cache codecs",
        subtitle: &about(dump, layers, args),
        x_label: "bits per value, side data included",
        y_label: if queries {
            "relative error of attention outputs"
        } else {
            "relative error of keys and values (rms)"
        },
        families: &FAMILIES,
        points: &rows.iter().map(point).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_may_use_spaces_commas_and_pairs() {
        let names = |list| parse_codecs(list).unwrap().into_iter().map(|c| c.0).collect::<Vec<_>>();
        assert_eq!(names("raw had+lm4"), ["raw", "had+lm4"]);
        assert_eq!(names("raw,k=had+lm4,v=had+lm3,q8_0"), ["raw", "k=had+lm4,v=had+lm3", "q8_0"]);
        assert!(parse_codecs("raw,nonsense").is_err());
    }

    #[test]
    fn the_default_list_is_made_of_codecs() {
        assert_eq!(parse_codecs(DEFAULT_CODECS).unwrap().len(), DEFAULT_CODECS.split_whitespace().count());
    }
}
