//! Indexes in containers: a session that is loaded again selects without training.

use tersa_core::kv::HeadIndex;

use super::{tersa_index, tersa_index_params};
use crate::borrow;
use crate::reader::tersa_reader;
use crate::status::{fail, guard, tersa_error, tersa_status};
use crate::writer::tersa_writer;

/// Takes the index of a KV head into a container, once for each part, layer and head. It is encoded now and written by
/// `tersa_writer_finish`; the index may go on or be destroyed.
///
/// # Safety
/// Handles are live; `err` as everywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tersa_writer_add_index(
    writer: *mut tersa_writer,
    part: u32,
    layer: u32,
    head: u32,
    index: *const tersa_index,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let (writer, index) = unsafe { (borrow::unique(writer, "writer")?, borrow::shared(index, "index")?) };
        writer.add_index((part, layer, head), index.head.to_bytes())
    })
}

/// Makes the index of a KV head from a container, for its sequence of `n_tokens` tokens; `TERSA_ERR_NOT_FOUND` if there is none. See
/// `tersa_index_load`. Reads the table of indexes and the index.
///
/// # Safety
/// Handles are live, pointers as their types say.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "a C call has no other way")]
pub unsafe extern "C" fn tersa_reader_index_load(
    reader: *const tersa_reader,
    part: u32,
    layer: u32,
    head: u32,
    params: *const tersa_index_params,
    n_tokens: usize,
    out: *mut *mut tersa_index,
    err: *mut tersa_error,
) -> tersa_status {
    guard(err, || {
        // SAFETY: the caller's promise.
        let (reader, params) = unsafe {
            borrow::put(out, std::ptr::null_mut(), "out")?;
            (borrow::shared(reader, "reader")?, borrow::take(params, "params")?)
        };
        let Some(bytes) = reader.index_bytes(part, layer, head)? else {
            return fail!(TERSA_ERR_NOT_FOUND, "no index of head {head} of layer {layer} in part {part}");
        };
        let head = HeadIndex::from_bytes(&params.config()?, n_tokens, &bytes).map_err(super::foreign)?;
        tersa_index { head, group: params.group as usize }.give(out)
    })
}
