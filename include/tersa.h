/**
 * @file tersa.h
 * Tersa: key/value caches of language models, packed. Generated from the crate tersa-ffi; do not edit.
 *
 * Threads: a const handle may be used by many threads at once, any other by one thread at a time. Nothing else is shared
 * between calls.
 *
 * Errors: calls that can fail return a tersa_status. The last parameter, err, may be NULL or point to a tersa_error of the
 * caller, which every call fills.
 *
 * Memory: what is not NULL must point to what its type says for as long as the call lasts. Outputs are the
 * caller's buffers. A handle comes out of a function whose name ends in _create, _open or _load and goes back through
 * _destroy, which takes NULL. No call keeps a pointer of the caller unless it says so.
 *
 * Structs that start with struct_size are set up by their _init function, called with sizeof. Later versions
 * may add fields at the end; programs built against this header go on working.
 */

#ifndef TERSA_H
#define TERSA_H

#include <stddef.h>
#include <stdint.h>

/** The version as a text. */
#define TERSA_VERSION "0.1.0"

/**
 * Keys.
 */
#define TERSA_K 0

/**
 * Values.
 */
#define TERSA_V 1

/**
 * Number of the ABI, also the number in the soname. While it is 0, every release may change it.
 */
#define TERSA_ABI_VERSION 0

/**
 * First number of the version.
 */
#define TERSA_VERSION_MAJOR 0

/**
 * Second number of the version.
 */
#define TERSA_VERSION_MINOR 1

/**
 * Third number of the version.
 */
#define TERSA_VERSION_PATCH 0

/**
 * The version as one number: major * 1000000 + minor * 1000 + patch.
 */
#define TERSA_VERSION_NUMBER 1000

/**
 * Portable code.
 */
#define TERSA_CPU_SCALAR 1

/**
 * AVX2, FMA, F16C, BMI1 and BMI2.
 */
#define TERSA_CPU_AVX2 2

/**
 * AVX-512 of the Ice Lake class.
 */
#define TERSA_CPU_AVX512 3

/**
 * What a call returns. Numbers are never reused; a caller must expect numbers that its header does not know.
 */
enum tersa_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Done.
   */
  TERSA_OK = 0,
  /**
   * A pointer that must not be NULL is.
   */
  TERSA_ERR_NULL = 1,
  /**
   * A number, range or shape that the call cannot serve, or a pointer that is not aligned.
   */
  TERSA_ERR_ARGUMENT = 2,
  /**
   * `struct_size` is not one that this library knows, or fields that it does not know are not zero.
   */
  TERSA_ERR_STRUCT_SIZE = 3,
  /**
   * A buffer of the caller is too short. Where the call has a size output, it says what is needed.
   */
  TERSA_ERR_SHORT_BUFFER = 4,
  /**
   * A buffer to write overlaps one to read.
   */
  TERSA_ERR_OVERLAP = 5,
  /**
   * The text is no codec specification or preset.
   */
  TERSA_ERR_SPEC = 6,
  /**
   * The codec cannot serve rows of that type or size, or this platform lacks what the call needs.
   */
  TERSA_ERR_UNSUPPORTED = 7,
  /**
   * Bytes are damaged, cut short, or not what they should be.
   */
  TERSA_ERR_CORRUPT = 8,
  /**
   * Written by a later version that this library cannot read.
   */
  TERSA_ERR_VERSION = 9,
  /**
   * Reading or writing a file failed, or a callback of the caller did.
   */
  TERSA_ERR_IO = 10,
  /**
   * No memory.
   */
  TERSA_ERR_MEMORY = 11,
  /**
   * There is no such stream, head, job.
   */
  TERSA_ERR_NOT_FOUND = 12,
  /**
   * The handle is not in a state for this call: a finished writer, a stream that was closed by a short chunk.
   */
  TERSA_ERR_STATE = 13,
  /**
   * The pool's queue is full: take completions, then submit again.
   */
  TERSA_ERR_BUSY = 14,
  /**
   * The job was cancelled.
   */
  TERSA_ERR_CANCELLED = 15,
  /**
   * The bytes were encoded by another codec than the one they were given to.
   */
  TERSA_ERR_CODEC = 16,
  /**
   * A defect of this library; the handle that was in use should be destroyed.
   */
  TERSA_ERR_PANIC = 17,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum tersa_status tersa_status;
