// Tersa in an engine with a paged cache: blocks of 16 tokens, a block table for each sequence. docs/abi.md walks through it.
//
// - Decode attends to selected tokens, straight from the blocks.
// - A sequence that must make room is compressed, its blocks go to others, and it comes back into other blocks.
// - Two sequences share a prompt; each goes on alone.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "tersa.hpp"

namespace {

constexpr std::size_t layers = 2, heads = 2, group = 4, dim = 64, block = 16, n_blocks = 100;
constexpr std::size_t row = heads * dim, block_stride = block * row, pool_bytes = n_blocks * block_stride * sizeof(float);

// The engine's memory: for each layer a pool of blocks, [block][token][head][dim], for keys and one for values.
struct pools {
  std::vector<std::vector<float>> keys, values;
  std::vector<std::uint32_t> free;
  pools() : keys(layers, std::vector<float>(n_blocks * block_stride)), values(keys) {
    for (std::uint32_t b = n_blocks; b > 0; --b) free.push_back(b - 1);
  }
  std::uint32_t take() {
    if (free.empty()) std::abort();  // an engine preempts a sequence here, see `swap_out`
    const std::uint32_t b = free.back();
    free.pop_back();
    return b;
  }
};

struct sequence {
  std::size_t n_tokens = 0;
  std::vector<std::uint32_t> table;   // which block holds tokens 16 i to 16 i + 15
  std::vector<tersa::index> indexes;  // [layer][head]
};

// The rows of one head in their blocks, as selection and attention read them: `data` is the head's first row of block 0.
tersa::view rows(const std::vector<float>& pool, const sequence& s, std::size_t head) {
  return tersa::view(TERSA_F32, dim, s.n_tokens, &pool[head * dim], pool_bytes - head * dim * sizeof(float), row)
      .blocks(block, s.table, block_stride);
}

// All layers of a sequence in their blocks, as codecs read and write them. `at` holds one pointer for each layer.
template <class Kv, class Void>
Kv cache(std::vector<std::vector<float>>& pool, const sequence& s, std::vector<Void*>& at) {
  at.clear();
  for (auto& layer : pool) at.push_back(layer.data());
  Kv kv({TERSA_F32, heads, dim}, s.n_tokens, at, pool_bytes);
  kv.blocks(block, s.table, block_stride);
  return kv;
}

class engine {
 public:
  engine() : workspace_(tersa::workspace::create()) {
    tersa::codec_params params;
    params.n_layers = layers;
    params.dtype_k = params.dtype_v = TERSA_F32;
    params.n_kv_heads = heads;
    params.head_dim_k = params.head_dim_v = dim;
    codec_ = tersa::codec::create("lossless", params);  // "safe" is four times smaller and nearly as good
  }

  // A prompt: the model fills blocks, then each head's index learns from its keys.
  sequence prefill(std::size_t n_tokens) {
    sequence s;
    for (std::size_t t = 0; t < n_tokens; ++t) model_writes(s);
    const auto params = tersa::index_params::of(TERSA_INDEX_DEFAULT, dim, group);
    for (std::size_t l = 0; l < layers; ++l)
      for (std::size_t h = 0; h < heads; ++h) {
        s.indexes.push_back(tersa::index::create(params));
        s.indexes.back().prefill(rows(pools_.keys[l], s, h), {}, &workspace_);
      }
    return s;
  }

  // A new token: its rows go to the cache, then each head attends. Heads are independent, so threads may share them out, each
  // with a workspace of its own.
  void step(sequence& s, const std::vector<float>& q, std::vector<float>& out) {
    model_writes(s);
    for (std::size_t l = 0; l < layers; ++l)
      for (std::size_t h = 0; h < heads; ++h) {
        s.indexes[l * heads + h].append(rows(pools_.keys[l], s, h), &workspace_);
        attend(s, q, out, l, h);
      }
  }

