// Containers through tersa.hpp: files, memory, callbacks that may throw.
#include "check.hpp"

#include <stdexcept>

namespace {

constexpr std::size_t TOKENS = 150, HEADS = 2, DIM = 64, CHUNK = 64, N = TOKENS * HEADS * DIM;
constexpr tersa::rows ROWS{TERSA_F32, HEADS, DIM};

tersa::codec make_codec() {
  tersa::codec_params p;
  p.dtype_k = p.dtype_v = TERSA_F32;
  p.n_kv_heads = HEADS;
  p.head_dim_k = p.head_dim_v = DIM;
  p.chunk_tokens = CHUNK;
  return tersa::codec::create("k=had+lm4,v=lossless", p);
}

void fill(tersa::writer& writer, const std::vector<float>& data) {
  const tersa::codec codec = make_codec();
  const std::vector<std::uint32_t> sinks{0, 1, 2, 3};
  const std::uint32_t k = writer.add_stream(tersa::stream_params(7, TERSA_K, sinks), codec, 0);
  const std::uint32_t v = writer.add_stream({7, TERSA_V}, codec, 0);
  CHECK(k == 0 && v == 1);
  tersa::workspace ws = tersa::workspace::create();
  const tersa::const_kv rows(ROWS, TOKENS, data.data(), N * sizeof(float));
  for (std::size_t token = 0; token < TOKENS; token += CHUNK)
    for (std::uint32_t stream : {k, v})
      writer.append(stream, rows, {token, token + CHUNK < TOKENS ? token + CHUNK : TOKENS}, &ws);
  writer.finish("{\"model\":\"made up\"}");
}

void check(const tersa::reader& reader, const std::vector<float>& data) {
  CHECK(reader.n_streams() == 2 && reader.metadata() == "{\"model\":\"made up\"}" && reader.verify() == 6);
  CHECK(!reader.find(0, TERSA_K) && !reader.find(7, TERSA_K, 1));
  const std::uint32_t k = reader.find(7, TERSA_K).value(), v = reader.find(7, TERSA_V).value();
  CHECK(reader.codec_name(k, 1) == "had+lm4" && reader.codec_name(v, 0) == "lossless");
  const tersa::stream_info info = reader.stream(v);
  CHECK(info.layer == 7 && info.n_tokens == TOKENS && info.dtype == TERSA_F32);
  CHECK(reader.stats(k, 0)->sum_sq_error > 0 && reader.stats(v, 0)->sum_sq_error == 0 && !reader.stats(v, HEADS));
  tersa::workspace ws = tersa::workspace::create();
  std::vector<float> back(N);
  const tersa::kv all(ROWS, TOKENS, back.data(), N * sizeof(float));
  reader.read(k, {0, HEADS}, {0, TOKENS}, all, 0, &ws);
  CHECK(std::memcmp(back.data(), data.data(), 4 * HEADS * DIM * sizeof(float)) == 0 && back != data);
  reader.read(v, {0, HEADS}, {0, TOKENS}, all, 0, &ws);
  CHECK(back == data);
  std::vector<float> one(10 * DIM);
  reader.read(v, {1, 2}, {60, 70}, tersa::kv({TERSA_F32, 1, DIM}, 10, one.data(), one.size() * sizeof(float)));
  for (std::size_t t = 0; t < 10; ++t)
    CHECK(std::memcmp(&one[t * DIM], &data[((60 + t) * HEADS + 1) * DIM], DIM * sizeof(float)) == 0);
  THROWS(TERSA_ERR_NOT_FOUND, reader.stream(2));
  THROWS(TERSA_ERR_ARGUMENT, reader.find(7, 2));
  THROWS(TERSA_ERR_ARGUMENT, reader.read(v, {0, HEADS}, {0, TOKENS + 1}, all));
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc == 2);
  const std::vector<float> data = made_up(N, 3);
  const std::string path = std::string(argv[1]) + "/cache.tersa", other = std::string(argv[1]) + "/other.tersa";
  tersa::writer writer = tersa::writer::create(path);
  fill(writer, data);
  check(tersa::reader::open(path), data);
  THROWS(TERSA_ERR_STATE, writer.finish());
  { const tersa::writer unfinished = tersa::writer::create(other); }
  THROWS(TERSA_ERR_IO, tersa::reader::open(other));
  THROWS(TERSA_ERR_IO, tersa::writer::create("/no/such/folder/x.tersa"));

  std::vector<std::byte> bytes;
  auto sink = [&](const void* from, std::size_t n) {
    const auto* first = static_cast<const std::byte*>(from);
    bytes.insert(bytes.end(), first, first + n);
    return true;
  };
  tersa::writer to_memory = tersa::writer::create_callback(sink);
  fill(to_memory, data);
  check(tersa::reader::open_memory(bytes), data);
  bool broken = false;
  const auto source = [&](std::uint64_t offset, void* to, std::size_t n) {
    if (broken) throw std::runtime_error("the disk is gone");
    if (offset + n > bytes.size()) return false;
    std::memcpy(to, bytes.data() + offset, n);
    return true;
  };
  const tersa::reader from_callback = tersa::reader::open_callback(source, bytes.size());
  check(from_callback, data);
  THROWS(TERSA_ERR_IO, tersa::reader::open_callback(source, bytes.size() + 1));
  // An exception of the callback ends there and comes out as a failed read.
  broken = true;
  THROWS(TERSA_ERR_IO, from_callback.verify());
  auto broken_sink = [](const void*, std::size_t) -> bool { throw std::runtime_error("no room"); };
  THROWS(TERSA_ERR_IO, tersa::writer::create_callback(broken_sink));
  bytes[bytes.size() / 2] ^= std::byte{1};
  THROWS(TERSA_ERR_CORRUPT, tersa::reader::open_memory(bytes).verify());
  std::puts("container: ok");
}