#else
typedef int32_t tersa_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How the elements of a cache are stored; little-endian. The types from 16 on are llama.cpp's blocks of 32 elements.
 */
enum tersa_dtype
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * IEEE 754 binary32.
   */
  TERSA_F32 = 1,
  /**
   * IEEE 754 binary16.
   */
  TERSA_F16 = 2,
  /**
   * bfloat16.
   */
  TERSA_BF16 = 3,
  /**
   * 8-bit float, 4 exponent bits, no infinities.
   */
  TERSA_F8_E4M3 = 4,
  /**
   * 8-bit float, 5 exponent bits.
   */
  TERSA_F8_E5M2 = 5,
  /**
   * 34 bytes for 32 elements.
   */
  TERSA_Q8_0 = 16,
  /**
   * 18 bytes for 32 elements.
   */
  TERSA_Q4_0 = 17,
  /**
   * 20 bytes for 32 elements.
   */
  TERSA_Q4_1 = 18,
  /**
   * 22 bytes for 32 elements.
   */
  TERSA_Q5_0 = 19,
  /**
   * 24 bytes for 32 elements.
   */
  TERSA_Q5_1 = 20,
  /**
   * 18 bytes for 32 elements.
   */
  TERSA_IQ4_NL = 21,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum tersa_dtype tersa_dtype;
#else
typedef uint32_t tersa_dtype;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A codec for caches of one shape. A `const` one may be used by many threads at once.
 */
typedef struct tersa_codec tersa_codec;

/**
 * Threads and a queue. Unlike other handles, one pool may be used by many threads at once.
 */
typedef struct tersa_pool tersa_pool;

/**
 * An open container. A `const` one may be used by many threads at once.
 */
typedef struct tersa_reader tersa_reader;

/**
 * Scratch memory of one thread. It grows to the largest need it meets and is used again, so that later calls of that size
 * take no memory.
 */
typedef struct tersa_workspace tersa_workspace;

/**
 * A container being written.
 */
typedef struct tersa_writer tersa_writer;

/**
 * What a codec is made for.
 */
typedef struct tersa_codec_params {
  /**
   * Set by `tersa_codec_params_init`.
   */
  uint32_t struct_size;
  /**
   * Layers of the cache. 1 by default.
   */
  uint32_t n_layers;
  /**
   * Element type of the keys, a `tersa_dtype`.
   */
  uint32_t dtype_k;
  /**
   * Element type of the values.
   */
  uint32_t dtype_v;
  /**
   * Key/value heads.
   */
  uint32_t n_kv_heads;
  /**
   * Elements of a key.
   */
  uint32_t head_dim_k;
  /**
   * Elements of a value; 0 for caches that hold one tensor a layer, which then counts as keys.
   */
  uint32_t head_dim_v;
  /**
   * Tokens that are encoded together: the smallest piece that can be decoded. 256 by default.
   */
  uint32_t chunk_tokens;
  /**
   * Seed of rotations and training. The command line's by default.
   */
  uint64_t seed;
} tersa_codec_params;

/**
 * Why a call failed, in memory of the caller. Every call fills it, with `TERSA_OK` and an empty text if all went well.
 */
typedef struct tersa_error {
  /**
   * The status that was returned.
   */
  int32_t code;
  /**
   * UTF-8, ended by a zero byte, cut to fit.
   */
  char message[256];
} tersa_error;

