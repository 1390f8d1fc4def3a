//! The command line: verbs, options and help texts. No logic beyond parsing.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use tersa_core::codec::Preset;

use crate::dump::layout::Target;
use crate::dump::{AxisOrder, Kind, NameMap, OpenOptions, Rotation, SourceFormat};

const SHORT_HELP: &str = "\
Examples:
  tersa compress kv.safetensors -o kv.tersa           # a quarter of f16
  tersa compress kv.safetensors --ratio 6 -o 6.tersa  # by layer, 6 times smaller
  tersa decompress kv.tersa -o back.safetensors       # every byte in its place

Exit codes: 0 ok, 1 failure, 2 usage, 3 damage found, 4 target not met.
`tersa VERB --help` explains a verb and shows more examples.";

/// Compress key/value-cache dumps of language models into small, checked, randomly readable files.
#[derive(Debug, Parser)]
#[command(name = "tersa", version, about, arg_required_else_help = true, after_help = SHORT_HELP)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Pack a cache dump into a .tersa file
    Compress(CompressArgs),
    /// Bring a dump back, whole or in part, in its own format or another
    Decompress(DecompressArgs),
    /// Show what a .tersa file or a dump holds
    Inspect(InspectArgs),
    /// Check every byte of a .tersa file, and its error against the original
    Verify(VerifyArgs),
    /// Measure codecs on your own dump: bits, ratio, error, speed
    Bench(Box<crate::bench::BenchArgs>),
    /// Measure what compression, or attention to chosen tokens only, does to attention outputs
    Eval(crate::eval::EvalArgs),
    /// Print the completion script of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page for each verb into a folder
    Man {
        /// Folder to write tersa.1, tersa-compress.1, ... into
        dir: Option<PathBuf>,
    },
}

/// How to read a source that does not say everything itself.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Reading the dump")]
pub struct DumpArgs {
    /// What the input is, if its bytes and name do not tell
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<SourceFormat>,
    /// Order of the axes: bhtd, bthd, hbtd, htd, thd or t(hd); arrays also have l and 2, e.g. l2htd
    #[arg(long, value_name = "AXES")]
    pub layout: Option<AxisOrder>,
    /// Tensor names, {i} for the layer: 'K=NAME,V=NAME'
    #[arg(long, value_name = "NAMES")]
    pub map: Option<NameMap>,
    /// Elements of one head's row, where the shape does not tell
    #[arg(long, value_name = "N", value_parser = count)]
    pub head_dim: Option<NonZeroUsize>,
    /// Number of key/value heads, where the shape does not tell
    #[arg(long, value_name = "N", value_parser = count)]
    pub kv_heads: Option<NonZeroUsize>,
    /// The model's config.json, for its head counts [default: the one beside the dump, if there is one]
    #[arg(long, value_name = "FILE")]
    pub model_config: Option<PathBuf>,
    /// Whether quantized llama.cpp caches hold rotated rows: assume or none (only old files do not say)
    #[arg(long, value_name = "WHEN", default_value = "assume")]
    pub llama_rotation: Rotation,
}

impl DumpArgs {
    /// The readers' options.
    #[must_use]
    pub fn open_options(&self) -> OpenOptions {
        OpenOptions {
            format: self.format,
            layout: self.layout.clone(),
            map: self.map.clone(),
            head_dim: self.head_dim.map(NonZeroUsize::get),
            n_kv_heads: self.kv_heads.map(NonZeroUsize::get),
            model_config: self.model_config.clone(),
            rotation: self.llama_rotation,
        }
    }
}

impl ValueEnum for SourceFormat {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.name()))
    }
}

/// Which part of the cache.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Selection")]
pub struct SelectArgs {
    /// Only these layers, e.g. 0-3,7
    #[arg(long, value_name = "LIST")]
    pub layers: Option<IndexSet>,
    /// Only these tokens (rows): a..b, a.. or ..b
    #[arg(long, value_name = "RANGE")]
    pub tokens: Option<TokenRange>,
    /// Only these key/value heads, e.g. 0,2
    #[arg(long, value_name = "LIST")]
    pub heads: Option<IndexSet>,
}

