//! From paths or bytes to a dump: mapping files, walking a folder, finding out what they are.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use tersa_core::view::KvStrides;

use super::known::Known;
use super::llama::parse::Container;
use super::tensor::Tensor;
use super::{
    Content, Dump, FileBytes, Kind, OpenOptions, Queries, SourceFile, SourceFormat, axes, llama, mlx, names,
    npy, npz, safetensors, vllm,
};

/// Opens the dump that lies in `paths`: one file, several, a folder, or `-` for standard input.
///
/// Files are mapped; standard input and deflated archives are held in memory.
///
/// # Errors
/// If a file cannot be read, is in no known format, is damaged, or can be read in more than one way.
pub fn open(paths: &[PathBuf], options: &OpenOptions) -> Result<Dump> {
    let dump = open_paths(paths, options);
    match paths {
        [one] if one.as_os_str() == "-" => dump.context("standard input"),
        [one] => dump.with_context(|| one.display().to_string()),
        _ => dump,
    }
}

fn open_paths(paths: &[PathBuf], options: &OpenOptions) -> Result<Dump> {
    let mut files = Vec::new();
    let mut content = Content::default();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read it")?;
            files.push(SourceFile {
                path: path.clone(),
                name: "stdin".into(),
                bytes: FileBytes::Owned(bytes),
            });
        } else if path.is_dir() {
            add_folder(path, &mut files, &mut content)?;
        } else {
            let name = path.file_name().context("no file name")?.to_string_lossy().into_owned();
            let bytes = label(map(path), &path.display().to_string(), paths.len() == 1)?;
            files.push(SourceFile { path: path.clone(), name, bytes });
        }
    }
    let first = paths.first().context("no input")?;
    let folder = if first.is_dir() { Some(first.as_path()) } else { first.parent() };
    let known = Known::new(options, folder.filter(|_| first.as_os_str() != "-"))?;
    read(files, known, options, content)
}

/// Reads a dump from bytes, as if they were a file called `name`.
///
/// # Errors
/// As [`open`].
pub fn open_bytes(name: &str, bytes: Vec<u8>, options: &OpenOptions) -> Result<Dump> {
    let file = SourceFile { path: name.into(), name: name.to_owned(), bytes: FileBytes::Owned(bytes) };
    read(vec![file], Known::new(options, None)?, options, Content::default())
}

#[allow(unsafe_code, reason = "the one map in the program")]
fn map(path: &Path) -> Result<FileBytes> {
    let file = File::open(path).context("cannot open it")?;
    let len = file.metadata().context("cannot read it")?;
    ensure!(len.is_file(), "not a file");
    // SAFETY: nothing here writes through the map. A program that changes the file meanwhile changes bytes that every
    // reader treats as untrusted and checks where it uses them; one that cuts it short ends this process (SIGBUS),
    // which leaves destinations absent or old.
    let map = unsafe { memmap2::Mmap::map(&file) }.context("cannot map it")?;
    Ok(FileBytes::Mapped(map))
}

/// Adds the dump files of `folder` in the order of their names; others are named and left.
fn add_folder(folder: &Path, files: &mut Vec<SourceFile>, content: &mut Content) -> Result<()> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).context("cannot read the folder")? {
        let entry = entry?;
        if entry.path().is_file() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    let before = files.len();
    for name in names {
        let path = folder.join(&name);
        let (name, bytes) =
            (name.to_string_lossy().into_owned(), map(&path).with_context(|| path.display().to_string())?);
        if sniff(&bytes).is_some() {
            files.push(SourceFile { path, name, bytes });
        } else {
            content.assume(format!("{name} is no cache dump and is left out"));
        }
    }
    ensure!(
        files.len() > before,
        "holds no file in a known format (of a folder of folders, name the ones that hold the files)"
    );
    Ok(())
}

/// What a file begins as; mlx and vLLM files are told from other safetensors by their contents.
fn sniff(bytes: &[u8]) -> Option<SourceFormat> {
    match llama::sniff(bytes) {
        Some(Container::Session) => Some(SourceFormat::LlamaSession),
        Some(Container::Sequence) => Some(SourceFormat::LlamaSequence),
        None if npy::sniff(bytes) => Some(SourceFormat::Npy),
        None if npz::sniff(bytes) => Some(SourceFormat::Npz),
        None if safetensors::sniff(bytes) => Some(SourceFormat::Safetensors),
        None => None,
    }
}

/// Names the file in an error, unless it is the only one, whose path the caller names.
fn label<T>(result: Result<T>, name: &str, alone: bool) -> Result<T> {
    if alone { result } else { result.with_context(|| name.to_owned()) }
}