/**
 * Where the keys, or the values, of some layers lie: elements `[layer][token][head][dim]` of one type.
 *
 * Three ways, by `block_size` and `block_table`:
 * - `block_size` 0: `pointers[layer]` is where token 0 of that layer starts.
 * - `block_size` N and no `block_table`: token `t` lies in block `t / N`, and
 *   `pointers[layer * n_blocks + block]` is where that block starts, `n_blocks` being `n_tokens / N` rounded up.
 * - `block_size` N and a `block_table`: `pointers[layer]` is where a pool of blocks starts, and the block of token `t` starts
 *   `block_table[t / N] * block_stride` elements after it.
 *
 * Element (t, h, i) then lies `(t % N) * token_stride + h * head_stride + i * dim_stride` elements on. Strides of 0 stand
 * for rows of all heads side by side: `[token][head][dim]`. Block types want `dim_stride` 1 and strides of whole blocks.
 *
 * Memory is read and written only where the tokens and layers of the call lie. Sources are never written to.
 */
typedef struct tersa_kv {
  /**
   * Set by `tersa_kv_init`.
   */
  uint32_t struct_size;
  /**
   * A `tersa_dtype`.
   */
  uint32_t dtype;
  /**
   * Key/value heads.
   */
  uint32_t n_kv_heads;
  /**
   * Elements of one head's row.
   */
  uint32_t head_dim;
  /**
   * Tokens that can be reached.
   */
  size_t n_tokens;
  /**
   * See above.
   */
  void *const *pointers;
  /**
   * Length of `pointers`.
   */
  size_t n_pointers;
  /**
   * Bytes that belong to the caller from each pointer on; nothing beyond is touched.
   */
  size_t len_bytes;
  /**
   * Elements from one token to the next.
   */
  size_t token_stride;
  /**
   * Elements from one head to the next.
   */
  size_t head_stride;
  /**
   * Elements from one element of a row to the next.
   */
  size_t dim_stride;
  /**
   * Tokens of a block, 0 if there are no blocks.
   */
  size_t block_size;
  /**
   * Which block of the pool holds tokens `N * i` to `N * i + N - 1`; NULL if there is no pool.
   */
  const uint32_t *block_table;
  /**
   * Length of `block_table`.
   */
  size_t n_block_table;
  /**
   * Elements from one block of the pool to the next.
   */
  size_t block_stride;
} tersa_kv;

/**
 * From `start` up to, not including, `end`.
 */
typedef struct tersa_range {
  /**
   * First.
   */
  size_t start;
  /**
   * One past the last.
   */
  size_t end;
} tersa_range;

/**
 * What encoded bytes hold.
 */
typedef struct tersa_blob_info {
  /**
   * Set by `tersa_blob_info_init`.
   */
  uint32_t struct_size;
  /**
   * First layer.
   */
  uint32_t first_layer;
  /**
   * Layers.
   */
  uint32_t n_layers;
  /**
   * 1 for keys only, 2 for keys and values.
   */
  uint32_t n_kinds;
  /**
   * Tokens of a chunk.
   */
  uint32_t chunk_tokens;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Tokens.
   */
  uint64_t n_tokens;
  /**
   * Which codec encoded them: equal for equal codecs.
   */
  uint64_t fingerprint;
  /**
   * Bytes of the blob.
   */
  uint64_t len_bytes;
} tersa_blob_info;

/**
 * How a pool is made.
 */
typedef struct tersa_pool_params {
  /**
   * Set by `tersa_pool_params_init`.
   */
  uint32_t struct_size;
  /**
   * Threads. 1 by default.
   */
  uint32_t n_threads;
  /**
   * Jobs that may be queued, running, or done and not yet taken. 64 by default.
   */
  uint32_t capacity;
  /**
   * 0.
   */
  uint32_t reserved;
} tersa_pool_params;

/**
 * What became of a job.
 */
typedef struct tersa_completion {
  /**
   * The number that submitting gave.
   */
  uint64_t job;
  /**
   * What the caller gave along.
   */
  uint64_t user_data;
  /**
   * Bytes that an encode job wrote.
   */
  size_t written;
  /**
   * Status and text.
   */
  struct tersa_error error;
} tersa_completion;

