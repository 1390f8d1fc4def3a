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
 * caller's buffers. A handle comes out of a function whose name ends in _create, _open, _load or _fork and goes back through
 * _destroy, which takes NULL. No call keeps a pointer of the caller unless it says so.
 *
 * Names: tersa_kv (a cache of many layers) and tersa_view (the rows of one head) say where elements lie; tersa_codec_
 * and tersa_pool_ pack caches into bytes, tersa_reader_ and tersa_writer_ keep them in .tersa containers, tersa_index_ tells
 * which tokens to attend to and attends. tersa_attend_, tersa_top_ and tersa_at_least_, and tersa_block_cache_ are exact
 * attention, exact selection, and tiers of memory by themselves. tersa_workspace is the scratch memory of one thread for all.
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
 * No slot, or no block.
 */
#define TERSA_NONE UINT32_MAX

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
   * The bytes were encoded by another codec, or by an index of other parameters, than the one they were given to.
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
 * Ways of keeping an index that have a name.
 */
enum tersa_index_preset
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Ours: keys transformed by what the prompt's queries look at, 8 + head_dim / 32 codes of 6 bits, 2-bit codes for a
   * second look at a tenth of the keys; 32 sinks, a window of 128, a tenth of the context selected.
   */
  TERSA_INDEX_DEFAULT = 0,
  /**
   * PQCache's for LongBench: 2 codes of 6 bits, 32 sinks, a tenth of the prompt as window and a tenth selected.
   */
  TERSA_INDEX_PAPER_2X6 = 1,
  /**
   * PQCache's for InfiniteBench: 4 codes of 8 bits, else the same.
   */
  TERSA_INDEX_PAPER_4X8 = 2,
  /**
   * The authors' later one: 2 codes of 6 bits, 128 sinks, a window of 128, a tenth of the prompt selected.
   */
  TERSA_INDEX_SKYLIGHT = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum tersa_index_preset tersa_index_preset;
#else
typedef uint32_t tersa_index_preset;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What a `tersa_extent` counts.
 */
enum tersa_extent_unit
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * So many tokens.
   */
  TERSA_TOKENS = 0,
  /**
   * A share of the prompt's tokens behind the sinks.
   */
  TERSA_SHARE_OF_PROMPT = 1,
  /**
   * A share of the tokens behind the sinks that there are now.
   */
  TERSA_SHARE_OF_CONTEXT = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum tersa_extent_unit tersa_extent_unit;
#else
typedef uint32_t tersa_extent_unit;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How the query heads that share a KV head agree on one set of tokens. With `s` a head's scaled score of a token and
 * `p = exp(s) / sum over the tokens of exp(s)`:
 */
enum tersa_group_rule
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The greatest sums of `p` over the heads; what PQCache does.
   */
  TERSA_GROUP_SOFTMAX_SUM = 0,
  /**
   * The greatest `p` of any head.
   */
  TERSA_GROUP_MAX = 1,
  /**
   * The greatest sums of `s` over the heads.
   */
  TERSA_GROUP_LOGIT_SUM = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum tersa_group_rule tersa_group_rule;
#else
typedef uint32_t tersa_group_rule;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Which block leaves a full tier.
 */
enum tersa_block_policy
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * The one used in the fewest steps since it came in; what PQCache does.
   */
  TERSA_BLOCKS_LFU = 0,
  /**
   * The one used longest ago.
   */
  TERSA_BLOCKS_LRU = 1,
  /**
   * The one used least, old use counting less; a block that is used less than the one it would replace stays out.
   */
  TERSA_BLOCKS_AGED = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum tersa_block_policy tersa_block_policy;