fn read(
    mut files: Vec<SourceFile>,
    known: Known,
    options: &OpenOptions,
    mut content: Content,
) -> Result<Dump> {
    ensure!(!files.is_empty(), "no input");
    let alone = files.len() == 1;
    let mut format = None;
    for file in &files {
        let found = match options.format {
            Some(f) => f,
            None => {
                let found = sniff(&file.bytes).with_context(|| {
                    let known: Vec<&str> = SourceFormat::ALL.iter().map(|f| f.name()).collect();
                    format!("begins like none of the known formats ({})", known.join(", "))
                });
                label(found, &file.name, alone)?
            }
        };
        let first = *format.get_or_insert(found);
        ensure!(
            found == first,
            "{} is {found}, {} is {first}: compress them one by one",
            file.name,
            files[0].name
        );
    }
    let format = match format {
        Some(SourceFormat::LlamaSession | SourceFormat::LlamaSequence) => {
            let [file] = files.as_slice() else { bail!("llama.cpp state files are compressed one by one") };
            llama::read(&file.bytes, 0, &known, options.rotation, &mut content)?;
            match llama::sniff(&file.bytes) {
                Some(Container::Session) => SourceFormat::LlamaSession,
                _ => SourceFormat::LlamaSequence,
            }
        }
        Some(SourceFormat::Npy) => {
            for (i, file) in files.iter().enumerate() {
                let (tensor, note) = label(npy::read(&file.name, &file.bytes, i, 0), &file.name, alone)?;
                note.into_iter().for_each(|n| content.assume(n));
                ensure!(files.len() == 1, "arrays are compressed one by one, or all in one .npz");
                label(axes::add_whole(&tensor, &known, &mut content), &file.name, alone)?;
            }
            SourceFormat::Npy
        }
        Some(SourceFormat::Npz) => {
            let mut tensors = Vec::new();
            for (i, file) in files.iter_mut().enumerate() {
                if let Some(stored) = label(npz::unpack(&file.bytes), &file.name, alone)? {
                    file.bytes = FileBytes::Owned(stored);
                    content.assume(format!(
                        "{} has deflated members: it is restored as an equal archive of stored ones",
                        file.name
                    ));
                }
                tensors.extend(label(npz::read(&file.bytes, i, &mut content), &file.name, alone)?);
            }
            add_named(&tensors, known, options, &mut content)?;
            content.others = others(&tensors, &content);
            SourceFormat::Npz
        }
        Some(_) => {
            let mut tensors = Vec::new();
            for (i, file) in files.iter().enumerate() {
                let (list, meta) = label(safetensors::read(&file.bytes, i), &file.name, alone)?;
                ensure!(
                    tensors.is_empty() || vllm::sniff(&list) == vllm::sniff(&tensors[..1]),
                    "{} and {} are different kinds of dumps",
                    files[0].name,
                    file.name
                );
                tensors.extend(list);
                content.meta.extend(meta);
            }
            let format = add_safetensors(&tensors, &files, known, options, &mut content)?;
            content.others = others(&tensors, &content);
            format
        }
        None => bail!("no input"),
    };
    finish(files, format, content)
}

fn add_safetensors(
    tensors: &[Tensor],
    files: &[SourceFile],
    mut known: Known,
    options: &OpenOptions,
    content: &mut Content,
) -> Result<SourceFormat> {
    let meta = content.meta.clone();
    let forced = |f| options.format == Some(f);
    let free = options.map.is_none() && options.layout.is_none();
    let classes = mlx::classes(&meta).filter(|_| free || forced(SourceFormat::Mlx));
    if let Some(classes) = classes.filter(|_| !forced(SourceFormat::Safetensors)) {
        mlx::read(tensors, &classes, &known, content)?;
        return Ok(SourceFormat::Mlx);
    }
    ensure!(!forced(SourceFormat::Mlx), "the metadata names no mlx cache classes");
    let each_kv = !tensors.is_empty() && tensors.iter().all(|t| vllm::sniff(std::slice::from_ref(t)));
    if each_kv && (free || forced(SourceFormat::VllmExample)) && !forced(SourceFormat::Safetensors) {
        vllm::read(tensors, files, &known, content)?;
        return Ok(SourceFormat::VllmExample);
    }
    ensure!(!forced(SourceFormat::VllmExample), "vLLM's files have one tensor, `kv_cache`, each");
    known.add_meta(&meta);
    add_named(tensors, known, options, content)?;
    Ok(SourceFormat::Safetensors)
}