/**
 * Reads `len` bytes from `offset` on into `buf`; returns 0 if all of them are there now, anything else to fail. `context` is what the
 * caller gave along. Must be fit to be called by as many threads as use the reader.
 */
typedef int32_t (*tersa_read_fn)(void *context, uint64_t offset, void *buf, size_t len);

/**
 * What a stream is.
 */
typedef struct tersa_stream_info {
  /**
   * Set by `tersa_stream_info_init`.
   */
  uint32_t struct_size;
  /**
   * 0, or which of several caches in one file.
   */
  uint32_t part;
  /**
   * Layer number as the source had it.
   */
  uint32_t layer;
  /**
   * `TERSA_K` or `TERSA_V`.
   */
  uint32_t kind;
  /**
   * A `tersa_dtype`.
   */
  uint32_t dtype;
  /**
   * Key/value heads.
   */
  uint32_t n_kv_heads;
  /**
   * Elements of one head's row.
   */
  uint32_t head_dim;
  /**
   * Tokens that were encoded together.
   */
  uint32_t chunk_tokens;
  /**
   * Size of the Walsh-Hadamard matrix that the source had multiplied its rows by, 0 if none.
   */
  uint32_t hadamard;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Tokens.
   */
  uint64_t n_tokens;
} tersa_stream_info;

/**
 * What encoding did to the values of one head.
 */
typedef struct tersa_head_stats {
  /**
   * Sum of squared differences between source and decoded values.
   */
  double sum_sq_error;
  /**
   * Sum of squares of the source's values.
   */
  double sum_sq;
  /**
   * Largest absolute difference.
   */
  double max_abs_error;
  /**
   * Values seen.
   */
  uint64_t n_values;
  /**
   * Tiles that the codec could not represent and that were stored as they were.
   */
  uint64_t raw_tiles;
} tersa_head_stats;

/**
 * What a stream is to be.
 */
typedef struct tersa_stream_params {
  /**
   * Set by `tersa_stream_params_init`.
   */
  uint32_t struct_size;
  /**
   * 0, or which of several caches in one file.
   */
  uint32_t part;
  /**
   * Layer number.
   */
  uint32_t layer;
  /**
   * `TERSA_K` or `TERSA_V`.
   */
  uint32_t kind;
  /**
   * Size of the Walsh-Hadamard matrix that the rows were multiplied by, 0 if none: a note for readers.
   */
  uint32_t hadamard;
  /**
   * Tokens that stay exact, in any order: sinks, for example.
   */
  const uint32_t *exact;
  /**
   * Length of `exact`.
   */
  size_t n_exact;
} tersa_stream_params;

/**
 * Takes the next `len` bytes; returns 0 if all of them were taken, anything else to fail.
 */
typedef int32_t (*tersa_write_fn)(void *context, const void *bytes, size_t len);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Sets `*params` to defaults: one layer of f16, chunks of 256 tokens, no heads yet. `struct_size` is `sizeof *params`.
 */
tersa_status tersa_codec_params_init(struct tersa_codec_params *params,
                                     size_t struct_size,
                                     struct tersa_error *err);

/**
 * Makes a codec from a specification such as `had+lm4`, a pair such as `k=mean+had+lm3+ls,v=had+lm3+ls`, or a preset: `safe`,
 * `balanced`, `small`, `lossless`.
 *
 * Codecs that learn (`pq:...`) need a sample of the cache, all its layers: `sample_k` and `sample_v`. A codebook is trained for each layer and
 * head; save it with `tersa_codec_save`, since bytes can be decoded only with the codec that encoded them. Other codecs ignore
 * the sample, and equal parameters make equal codecs.
 *
 * Cost: under a millisecond, or training.
 */
