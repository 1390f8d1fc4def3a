// Compresses the key/value cache of a model that lies in memory, and brings a part of it back.
#include <cmath>
#include <cstdio>
#include <vector>

#include "tersa.hpp"

int main() try {
  constexpr std::size_t layers = 4, tokens = 1024, heads = 2, dim = 64, row = heads * dim, len = tokens * row;
  constexpr tersa::rows rows{TERSA_F32, heads, dim};

  // A made-up cache, [layer][token][head][dim]; an engine has a real one.
  std::vector<std::vector<float>> keys(layers, std::vector<float>(len)), values = keys;
  for (std::size_t l = 0; l < layers; ++l)
    for (std::size_t i = 0; i < len; ++i) {
      const float t = static_cast<float>(i / row), x = static_cast<float>(i % row);
      keys[l][i] = std::sin(0.1f * t + x) + x / 64;
      values[l][i] = std::cos(0.37f * t + 1.7f * x + static_cast<float>(l));
    }

  // Where it lies: a pointer for each layer. Strides, blocks and block tables are described the same way.
  std::vector<const void*> k_at, v_at;
  for (std::size_t l = 0; l < layers; ++l) {
    k_at.push_back(keys[l].data());
    v_at.push_back(values[l].data());
  }
  const tersa::const_kv k(rows, tokens, k_at, len * sizeof(float)), v(rows, tokens, v_at, len * sizeof(float));

  // A codec is made once for a model, and used from any number of threads.
  tersa::codec_params params;
  params.n_layers = layers;
  params.dtype_k = params.dtype_v = TERSA_F32;
  params.n_kv_heads = heads;
  params.head_dim_k = params.head_dim_v = dim;
  const tersa::codec codec = tersa::codec::create("safe", params);
  const std::vector<std::byte> blob = codec.encode(k, v, {0, layers}, {0, tokens});
  std::printf("%zu bytes of f32 are %zu bytes now, as %s\n", 2 * layers * len * sizeof(float), blob.size(),
              codec.name().c_str());

  // Tokens 500 to 515 of layer 2, keys only: `{}` leaves the values out.
  std::vector<float> back(16 * row);
  codec.decode(blob, {2, 3}, {500, 516}, tersa::kv(rows, 16, back.data(), back.size() * sizeof(float)), {});
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < back.size(); ++i) {
    const double was = keys[2][500 * row + i], is = back[i];
    difference += (is - was) * (is - was);
    size += was * was;
  }
  std::printf("relative error of these keys: %.4f\n", std::sqrt(difference / size));
  return difference > 0.01 * size;  // `safe` loses far less than a tenth
} catch (const tersa::error& e) {
  std::fprintf(stderr, "tersa: %s\n", e.what());
  return 1;
}