impl SelectArgs {
    /// Whether anything is left out at all.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.layers.is_none() && self.tokens.is_none() && self.heads.is_none()
    }
}

/// How much to say and where.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Output")]
pub struct TalkArgs {
    /// Report as JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more
    #[arg(short, long)]
    pub verbose: bool,
}

/// How many threads.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct JobsArgs {
    /// Threads [default: one for each core]
    #[arg(short = 'j', long = "jobs", value_name = "N", value_parser = count)]
    pub jobs: Option<NonZeroUsize>,
}

impl JobsArgs {
    /// The number of worker threads to use.
    #[must_use]
    pub fn get(self) -> usize {
        self.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }
}

/// `tersa compress`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Without a target the preset `safe` is used. The targets --bits, --ratio and \
--max-rel-error measure candidates on evenly spread chunks of each stream, choose, and \
check the recorded result; a target that cannot be met exits with 4.

Codecs, for keys and values apart as k=SPEC,v=SPEC:
  raw, lossless, q8_0, q4_0, had+q8_0, had+q4_0,
  [mean+]had+lm{2,3,4,5,6,8}[+unbiased|+ls], int{2,4,8}{c,t}{32,64,128},
  kivi{2,4,8}g{32,64,128}, pq:{m}x{4,6,8}

Policy files give codecs to parts of the cache; the first rule that matches decides, \
the target covers the rest:
  [[rule]]
  layers = \"0-1\"        # and/or heads = \"0,2\", kind = \"k\"
  codec = \"q8_0\"

