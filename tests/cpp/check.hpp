// What the C++ programs of this folder share.
#ifndef CHECK_HPP
#define CHECK_HPP

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tersa.hpp"

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
      std::exit(1);                                                           \
    }                                                                         \
  } while (0)

#ifndef TERSA_NO_EXCEPTIONS
// Runs `call`, which must throw; with which status.
template <class Call>
tersa_status thrown(Call call) {
  try {
    (void)call();
  } catch (const std::exception& e) {  // what a program that knows nothing of Tersa would catch
    const auto* ours = dynamic_cast<const tersa::error*>(&e);
    CHECK(ours != nullptr && std::strlen(e.what()) > 0);
    return ours->code();
  }
  return TERSA_OK;
}
#define THROWS(status, ...) CHECK(thrown([&] { __VA_ARGS__; return 0; }) == (status))
#endif

// Made-up numbers, the same every time.
inline std::vector<float> made_up(std::size_t n, std::uint32_t seed) {
  std::vector<float> out(n);
  for (float& x : out) {
    seed = seed * 1664525u + 1013904223u;
    x = static_cast<float>(static_cast<std::int32_t>(seed >> 16)) / 65536.0f - 0.5f;
  }
  return out;
}

#endif
