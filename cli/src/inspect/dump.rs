//! What a dump holds, from its headers: what `compress` would find there.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::args::{InspectArgs, kind_letter};
use crate::dump::{Dump, DumpStream, open};
use crate::report::{Bytes, Table, runs};

pub(super) fn run(args: &InspectArgs) -> Result<()> {
    let name = args.input.display().to_string();
    let dump = open(std::slice::from_ref(&args.input), &args.dump.open_options())?;
    let text = if args.talk.json {
        format!("{:#}\n", as_json(&dump, &name))
    } else {
        as_text(&dump, &name, args.talk.verbose)
    };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

fn file_bytes(dump: &Dump) -> u64 {
    dump.files.iter().map(|f| f.bytes.len() as u64).sum()
}

fn kv_bytes(dump: &Dump) -> u64 {
    dump.streams.iter().map(DumpStream::len_bytes).sum()
}

fn as_text(dump: &Dump, name: &str, verbose: bool) -> String {
    let (all, kv) = (file_bytes(dump), kv_bytes(dump));
    let files = if dump.files.len() > 1 { format!(" in {} files", dump.files.len()) } else { String::new() };
    let mut text = format!("{name}: {}{files}, {} dump, not compressed\n", Bytes(all), dump.format);
    let mut field = |name: &str, value: String| text += &format!("  {name:<10} {value}\n");
    for key in ["model", "name", "arch", "tokenizer"] {
        if let Some(Value::String(value)) = dump.meta.get(key) {
            field(key, value.clone());
        }
    }
    field("K and V", Bytes(kv).to_string());
    // Streams never share bytes, so that this does not go below zero for what the readers accept.
    field("other data", Bytes(all.saturating_sub(kv)).to_string());
    if let Some(first) = dump.queries.first() {
        let layers: Vec<u32> = dump.queries.iter().map(|q| q.layer).collect();
        let [heads, n, dim] = first.shape;
        field("queries", format!("layers {}: {heads} heads x {n} x {dim}, {}", runs(&layers), first.dtype));
    }
    if !dump.others.is_empty() {
        field("also", dump.others.join(", "));
    }
    for note in &dump.assumptions {
        field("assumed", note.clone());
    }
    text.push('\n');
    text + &table(dump, verbose).to_string()
}

/// One line for each set of layers that are alike, or for each stream.
fn table(dump: &Dump, verbose: bool) -> Table {
    let mut table = Table::new(&["layers", "", "tokens", "heads", "dim", "type", "rotated"]);
    let several = dump.streams.iter().any(|s| s.part != 0);
    let looks = |s: &DumpStream| (s.part, s.kind, s.shape, s.hadamard);
    for (i, first) in dump.streams.iter().enumerate() {
        let alike = |s: &DumpStream| looks(s) == looks(first);
        if !verbose && dump.streams[..i].iter().any(alike) {
            continue;
        }
        let group = dump.streams.iter().filter(|s| if verbose { std::ptr::eq(*s, first) } else { alike(s) });
        let layers: Vec<u32> = group.map(|s| s.layer).collect();
        let part = if several { format!("{}.", first.part) } else { String::new() };
        table.row([
            format!("{part}{}", runs(&layers)),
            kind_letter(first.kind).into(),
            first.shape.n_tokens.to_string(),
            first.shape.n_kv_heads.to_string(),
            first.shape.head_dim.to_string(),
            first.shape.dtype.to_string(),
            if first.hadamard == 0 { "-".into() } else { first.hadamard.to_string() },
        ]);
    }
    table
}

fn as_json(dump: &Dump, name: &str) -> Value {
    let stream = |s: &DumpStream| {
        json!({
            "part": s.part, "layer": s.layer, "kind": kind_letter(s.kind), "n_tokens": s.shape.n_tokens,
            "n_kv_heads": s.shape.n_kv_heads, "head_dim": s.shape.head_dim, "dtype": s.shape.dtype.name(),
            "hadamard": s.hadamard,
        })
    };
    let files = dump.files.iter().map(|f| json!({ "name": f.name, "bytes": f.bytes.len() }));
    let queries =
        dump.queries.iter().map(|q| json!({ "layer": q.layer, "shape": q.shape, "dtype": q.dtype.name() }));
    json!({
        "dump": name, "format": dump.format.name(), "bytes": file_bytes(dump), "kv_bytes": kv_bytes(dump),
        "files": files.collect::<Vec<_>>(), "metadata": dump.meta, "assumptions": dump.assumptions,
        "queries": queries.collect::<Vec<_>>(), "others": dump.others,
        "streams": dump.streams.iter().map(stream).collect::<Vec<_>>(),
    })
}
