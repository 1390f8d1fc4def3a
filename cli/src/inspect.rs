//! `tersa inspect`: what a file holds, from its tables alone.

mod dump;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tersa_core::format::HeadStats;
use tersa_core::format::{FormatError, MAGIC, ReadAt, ReadError, Section, StreamInfo};

use crate::archive::Archive;
use crate::args::{InspectArgs, kind_letter};
use crate::files::FileBytes;
use crate::output::is_dash;
use crate::pack::total;
use crate::report::{Bytes, Ratio, RelError, Table, runs};

/// The tables of a file, in its order.
const SECTIONS: [Section; 9] = [
    Section::Codecs,
    Section::Streams,
    Section::Heads,
    Section::Chunks,
    Section::Stats,
    Section::Metadata,
    Section::Source,
    Section::Verbatim,
    Section::Index,
];

/// Runs the verb.
///
/// # Errors
/// If the file cannot be read or its tables are damaged.
pub fn run(args: &InspectArgs) -> Result<()> {
    if !is_dash(&args.input) && !begins_as_container(&args.input)? {
        return dump::run(args);
    }
    let archive = Archive::open(&args.input)?;
    let facts = Facts::read(&archive)?;
    let text = if args.talk.json {
        format!("{:#}\n", facts.json(&archive))
    } else {
        facts.text(&archive, args.talk.verbose)
    };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

/// Whether to read the file as a container: it begins as one, or is called one and should be told that it is none.
fn begins_as_container(path: &Path) -> Result<bool> {
    let name = || path.display().to_string();
    if path.is_dir() {
        return Ok(false);
    }
    if path.extension().is_some_and(|e| e == "tersa") {
        return Ok(true);
    }
    let mut start = Vec::new();
    File::open(path).and_then(|f| f.take(8).read_to_end(&mut start)).with_context(name)?;
    Ok(start == MAGIC)
}

/// What is shown of one stream.
struct Stream {
    info: StreamInfo,
    /// The codec of each head.
    codecs: Vec<String>,
    exact: usize,
    chunks: usize,
    chunk_bytes: u64,
    stats: Option<Vec<HeadStats>>,
}

struct Facts {
    streams: Vec<Stream>,
    /// Source files, and bytes outside their tensors.
    source: Option<(Vec<(String, u64)>, u64)>,
    verbatim_stored: u64,
}

impl Facts {
    fn read<R>(archive: &Archive<R>) -> Result<Self>
    where
        R: ReadAt,
        R::Error: std::error::Error + Send + Sync + 'static,
    {
        let reader = &archive.reader;
        let explain = |e: ReadError<R::Error>| archive.explain(e);
        let stats = reader.stats().map_err(explain)?;
        let mut streams = Vec::new();
        for (i, &info) in reader.streams().iter().enumerate() {
            let name = |codec: u32| {
                let (index, count) = (codec as usize, reader.codecs().len());
                let missing = FormatError::NoSuch { what: "codec", index, count };
                reader.codecs().get(index).cloned().ok_or(ReadError::Format(missing))
            };
            let heads = reader.heads(i).map_err(explain)?;
            let index = reader.chunk_index(i).map_err(explain)?;
            streams.push(Stream {
                info,
                codecs: heads.iter().map(|h| name(h.codec)).collect::<Result<_, _>>().map_err(explain)?,
                exact: reader.exact(i).map_err(explain)?.len(),
                chunks: index.chunks().len(),
                chunk_bytes: index.chunks().iter().map(|c| u64::from(c.length)).sum(),
                stats: stats.get(i).cloned(),
            });
        }
        let source = reader.source().map_err(explain)?;
        let verbatim = reader.verbatim().map_err(explain)?;
        Ok(Self {
            streams,
            source: source
                .map(|s| (s.files.iter().map(|f| (f.name.clone(), f.length)).collect(), s.verbatim_len())),
            verbatim_stored: verbatim.iter().map(|b| u64::from(b.stored_len)).sum(),
        })
    }

    fn kv_len(&self) -> u64 {
        self.streams.iter().map(Stream::len_bytes).sum()
    }

    fn text(&self, archive: &Archive<FileBytes>, verbose: bool) -> String {
        let (reader, meta) = (&archive.reader, &archive.meta);
        let mut text = format!(
            "{}: {}, format {}.{}, by {}\n",
            archive.name(),
            Bytes(reader.file_len()),
            reader.version().major,
            reader.version().minor,
            if meta.creator.is_empty() { "an unknown program" } else { &meta.creator },
        );
        let mut field = |name: &str, value: String| text += &format!("  {name:<10} {value}\n");
        if let Some((files, _)) = &self.source {
            let names = match &files[..] {
                [(name, len)] => format!("{name}, {}", Bytes(*len)),
                _ => format!("{} files, {}", files.len(), Bytes(files.iter().map(|f| f.1).sum())),
            };
            field("source", format!("{names} ({})", meta.source_format));
        } else {
            field("source", format!("{}, keys and values only", meta.source_format));
        }
        for key in ["model", "name", "arch", "tokenizer"] {
            if let Some(Value::String(value)) = meta.source.get(key) {
                field(key, value.clone());
            }
        }
        field(
            "keys",
            format!(
                "{} RoPE",
                match meta.rope.as_str() {
                    "pre" => "before",
                    "post" => "after",
                    _ => "before or after (unknown)",
                }
            ),
        );
        if let Some(Value::String(target)) = meta.plan.get("target") {
            field("made for", target.clone());
        }
        let (kv, coded) = (self.kv_len(), reader.file_len() - self.verbatim_stored);
        field("K and V", format!("{} in {} ({})", Bytes(kv), Bytes(coded), Ratio { from: kv, to: coded }));
        if let Some((_, verbatim)) = self.source.as_ref().filter(|s| s.1 > 0) {
            field("other data", format!("{} in {}", Bytes(*verbatim), Bytes(self.verbatim_stored)));
        }
        let exact = self.streams.iter().map(|s| s.exact).max().unwrap_or(0);
        let (chunks, size) = (
            self.streams.iter().map(|s| s.chunks).sum::<usize>(),
            self.streams.first().map_or(0, |s| s.info.chunk_tokens),
        );
        field("chunks", format!("{chunks} of {size} tokens; {exact} tokens of a stream exact"));
        let sections = SECTIONS.into_iter().filter(|&s| reader.section_len(s) > 0);
        let sizes: Vec<String> =
            sections.map(|s| format!("{} {}", s.name(), Bytes(reader.section_len(s)))).collect();
        field("tables", sizes.join(", "));
        for note in &meta.assumptions {
            field("assumed", note.clone());
        }
        text.push('\n');
        text + &self.table(verbose).to_string()
    }

    /// One line for each run of layers that are alike, or for each stream.
    fn table(&self, verbose: bool) -> Table {
        let mut table =
            Table::new(&["layers", "", "tokens", "heads", "dim", "type", "codec", "bits", "rel. error"]);
        let mut done = vec![false; self.streams.len()];
        for (i, first) in self.streams.iter().enumerate() {
            if done[i] {
                continue;
            }
            let alike = |s: &Stream| if verbose { std::ptr::eq(s, first) } else { s.looks_like(first) };
            let group: Vec<&Stream> = self.streams.iter().filter(|s| alike(s)).collect();
            for (done, s) in done.iter_mut().zip(&self.streams) {
                *done |= alike(s);
            }
            let mut layers: Vec<u32> = group.iter().map(|s| s.info.layer).collect();
            layers.dedup();
            let stats = total(group.iter().flat_map(|s| s.stats.iter().flatten()));
            let known = group.iter().all(|s| s.stats.is_some());
            let shape = first.info.shape;
            let part = if self.streams.iter().all(|s| s.info.part == 0) {
                String::new()
            } else {
                format!("{}.", first.info.part)
            };
            table.row([
                format!("{part}{}", runs(&layers)),
                kind_letter(first.info.kind).into(),
                shape.n_tokens.to_string(),
                shape.n_kv_heads.to_string(),
                shape.head_dim.to_string(),
                shape.dtype.to_string(),
                first.codec_text(),
                format!("{:.3}", bits(&group)),
                if known { RelError(stats.rel_error()).to_string() } else { "-".into() },
            ]);
        }
        table
    }

    fn json(&self, archive: &Archive<FileBytes>) -> Value {
        let reader = &archive.reader;
        let sections: serde_json::Map<String, Value> = SECTIONS
            .into_iter()
            .filter(|&s| reader.section_len(s) > 0)
            .map(|s| (s.name().into(), reader.section_len(s).into()))
            .collect();
        json!({
            "file": archive.name(), "bytes": reader.file_len(),
            "format_version": format!("{}.{}", reader.version().major, reader.version().minor),
            "metadata": archive.meta,
            "source": self.source.as_ref().map(|(files, verbatim)| json!({
                "files": files.iter().map(|(n, l)| json!({ "name": n, "bytes": l })).collect::<Vec<_>>(),
                "other_bytes": verbatim, "other_bytes_stored": self.verbatim_stored,
            })),
            "sections": sections,
            "streams": self.streams.iter().map(Stream::json).collect::<Vec<_>>(),
        })
    }
}

#[allow(clippy::cast_precision_loss, reason = "bits are shown with three digits")]
fn bits(streams: &[&Stream]) -> f64 {
    let bytes: u64 = streams.iter().map(|s| s.chunk_bytes).sum();
    let values: usize = streams.iter().map(|s| s.info.shape.n_values()).sum();
    bytes as f64 * 8.0 / values.max(1) as f64
}

impl Stream {
    fn len_bytes(&self) -> u64 {
        let shape = &self.info.shape;
        (shape.n_tokens * shape.n_kv_heads * shape.row_bytes()) as u64
    }

    fn looks_like(&self, other: &Self) -> bool {
        let of = |s: &Self| (s.info.part, s.info.kind, s.info.shape, s.info.hadamard, s.exact);
        of(self) == of(other) && self.codecs == other.codecs
    }

    /// The codec, or the heads of each where they differ.
    fn codec_text(&self) -> String {
        let mut names: Vec<&String> = self.codecs.iter().collect();
        names.sort();
        names.dedup();
        if let [one] = names[..] {
            return one.clone();
        }
        let heads = |name: &String| {
            let which = self.codecs.iter().zip(0u32..).filter(|(c, _)| *c == name).map(|(_, h)| h);
            format!("{name} (heads {})", runs(&which.collect::<Vec<_>>()))
        };
        names.into_iter().map(heads).collect::<Vec<_>>().join(", ")
    }

    fn json(&self) -> Value {
        let shape = &self.info.shape;
        let error = |s: &HeadStats| json!({ "rel_error": s.rel_error(), "max_abs_error": s.max_abs_error, "raw_tiles": s.raw_tiles });
        json!({
            "part": self.info.part, "layer": self.info.layer, "kind": kind_letter(self.info.kind),
            "n_tokens": shape.n_tokens, "n_kv_heads": shape.n_kv_heads, "head_dim": shape.head_dim,
            "dtype": shape.dtype.name(), "hadamard": self.info.hadamard,
            "codec": self.codec_text(), "codecs": self.codecs, "exact_tokens": self.exact,
            "chunk_tokens": self.info.chunk_tokens, "chunks": self.chunks, "chunk_bytes": self.chunk_bytes,
            "bits_per_value": bits(&[self]),
            "rel_error": self.stats.as_ref().map(|s| total(s).rel_error()),
            "heads": self.stats.as_ref().map(|s| s.iter().map(error).collect::<Vec<_>>()),
        })
    }
}