#else
typedef uint32_t tersa_block_policy;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * The bookkeeping of a fast tier of memory, such as a GPU's, that holds some blocks of the keys and values of a layer, or of whatever
 * moves together, while all of them lie in a slow one. It copies nothing. Each step:
 *
 * 1. `tersa_block_cache_begin`; then `tersa_block_cache_look_up` for each KV head with the tokens it selected, which says
 *    where their rows are.
 * 2. `tersa_block_cache_decide`: which blocks to copy in, and to which slots.
 * 3. The engine gathers the rows **first**, since a copy may overwrite a slot that holds one of them; then it copies, in any
 *    order, and reports each copy by `tersa_block_cache_complete` or `_cancel`. Until then its slot is neither read nor given
 *    away.
 *
 * Equal calls give equal plans. No call of a step takes memory once the plan has grown to the step's size.
 */
typedef struct tersa_block_cache tersa_block_cache;

/**
 * A codec for caches of one shape. A `const` one may be used by many threads at once.
 */
typedef struct tersa_codec tersa_codec;

/**
 * The index of one KV head of one layer of one sequence: it codes the keys of an engine's cache and tells which tokens a
 * query should attend to. (PQCache, Zhang et al., 2025.) Keys and values stay where the engine has them; each call is shown the keys
 * of the whole sequence, token 0 first, and reads those it needs.
 *
 * Every token is in one of three parts: the first tokens (*sinks*); the *middle*, whose keys have codes, among which is
 * selected; and the *tail*: at least the window and the current token. Sinks and tail are always attended to. A prompt
 * too short to train on is all tail, and attention is dense.
 *
 * 1. `tersa_index_prefill` with the prompt's keys, at once or chunk by chunk as the cache fills.
 * 2. Each step: the engine writes the token's key and value to its cache, `tersa_index_append`, `tersa_index_attend`. Or
 *    `tersa_index_select`, and attention of its own over sinks, selected tokens and tail.
 *
 * Heads are independent: one thread may work on one head while others work on others, each with its own
 * workspace. Select and attend take a `const` index, which many threads may share.
 */
typedef struct tersa_index tersa_index;

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
 * The key or value rows of one KV head, one for each token of a sequence; only read. Elements are `TERSA_F32`, `TERSA_F16`,
 * `TERSA_BF16` or `TERSA_Q8_0`, those of a row side by side.
 *
 * - `block_size` 0: `data` is the row of token 0, and rows are `row_stride` elements apart.
 * - `block_size` N: token `t` lies in block `block_table[t / N]` of a pool; its row is
 *   `block_table[t / N] * block_stride + (t % N) * row_stride` elements after `data`, which is where this head's first row
 *   of block 0 is. With N = 1 the table names the place of every single token.
 *
 * Nobody may write to a row that a call reads while the call runs.
 */
