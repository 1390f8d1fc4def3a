// A decode loop that attends to selected tokens: an index for each key/value head of each layer, over a cache that stays
// where the engine has it. (decode.c is the same in C, and checks the outputs.)
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "tersa.hpp"

namespace {

constexpr std::size_t layers = 2, heads = 2, group = 4, dim = 64, prompt = 600, steps = 20, most = prompt + steps;

// The engine's cache of one layer, [token][head][dim].
using cache = std::vector<float>;

tersa::view rows(const cache& from, std::size_t head, std::size_t n_tokens) {
  return {TERSA_F32, dim, n_tokens, &from[head * dim], (from.size() - head * dim) * sizeof(float), heads * dim};
}

}  // namespace

int main() try {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto fill = [&](float* from, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) from[i] = normal(random);
  };
  std::vector<cache> keys(layers, cache(most * heads * dim)), values = keys;
  const auto model_writes = [&](std::size_t token, std::size_t n) {
    for (std::size_t l = 0; l < layers; ++l) {
      fill(&keys[l][token * heads * dim], n * heads * dim);
      fill(&values[l][token * heads * dim], n * heads * dim);
    }
  };

  // The prompt: the model fills the cache, then each head's index learns from its keys.
  model_writes(0, prompt);
  const auto params = tersa::index_params::of(TERSA_INDEX_DEFAULT, dim, group);
  tersa::workspace workspace = tersa::workspace::create();  // one for each thread
  std::vector<tersa::index> indexes;
  for (std::size_t l = 0; l < layers; ++l)
    for (std::size_t h = 0; h < heads; ++h) {
      indexes.push_back(tersa::index::create(params));
      // Queries of the prompt, if the engine has them at hand, make the index better: a second argument.
      indexes.back().prefill(rows(keys[l], h, prompt), {}, &workspace);
    }

  // Generation: for each token and layer, the key and value go to the cache, then attention reads a part of it.
  std::vector<float> q(group * dim), out(group * dim);
  for (std::size_t n = prompt + 1; n <= most; ++n) {
    model_writes(n - 1, 1);
    for (std::size_t l = 0; l < layers; ++l)
      for (std::size_t h = 0; h < heads; ++h) {
        tersa::index& index = indexes[l * heads + h];
        const tersa::view k = rows(keys[l], h, n), v = rows(values[l], h, n);
        fill(q.data(), q.size());
        index.append(k, &workspace);
        index.attend(q, 1 / std::sqrt(float{dim}), k, v, out, {}, &workspace);
      }
  }
  const tersa::index_info info = indexes[0].inspect();
  std::printf("%zu tokens; attended to: %zu sinks, %zu selected, %zu last ones; %zu bytes of index for a head\n",
              info.n_tokens, info.middle.start, info.budget, info.n_tokens - info.middle.end, info.heap_bytes);
  return 0;
} catch (const tersa::error& e) {
  std::fprintf(stderr, "tersa: %s\n", e.what());
  return 1;
}