tersa_status tersa_codec_create(const char *spec,
                                const struct tersa_codec_params *params,
                                const struct tersa_kv *sample_k,
                                const struct tersa_kv *sample_v,
                                struct tersa_codec **out,
                                struct tersa_error *err);

/**
 * Frees a codec; NULL is fine. Jobs of a pool that use it go on.
 */
void tersa_codec_destroy(struct tersa_codec *codec);

/**
 * The codec's full name, such as `k=mean+had+lm4+ls,v=had+lm4+ls`. `*len` becomes its bytes without the zero at the
 * end; a capacity of 0 only asks for that.
 */
tersa_status tersa_codec_name(const struct tersa_codec *codec,
                              char *buf,
                              size_t capacity,
                              size_t *len,
                              struct tersa_error *err);

/**
 * Most bytes that `n_tokens` tokens of `n_layers` layers encode to, in `*bytes`.
 */
tersa_status tersa_codec_bound(const struct tersa_codec *codec,
                               size_t n_layers,
                               size_t n_tokens,
                               size_t *bytes,
                               struct tersa_error *err);

/**
 * Encodes `tokens` of `layers` into `dst`; `*written` becomes the count of bytes, or, with `TERSA_ERR_SHORT_BUFFER`, the capacity
 * that is needed. The bytes carry their shape and a checksum for each chunk.
 *
 * `k` and `v` hold pointers for the layers of the range only. `v` is NULL for codecs without values.
 */
tersa_status tersa_codec_encode(const struct tersa_codec *codec,
                                const struct tersa_kv *k,
                                const struct tersa_kv *v,
                                struct tersa_range layers,
                                struct tersa_range tokens,
                                void *dst,
                                size_t capacity,
                                size_t *written,
                                struct tersa_workspace *workspace,
                                struct tersa_error *err);

/**
 * Sets `*info` to zeros. `struct_size` is `sizeof *info`.
 */
tersa_status tersa_blob_info_init(struct tersa_blob_info *info,
                                  size_t struct_size,
                                  struct tersa_error *err);

/**
 * Looks at the head of encoded bytes, no codec needed.
 */
tersa_status tersa_blob_inspect(const void *src,
                                size_t len,
                                struct tersa_blob_info *info,
                                struct tersa_error *err);

/**
 * Decodes `tokens` of `layers` out of encoded bytes. Layers count as when they were encoded, tokens from the first that was; token
 * `tokens.start` goes to token `first_token` of `k` and `v`, which hold pointers for the layers of the range only. One of `k` and `v`
 * may be NULL, to leave it out.
 *
 * Decodes whole chunks and copies what was asked for. Every chunk's checksum is compared first; nothing else of the
 * destination is touched.
 */
tersa_status tersa_codec_decode(const struct tersa_codec *codec,
                                const void *src,
                                size_t len,
                                struct tersa_range layers,
                                struct tersa_range tokens,
                                const struct tersa_kv *k,
                                const struct tersa_kv *v,
                                size_t first_token,
                                struct tersa_workspace *workspace,
                                struct tersa_error *err);

/**
 * Writes what `tersa_codec_load` needs into `dst`: a `.tersa` container without tokens. `*written` becomes its size; a capacity of 0 only asks
 * for that. Codecs that do not learn need not be saved: equal parameters make them again.
 */
tersa_status tersa_codec_save(const struct tersa_codec *codec,
                              void *dst,
                              size_t capacity,
                              size_t *written,
                              struct tersa_error *err);

/**
 * Makes a codec from what `tersa_codec_save` wrote.
 */
tersa_status tersa_codec_load(const void *src,
                              size_t len,
                              struct tersa_codec **out,
                              struct tersa_error *err);

/**
 * Sets `*params` to one thread and 64 jobs. `struct_size` is `sizeof *params`.
 */
tersa_status tersa_pool_params_init(struct tersa_pool_params *params,
                                    size_t struct_size,
                                    struct tersa_error *err);