typedef struct tersa_view {
  /**
   * Set by `tersa_view_init`.
   */
  uint32_t struct_size;
  /**
   * A `tersa_dtype`.
   */
  uint32_t dtype;
  /**
   * Elements of a row.
   */
  uint32_t dim;
  /**
   * Tokens of a block, 0 if there are no blocks.
   */
  uint32_t block_size;
  /**
   * Tokens.
   */
  size_t n_tokens;
  /**
   * See above; need not be aligned.
   */
  const void *data;
  /**
   * Bytes that belong to the caller from `data` on; nothing beyond is read.
   */
  size_t len_bytes;
  /**
   * Elements from one token's row to the next; 0 stands for `dim`.
   */
  size_t row_stride;
  /**
   * Which block of the pool holds tokens `N * i` to `N * i + N - 1`.
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
} tersa_view;

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
 * What a block cache is made for.
 */
typedef struct tersa_block_cache_params {
  /**
   * Set by `tersa_block_cache_params_init`.
   */
  uint32_t struct_size;
  /**
   * A `tersa_block_policy`.
   */
  uint32_t policy;
  /**
   * Tokens of a block, a power of two. 16 by default.
   */
  uint32_t block_size;
  /**
   * Blocks that one step may bring in. 16 by default.
   */
  uint32_t max_copies;
  /**
   * Slots of the fast tier.
   */
  size_t n_slots;
  /**
   * Tokens that a sequence may have: 4 to 20 bytes of tables for each block.
   */
  size_t max_tokens;
  /**
   * For `TERSA_BLOCKS_AGED`: steps after which a use counts half. 64 by default.
   */
  uint64_t half_life;
} tersa_block_cache_params;

/**
 * A block to copy from the slow tier into a slot of the fast one.
 */
typedef struct tersa_block_copy {
  /**
   * The block: tokens `block * block_size` on.
   */
  uint32_t block;
  /**
   * Where it goes.
   */
  uint32_t slot;
  /**
   * The block that it replaces, or `TERSA_NONE`.
   */
  uint32_t evicted;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * The step that planned it.
   */
  uint64_t step;
} tersa_block_copy;

/**
 * What a block cache has seen since it was made or truncated to nothing.
 */
typedef struct tersa_block_cache_info {
  /**
   * Set by `tersa_block_cache_info_init`.
   */
  uint32_t struct_size;
  /**
   * 0.
   */
  uint32_t reserved;
  /**
   * Slots that are used: no more than there are blocks.
   */
  size_t n_slots;
  /**
   * Bytes on the heap.
   */
  size_t heap_bytes;
  /**
   * Steps begun.
   */
  uint64_t steps;
  /**
   * Tokens looked up.
   */
  uint64_t lookups;
  /**
   * Tokens that were in the fast tier.
   */
  uint64_t hits;
  /**
   * Copies that were planned.
   */
  uint64_t copies;
  /**
   * Blocks that left for another.
   */
  uint64_t evictions;
} tersa_block_cache_info;

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
 * A number of tokens: so many, or a share.
 */
typedef struct tersa_extent {
  /**
   * A `tersa_extent_unit`.
   */
  uint32_t unit;
  /**
   * The number, for `TERSA_TOKENS`.
   */
  uint32_t tokens;
  /**
   * The share, 0 to 1, for the others.
   */
  double share;
} tersa_extent;

/**
 * How the index of a KV head is kept.
 */
typedef struct tersa_index_params {
  /**
   * Set by `tersa_index_params_init`.
   */
  uint32_t struct_size;
  /**
   * Elements of a key.
   */
  uint32_t head_dim;
  /**
   * Query heads that share the KV head. To be set; `tersa_index_params_init` leaves 0.
   */
  uint32_t group;
  /**
   * First tokens, always attended to.
   */
  uint32_t sinks;
  /**
   * Last tokens before the current one, always attended to.
   */
  struct tersa_extent window;
  /**
   * Tokens selected among the others at each step.
   */
  struct tersa_extent budget;
  /**
   * Codes of a key: the sub-spaces that it is cut into.
   */
  uint32_t m;
  /**
   * Bits of a code: 4, 6 or 8.
   */
  uint32_t nbits;
  /**
   * A `tersa_group_rule`.
   */
  uint32_t rule;
  /**
   * 1 to learn from the prompt's queries where keys have to be coded well, else 0.
   */
  uint32_t transform;
  /**
   * Bits of the codes for a second look at the keys around the budget's edge: 2, 3 or 4; 0 for no second look.
   */
  uint32_t rerank_bits;
  /**
   * 1 to start training at rows drawn at random, as the paper does; 0 for k-means++.
   */
  uint32_t random_rows;
  /**
   * The share of the keys that gets the second look.
   */
  double rerank_band;
  /**
   * Iterations of training, at most.
   */
  uint32_t iterations;
  /**
   * Keys that training looks at for each centroid, at most; 0 for all.
   */
  uint32_t sample;
  /**
   * Seed of every random choice of training.
   */
  uint64_t seed;
  /**
   * Seed of the second look's rotation.
   */
  uint64_t rerank_seed;
  /**
   * New keys before a refresh is due, at least.
   */
  uint32_t refresh_at_least;
  /**
   * Drift: tokens after which a new key's coding error weighs half as much.
   */
  uint32_t drift_half_life;
  /**
   * Growth: a refresh is due when there are more keys than the index was built for, by this share of them; 0 for drift.
   */
  double refresh_growth;
  /**
   * Drift: a refresh is due when new keys' errors are so many times those of the trained ones; 0 for never. Not looked at with growth.
   */
  double drift_refresh_at;
} tersa_index_params;

/**
 * What an index holds.
 */
typedef struct tersa_index_info {
  /**
   * Set by `tersa_index_info_init`.
   */
  uint32_t struct_size;
  /**
   * 1 if there is a codebook.
   */
  uint32_t trained;
  /**
   * 1 if `tersa_index_refresh` is due: there are enough keys for a first codebook, or it is time by the parameters; else 0.
   */
  uint32_t refresh_due;
  /**
   * Bits of a key's codes.
   */
  uint32_t bits;
  /**
   * Tokens of the sequence.
   */
  size_t n_tokens;
  /**
   * Tokens of its prompt.
   */
  size_t n_prompt;
  /**
   * Tokens with codes. Those before are the sinks, those after the tail.
   */
  struct tersa_range middle;
  /**
   * Tokens of the window.
   */
  size_t window;
  /**
   * Tokens that are selected, if the middle has so many.
   */
  size_t budget;
  /**
   * Bytes on the heap, those shared with forks included.
   */
  size_t heap_bytes;
  /**
   * Keys appended since training.
   */
  uint64_t appended;
  /**
   * Recent coding error of new keys over that of the trained ones.
   */
  double drift;
} tersa_index_info;

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
 * Exact attention of the query heads that share a KV head, `q` `[group][keys->dim]`, over a range of tokens: `out`,
 * `[group][values->dim]`, and, unless `lse` is NULL, the natural logarithm of each head's sum of exponentials, `[group]`.
 * `scale` is what scores are multiplied by, usually `1 / sqrt(dim)`. Over no tokens, `out` is 0 and `lse` is minus infinity.
 *
 * Keys and values are read once for the whole group, as f32, and summed in f32. Limit: the bandwidth of reading them for a few heads. A
 * long range may be cut among threads, and their results merged by `tersa_attend_merge`. Takes no memory with a workspace that
 * has seen `group` and `values->dim`.
 */
tersa_status tersa_attend_range(const float *q,
                                uint32_t group,
                                float scale,
                                const struct tersa_view *keys,
                                const struct tersa_view *values,
                                struct tersa_range tokens,
                                float *out,
                                float *lse,
                                struct tersa_workspace *workspace,
                                struct tersa_error *err);

/**
 * As `tersa_attend_range`, over the tokens of a list: best rising, and a token named twice counts twice.
 */
tersa_status tersa_attend_list(const float *q,
                               uint32_t group,
                               float scale,
                               const struct tersa_view *keys,
                               const struct tersa_view *values,
                               const uint32_t *tokens,
                               size_t n_tokens,
                               float *out,
                               float *lse,
                               struct tersa_workspace *workspace,
                               struct tersa_error *err);

/**
 * Merges the results of attention over `n_parts` sets of tokens: `part_out` `[n_parts][group][dim_v]` and `part_lse`
 * `[n_parts][group]` become `out` `[group][dim_v]` and, unless NULL, `lse` `[group]`: attention over all of them. A part with minus
 * infinity as `lse` has seen nothing, whatever its output.
 */
tersa_status tersa_attend_merge(uint32_t group,
                                uint32_t dim_v,
                                const float *part_out,
                                const float *part_lse,
                                size_t n_parts,
                                float *out,
                                float *lse,
                                struct tersa_workspace *workspace,
                                struct tersa_error *err);

/**
 * Scores `<q, k>`, not scaled, of the query heads `q` `[group][keys->dim]` for a range of tokens: `scores`, `[group][tokens]`. What
 * exact selection ranks; see `tersa_group_top_k_f32`. Takes no memory.
 */
tersa_status tersa_attend_scores(const float *q,
                                 uint32_t group,
                                 const struct tersa_view *keys,
                                 struct tersa_range tokens,
                                 float *scores,
                                 struct tersa_error *err);

/**
 * Sets `*params` to defaults: no slots and no tokens yet. `struct_size` is `sizeof *params`.
 */
tersa_status tersa_block_cache_params_init(struct tersa_block_cache_params *params,
                                           size_t struct_size,
                                           struct tersa_error *err);

/**
 * Makes an empty block cache.
 */
tersa_status tersa_block_cache_create(const struct tersa_block_cache_params *params,
                                      struct tersa_block_cache **out,
                                      struct tersa_error *err);

/**
 * Frees a block cache; NULL is fine.
 */
void tersa_block_cache_destroy(struct tersa_block_cache *cache);

/**
 * Starts a step.
 */
tersa_status tersa_block_cache_begin(struct tersa_block_cache *cache, struct tersa_error *err);

/**
 * Says for each of `n_tokens` tokens that a head selected in which slot of the fast tier its row lies, row `token % block_size` of it, or
 * `TERSA_NONE` if it has to come from the slow one; and counts their blocks for `tersa_block_cache_decide`.
 */
tersa_status tersa_block_cache_look_up(struct tersa_block_cache *cache,
                                       const uint32_t *tokens,
                                       size_t n_tokens,
                                       uint32_t *slots,
                                       struct tersa_error *err);

/**
 * Ends a step: which blocks to copy in, those with the most selected tokens first; `*n_copies` becomes their number. `settled` is how many
 * of the sequence's first tokens lie in the slow tier for good: a block that reaches beyond stays out. `capacity` must be at
 * least the smaller of `max_copies` and `n_slots`.
 */
tersa_status tersa_block_cache_decide(struct tersa_block_cache *cache,
                                      size_t settled,
                                      struct tersa_block_copy *copies,
                                      size_t capacity,
                                      size_t *n_copies,
                                      struct tersa_error *err);

/**
 * A copy is done: its block is in the fast tier from now on. `TERSA_ERR_STATE` if it is not under way: reported twice, or the
 * sequence was cut meanwhile.
 */
tersa_status tersa_block_cache_complete(struct tersa_block_cache *cache,
                                        const struct tersa_block_copy *copy,
                                        struct tersa_error *err);

/**
 * A copy will not be made: its slot is free again. `TERSA_ERR_STATE` if it is not under way.
 */
tersa_status tersa_block_cache_cancel(struct tersa_block_cache *cache,
                                      const struct tersa_block_copy *copy,
                                      struct tersa_error *err);

/**
 * The sequence was cut to `n_tokens` tokens, or those from there on were moved: blocks that reach beyond are dropped, also
 * those under way. 0 forgets the whole sequence.
 */
tersa_status tersa_block_cache_truncate(struct tersa_block_cache *cache,
                                        size_t n_tokens,
                                        struct tersa_error *err);

/**
 * Sets `*info` to zeros. `struct_size` is `sizeof *info`.
 */
tersa_status tersa_block_cache_info_init(struct tersa_block_cache_info *info,
                                         size_t struct_size,
                                         struct tersa_error *err);

/**
 * Looks at a block cache.
 */
tersa_status tersa_block_cache_inspect(const struct tersa_block_cache *cache,
                                       struct tersa_block_cache_info *info,
                                       struct tersa_error *err);

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
 * Makes the index of an empty sequence. Under a microsecond.
 */
tersa_status tersa_index_create(const struct tersa_index_params *params,
                                struct tersa_index **out,
                                struct tersa_error *err);

/**
 * Frees an index; NULL is fine.
 */
void tersa_index_destroy(struct tersa_index *index);

/**
 * Makes an index of a sequence that goes on from here on its own, as for beam search or a shared prompt. Codebook and
 * codes are shared until either writes.
 */
tersa_status tersa_index_fork(const struct tersa_index *index,
                              struct tersa_index **out,
                              struct tersa_error *err);

/**
 * The sequence has `keys->n_tokens` tokens now; those that are new are a prompt or the next chunk of one. Trains the
 * codebook as soon as there are enough keys, and again when a later chunk doubles them; codes all new keys but the sinks and
 * the window.
 *
 * `queries`, `[n_queries][head_dim]`, are some of the prompt's queries of the group's heads, in the order of tokens (all heads of
 * one token, then those of the next), as attention sees them: after rotary embedding, before any scale. The last thousand tokens' are enough. The
 * first training learns from them what the index should be good at, if the parameters say `transform`; there may be none.
 *
 * Cost: training, `iterations` times `sample` keys for each of the `2^nbits` centroids; then `head_dim * 2^nbits`
 * multiply-adds a key. Takes memory.
 *
 * A key that holds a NaN or an infinity is `TERSA_ERR_ARGUMENT`: it and later keys stay without codes and are attended to densely.
 */
tersa_status tersa_index_prefill(struct tersa_index *index,
                                 const struct tersa_view *keys,
                                 const float *queries,
                                 size_t n_queries,
                                 struct tersa_workspace *workspace,
                                 struct tersa_error *err);

/**
 * The sequence has `keys->n_tokens` tokens now; those that are new, usually one, were generated, and the last is the current one.
 * Keys that leave the window are coded: `head_dim * 2^nbits` multiply-adds each. Takes memory only when the codes grow into
 * a new block.
 *
 * Errors are those of `tersa_index_prefill`.
 */
tersa_status tersa_index_append(struct tersa_index *index,
                                const struct tersa_view *keys,
                                struct tersa_workspace *workspace,
                                struct tersa_error *err);

/**
 * Selects the tokens of the middle that the queries `q`, `[group][head_dim]`, should attend to, as many as the budget says, and
 * writes them to `tokens`, rising. `*n_tokens` becomes their number or, with `TERSA_ERR_SHORT_BUFFER`, the capacity
 * that is needed; a capacity of 0 only asks for that.
 *
 * `scale` is what attention multiplies scores by, usually `1 / sqrt(head_dim)`. The same tokens at every CPU level; of equal ones
 * the lower. Takes no memory with a workspace that has seen the size.
 */
tersa_status tersa_index_select(const struct tersa_index *index,
                                const float *q,
                                float scale,
                                uint32_t *tokens,
                                size_t capacity,
                                size_t *n_tokens,
                                struct tersa_workspace *workspace,
                                struct tersa_error *err);

/**
 * Attention of the queries `q`, `[group][head_dim]`, over sinks, selected tokens and tail, by the exact rows of `keys` and `values`:
 * `out`, `[group][values->dim]`, and, unless `lse` is NULL, the natural logarithm of each head's sum of exponentials, `[group]`, with which
 * results of several calls are merged.
 *
 * `keys->n_tokens` says how far to look: if it is more than the index was told of, those tokens are tail too; if less, as for the
 * earlier tokens of a batch, no token with codes may lie beyond. Takes no memory with a workspace that has seen the size.
 */
tersa_status tersa_index_attend(const struct tersa_index *index,
                                const float *q,
                                float scale,
                                const struct tersa_view *keys,
                                const struct tersa_view *values,
                                float *out,
                                float *lse,
                                struct tersa_workspace *workspace,
                                struct tersa_error *err);

/**
 * Gives this head another budget, as when a layer's budget is shared out by what its heads need.
 */
tersa_status tersa_index_set_budget(struct tersa_index *index,
                                    struct tersa_extent budget,
                                    struct tersa_error *err);

/**
 * The sequence keeps its first `n_tokens` tokens; more than it has change nothing.
 */
tersa_status tersa_index_truncate(struct tersa_index *index,
                                  size_t n_tokens,
                                  struct tersa_error *err);

/**
 * The tokens of a range left the sequence, and later ones moved down, to tokens lower by as many: eviction, or a context shift. If
 * their keys were rotated to new positions, go on with `tersa_index_recode`. Cost: one copy of the later codes.
 */
tersa_status tersa_index_remove(struct tersa_index *index,
                                struct tersa_range tokens,
                                struct tersa_error *err);

/**
 * The keys of a range are others now, as when an engine rotates them to other positions: those of the middle get new
 * codes, `head_dim * 2^nbits` multiply-adds each.
 */
tersa_status tersa_index_recode(struct tersa_index *index,
                                struct tersa_range tokens,
                                const struct tersa_view *keys,
                                struct tersa_workspace *workspace,
                                struct tersa_error *err);

/**
 * Builds the index anew from the keys there are, transform, codebook and codes; costs what `tersa_index_prefill` of all of them
 * does. `iterations` are those at most, 0 for what the parameters say; `queries` are the last ones, from which the transform is
 * learned, 2048 vectors at best: with fewer than 64 it stays as it is.
 *
 * To do this beside the decoding: fork the index, refresh the fork in another thread, `tersa_index_append` to the fork what came
 * meanwhile, and use it in the place of the index. The keys must not move until then.
 */
tersa_status tersa_index_refresh(struct tersa_index *index,
                                 const struct tersa_view *keys,
                                 const float *queries,
                                 size_t n_queries,
                                 uint32_t iterations,
                                 struct tersa_workspace *workspace,
                                 struct tersa_error *err);

/**
 * Sets `*info` to zeros. `struct_size` is `sizeof *info`.
 */
tersa_status tersa_index_info_init(struct tersa_index_info *info,
                                   size_t struct_size,
                                   struct tersa_error *err);

/**
 * Looks at an index. Under a microsecond but for long sequences.
 */
tersa_status tersa_index_inspect(const struct tersa_index *index,
                                 struct tersa_index_info *info,
                                 struct tersa_error *err);

/**
 * Writes the index to `dst`, as an entry of a container's index section (docs/format.md, section 8), so that a session that is loaded
 * again selects without training. `*written` becomes its size, also with `TERSA_ERR_SHORT_BUFFER`; a capacity of 0 only asks for
 * that. Takes memory.
 */
tersa_status tersa_index_save(const struct tersa_index *index,
                              void *dst,
                              size_t capacity,
                              size_t *written,
                              struct tersa_error *err);

/**
 * Makes the index of a sequence of `n_tokens` tokens from what `tersa_index_save` wrote when it had as many. `params` are those it was
 * made with; `TERSA_ERR_CODEC` if codes of that shape are not what the bytes hold.
 */
tersa_status tersa_index_load(const struct tersa_index_params *params,
                              size_t n_tokens,
                              const void *src,
                              size_t len,
                              struct tersa_index **out,
                              struct tersa_error *err);

/**
 * Takes the index of a KV head into a container, once for each part, layer and head. It is encoded now and written by
 * `tersa_writer_finish`; the index may go on or be destroyed.
 */
tersa_status tersa_writer_add_index(struct tersa_writer *writer,
                                    uint32_t part,
                                    uint32_t layer,
                                    uint32_t head,
                                    const struct tersa_index *index,
                                    struct tersa_error *err);

/**
 * Makes the index of a KV head from a container, for its sequence of `n_tokens` tokens; `TERSA_ERR_NOT_FOUND` if there is none. See
 * `tersa_index_load`. Reads the table of indexes and the index.
 */
tersa_status tersa_reader_index_load(const struct tersa_reader *reader,
                                     uint32_t part,
                                     uint32_t layer,
                                     uint32_t head,
                                     const struct tersa_index_params *params,
                                     size_t n_tokens,
                                     struct tersa_index **out,
                                     struct tersa_error *err);

/**
 * Sets `*params` to a preset for keys of `head_dim` elements; `preset` is a `tersa_index_preset`. `group` is left 0, to be set.
 * `struct_size` is `sizeof *params`.
 */
tersa_status tersa_index_params_init(struct tersa_index_params *params,
                                     size_t struct_size,
                                     uint32_t preset,
                                     uint32_t head_dim,
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
 * Writes the indices of the `k` greatest of `n_scores` scores, rising, to `tokens`, which has `capacity` elements; `*n_tokens` becomes
 * their number: `k`, or `n_scores` if that is less. Of equal scores the lower indices are taken. The same at every CPU level. With
 * `TERSA_ERR_SHORT_BUFFER` `*n_tokens` is the capacity that is needed; a capacity of 0 only asks for that.
 *
 * Cost: two passes over the scores. Takes no memory with a workspace that was used for a selection before.
 */
tersa_status tersa_top_k_u16(const uint16_t *scores,
                             size_t n_scores,
                             size_t k,
                             uint32_t *tokens,
                             size_t capacity,
                             size_t *n_tokens,
                             struct tersa_workspace *workspace,
                             struct tersa_error *err);

/**
 * As `tersa_top_k_u16`. NaNs rank below every number; 0 and -0 are equal.
 */
tersa_status tersa_top_k_f32(const float *scores,
                             size_t n_scores,
                             size_t k,
                             uint32_t *tokens,
                             size_t capacity,
                             size_t *n_tokens,
                             struct tersa_workspace *workspace,
                             struct tersa_error *err);

/**
 * The `k` best tokens for the query heads that share a KV head: their scores, `[group][n_scores]`, are combined by `rule`, a
 * `tersa_group_rule`, after multiplication by `scale`, and the greatest are written as by `tersa_top_k_f32`. With scores of
 * `tersa_attend_scores` and attention's scale this is exact selection.
 *
 * Cost: two powers a score and three passes. Takes no memory with a workspace that has seen the size.
 */
tersa_status tersa_group_top_k_f32(uint32_t rule,
                                   const float *scores,
                                   uint32_t group,
                                   size_t n_scores,
                                   float scale,
                                   size_t k,
                                   uint32_t *tokens,
                                   size_t capacity,
                                   size_t *n_tokens,
                                   struct tersa_workspace *workspace,
                                   struct tersa_error *err);

/**
 * Writes the indices of the fewest tokens that hold at least the share `p` of all weights, heaviest first (of equal ones the lower
 * index), in rising order. Weights are finite, need not sum to 1, and count as 0 where they are negative. Else as
 * `tersa_top_k_u16`.
 *
 * Cost: about ten passes over the weights.
 */
tersa_status tersa_top_p(const float *weights,
                         size_t n_weights,
                         float p,
                         uint32_t *tokens,
                         size_t capacity,
                         size_t *n_tokens,
                         struct tersa_workspace *workspace,
                         struct tersa_error *err);

/**
 * Writes the indices of the scores that are at least `least`, rising. Else as `tersa_top_k_u16`.
 */
tersa_status tersa_at_least_u16(const uint16_t *scores,
                                size_t n_scores,
                                uint16_t least,
                                uint32_t *tokens,
                                size_t capacity,
                                size_t *n_tokens,
                                struct tersa_error *err);

/**
 * As `tersa_at_least_u16`. A NaN is at least nothing, and nothing is at least a NaN.
 */
tersa_status tersa_at_least_f32(const float *scores,
                                size_t n_scores,
                                float least,
                                uint32_t *tokens,
                                size_t capacity,
                                size_t *n_tokens,
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
 * Sets `*view` to no tokens of f16. `struct_size` is `sizeof *view`.
 */
tersa_status tersa_view_init(struct tersa_view *view, size_t struct_size, struct tersa_error *err);

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
 * Takes the memory now that indexes like `index` will need for sequences of up to `n_tokens` tokens with values of `dim_v` elements.
 */
tersa_status tersa_workspace_reserve_index(struct tersa_workspace *workspace,
                                           const struct tersa_index *index,
                                           size_t n_tokens,
                                           uint32_t dim_v,
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
