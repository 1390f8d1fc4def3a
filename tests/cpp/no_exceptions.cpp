// tersa.hpp without exceptions: every call returns a value or a failure.
#define TERSA_NO_EXCEPTIONS
#include "check.hpp"

namespace {

constexpr std::size_t TOKENS = 64, HEADS = 2, DIM = 64, N = TOKENS * HEADS * DIM;
constexpr tersa::rows ROWS{TERSA_F32, HEADS, DIM};
constexpr tersa::range LAYER{0, 1}, ALL{0, TOKENS};

tersa::result<std::vector<std::byte>> encode(const char* spec, const std::vector<float>& data) {
  tersa::codec_params p;
  p.dtype_k = TERSA_F32;
  p.n_kv_heads = HEADS;
  p.head_dim_k = DIM;
  const auto codec = tersa::codec::create(spec, p);
  if (!codec) return codec.error();
  return codec->encode(tersa::const_kv(ROWS, TOKENS, data.data(), N * sizeof(float)), {}, LAYER, ALL);
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc == 2);
  const std::vector<float> data = made_up(N, 5);
  auto blob = encode("lossless", data);
  CHECK(blob && blob.has_value() && blob.code() == TERSA_OK && blob->size() > 64);
  const auto none = encode("had+lm7", data);
  CHECK(!none && none.code() == TERSA_ERR_SPEC && std::strlen(none.error().what()) > 0);

  // A result is moved out of, as any value.
  tersa::codec_params p;
  p.dtype_k = p.dtype_v = TERSA_F32;
  p.n_kv_heads = HEADS;
  p.head_dim_k = p.head_dim_v = DIM;
  const tersa::codec codec = tersa::codec::create("lossless", p).value();
  const tersa::codec moved = *tersa::codec::create("raw", p);
  CHECK(codec.name().value() == "lossless" && *moved.name() == "raw");
  CHECK(tersa::codec::load(*codec.save()));
  CHECK(tersa::codec().name().code() == TERSA_ERR_NULL);

  tersa::workspace ws = *tersa::workspace::create();
  CHECK(ws.reserve(codec, TOKENS));
  std::vector<unsigned char> bytes(*codec.bound(1, TOKENS));
  const tersa::const_kv rows(ROWS, TOKENS, data.data(), N * sizeof(float));
  const auto n = codec.encode(rows, rows, LAYER, ALL, bytes, &ws);
  CHECK(n && *n <= bytes.size());
  bytes.resize(*n);
  std::vector<float> back(N);
  const tersa::kv to(ROWS, TOKENS, back.data(), N * sizeof(float));
  CHECK(codec.decode(bytes, LAYER, ALL, to, {}, 0, &ws));
  CHECK(back == data);
  bytes[*n - 1] ^= 1;
  const tersa::result<void> damaged = codec.decode(bytes, LAYER, ALL, {}, to);
  CHECK(!damaged && damaged.code() == TERSA_ERR_CORRUPT && damaged.error().code() == TERSA_ERR_CORRUPT);
  CHECK(tersa::blob_info::of(bytes)->n_tokens == TOKENS);

  const std::string path = std::string(argv[1]) + "/cache.tersa";
  tersa::writer writer = tersa::writer::create(path).value();
  const auto stream = writer.add_stream({0, TERSA_K}, codec, 0);
  CHECK(stream && writer.append(*stream, rows, ALL) && writer.finish("{}") && !writer.finish());
  const tersa::reader reader = tersa::reader::open(path).value();
  // Two layers of answers: the call worked; there is, or is not, such a stream.
  CHECK(reader.find(0, TERSA_K) && *reader.find(0, TERSA_K) == stream.value());
  CHECK(reader.find(1, TERSA_K) && !*reader.find(1, TERSA_K) && !reader.find(0, 9));
  back.assign(N, 0);
  CHECK(reader.read(0, {0, HEADS}, ALL, to) && back == data && reader.verify() && *reader.metadata() == "{}");
  CHECK((*reader.stats(0, 0))->sum_sq_error == 0 && !*reader.stats(0, HEADS) && *reader.codec_name(0, 0) == "lossless");
  CHECK(tersa::reader::open("/no/such/file").code() == TERSA_ERR_IO);

  const tersa::pool pool = *tersa::pool::create();
  bytes.resize(*codec.bound(1, TOKENS));
  const auto job = pool.encode(codec, rows, rows, LAYER, ALL, bytes, 9);
  CHECK(job && *job);
  tersa::completion room[2];
  const auto done = pool.wait(room);
  CHECK(done && done->size() == 1 && (*done)[0].job == **job && *tersa::written((*done)[0]) == *n);
  CHECK(pool.poll(room)->empty() && !*pool.cancel(**job) && pool.event_fd());

  auto params = tersa::index_params::of(TERSA_INDEX_DEFAULT, DIM, 1).value();
  params.sinks = 0;
  params.window = tersa::tokens(1);
  tersa::index index = tersa::index::create(params).value();
  const tersa::view keys(TERSA_F32, DIM, TOKENS * HEADS, data.data(), N * sizeof(float));
  CHECK(index.prefill(keys) && index.inspect()->n_tokens == TOKENS * HEADS && index.fork());
  std::vector<float> out(DIM), lse(1);
  CHECK(index.attend(tersa::span<const float>(data).first(DIM), 0.125f, keys, keys, out, lse, &ws));
  CHECK(index.attend(data, 0.125f, keys, keys, out).code() == TERSA_ERR_ARGUMENT);
  CHECK(tersa::index::load(params, TOKENS * HEADS, *index.save()) && !tersa::index::load(params, 3, bytes));
  std::puts("no_exceptions: ok");
}