/**
 * Makes a pool and starts its threads. `params` may be NULL for the defaults.
 */
tersa_status tersa_pool_create(const struct tersa_pool_params *params,
                               struct tersa_pool **out,
                               struct tersa_error *err);

/**
 * Drops queued jobs, stops running ones at their next chunk, waits for the threads, and frees the pool; NULL is fine. After this no memory of the
 * caller is touched any more.
 */
void tersa_pool_destroy(struct tersa_pool *pool);

/**
 * Queues what `tersa_codec_encode` does; `*job`, unless `job` is NULL, becomes the job's number. Arguments are checked now: with any other status
 * than `TERSA_OK` there is no job. `TERSA_ERR_BUSY`: take completions first.
 *
 * The elements, which must not change, and `dst` belong to the job until its completion was taken or the pool destroyed. Everything else,
 * the codec too, may go at once.
 */
tersa_status tersa_pool_encode(const struct tersa_pool *pool,
                               const struct tersa_codec *codec,
                               const struct tersa_kv *k,
                               const struct tersa_kv *v,
                               struct tersa_range layers,
                               struct tersa_range tokens,
                               void *dst,
                               size_t capacity,
                               uint64_t user_data,
                               uint64_t *job,
                               struct tersa_error *err);

/**
 * Queues what `tersa_codec_decode` does, as `tersa_pool_encode` queues encoding. `src` must not change until the job is done.
 */
tersa_status tersa_pool_decode(const struct tersa_pool *pool,
                               const struct tersa_codec *codec,
                               const void *src,
                               size_t len,
                               struct tersa_range layers,
                               struct tersa_range tokens,
                               const struct tersa_kv *k,
                               const struct tersa_kv *v,
                               size_t first_token,
                               uint64_t user_data,
                               uint64_t *job,
                               struct tersa_error *err);

/**
 * Takes up to `capacity` completions, the oldest first, without waiting; `*n` becomes their count.
 */
tersa_status tersa_pool_poll(const struct tersa_pool *pool,
                             struct tersa_completion *out,
                             size_t capacity,
                             size_t *n,
                             struct tersa_error *err);

/**
 * As `tersa_pool_poll`, but waits up to `timeout_ms` milliseconds for the first completion; `UINT32_MAX` waits as long as it takes. `*n` is 0 when time
 * was up, or when there are no jobs to wait for.
 */
tersa_status tersa_pool_wait(const struct tersa_pool *pool,
                             struct tersa_completion *out,
                             size_t capacity,
                             uint32_t timeout_ms,
                             size_t *n,
                             struct tersa_error *err);

/**
 * Cancels a job: a queued one is done at once, with `TERSA_ERR_CANCELLED`; a running one stops at its next chunk, if one is left. Its completion
 * comes as any other. `TERSA_ERR_NOT_FOUND` if it is done already or there never was one.
 */
tersa_status tersa_pool_cancel(const struct tersa_pool *pool,
                               uint64_t job,
                               struct tersa_error *err);

/**
 * A file descriptor that is readable while completions wait to be taken, for `poll` or `epoll`; Linux only, elsewhere `TERSA_ERR_UNSUPPORTED`. It belongs to
 * the pool: watch it, do not read or close it.
 */
tersa_status tersa_pool_event_fd(const struct tersa_pool *pool,
                                 int32_t *fd,
                                 struct tersa_error *err);

/**
 * Opens the container in the file `path`: reads and checks its frame and tables, no chunks.
 */
tersa_status tersa_reader_open(const char *path,
                               struct tersa_reader **out,
                               struct tersa_error *err);

/**
 * Opens the container in `len` bytes of memory, which the caller keeps as they are until the reader is destroyed.
 */
tersa_status tersa_reader_open_memory(const void *bytes,
                                      size_t len,
                                      struct tersa_reader **out,
                                      struct tersa_error *err);

/**
 * Opens a container of `len` bytes that `read` supplies. `read` and `context` must be good until the reader is destroyed.
 */
