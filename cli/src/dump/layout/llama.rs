//! llama.cpp's state files, from a source that was one: as it was, or in the file version of the other known release,
//! which differs by two words that say how rows are rotated.
//!
//! Checked against the program: f16 and q8_0 sequence files of version 4, written as version 3, load in llama.cpp 0.5.0,
//! and the logits of the next token are bit-equal to those of a run without a file.

use anyhow::{Context, Result, bail, ensure};

use super::{Layout, OutFile};
use crate::dump::llama::default_rotation;
use crate::dump::llama::parse::{Cache, Container, Pieces, State, VERSIONS, Version, parse};
use crate::dump::{Kind, Skeleton, SourceFormat};

/// The two rotation sizes.
const WORDS: u64 = 8;

pub(super) fn layout(source: &Skeleton, container: Container, version: Option<u32>) -> Result<Layout> {
    let own = match source.format {
        SourceFormat::LlamaSession => Container::Session,
        SourceFormat::LlamaSequence => Container::Sequence,
        other => bail!(
            "the source is {other}, which has no llama.cpp cells (sequences and positions of rows): only a llama.cpp state \
             file can be written back as one"
        ),
    };
    let wanted = match container {
        Container::Session => SourceFormat::LlamaSession,
        Container::Sequence => SourceFormat::LlamaSequence,
    };
    ensure!(
        own == container,
        "the source is a {} file, whose cells a {wanted} file cannot hold; --to llama writes the source's own kind",
        source.format
    );
    let [file] = source.files.as_slice() else { bail!("a llama.cpp state is one file") };
    let state = parse(&Pieces::new(file.len, &file.verbatim)).context("the source's headers")?;
    let number = version.unwrap_or(state.version.number);
    if number == state.version.number {
        return Ok(Layout::of_source(source));
    }
    let target = VERSIONS.into_iter().find(|v| v.container == container && v.number == number);
    let target = target.with_context(|| {
        let known = VERSIONS.iter().filter(|v| v.container == container).map(|v| v.number.to_string());
        format!("version {number} is unknown; {} are known", known.collect::<Vec<_>>().join(" and "))
    })?;
    switch(source, &state, target)
}

fn switch(source: &Skeleton, state: &State, target: Version) -> Result<Layout> {
    // Empty caches have no rotation words in any version.
    let caches: Vec<(u32, &Cache)> =
        (0..).zip(&state.caches).filter(|(_, c)| !c.positions.is_empty()).collect();
    let mut words = Vec::new();
    for &(part, cache) in &caches {
        let sizes = sizes(source, part)?;
        if !target.rotation_sizes {
            ensure_default(source, part, sizes)?;
        }
        words.push((cache.rotation_at, sizes));
    }
    let file = &source.files[0];
    // Where a byte of the source goes: every site before it moved it by two words.
    let sites: Vec<u64> = words.iter().map(|(at, _)| *at).collect();
    let add = target.rotation_sizes;
    let moved = |at: u64| {
        let passed = sites.iter().filter(|&&site| site <= at).count() as u64 * WORDS;
        if add { at + passed } else { at - passed }
    };
    let mut verbatim: Vec<(u64, Vec<u8>)> = Vec::new();
    for (start, bytes) in &file.verbatim {
        // Cut at the sites; when words go, a piece begins with the ones to leave out.
        let (mut at, mut rest) = (*start, bytes.as_slice());
        for &site in sites.iter().filter(|&&s| *start <= s && s < start + bytes.len() as u64) {
            let (before, after) = rest.split_at(usize::try_from(site - at)?);
            let skip = if add { 0 } else { WORDS };
            verbatim.push((moved(at), before.to_vec()));
            rest = after.get(usize::try_from(skip)?..).context("rotation words are cut apart")?;
            at = site + skip;
        }
        verbatim.push((moved(at), rest.to_vec()));
    }
    if add {
        for (i, (site, sizes)) in (0..).zip(&words) {
            let bytes = sizes.iter().flat_map(|n| n.to_le_bytes()).collect();
            verbatim.push((site + i * WORDS, bytes));
        }
    }
    verbatim.retain(|(_, bytes)| !bytes.is_empty());
    verbatim.sort_by_key(|(at, _)| *at);
    let head = &mut verbatim.first_mut().context("the file has no header")?.1;
    head.get_mut(4..8).context("the file has no version")?.copy_from_slice(&target.number.to_le_bytes());

    let mut layout = Layout::of_source(source);
    layout.placements.iter_mut().for_each(|p| p.offset = moved(p.offset));
    let change = sites.len() as u64 * WORDS;
    let len = if add { file.len + change } else { file.len - change };
    layout.files = vec![OutFile { name: file.name.clone(), len, verbatim, positions: Vec::new() }];
    Ok(layout)
}

/// The rotation sizes of a part's keys and values.
fn sizes(source: &Skeleton, part: u32) -> Result<[u32; 2]> {
    ensure!(
        source.rotation_known,
        "it is not known whether rows are rotated: compress the source with --head-dim"
    );
    let of = |kind| {
        let mut sizes =
            source.streams.iter().filter(|s| s.part == part && s.kind == kind).map(|s| s.hadamard);
        let first = sizes.next().unwrap_or(0);
        sizes.all(|n| n == first).then_some(first).context("layers of one cache are rotated differently")
    };
    Ok([of(Kind::K)?, of(Kind::V)?])
}

/// Files without rotation words are taken for rotated in llama.cpp's default way: others must not become one.
fn ensure_default(source: &Skeleton, part: u32, sizes: [u32; 2]) -> Result<()> {
    for s in source.streams.iter().filter(|s| s.part == part) {
        let quantized = !s.shape.dtype.is_plain();
        ensure!(
            source.heads_known || !quantized,
            "without --head-dim it is not known how the older llama.cpp would take these rows"
        );
        let default = if quantized { default_rotation(s.kind, s.shape.head_dim) } else { 0 };
        let own = sizes[usize::from(s.kind == Kind::V)];
        ensure!(
            own == default,
            "rows are rotated by {own}, and the older llama.cpp takes such rows for rotated by {default}: its files cannot \
             say otherwise"
        );
    }
    Ok(())
}
