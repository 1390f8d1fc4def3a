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
 *
 * docs/abi.md has the rules in full and a worked paged cache.
 */

#ifndef TERSA_H
#define TERSA_H

#include <stddef.h>
#include <stdint.h>

/** The version as a text. */
#define TERSA_VERSION "0.1.0"

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
 * Scratch memory of one thread. It grows to the largest need it meets and is used again, so that later calls of that size
 * take no memory.
 */
typedef struct tersa_workspace tersa_workspace;

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

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TERSA_H */