Examples:
  tersa compress kv.safetensors                        # -> kv.tersa
  tersa compress kv.safetensors -o kv4.tersa --codec k=had+lm4,v=had+lm3
  tersa compress slot0.bin --preset lossless           # back byte for byte
  tersa compress kv.safetensors --bits 3 -o kv3.tersa  # at most 3 bits a value
  tersa compress dumps/*.safetensors --max-rel-error 0.02 -o packed/
  cat kv.safetensors | tersa compress - -o - > kv.tersa")]
pub struct CompressArgs {
    /// Dumps: files, folders of one dump, or - for standard input
    #[arg(required = true, value_name = "IN")]
    pub inputs: Vec<PathBuf>,
    /// Where to write: a file, a folder for several inputs, or - [default: IN with the suffix .tersa]
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap makes a doc comment on a flattened group the verb's description")]
    pub target: TargetArgs,
    /// Codecs for layers, heads and kinds, in TOML (see below)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bits", "ratio", "max_rel_error"])]
    pub policy: Option<PathBuf>,
    /// Keep the first N positions exact
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub keep_sinks: usize,
    /// Keep the last N tokens of each sequence exact
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_recent: usize,
    /// Tokens in a chunk, the unit of random access
    #[arg(long, value_name = "TOKENS", default_value = "256", value_parser = count)]
    pub chunk: NonZeroUsize,
    /// Leave out everything that is not keys and values (other tensors, token lists)
    #[arg(long)]
    pub kv_only: bool,
    /// Overwrite existing files
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub jobs: JobsArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub select: SelectArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub dump: DumpArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub talk: TalkArgs,
}

/// What to aim at. At most one.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Target (one of)")]
#[group(id = "target", multiple = false)]
pub struct TargetArgs {
    /// One codec for everything: SPEC or k=SPEC,v=SPEC
    #[arg(long, value_name = "SPEC")]
    pub codec: Option<String>,
    /// A named choice [default: safe]
    #[arg(long, value_enum)]
    pub preset: Option<PresetArg>,
    /// At most B bits for each key or value element, everything counted
    #[arg(long, value_name = "B", value_parser = positive)]
    pub bits: Option<f64>,
    /// Keys and values at least R times smaller
    #[arg(long, value_name = "R", value_parser = positive)]
    pub ratio: Option<f64>,
    /// Relative error (Frobenius) of every layer's K and of its V at most E
    #[arg(long, value_name = "E", value_parser = positive)]
    pub max_rel_error: Option<f64>,
}

/// The presets, see [`Preset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PresetArg {
    /// About a quarter of f16
    Safe,
    /// About a fifth of f16
    Balanced,
    /// About a seventh of f16
    Small,
    /// Every bit comes back
    Lossless,
}

impl From<PresetArg> for Preset {
    fn from(preset: PresetArg) -> Self {
        match preset {
            PresetArg::Safe => Self::Safe,
            PresetArg::Balanced => Self::Balanced,
            PresetArg::Small => Self::Small,
            PresetArg::Lossless => Self::Lossless,
        }
    }
}

/// `tersa decompress`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Without a selection and --to, the source's files come back as they were laid out: \
byte for byte from `raw` and `lossless`, of equal size and loadable from every other \
codec. Checksums are always verified. Another format may not hold everything; what is \
left out is said.

Examples:
  tersa decompress kv.tersa                    # under the source's name
  tersa decompress slot0.tersa -o slot0.bin
  tersa decompress kv.tersa --to npz -o kv.npz
  tersa decompress kv.tersa --layers 1 --tokens 0..256 -o part.safetensors
  tersa decompress kv.tersa -o - | sha256sum")]
pub struct DecompressArgs {
    /// A .tersa file, or - for standard input
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// Where to write: a file, a folder for a dump of several files, or - [default: the source's name beside IN]
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
    /// Write this format instead of the source's: safetensors, npy, npz, llama, llama-session[:10|:11] or
    /// llama-sequence[:3|:4]
    #[arg(long, value_name = "FORMAT", value_parser = to_format)]
    pub to: Option<ToArg>,
    /// Overwrite existing files
    #[arg(short, long)]
    pub force: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap makes a doc comment on a flattened group the verb's description")]
    pub jobs: JobsArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub select: SelectArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub talk: TalkArgs,
}

/// What `decompress` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToArg {
    /// This format.
    Format(Target),
    /// The kind of llama.cpp file that the source was, of this version or its own.
    Llama(Option<u32>),
}

fn to_format(s: &str) -> Result<ToArg, String> {
    match s.split_once(':') {
        None if s == "llama" => Ok(ToArg::Llama(None)),
        Some(("llama", v)) => {
            Ok(ToArg::Llama(Some(v.parse().map_err(|_| format!("`{s}`: no version number"))?)))
        }
        _ => s.parse().map(ToArg::Format).map_err(|e: anyhow::Error| format!("{e:#}")),
    }
}

/// `tersa inspect`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Reads only a file's tables and headers, never its rows.

Examples:
  tersa inspect kv.tersa
  tersa inspect kv.safetensors                 # what `compress` would find there
  tersa inspect kv.tersa --json | jq '.streams[0].codec'
  tersa inspect kv.tersa -v                    # one line for each stream")]
pub struct InspectArgs {
    /// A .tersa file, - for one on standard input, or a dump: a file or folder
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap makes a doc comment on a flattened group the verb's description")]
    pub dump: DumpArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap makes a doc comment on a flattened group the verb's description")]
    pub talk: TalkArgs,
}

/// `tersa verify`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Reads every byte, checks every checksum and decodes every chunk. Exits with 3 if \
anything is damaged, with 4 if the error against the original exceeds --max-rel.

Examples:
  tersa verify kv.tersa
  tersa verify kv.tersa --against kv.safetensors
  tersa verify kv.tersa --against kv.safetensors --max-rel 0.1")]
pub struct VerifyArgs {
    /// A .tersa file
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// Compare with the dump it was made from
    #[arg(long, value_name = "ORIG")]
    pub against: Option<PathBuf>,
    /// Largest relative error (Frobenius) allowed for any layer's K or V
    #[arg(long, value_name = "E", requires = "against", value_parser = not_negative)]
    pub max_rel: Option<f64>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap makes a doc comment on a flattened group the verb's description")]
    pub jobs: JobsArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub dump: DumpArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see above")]
    pub talk: TalkArgs,
}

/// A count that cannot be 0.
pub(crate) fn count(s: &str) -> Result<NonZeroUsize, String> {
    s.parse().map_err(|_| "expected a whole number above 0".into())
}

fn positive(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(v) if v.is_finite() && v > 0.0 => Ok(v),
        _ => Err("expected a number above 0".into()),
    }
}

fn not_negative(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(v) if v.is_finite() && v >= 0.0 => Ok(v),
        _ => Err("expected a number, 0 or above".into()),
    }
}

/// A set of small numbers written as `0-3,7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSet(Vec<(u32, u32)>);

impl IndexSet {
    /// Whether `n` is in the set.
    #[must_use]
    pub fn contains(&self, n: usize) -> bool {
        self.0.iter().any(|&(a, b)| (a as usize..=b as usize).contains(&n))
    }
}

impl fmt::Display for IndexSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (a, b)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if a == b { write!(f, "{comma}{a}")? } else { write!(f, "{comma}{a}-{b}")? }
        }
        Ok(())
    }
}

impl FromStr for IndexSet {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number =
            |t: &str| t.trim().parse::<u32>().map_err(|_| format!("`{t}` is not a number; write 0-3,7"));
        let part = |p: &str| {
            let (a, b) = p.split_once('-').unwrap_or((p, p));
            match (number(a)?, number(b)?) {
                (a, b) if a <= b => Ok((a, b)),
                (a, b) => Err(format!("the range {a}-{b} is empty; write the smaller number first")),
            }
        };
        Ok(Self(s.split(',').map(part).collect::<Result<_, _>>()?))
    }
}

/// A range of tokens written as `a..b`, `a..` or `..b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRange {
    start: usize,
    end: Option<usize>,
}

impl TokenRange {
    /// The part of the range that lies within `n_tokens`; empty if none does.
    #[must_use]
    pub fn within(&self, n_tokens: usize) -> Range<usize> {
        let end = self.end.unwrap_or(n_tokens).min(n_tokens);
        self.start.min(end)..end
    }
}

impl fmt::Display for TokenRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", self.start)?;
        self.end.map_or(Ok(()), |end| write!(f, "{end}"))
    }
}

impl FromStr for TokenRange {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (a, b) = s.split_once("..").ok_or("write a..b, a.. or ..b")?;
        let number =
            |t: &str| t.trim().parse::<usize>().map_err(|_| format!("`{t}` is not a number; write a..b"));
        let start = if a.trim().is_empty() { 0 } else { number(a)? };
        let end = if b.trim().is_empty() { None } else { Some(number(b)?) };
        match end {
            Some(end) if end <= start => Err(format!("the range {start}..{end} is empty")),
            _ => Ok(Self { start, end }),
        }
    }
}

/// `K` or `V`, as reports and tables print it.
#[must_use]
pub const fn kind_letter(kind: Kind) -> &'static str {
    match kind {
        Kind::K => "K",
        Kind::V => "V",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn index_sets_hold_single_numbers_and_ranges() {
        let set: IndexSet = "0-3,7".parse().unwrap();
        let held: Vec<usize> = (0..10).filter(|&n| set.contains(n)).collect();
        assert_eq!(held, [0, 1, 2, 3, 7]);
        assert_eq!(set.to_string(), "0-3,7");
        for bad in ["", "3-1", "a", "1-", "-1", "1,,2"] {
            assert!(bad.parse::<IndexSet>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn token_ranges_are_clipped_to_the_tokens_there_are() {
        let range = |s: &str| s.parse::<TokenRange>().unwrap();
        assert_eq!(range("2..5").within(10), 2..5);
        assert_eq!(range("2..").within(4), 2..4);
        assert_eq!((range("2..").to_string(), range("..3").to_string()), ("2..".into(), "0..3".into()));
        assert_eq!(range("..3").within(2), 0..2);
        assert_eq!(range("5..9").within(3), 3..3);
        for bad in ["", "3", "5..5", "6..5", "x..3"] {
            assert!(bad.parse::<TokenRange>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn only_one_target_is_accepted() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["tersa", "compress", "x"], args].concat());
        assert!(parse(&["--bits", "3"]).is_ok());
        assert!(parse(&["--bits", "3", "--ratio", "4"]).is_err());
        assert!(parse(&["--preset", "safe", "--codec", "raw"]).is_err());
        assert!(parse(&["--bits", "0"]).is_err());
        assert!(parse(&["--policy", "p.toml", "--bits", "2"]).is_err());
    }
}