tersa_status tersa_reader_open_callback(tersa_read_fn read,
                                        void *context,
                                        uint64_t len,
                                        struct tersa_reader **out,
                                        struct tersa_error *err);

/**
 * Closes a container; NULL is fine.
 */
void tersa_reader_destroy(struct tersa_reader *reader);

/**
 * The JSON text about the cache. `*len` becomes its bytes without the zero at the end; a capacity of 0 only asks for that.
 */
tersa_status tersa_reader_metadata(const struct tersa_reader *reader,
                                   char *buf,
                                   size_t capacity,
                                   size_t *len,
                                   struct tersa_error *err);

/**
 * How many streams there are; 0 for NULL. A stream is the keys or the values of one layer.
 */
uint32_t tersa_reader_n_streams(const struct tersa_reader *reader);

/**
 * Sets `*info` to zeros. `struct_size` is `sizeof *info`.
 */
tersa_status tersa_stream_info_init(struct tersa_stream_info *info,
                                    size_t struct_size,
                                    struct tersa_error *err);

/**
 * What stream number `stream` is. Streams stand in order of part, layer, kind.
 */
tersa_status tersa_reader_stream(const struct tersa_reader *reader,
                                 uint32_t stream,
                                 struct tersa_stream_info *info,
                                 struct tersa_error *err);

/**
 * The number of the stream of that part, layer and kind, in `*stream`; `TERSA_ERR_NOT_FOUND` if there is none.
 */
tersa_status tersa_reader_find(const struct tersa_reader *reader,
                               uint32_t part,
                               uint32_t layer,
                               uint32_t kind,
                               uint32_t *stream,
                               struct tersa_error *err);

/**
 * The name of the codec of one head. `*len` becomes its bytes without the zero at the end; a capacity of 0 only asks for that.
 */
tersa_status tersa_reader_codec(const struct tersa_reader *reader,
                                uint32_t stream,
                                uint32_t head,
                                char *buf,
                                size_t capacity,
                                size_t *len,
                                struct tersa_error *err);

/**
 * What encoding lost of one head; `TERSA_ERR_NOT_FOUND` if the file does not say.
 */
tersa_status tersa_reader_stats(const struct tersa_reader *reader,
                                uint32_t stream,
                                uint32_t head,
                                struct tersa_head_stats *stats,
                                struct tersa_error *err);

/**
 * Decodes `tokens` of `heads` of a stream into one layer of the caller's: token `tokens.start` goes to token `first_token` of `dst`, whose
 * heads are those asked for, in order. Reads and checks the chunks that hold the tokens, and nothing else.
 */
tersa_status tersa_reader_read(const struct tersa_reader *reader,
                               uint32_t stream,
                               struct tersa_range heads,
                               struct tersa_range tokens,
                               const struct tersa_kv *dst,
                               size_t first_token,
                               struct tersa_workspace *workspace,
                               struct tersa_error *err);

/**
 * Reads the whole container and compares every checksum; `TERSA_ERR_CORRUPT` says where the first damage is. `*n_chunks`, unless `n_chunks`
 * is NULL, becomes the count of chunks.
 */
tersa_status tersa_reader_verify(const struct tersa_reader *reader,
                                 uint64_t *n_chunks,
                                 struct tersa_error *err);

/**
 * What a status means, in English; never NULL, never to be freed. Unknown numbers have a text too.
 */
const char *tersa_status_text(int32_t status);

/**
 * Sets `*kv` to an empty cache of f16. `struct_size` is `sizeof *kv`.
 */
tersa_status tersa_kv_init(struct tersa_kv *kv, size_t struct_size, struct tersa_error *err);

/**
 * `TERSA_ABI_VERSION` of the library that is loaded. A program should compare it with its header's.
 */
uint32_t tersa_abi_version(void);

/**
 * The version of the library that is loaded, as in `"0.1.0"`; never to be freed.
 */
