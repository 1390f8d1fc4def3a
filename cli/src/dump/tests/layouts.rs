//! Rebuilding sources and writing other formats.

use super::*;

#[test]
fn files_are_rebuilt_from_regions_and_what_lies_between() {
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(data("llama")).unwrap().map(|e| e.unwrap().path()).collect();
    names.push(data("smollm2-135m-1k-sample.safetensors"));
    assert!(names.len() > 9);
    for path in names {
        let dump =
            open(std::slice::from_ref(&path), &OpenOptions { n_kv_heads: Some(3), ..Default::default() })
                .unwrap();
        let skeleton = dump.skeleton();
        assert_eq!(
            rebuild(&dump, &layout::Layout::of_source(&skeleton)),
            [dump.files[0].bytes.to_vec()],
            "{path:?}"
        );
        let verbatim: usize = skeleton.files[0].verbatim.iter().map(|(_, b)| b.len()).sum();
        assert!(verbatim < dump.files[0].bytes.len() / 5, "{path:?} keeps {verbatim} bytes verbatim");
    }
}

/// Fills a layout of unchanged element types, byte by byte, and checks that every byte is written exactly once.
pub(super) fn rebuild(dump: &Dump, layout: &layout::Layout) -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<Option<u8>>> = layout.files.iter().map(|f| vec![None; f.len as usize]).collect();
    let mut put = |file: usize, at: usize, bytes: &[u8]| {
        for (i, b) in bytes.iter().enumerate() {
            assert_eq!(files[file][at + i].replace(*b), None, "byte {} is written twice", at + i);
        }
    };
    for (i, f) in layout.files.iter().enumerate() {
        f.verbatim.iter().for_each(|(at, bytes)| put(i, *at as usize, bytes));
    }
    for p in &layout.placements {
        let view = dump.view(p.stream).unwrap();
        let shape = *view.shape();
        assert_eq!((shape.dtype, p.unrotate), (p.dtype, 0));
        let (bytes, block) = (p.dtype.block_bytes(), p.dtype.block_len());
        let mut row = vec![0; shape.row_bytes()];
        for (head, token) in (0..shape.n_kv_heads).flat_map(|h| (0..shape.n_tokens).map(move |t| (h, t))) {
            view.copy_rows(head, token..token + 1, &mut row);
            for (i, element) in row.chunks(bytes).enumerate() {
                let at = (token * p.strides.token + head * p.strides.head) / block + i * p.strides.dim;
                put(p.file, p.offset as usize + at * bytes, element);
            }
        }
    }
    files.into_iter().map(|f| f.into_iter().map(|b| b.expect("every byte is written")).collect()).collect()
}