  void attend(const sequence& s, const std::vector<float>& q, std::vector<float>& out, std::size_t l, std::size_t h) {
    const tersa::view k = rows(pools_.keys[l], s, h), v = rows(pools_.values[l], s, h);
    float* to = &out[(l * heads + h) * group * dim];
    s.indexes[l * heads + h].attend(q, 1 / std::sqrt(float{dim}), k, v, {to, group * dim}, {}, &workspace_);
  }

  // Compresses a sequence and gives its blocks back. Indexes count tokens, not blocks: they stay as they are.
  std::vector<std::byte> swap_out(sequence& s) {
    std::vector<const void*> k_at, v_at;
    auto bytes = codec_.encode(cache<tersa::const_kv>(pools_.keys, s, k_at),
                               cache<tersa::const_kv>(pools_.values, s, v_at), {0, layers}, {0, s.n_tokens}, &workspace_);
    for (std::uint32_t b : s.table) pools_.free.push_back(b);
    s.table.clear();
    return bytes;
  }

  // Brings it back into whatever blocks are free.
  void swap_in(sequence& s, const std::vector<std::byte>& bytes) {
    while (s.table.size() * block < s.n_tokens) s.table.push_back(pools_.take());
    std::vector<void*> k_at, v_at;
    codec_.decode(bytes, {0, layers}, {0, s.n_tokens}, cache<tersa::kv>(pools_.keys, s, k_at),
                  cache<tersa::kv>(pools_.values, s, v_at), 0, &workspace_);
  }

  // A sequence that goes on from the same tokens. Full blocks could be shared by counting references; here they are copied.
  sequence fork(const sequence& s) {
    sequence other;
    other.n_tokens = s.n_tokens;
    for (std::uint32_t from : s.table) {
      const std::uint32_t to = pools_.take();
      other.table.push_back(to);
      for (std::size_t l = 0; l < layers; ++l)
        for (auto* pool : {&pools_.keys[l], &pools_.values[l]})
          for (std::size_t i = 0; i < block_stride; ++i) (*pool)[to * block_stride + i] = (*pool)[from * block_stride + i];
    }
    for (const tersa::index& index : s.indexes) other.indexes.push_back(index.fork());
    return other;
  }

 private:
  // What stands for the model: rows of the next token, in the last block or a new one.
  void model_writes(sequence& s) {
    if (s.n_tokens % block == 0) s.table.push_back(pools_.take());
    const std::size_t at = s.table[s.n_tokens / block] * block_stride + s.n_tokens % block * row;
    for (std::size_t l = 0; l < layers; ++l)
      for (std::size_t i = 0; i < row; ++i) {
        pools_.keys[l][at + i] = normal_(random_);
        pools_.values[l][at + i] = normal_(random_);
      }
    ++s.n_tokens;
  }

  pools pools_;
  tersa::codec codec_;
  tersa::workspace workspace_;
  std::mt19937 random_{1};
  std::normal_distribution<float> normal_;
};

}  // namespace

int main() try {
  engine engine;
  sequence first = engine.prefill(500);
  std::vector<float> q(group * dim), out(layers * heads * group * dim);
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = std::sin(static_cast<float>(i));
  for (int i = 0; i < 20; ++i) engine.step(first, q, out);

  sequence second = engine.fork(first);
  const std::vector<std::byte> swapped = engine.swap_out(first);
  std::printf("%zu tokens swapped out: %zu bytes are %zu\n", first.n_tokens,
              2 * layers * first.n_tokens * row * sizeof(float), swapped.size());
  const auto before = out;
  for (int i = 0; i < 20; ++i) engine.step(second, q, out);

  engine.swap_in(first, swapped);
  for (std::size_t l = 0; l < layers; ++l)
    for (std::size_t h = 0; h < heads; ++h) engine.attend(first, q, out, l, h);
  std::printf("%zu tokens swapped in: attention is %s\n", first.n_tokens, out == before ? "the same" : "NOT the same");
  return out != before;
} catch (const tersa::error& e) {
  std::fprintf(stderr, "tersa: %s\n", e.what());
  return 1;
}