const char *tersa_version(void);

/**
 * The version of the library that is loaded as one number, see `TERSA_VERSION_NUMBER`.
 */
uint32_t tersa_version_number(void);

/**
 * The vector instructions in use: one of `TERSA_CPU_*`. The environment variable `TERSA_CPU` (`scalar`, `avx2`,
 * `avx512`) lowers them; it is looked at once.
 */
uint32_t tersa_cpu_level(void);

/**
 * The name of the vector instructions in use: `scalar`, `avx2` or `avx512`; never to be freed.
 */
const char *tersa_cpu_level_name(void);

/**
 * Lowers the vector instructions for the whole process, for tests and measurements; `*now`, unless `now` is NULL, becomes the
 * level in force, which is never above what the processor has. Results that are promised to be equal at all levels
 * stay equal.
 */
tersa_status tersa_cpu_lower_to(uint32_t level,
                                uint32_t *now,
                                struct tersa_error *err);

/**
 * Makes a workspace. Calls take NULL in place of one and then take memory for themselves each time.
 */
tersa_status tersa_workspace_create(struct tersa_workspace **out, struct tersa_error *err);

/**
 * Takes the memory now that `codec` will need for caches of up to `n_tokens` tokens.
 */
tersa_status tersa_workspace_reserve(struct tersa_workspace *workspace,
                                     const struct tersa_codec *codec,
                                     size_t n_tokens,
                                     struct tersa_error *err);

/**
 * Frees a workspace; NULL is fine.
 */
void tersa_workspace_destroy(struct tersa_workspace *workspace);

/**
 * Sets `*params` to defaults. `struct_size` is `sizeof *params`.
 */
tersa_status tersa_stream_params_init(struct tersa_stream_params *params,
                                      size_t struct_size,
                                      struct tersa_error *err);

/**
 * Starts a container that will be the file `path`. Until `tersa_writer_finish` it is a temporary file beside that name.
 */
tersa_status tersa_writer_create(const char *path,
                                 struct tersa_writer **out,
                                 struct tersa_error *err);

/**
 * Starts a container whose bytes go to `write`, in order, without seeking. `write` and `context` must be good until the writer is destroyed.
 */
tersa_status tersa_writer_create_callback(tersa_write_fn write,
                                          void *context,
                                          struct tersa_writer **out,
                                          struct tersa_error *err);

/**
 * Frees a writer; NULL is fine. What was not finished is removed.
 */
void tersa_writer_destroy(struct tersa_writer *writer);

/**
 * Adds a stream, whose number goes to `*stream`. Streams must be added in order of part, layer, kind; their tokens may then come in
 * any order of streams.
 *
 * Shape, element type, chunk size and codec of the stream are those of `codec` for the keys or the values, by `params->kind`, of
 * its layer `codec_layer`. Codec and parameters may be destroyed afterwards.
 */
tersa_status tersa_writer_add_stream(struct tersa_writer *writer,
                                     const struct tersa_stream_params *params,
                                     const struct tersa_codec *codec,
                                     uint32_t codec_layer,
                                     uint32_t *stream,
                                     struct tersa_error *err);

/**
 * Encodes `tokens` of one layer of the caller's and adds them to the end of a stream. Their count must be a multiple of the stream's
 * chunk size, but for the last ones: fewer close the stream.
 */
tersa_status tersa_writer_append(struct tersa_writer *writer,
                                 uint32_t stream,
                                 const struct tersa_kv *src,
                                 struct tersa_range tokens,
                                 struct tersa_workspace *workspace,
                                 struct tersa_error *err);

/**
 * Writes the tables, syncs, and gives the file its name, in place of a file that has it. `metadata` is a JSON object, or NULL for none.
 * Whatever comes of it, the writer can only be destroyed after this.
 */
tersa_status tersa_writer_finish(struct tersa_writer *writer,
                                 const char *metadata,
                                 struct tersa_error *err);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TERSA_H */