/// Streams of tensors that names tell apart, or of one array that holds everything.
fn add_named(tensors: &[Tensor], known: Known, options: &OpenOptions, content: &mut Content) -> Result<()> {
    let assigned = names::assign(tensors, options.map.as_ref())?;
    if assigned.layers.is_empty() {
        let [whole] = tensors else {
            bail!(
                "no tensor's name tells a layer's keys or values ({}); name them with --map \
                 'K=...{{i}}...,V=...{{i}}...'",
                names::some_names(tensors)
            )
        };
        return axes::add_whole(whole, &known, content);
    }
    let list: Vec<(Kind, &Tensor)> = assigned.streams().map(|(_, _, kind, t)| (kind, &tensors[t])).collect();
    let names: Vec<&str> = list.iter().map(|(_, t)| t.name.as_str()).collect();
    let convention = options.map.is_none().then(|| names::convention(&names, list[0].1.rank())).flatten();
    let order = axes::decide(&list, &known, convention, content)?;
    for (part, layer, kind, t) in assigned.streams() {
        let first = content.streams.len();
        axes::add_streams(&tensors[t], &order, &known, layer, kind, content)?;
        content.streams[first..].iter_mut().for_each(|s| s.part = s.part.saturating_add(part));
    }
    for (&layer, &t) in &assigned.queries {
        add_queries(&tensors[t], layer, content);
    }
    Ok(())
}

/// Queries are `[heads, queries, dim]`, perhaps with a batch of one.
fn add_queries(t: &Tensor, layer: u32, content: &mut Content) {
    let shape = match t.shape[..] {
        [h, n, d] | [1, h, n, d] => [h, n, d],
        _ => [0; 3],
    };
    match &t.dtype {
        Ok(dtype) if t.is_row_major() && shape.iter().all(|&n| n != 0) => {
            content.queries.push(Queries { layer, shape, dtype: *dtype, file: t.file, offset: t.offset })
        }
        _ => content.assume(format!(
            "`{}` of shape {:?} is not [heads, queries, dim] of floats; its queries are not used",
            t.name, t.shape
        )),
    }
}

/// Names of the tensors that no stream and no queries begin in. `tensors` is in the order of files.
fn others(tensors: &[Tensor], content: &Content) -> Vec<String> {
    let starts = |t: &Tensor| (t.file, t.offset);
    let mut ordered: Vec<&Tensor> = tensors.iter().collect();
    ordered.sort_by_key(|t| starts(t));
    let of_streams = content.streams.iter().map(|s| (s.file, s.offset));
    let used: BTreeSet<(usize, usize)> = of_streams
        .chain(content.queries.iter().map(|q| (q.file, q.offset)))
        .filter_map(|at| {
            let after = ordered.partition_point(|t| starts(t) <= at);
            Some(starts(ordered.get(after.checked_sub(1)?)?))
        })
        .collect();
    tensors.iter().filter(|t| !used.contains(&starts(t))).map(|t| t.name.clone()).collect()
}

/// Checks every stream against its file, so that whoever holds a [`Dump`] can rely on its views.
fn finish(files: Vec<SourceFile>, format: SourceFormat, mut content: Content) -> Result<Dump> {
    content.streams.sort_by_key(|s| (s.part, s.layer, s.kind));
    for pair in content.streams.windows(2) {
        let [a, b] = pair else { continue };
        ensure!(
            (a.part, a.layer, a.kind) != (b.part, b.layer, b.kind),
            "layer {} is there twice, in {} and {}",
            a.layer,
            files[a.file].name,
            files[b.file].name
        );
    }
    for pair in content.streams.chunk_by(|a, b| (a.part, a.layer) == (b.part, b.layer)) {
        if let [k, v] = pair {
            ensure!(
                k.shape.n_tokens == v.shape.n_tokens,
                "layer {} has {} keys and {} values",
                k.layer,
                k.shape.n_tokens,
                v.shape.n_tokens
            );
        }
    }
    for s in content.streams.iter_mut().filter(|s| s.shape.n_tokens == 0) {
        let row = s.shape.n_kv_heads.checked_mul(s.shape.head_dim);
        // Strides of an empty array may be as large as numbers get, and mean nothing.
        s.strides = KvStrides { token: row.unwrap_or(0), head: s.shape.head_dim, dim: 1 };
    }
    let dump = Dump {
        files,
        streams: content.streams,
        queries: content.queries,
        others: content.others,
        format,
        meta: content.meta,
        assumptions: content.assumptions,
        heads_known: content.heads_known,
        rotation_known: content.rotation_known,
    };
    for (i, s) in dump.streams.iter().enumerate() {
        let (heads, dim) = (s.shape.n_kv_heads, s.shape.head_dim);
        let row = heads.checked_mul(dim).filter(|&n| n != 0 && u32::try_from(n).is_ok());
        ensure!(
            row.and_then(|n| n.checked_mul(s.shape.n_tokens)).is_some(),
            "layer {} has {heads} heads of {dim} elements",
            s.layer
        );
        dump.view(i).with_context(|| format!("layer {} lies outside its file", s.layer))?;
    }
    Ok(dump)
}
