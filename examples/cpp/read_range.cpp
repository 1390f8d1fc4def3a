// Reads a range of tokens of one layer out of a .tersa file, without touching the rest of it.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "tersa.hpp"

namespace {

std::size_t len_bytes(std::uint32_t dtype, std::size_t n) {
  switch (dtype) {
    case TERSA_F32: return 4 * n;
    case TERSA_F16: case TERSA_BF16: return 2 * n;
    case TERSA_F8_E4M3: case TERSA_F8_E5M2: return n;
    case TERSA_Q8_0: return 34 * (n / 32);
    case TERSA_Q4_1: return 20 * (n / 32);
    case TERSA_Q5_0: return 22 * (n / 32);
    case TERSA_Q5_1: return 24 * (n / 32);
    default: return 18 * (n / 32);  // TERSA_Q4_0, TERSA_IQ4_NL
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2 && argc != 5) {
    std::fprintf(stderr, "usage: read_range FILE [LAYER FIRST END]\n");
    return 2;
  }
  const tersa::reader reader = tersa::reader::open(argv[1]);
  std::printf("%s: %llu sound chunks; %s\n", argv[1], static_cast<unsigned long long>(reader.verify()),
              reader.metadata().c_str());
  const auto number = [&](int i) { return std::strtoul(argv[i], nullptr, 10); };

  // A stream is the keys or the values of one layer.
  std::uint32_t stream = 0;
  if (argc == 5) {
    const auto found = reader.find(static_cast<std::uint32_t>(number(2)), TERSA_K);
    if (!found) {
      std::fprintf(stderr, "there is no such layer\n");
      return 1;
    }
    stream = *found;
  }
  const tersa::stream_info info = reader.stream(stream);
  const tersa::range tokens = argc == 5 ? tersa::range{number(3), number(4)} : tersa::range{0, 4};

  const std::size_t n_tokens = tokens.end - tokens.start, row = info.n_kv_heads * len_bytes(info.dtype, info.head_dim);
  std::vector<std::byte> bytes(n_tokens * row);
  const tersa::rows rows{static_cast<tersa_dtype>(info.dtype), info.n_kv_heads, info.head_dim};
  reader.read(stream, {0, info.n_kv_heads}, tokens, tersa::kv(rows, n_tokens, bytes.data(), bytes.size()));
  std::printf("layer %u, tokens %zu to %zu, coded as %s: %zu bytes\n", info.layer, tokens.start, tokens.end - 1,
              reader.codec_name(stream, 0).c_str(), bytes.size());
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
