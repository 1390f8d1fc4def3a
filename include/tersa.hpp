/**
 * @file tersa.hpp
 * The handles of tersa.h as C++ classes: C++17 or later, nothing to link but the C library.
 *
 * Handles: each class owns one handle and nothing else. Moving moves it, destroying gives it back, `get` lends it to calls of
 * tersa.h, `release` gives it away. Empty objects (default-constructed, moved from) may be destroyed and assigned to; calls on
 * them fail with TERSA_ERR_NULL.
 *
 * Threads: const member functions may be called by many threads at once, others by one thread at a time.
 *
 * Failures: a call that fails throws tersa::error. Where TERSA_NO_EXCEPTIONS is defined, or the compiler's exceptions are off,
 * it returns a tersa::expected instead: `result<T>` below is T with exceptions and expected<T> without. Both ways may be used in
 * one program, in different files. An answer that is no failure (a full queue, no such stream) is an empty optional.
 *
 * Memory: views (spans, bytes, kv) keep pointers to what they were made of and copy nothing. No call keeps a view unless it
 * says so. What a function does beyond its line here is said in tersa.h, at the function of that name.
 */
#ifndef TERSA_HPP
#define TERSA_HPP

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#if __cplusplus >= 202002L
#include <span>
#endif

#include "tersa.h"

#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define TERSA_HPP_CAN_CATCH 1
#else
#define TERSA_HPP_CAN_CATCH 0
#ifndef TERSA_NO_EXCEPTIONS
#define TERSA_NO_EXCEPTIONS
#endif
#endif

namespace tersa {
#ifdef TERSA_NO_EXCEPTIONS
inline namespace returning {
#else
inline namespace throwing {
#endif

// ---- failures

/** Why a call failed: a status and a text. */
class error : public std::exception {
 public:
  error() noexcept : raw_{} {}
  explicit error(const tersa_error& raw) noexcept : raw_(raw) {}

  tersa_status code() const noexcept { return static_cast<tersa_status>(raw_.code); }
  const char* what() const noexcept override { return raw_.message; }

 private:
  tersa_error raw_;
};

#ifdef TERSA_NO_EXCEPTIONS
/** A value, or why there is none. Reaching for a value that is not there ends the program. */
template <class T>
class [[nodiscard]] expected {
 public:
  expected(T&& value) : value_(std::move(value)) {}
  expected(const tersa::error& e) noexcept : error_(e) {}

  explicit operator bool() const noexcept { return value_.has_value(); }
  bool has_value() const noexcept { return value_.has_value(); }
  tersa_status code() const noexcept { return error_.code(); }
  const tersa::error& error() const noexcept { return error_; }

  T& value() & noexcept { return *checked(); }
  const T& value() const& noexcept { return *checked(); }
  T&& value() && noexcept { return std::move(*checked()); }
  T& operator*() & noexcept { return value(); }
  const T& operator*() const& noexcept { return value(); }
  T&& operator*() && noexcept { return std::move(*this).value(); }
  T* operator->() noexcept { return checked(); }
  const T* operator->() const noexcept { return checked(); }

 private:
  T* checked() noexcept { return value_ ? &*value_ : (std::abort(), nullptr); }
  const T* checked() const noexcept { return value_ ? &*value_ : (std::abort(), nullptr); }

  std::optional<T> value_;
  tersa::error error_;
};

/** Nothing, or why a call failed. */
template <>
class [[nodiscard]] expected<void> {
 public:
  expected() noexcept = default;
  expected(const tersa::error& e) noexcept : error_(e) {}

  explicit operator bool() const noexcept { return error_.code() == TERSA_OK; }
  bool has_value() const noexcept { return error_.code() == TERSA_OK; }
  tersa_status code() const noexcept { return error_.code(); }
  const tersa::error& error() const noexcept { return error_; }
  void value() const noexcept { has_value() ? void() : std::abort(); }

 private:
  tersa::error error_;
};

template <class T>
using result = expected<T>;
#else
template <class T>
using result = T;
#endif

namespace detail {

/** Calls `call(out, err)` and makes a result of `out`. */
template <class T, class Call>
result<T> made(Call call) {
  T out{};
  tersa_error err;
  if (call(out, &err) != TERSA_OK) {
#ifdef TERSA_NO_EXCEPTIONS
    return error(err);
#else
    throw error(err);
#endif
  }
  return out;
}

/** Calls `call(err)`. */
template <class Call>
result<void> done(Call call) {
  tersa_error err;
  if (call(&err) != TERSA_OK) {
#ifdef TERSA_NO_EXCEPTIONS
    return error(err);
#else
    throw error(err);
#endif
  }
  return result<void>();
}

/** Asks `call(dst, capacity, written, err)` for a size, then for the bytes. */
template <class Call>
result<std::vector<std::byte>> saved(Call call) {
  return made<std::vector<std::byte>>([&](std::vector<std::byte>& out, tersa_error* err) {
    std::size_t n = 0;
    const tersa_status status = call(nullptr, 0, &n, err);
    if (status != TERSA_OK) return status;
    out.resize(n);
    return call(out.data(), n, &n, err);
  });
}

/** Fails as a call of tersa.h would. */
inline tersa_status refuse(tersa_error* err, const char* text) noexcept {
  err->code = TERSA_ERR_ARGUMENT;
  std::strncpy(err->message, text, sizeof err->message - 1);
  err->message[sizeof err->message - 1] = 0;
  return TERSA_ERR_ARGUMENT;
}

/** What `call(&value, err)` gives, or nothing where it answers `absent`. */
template <class T, class Call>
result<std::optional<T>> found(tersa_status absent, Call call) {
  return made<std::optional<T>>([&](std::optional<T>& out, tersa_error* err) {
    const tersa_status status = call(&out.emplace(), err);
    if (status != TERSA_OK) out.reset();
    return status == absent ? TERSA_OK : status;
  });
}

/** Asks `call(buf, capacity, len, err)` for a length, then for the text. */
template <class Call>
result<std::string> text(Call call) {
  return made<std::string>([&](std::string& out, tersa_error* err) {
    std::size_t len = 0;
    tersa_status status = call(nullptr, 0, &len, err);
    if (status != TERSA_OK) return status;
    out.resize(len);
    return call(out.data(), len + 1, &len, err);
  });
}

/** A callable as the `context` of its callback. */
template <class F>
void* context(F& callable) noexcept {
  return const_cast<void*>(static_cast<const void*>(std::addressof(callable)));
}

/** Sole owner of a handle of tersa.h. */
template <class T, void (*Destroy)(T*)>
class handle {
 public:
  handle() noexcept = default;
  /** Takes over what a `_create`, `_open` or `_load` of tersa.h gave. */
  explicit handle(T* owned) noexcept : owned_(owned) {}

  T* get() noexcept { return owned_.get(); }
  const T* get() const noexcept { return owned_.get(); }
  T* release() noexcept { return owned_.release(); }
  explicit operator bool() const noexcept { return owned_ != nullptr; }

 private:
  struct destroy {
    void operator()(T* owned) const noexcept { Destroy(owned); }
  };
  std::unique_ptr<T, destroy> owned_;
};

/** What `create(raw, err)` gives, in its class. */
template <class Class, class Raw, class Create>
result<Class> opened(Create create) {
  return made<Class>([&](Class& out, tersa_error* err) {
    Raw* raw = nullptr;
    const tersa_status status = create(&raw, err);
    out = Class(raw);
    return status;
  });
}

template <class C>
using element = std::remove_pointer_t<decltype(std::data(std::declval<C&>()))>;

template <class C>
using bytes_only = std::enable_if_t<sizeof(element<C>) == 1 && std::is_trivially_copyable_v<element<C>>>;

}  // namespace detail

// ---- views

#if __cplusplus >= 202002L
template <class T>
using span = std::span<T>;
#else
/** As C++20's std::span of dynamic extent, which it is there: a pointer and a length. */
template <class T>
class span {
  template <class C>
  using elements_of = std::enable_if_t<std::is_convertible_v<detail::element<C> (*)[], T (*)[]>,
                                       decltype(std::size(std::declval<C&>()))>;

 public:
  constexpr span() noexcept = default;
  constexpr span(T* data, std::size_t size) noexcept : data_(data), size_(size) {}
  template <class C, class = elements_of<std::remove_reference_t<C>>,
            class = std::enable_if_t<std::is_lvalue_reference_v<C> || std::is_const_v<T>>>
  constexpr span(C&& container) noexcept : data_(std::data(container)), size_(std::size(container)) {}
  template <class U, class = std::enable_if_t<std::is_convertible_v<U (*)[], T (*)[]>>>
  constexpr span(span<U> other) noexcept : data_(other.data()), size_(other.size()) {}

  constexpr T* data() const noexcept { return data_; }
  constexpr std::size_t size() const noexcept { return size_; }
  constexpr bool empty() const noexcept { return size_ == 0; }
  constexpr T* begin() const noexcept { return data_; }
  constexpr T* end() const noexcept { return data_ + size_; }
  constexpr T& operator[](std::size_t i) const noexcept { return data_[i]; }
  constexpr span first(std::size_t n) const noexcept { return span(data_, n); }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};
#endif

/** Bytes to read: from a pointer and a length, or a container of single bytes of any type. */
class bytes {
 public:
  bytes() noexcept = default;
  bytes(const void* data, std::size_t size) noexcept : data_(data), size_(size) {}
  template <class C, class = detail::bytes_only<const C>>
  bytes(const C& container) noexcept : data_(std::data(container)), size_(std::size(container)) {}

  const void* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

 private:
  const void* data_ = nullptr;
  std::size_t size_ = 0;
};

/** Bytes to write. */
class mutable_bytes {
 public:
  mutable_bytes() noexcept = default;
  mutable_bytes(void* data, std::size_t size) noexcept : data_(data), size_(size) {}
  template <class C, class = detail::bytes_only<C>,
            class = std::enable_if_t<!std::is_const_v<detail::element<C>>>>
  mutable_bytes(C& container) noexcept : data_(std::data(container)), size_(std::size(container)) {}

  void* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

using range = tersa_range;

/** Element type, heads and elements of a head: a token's rows in one layer. */
struct rows {
  tersa_dtype dtype = TERSA_F16;
  std::uint32_t n_kv_heads = 0;
  std::uint32_t head_dim = 0;
};

/**
 * Where the keys, or the values, of some layers lie: a tersa_kv, by way of `kv` (to write to) and `const_kv` (to read from; every
 * kv is one too). A default-constructed one stands for "none". The arrays of pointers and of blocks must outlive it.
 */
template <class Void>
class basic_kv {
 public:
  basic_kv() noexcept = default;

  /** One layer of `n_tokens` tokens, `len_bytes` bytes from `data` on. */
  basic_kv(rows r, std::size_t n_tokens, Void* data, std::size_t len_bytes) noexcept
      : basic_kv(r, n_tokens, nullptr, 1, len_bytes) {
    one_ = const_cast<void*>(data);
    raw_.pointers = &one_;
  }

  /** Several layers (or their blocks, see `blocks`), each with `len_bytes` bytes from its pointer on. */
  basic_kv(rows r, std::size_t n_tokens, span<Void* const> pointers, std::size_t len_bytes) noexcept
      : basic_kv(r, n_tokens, const_cast<void* const*>(pointers.data()), pointers.size(), len_bytes) {}

  basic_kv(const basic_kv& other) noexcept { *this = other; }
  basic_kv& operator=(const basic_kv& other) noexcept { return assign(other); }

  template <class Other, class = std::enable_if_t<std::is_const_v<Void> && !std::is_const_v<Other>>>
  basic_kv(const basic_kv<Other>& other) noexcept {
    assign(other);
  }

  /** Elements from one token, head and element of a row to the next, where rows do not lie as [token][head][dim]. */
  basic_kv& strides(std::size_t token, std::size_t head, std::size_t dim = 1) noexcept {
    raw_.token_stride = token;
    raw_.head_stride = head;
    raw_.dim_stride = dim;
    return *this;
  }

  /** Tokens lie in blocks of `size`, each with a pointer of its own: [layer][block]. */
  basic_kv& blocks(std::size_t size) noexcept {
    raw_.block_size = size;
    return *this;
  }

  /** Tokens lie in blocks of `size` of a pool for each layer: block i of the cache is block `table[i]`, `stride` elements apart. */
  basic_kv& blocks(std::size_t size, span<const std::uint32_t> table, std::size_t stride) noexcept {
    raw_.block_size = size;
    raw_.block_table = table.data();
    raw_.n_block_table = table.size();
    raw_.block_stride = stride;
    return *this;
  }

  /** As tersa.h takes it; NULL for none. */
  const tersa_kv* get() const noexcept { return raw_.struct_size == 0 ? nullptr : &raw_; }

 private:
  template <class Other>
  friend class basic_kv;

  basic_kv(rows r, std::size_t n_tokens, void* const* pointers, std::size_t n_pointers,
           std::size_t len_bytes) noexcept {
    raw_.struct_size = sizeof(tersa_kv);
    raw_.dtype = static_cast<std::uint32_t>(r.dtype);
    raw_.n_kv_heads = r.n_kv_heads;
    raw_.head_dim = r.head_dim;
    raw_.n_tokens = n_tokens;
    raw_.pointers = pointers;
    raw_.n_pointers = n_pointers;
    raw_.len_bytes = len_bytes;
  }

  template <class Other>
  basic_kv& assign(const basic_kv<Other>& other) noexcept {
    raw_ = other.raw_;
    one_ = other.one_;
    if (raw_.pointers == &other.one_) raw_.pointers = &one_;
    return *this;
  }

  tersa_kv raw_{};
  void* one_ = nullptr;
};

using kv = basic_kv<void>;
using const_kv = basic_kv<const void>;

// ---- the library

/** Whether the library that is loaded goes with the header that this file was compiled with. */
inline bool is_compatible() noexcept {
  return tersa_abi_version() == TERSA_ABI_VERSION &&
         (TERSA_ABI_VERSION != 0 || tersa_version_number() == TERSA_VERSION_NUMBER);
}

/** Lowers the vector instructions for the whole process; the level in force afterwards. */
inline result<std::uint32_t> cpu_lower_to(std::uint32_t level) {
  return detail::made<std::uint32_t>(
      [&](std::uint32_t& now, tersa_error* err) { return tersa_cpu_lower_to(level, &now, err); });
}

// ---- codecs

class codec;
class index;

/** Scratch memory of one thread. Calls that take a `workspace*` do without when it is null, and take memory each time. */
class workspace : public detail::handle<tersa_workspace, tersa_workspace_destroy> {
 public:
  using handle::handle;

  static result<workspace> create() {
    return detail::opened<workspace, tersa_workspace>(
        [](tersa_workspace** out, tersa_error* err) { return tersa_workspace_create(out, err); });
  }

  /** Takes the memory now that `c` will need for caches of up to `n_tokens` tokens. */
  result<void> reserve(const codec& c, std::size_t n_tokens);
  /** Takes the memory now that indexes like `i` will need, with values of `dim_v` elements. */
  result<void> reserve(const index& i, std::size_t n_tokens, std::uint32_t dim_v);
};

namespace detail {
inline tersa_workspace* raw(workspace* ws) noexcept { return ws == nullptr ? nullptr : ws->get(); }
}  // namespace detail

/** Defaults, to be changed field by field. */
struct codec_params : tersa_codec_params {
  codec_params() noexcept : tersa_codec_params{} { tersa_codec_params_init(this, sizeof(tersa_codec_params), nullptr); }
};

/** What encoded bytes hold. */
struct blob_info : tersa_blob_info {
  blob_info() noexcept : tersa_blob_info{} { tersa_blob_info_init(this, sizeof(tersa_blob_info), nullptr); }

  /** Looks at the head of encoded bytes, no codec needed. */
  static result<blob_info> of(bytes src) {
    return detail::made<blob_info>([&](blob_info& out, tersa_error* err) {
      return tersa_blob_inspect(src.data(), src.size(), &out, err);
    });
  }
};

/** A codec for caches of one shape. */
class codec : public detail::handle<tersa_codec, tersa_codec_destroy> {
 public:
  using handle::handle;

  /** From a specification such as "had+lm4", or a preset. Codecs that learn want a sample of all layers. */
  static result<codec> create(const char* spec, const codec_params& params, const const_kv& sample_k = {},
                              const const_kv& sample_v = {}) {
    return detail::opened<codec, tersa_codec>([&](tersa_codec** out, tersa_error* err) {
      return tersa_codec_create(spec, &params, sample_k.get(), sample_v.get(), out, err);
    });
  }

  /** From what `save` gave. */
  static result<codec> load(bytes saved) {
    return detail::opened<codec, tersa_codec>([&](tersa_codec** out, tersa_error* err) {
      return tersa_codec_load(saved.data(), saved.size(), out, err);
    });
  }

  result<std::vector<std::byte>> save() const {
    return detail::saved([&](void* dst, std::size_t capacity, std::size_t* n, tersa_error* err) {
      return tersa_codec_save(get(), dst, capacity, n, err);
    });
  }

  result<std::string> name() const {
    return detail::text([&](char* buf, std::size_t capacity, std::size_t* len, tersa_error* err) {
      return tersa_codec_name(get(), buf, capacity, len, err);
    });
  }

  /** Most bytes that `n_tokens` tokens of `n_layers` layers encode to. */
  result<std::size_t> bound(std::size_t n_layers, std::size_t n_tokens) const {
    return detail::made<std::size_t>([&](std::size_t& out, tersa_error* err) {
      return tersa_codec_bound(get(), n_layers, n_tokens, &out, err);
    });
  }

  /** Encodes into `dst`, which must have room for the bound; the bytes written. `v` is `{}` for codecs without values. */
  result<std::size_t> encode(const const_kv& k, const const_kv& v, range layers, range tokens, mutable_bytes dst,
                             workspace* ws = nullptr) const {
    return detail::made<std::size_t>([&](std::size_t& out, tersa_error* err) {
      return tersa_codec_encode(get(), k.get(), v.get(), layers, tokens, dst.data(), dst.size(), &out,
                                detail::raw(ws), err);
    });
  }

  /** Encodes into new memory. */
  result<std::vector<std::byte>> encode(const const_kv& k, const const_kv& v, range layers, range tokens,
                                        workspace* ws = nullptr) const {
    return detail::made<std::vector<std::byte>>([&](std::vector<std::byte>& out, tersa_error* err) {
      std::size_t n = 0;
      // Ranges that run backwards are encode's to report.
      tersa_status status = tersa_codec_bound(get(), length(layers), length(tokens), &n, err);
      if (status != TERSA_OK) return status;
      out.resize(n);
      status = tersa_codec_encode(get(), k.get(), v.get(), layers, tokens, out.data(), n, &n,
                                  detail::raw(ws), err);
      if (status == TERSA_OK) out.resize(n);
      return status;
    });
  }

  /** Decodes `tokens` of `layers`; token `tokens.start` goes to token `first_token` of `k` and `v`. `{}` leaves one of them out. */
  result<void> decode(bytes src, range layers, range tokens, const kv& k, const kv& v, std::size_t first_token = 0,
                      workspace* ws = nullptr) const {
    return detail::done([&](tersa_error* err) {
      return tersa_codec_decode(get(), src.data(), src.size(), layers, tokens, k.get(), v.get(), first_token,
                                detail::raw(ws), err);
    });
  }

 private:
  static std::size_t length(range r) noexcept { return r.end < r.start ? 0 : r.end - r.start; }
};

inline result<void> workspace::reserve(const codec& c, std::size_t n_tokens) {
  return detail::done([&](tersa_error* err) { return tersa_workspace_reserve(get(), c.get(), n_tokens, err); });
}

// ---- containers

struct stream_info : tersa_stream_info {
  stream_info() noexcept : tersa_stream_info{} { tersa_stream_info_init(this, sizeof(tersa_stream_info), nullptr); }
};

using head_stats = tersa_head_stats;

/** An open container. */
class reader : public detail::handle<tersa_reader, tersa_reader_destroy> {
 public:
  using handle::handle;

  static result<reader> open(const char* path) {
    return detail::opened<reader, tersa_reader>(
        [&](tersa_reader** out, tersa_error* err) { return tersa_reader_open(path, out, err); });
  }
  static result<reader> open(const std::string& path) { return open(path.c_str()); }

  /** The bytes must stay as they are until the reader is gone. */
  static result<reader> open_memory(bytes container) {
    return detail::opened<reader, tersa_reader>([&](tersa_reader** out, tersa_error* err) {
      return tersa_reader_open_memory(container.data(), container.size(), out, err);
    });
  }

  /**
   * A container of `len` bytes that `source(offset, buf, n)` supplies: `bool(std::uint64_t, void*, std::size_t)`, false (or an
   * exception, which ends there) to fail. The reader keeps a reference to it, and many threads may call it.
   */
  template <class Source>
  static result<reader> open_callback(Source& source, std::uint64_t len) {
    return detail::opened<reader, tersa_reader>([&](tersa_reader** out, tersa_error* err) {
      return tersa_reader_open_callback(&supply<Source>, detail::context(source), len, out, err);
    });
  }

  /** The JSON text about the cache. */
  result<std::string> metadata() const {
    return detail::text([&](char* buf, std::size_t capacity, std::size_t* len, tersa_error* err) {
      return tersa_reader_metadata(get(), buf, capacity, len, err);
    });
  }

  std::uint32_t n_streams() const noexcept { return tersa_reader_n_streams(get()); }

  result<stream_info> stream(std::uint32_t number) const {
    return detail::made<stream_info>([&](stream_info& out, tersa_error* err) {
      return tersa_reader_stream(get(), number, &out, err);
    });
  }

  /** Number of the stream of that layer and kind (TERSA_K or TERSA_V), if there is one. */
  result<std::optional<std::uint32_t>> find(std::uint32_t layer, std::uint32_t kind, std::uint32_t part = 0) const {
    return detail::found<std::uint32_t>(TERSA_ERR_NOT_FOUND, [&](std::uint32_t* out, tersa_error* err) {
      return tersa_reader_find(get(), part, layer, kind, out, err);
    });
  }

  /** Name of the codec of one head. */
  result<std::string> codec_name(std::uint32_t stream, std::uint32_t head) const {
    return detail::text([&](char* buf, std::size_t capacity, std::size_t* len, tersa_error* err) {
      return tersa_reader_codec(get(), stream, head, buf, capacity, len, err);
    });
  }

  /** What encoding lost of one head, if there is such a head and the file says so. */
  result<std::optional<head_stats>> stats(std::uint32_t stream, std::uint32_t head) const {
    return detail::found<head_stats>(TERSA_ERR_NOT_FOUND, [&](head_stats* out, tersa_error* err) {
      return tersa_reader_stats(get(), stream, head, out, err);
    });
  }

  /** Decodes `tokens` of `heads` of a stream into one layer; token `tokens.start` goes to token `first_token` of `dst`. */
  result<void> read(std::uint32_t stream, range heads, range tokens, const kv& dst, std::size_t first_token = 0,
                    workspace* ws = nullptr) const {
    return detail::done([&](tersa_error* err) {
      return tersa_reader_read(get(), stream, heads, tokens, dst.get(), first_token,
                               detail::raw(ws), err);
    });
  }

  /** Compares every checksum; the count of chunks. */
  result<std::uint64_t> verify() const {
    return detail::made<std::uint64_t>(
        [&](std::uint64_t& out, tersa_error* err) { return tersa_reader_verify(get(), &out, err); });
  }

 private:
  template <class Source>
  static std::int32_t supply(void* context, std::uint64_t offset, void* buf, std::size_t len) noexcept {
#if TERSA_HPP_CAN_CATCH
    try {
      return (*static_cast<Source*>(context))(offset, buf, len) ? 0 : 1;
    } catch (...) {
      return 1;
    }
#else
    return (*static_cast<Source*>(context))(offset, buf, len) ? 0 : 1;
#endif
  }
};

struct stream_params : tersa_stream_params {
  stream_params() noexcept : tersa_stream_params{} { tersa_stream_params_init(this, sizeof(tersa_stream_params), nullptr); }
  /** Layer and kind (TERSA_K or TERSA_V); `exact` are tokens that stay exact, kept by reference. */
  stream_params(std::uint32_t of_layer, std::uint32_t of_kind, span<const std::uint32_t> exact_tokens = {}) noexcept
      : stream_params() {
    layer = of_layer;
    kind = of_kind;
    exact = exact_tokens.data();
    n_exact = exact_tokens.size();
  }
};

/** A container being written. Destroyed before `finish`, it leaves no file. */
class writer : public detail::handle<tersa_writer, tersa_writer_destroy> {
 public:
  using handle::handle;

  static result<writer> create(const char* path) {
    return detail::opened<writer, tersa_writer>(
        [&](tersa_writer** out, tersa_error* err) { return tersa_writer_create(path, out, err); });
  }
  static result<writer> create(const std::string& path) { return create(path.c_str()); }

  /** Bytes go to `sink(bytes, n)`: `bool(const void*, std::size_t)`, false or an exception to fail. Kept by reference. */
  template <class Sink>
  static result<writer> create_callback(Sink& sink) {
    return detail::opened<writer, tersa_writer>([&](tersa_writer** out, tersa_error* err) {
      return tersa_writer_create_callback(&accept<Sink>, detail::context(sink), out, err);
    });
  }

  /** Adds a stream as `c` encodes layer `codec_layer`; its number. */
  result<std::uint32_t> add_stream(const stream_params& params, const codec& c, std::uint32_t codec_layer) {
    return detail::made<std::uint32_t>([&](std::uint32_t& out, tersa_error* err) {
      return tersa_writer_add_stream(get(), &params, c.get(), codec_layer, &out, err);
    });
  }

  /** Encodes `tokens` of one layer and adds them to the end of a stream. */
  result<void> append(std::uint32_t stream, const const_kv& src, range tokens, workspace* ws = nullptr) {
    return detail::done([&](tersa_error* err) {
      return tersa_writer_append(get(), stream, src.get(), tokens, detail::raw(ws), err);
    });
  }

  /** Takes the index of a head of a layer along. */
  result<void> add_index(std::uint32_t layer, std::uint32_t head, const index& i, std::uint32_t part = 0);

  /** Writes the tables and gives the file its name. `metadata` is a JSON object, or null. */
  result<void> finish(const char* metadata = nullptr) {
    return detail::done([&](tersa_error* err) { return tersa_writer_finish(get(), metadata, err); });
  }

 private:
  template <class Sink>
  static std::int32_t accept(void* context, const void* data, std::size_t len) noexcept {
#if TERSA_HPP_CAN_CATCH
    try {
      return (*static_cast<Sink*>(context))(data, len) ? 0 : 1;
    } catch (...) {
      return 1;
    }
#else
    return (*static_cast<Sink*>(context))(data, len) ? 0 : 1;
#endif
  }
};

// ---- selection and sparse attention

/**
 * The key or value rows of one KV head, one for each token of a sequence, to be read: a tersa_view. The block table must
 * outlive it.
 */
class view {
 public:
  view() noexcept = default;

  /** `n_tokens` rows of `dim` elements, `row_stride` elements apart (0: side by side), `len_bytes` bytes from `data` on. */
  view(tersa_dtype dtype, std::uint32_t dim, std::size_t n_tokens, const void* data, std::size_t len_bytes,
       std::size_t row_stride = 0) noexcept {
    raw_.struct_size = sizeof(tersa_view);
    raw_.dtype = static_cast<std::uint32_t>(dtype);
    raw_.dim = dim;
    raw_.n_tokens = n_tokens;
    raw_.data = data;
    raw_.len_bytes = len_bytes;
    raw_.row_stride = row_stride;
  }

  /** Rows lie in blocks of `size` tokens of a pool: block i of the sequence is block `table[i]`, `stride` elements apart. */
  view& blocks(std::uint32_t size, span<const std::uint32_t> table, std::size_t stride) noexcept {
    raw_.block_size = size;
    raw_.block_table = table.data();
    raw_.n_block_table = table.size();
    raw_.block_stride = stride;
    return *this;
  }

  /** The same with so many tokens: a cache that grew, or a part of one. */
  view with_tokens(std::size_t n_tokens) const noexcept {
    view other = *this;
    other.raw_.n_tokens = n_tokens;
    return other;
  }

  std::size_t n_tokens() const noexcept { return raw_.n_tokens; }
  std::uint32_t dim() const noexcept { return raw_.dim; }
  /** As tersa.h takes it; NULL for a default-constructed one. */
  const tersa_view* get() const noexcept { return raw_.struct_size == 0 ? nullptr : &raw_; }

 private:
  tersa_view raw_{};
};

using extent = tersa_extent;
/** So many tokens. */
inline extent tokens(std::uint32_t n) noexcept { return {TERSA_TOKENS, n, 0}; }
/** A share of the prompt's tokens behind the sinks. */
inline extent share_of_prompt(double share) noexcept { return {TERSA_SHARE_OF_PROMPT, 0, share}; }
/** A share of the tokens behind the sinks that there are now. */
inline extent share_of_context(double share) noexcept { return {TERSA_SHARE_OF_CONTEXT, 0, share}; }

/** How the index of a KV head is kept. */
struct index_params : tersa_index_params {
  index_params() noexcept : tersa_index_params{} {}

  /** A preset for keys of `head_dim` elements and `group` query heads that share them. */
  static result<index_params> of(tersa_index_preset preset, std::uint32_t head_dim, std::uint32_t group) {
    return detail::made<index_params>([&](index_params& out, tersa_error* err) {
      const tersa_status status =
          tersa_index_params_init(&out, sizeof(tersa_index_params), static_cast<std::uint32_t>(preset), head_dim, err);
      out.group = group;
      return status;
    });
  }
};

struct index_info : tersa_index_info {
  index_info() noexcept : tersa_index_info{} { tersa_index_info_init(this, sizeof(tersa_index_info), nullptr); }
};

/** Codes of the keys of one KV head of one sequence, and what a query should attend to. Knows its shape, to check spans. */
class index : public detail::handle<tersa_index, tersa_index_destroy> {
 public:
  index() noexcept = default;
  /** Takes over a handle that was made with `params`. */
  index(tersa_index* owned, const tersa_index_params& params) noexcept
      : handle(owned), group_(params.group), head_dim_(params.head_dim) {}

  static result<index> create(const index_params& params) {
    return opened(params, [&](tersa_index** out, tersa_error* err) { return tersa_index_create(&params, out, err); });
  }

  /** From what `save` gave of a sequence of `n_tokens` tokens, with the parameters it was made with. */
  static result<index> load(const index_params& params, std::size_t n_tokens, bytes saved) {
    return opened(params, [&](tersa_index** out, tersa_error* err) {
      return tersa_index_load(&params, n_tokens, saved.data(), saved.size(), out, err);
    });
  }

  /** The index of a sequence that goes on from here on its own. */
  result<index> fork() const {
    tersa_index_params shape{};
    shape.group = group_;
    shape.head_dim = head_dim_;
    return opened(shape, [&](tersa_index** out, tersa_error* err) { return tersa_index_fork(get(), out, err); });
  }

  /** The sequence has `keys.n_tokens()` tokens now; new ones are a prompt's. `queries` are [n][head_dim], or none. */
  result<void> prefill(const view& keys, span<const float> queries = {}, workspace* ws = nullptr) {
    return detail::done([&](tersa_error* err) {
      if (!is_whole(queries)) return refuse(err);
      return tersa_index_prefill(get(), keys.get(), queries.data(), n_rows(queries), detail::raw(ws), err);
    });
  }

  /** The sequence has `keys.n_tokens()` tokens now; new ones were generated. */
  result<void> append(const view& keys, workspace* ws = nullptr) {
    return detail::done([&](tersa_error* err) { return tersa_index_append(get(), keys.get(), detail::raw(ws), err); });
  }

  /** The selected tokens for the queries `q`, [group][head_dim], rising: the part of `room` that was filled. */
  result<span<std::uint32_t>> select(span<const float> q, float scale, span<std::uint32_t> room,
                                     workspace* ws = nullptr) const {
    return detail::made<span<std::uint32_t>>([&](span<std::uint32_t>& out, tersa_error* err) {
      if (!is_group(q)) return refuse(err);
      std::size_t n = 0;
      const tersa_status status =
          tersa_index_select(get(), q.data(), scale, room.data(), room.size(), &n, detail::raw(ws), err);
      if (status == TERSA_OK) out = room.first(room.empty() ? 0 : n);
      return status;
    });
  }

  /**
   * Attention of `q`, [group][head_dim], over sinks, selected tokens and tail: `out`, [group][values.dim()], and, unless
   * empty, `lse`, [group].
   */
  result<void> attend(span<const float> q, float scale, const view& keys, const view& values, span<float> out,
                      span<float> lse = {}, workspace* ws = nullptr) const {
    return detail::done([&](tersa_error* err) {
      const bool fits = out.size() == std::size_t{group_} * values.dim() && (lse.empty() || lse.size() == group_);
      if (!is_group(q) || !fits) return refuse(err);
      return tersa_index_attend(get(), q.data(), scale, keys.get(), values.get(), out.data(),
                                lse.empty() ? nullptr : lse.data(), detail::raw(ws), err);
    });
  }

  result<void> set_budget(extent budget) {
    return detail::done([&](tersa_error* err) { return tersa_index_set_budget(get(), budget, err); });
  }

  /** The sequence keeps its first `n_tokens` tokens. */
  result<void> truncate(std::size_t n_tokens) {
    return detail::done([&](tersa_error* err) { return tersa_index_truncate(get(), n_tokens, err); });
  }

  /** The tokens left the sequence; later ones moved down. */
  result<void> remove(range tokens) {
    return detail::done([&](tersa_error* err) { return tersa_index_remove(get(), tokens, err); });
  }

  /** The keys of these tokens are others now. */
  result<void> recode(range tokens, const view& keys, workspace* ws = nullptr) {
    return detail::done(
        [&](tersa_error* err) { return tersa_index_recode(get(), tokens, keys.get(), detail::raw(ws), err); });
  }

  /** Trains again on the keys there are, for `iterations` at most (0: as the parameters say). */
  result<void> refresh(const view& keys, span<const float> queries = {}, std::uint32_t iterations = 0,
                       workspace* ws = nullptr) {
    return detail::done([&](tersa_error* err) {
      if (!is_whole(queries)) return refuse(err);
      return tersa_index_refresh(get(), keys.get(), queries.data(), n_rows(queries), iterations, detail::raw(ws), err);
    });
  }

  result<index_info> inspect() const {
    return detail::made<index_info>(
        [&](index_info& out, tersa_error* err) { return tersa_index_inspect(get(), &out, err); });
  }

  result<std::vector<std::byte>> save() const {
    return detail::saved([&](void* dst, std::size_t capacity, std::size_t* n, tersa_error* err) {
      return tersa_index_save(get(), dst, capacity, n, err);
    });
  }

  /** From a container, for its sequence of `n_tokens` tokens: the index of a head of a layer, if there is one. */
  static result<std::optional<index>> load(const reader& from, std::uint32_t layer, std::uint32_t head,
                                           const index_params& params, std::size_t n_tokens, std::uint32_t part = 0) {
    return detail::found<index>(TERSA_ERR_NOT_FOUND, [&](index* out, tersa_error* err) {
      tersa_index* raw = nullptr;
      const tersa_status status =
          tersa_reader_index_load(from.get(), part, layer, head, &params, n_tokens, &raw, err);
      *out = index(raw, params);
      return status;
    });
  }

  std::uint32_t group() const noexcept { return group_; }
  std::uint32_t head_dim() const noexcept { return head_dim_; }

 private:
  template <class Create>
  static result<index> opened(const tersa_index_params& params, Create create) {
    return detail::made<index>([&](index& out, tersa_error* err) {
      tersa_index* raw = nullptr;
      const tersa_status status = create(&raw, err);
      out = index(raw, params);
      return status;
    });
  }

  bool is_group(span<const float> q) const noexcept { return q.size() == std::size_t{group_} * head_dim_; }
  bool is_whole(span<const float> q) const noexcept { return q.empty() || (head_dim_ > 0 && q.size() % head_dim_ == 0); }
  std::size_t n_rows(span<const float> q) const noexcept { return q.empty() ? 0 : q.size() / head_dim_; }
  tersa_status refuse(tersa_error* err) const noexcept {
    return detail::refuse(err, "a span is not as long as group, head_dim and the values' dim say");
  }

  std::uint32_t group_ = 0;
  std::uint32_t head_dim_ = 0;
};

namespace detail {

/** Runs a selection `call(tokens, capacity, n, err)` into `room`: the part that was filled. */
template <class Call>
result<span<std::uint32_t>> selected(span<std::uint32_t> room, Call call) {
  return made<span<std::uint32_t>>([&](span<std::uint32_t>& out, tersa_error* err) {
    std::size_t n = 0;
    const tersa_status status = call(room.data(), room.size(), &n, err);
    if (status == TERSA_OK) out = room.first(room.empty() ? 0 : n);
    return status;
  });
}

/** Whether queries, outputs and sums of `group` heads have the lengths that the views say. */
inline bool heads_fit(std::uint32_t group, span<const float> q, const view& keys, const view& values, span<float> out,
                      span<float> lse) noexcept {
  return q.size() == std::size_t{group} * keys.dim() && out.size() == std::size_t{group} * values.dim() &&
         (lse.empty() || lse.size() == group);
}

inline float* or_null(span<float> s) noexcept { return s.empty() ? nullptr : s.data(); }

constexpr const char* WRONG_SPAN = "a span is not as long as the group, the rows and the tokens say";

}  // namespace detail

/**
 * Exact attention of `group` query heads, `q` [group][keys.dim()], over a range of tokens: `out`, [group][values.dim()], and, unless
 * empty, `lse`, [group].
 */
inline result<void> attend(span<const float> q, std::uint32_t group, float scale, const view& keys, const view& values,
                           range tokens, span<float> out, span<float> lse = {}, workspace* ws = nullptr) {
  return detail::done([&](tersa_error* err) {
    if (!detail::heads_fit(group, q, keys, values, out, lse)) return detail::refuse(err, detail::WRONG_SPAN);
    return tersa_attend_range(q.data(), group, scale, keys.get(), values.get(), tokens, out.data(), detail::or_null(lse),
                              detail::raw(ws), err);
  });
}

/** The same over the tokens of a list. */
inline result<void> attend(span<const float> q, std::uint32_t group, float scale, const view& keys, const view& values,
                           span<const std::uint32_t> tokens, span<float> out, span<float> lse = {},
                           workspace* ws = nullptr) {
  return detail::done([&](tersa_error* err) {
    if (!detail::heads_fit(group, q, keys, values, out, lse)) return detail::refuse(err, detail::WRONG_SPAN);
    return tersa_attend_list(q.data(), group, scale, keys.get(), values.get(), tokens.data(), tokens.size(), out.data(),
                             detail::or_null(lse), detail::raw(ws), err);
  });
}

/** Merges attention over several sets of tokens: `part_out` [n][group][dim_v] and `part_lse` [n][group] into one. */
inline result<void> attend_merge(std::uint32_t group, std::uint32_t dim_v, span<const float> part_out,
                                 span<const float> part_lse, span<float> out, span<float> lse = {},
                                 workspace* ws = nullptr) {
  return detail::done([&](tersa_error* err) {
    const std::size_t n = group == 0 ? 0 : part_lse.size() / group;
    const bool fits = part_lse.size() == n * group && part_out.size() == part_lse.size() * dim_v &&
                      out.size() == std::size_t{group} * dim_v && (lse.empty() || lse.size() == group);
    if (!fits) return detail::refuse(err, detail::WRONG_SPAN);
    return tersa_attend_merge(group, dim_v, part_out.data(), part_lse.data(), n, out.data(), detail::or_null(lse),
                              detail::raw(ws), err);
  });
}

/** Scores <q, k> of `q`, [group][keys.dim()], for a range of tokens: `scores`, [group][tokens]. */
inline result<void> attend_scores(span<const float> q, std::uint32_t group, const view& keys, range tokens,
                                  span<float> scores) {
  return detail::done([&](tersa_error* err) {
    const std::size_t n = tokens.end < tokens.start ? 0 : tokens.end - tokens.start;
    const bool fits = q.size() == std::size_t{group} * keys.dim() && (group == 0 || scores.size() / group == n) &&
                      scores.size() == n * group;
    if (!fits) return detail::refuse(err, detail::WRONG_SPAN);
    return tersa_attend_scores(q.data(), group, keys.get(), tokens, scores.data(), err);
  });
}

/** The indices of the `k` greatest scores, rising: the part of `room` that was filled. */
inline result<span<std::uint32_t>> top_k(span<const float> scores, std::size_t k, span<std::uint32_t> room,
                                         workspace* ws = nullptr) {
  return detail::selected(room, [&](std::uint32_t* to, std::size_t capacity, std::size_t* n, tersa_error* err) {
    return tersa_top_k_f32(scores.data(), scores.size(), k, to, capacity, n, detail::raw(ws), err);
  });
}
inline result<span<std::uint32_t>> top_k(span<const std::uint16_t> scores, std::size_t k, span<std::uint32_t> room,
                                         workspace* ws = nullptr) {
  return detail::selected(room, [&](std::uint32_t* to, std::size_t capacity, std::size_t* n, tersa_error* err) {
    return tersa_top_k_u16(scores.data(), scores.size(), k, to, capacity, n, detail::raw(ws), err);
  });
}

/** The `k` best tokens for `group` heads with scores [group][n], combined by a rule. */
inline result<span<std::uint32_t>> group_top_k(tersa_group_rule rule, span<const float> scores, std::uint32_t group,
                                               float scale, std::size_t k, span<std::uint32_t> room,
                                               workspace* ws = nullptr) {
  return detail::selected(room, [&](std::uint32_t* to, std::size_t capacity, std::size_t* n, tersa_error* err) {
    const std::size_t n_scores = group == 0 ? 0 : scores.size() / group;
    if (n_scores * group != scores.size()) return detail::refuse(err, detail::WRONG_SPAN);
    return tersa_group_top_k_f32(static_cast<std::uint32_t>(rule), scores.data(), group, n_scores, scale, k, to,
                                 capacity, n, detail::raw(ws), err);
  });
}

/** The fewest tokens that hold the share `p` of all weights, rising. */
inline result<span<std::uint32_t>> top_p(span<const float> weights, float p, span<std::uint32_t> room,
                                         workspace* ws = nullptr) {
  return detail::selected(room, [&](std::uint32_t* to, std::size_t capacity, std::size_t* n, tersa_error* err) {
    return tersa_top_p(weights.data(), weights.size(), p, to, capacity, n, detail::raw(ws), err);
  });
}

/** The indices of the scores that are at least `least`, rising. */
inline result<span<std::uint32_t>> at_least(span<const float> scores, float least, span<std::uint32_t> room) {
  return detail::selected(room, [&](std::uint32_t* to, std::size_t capacity, std::size_t* n, tersa_error* err) {
    return tersa_at_least_f32(scores.data(), scores.size(), least, to, capacity, n, err);
  });
}
inline result<span<std::uint32_t>> at_least(span<const std::uint16_t> scores, std::uint16_t least,
                                            span<std::uint32_t> room) {
  return detail::selected(room, [&](std::uint32_t* to, std::size_t capacity, std::size_t* n, tersa_error* err) {
    return tersa_at_least_u16(scores.data(), scores.size(), least, to, capacity, n, err);
  });
}

// ---- tiers of memory

struct block_cache_params : tersa_block_cache_params {
  block_cache_params() noexcept : tersa_block_cache_params{} {
    tersa_block_cache_params_init(this, sizeof(tersa_block_cache_params), nullptr);
  }
};

struct block_cache_info : tersa_block_cache_info {
  block_cache_info() noexcept : tersa_block_cache_info{} {
    tersa_block_cache_info_init(this, sizeof(tersa_block_cache_info), nullptr);
  }
};

using block_copy = tersa_block_copy;

/** Which blocks of a cache a fast tier of memory holds: tersa_block_cache, whose steps are said in tersa.h. */
class block_cache : public detail::handle<tersa_block_cache, tersa_block_cache_destroy> {
 public:
  using handle::handle;

  static result<block_cache> create(const block_cache_params& params) {
    return detail::opened<block_cache, tersa_block_cache>(
        [&](tersa_block_cache** out, tersa_error* err) { return tersa_block_cache_create(&params, out, err); });
  }

  /** Starts a step. */
  result<void> begin() {
    return detail::done([&](tersa_error* err) { return tersa_block_cache_begin(get(), err); });
  }

  /** The slot of each token, or TERSA_NONE: `slots` is as long as `tokens`. */
  result<void> look_up(span<const std::uint32_t> tokens, span<std::uint32_t> slots) {
    return detail::done([&](tersa_error* err) {
      if (slots.size() != tokens.size()) return detail::refuse(err, detail::WRONG_SPAN);
      return tersa_block_cache_look_up(get(), tokens.data(), tokens.size(), slots.data(), err);
    });
  }

  /** Ends a step: the copies to make, the part of `room` that was filled. */
  result<span<block_copy>> decide(std::size_t settled, span<block_copy> room) {
    return detail::made<span<block_copy>>([&](span<block_copy>& out, tersa_error* err) {
      std::size_t n = 0;
      const tersa_status status = tersa_block_cache_decide(get(), settled, room.data(), room.size(), &n, err);
      if (status == TERSA_OK) out = room.first(n);
      return status;
    });
  }

  /** A copy is done. */
  result<void> complete(const block_copy& copy) {
    return detail::done([&](tersa_error* err) { return tersa_block_cache_complete(get(), &copy, err); });
  }

  /** A copy will not be made. */
  result<void> cancel(const block_copy& copy) {
    return detail::done([&](tersa_error* err) { return tersa_block_cache_cancel(get(), &copy, err); });
  }

  /** The sequence was cut to `n_tokens` tokens. */
  result<void> truncate(std::size_t n_tokens) {
    return detail::done([&](tersa_error* err) { return tersa_block_cache_truncate(get(), n_tokens, err); });
  }

  result<block_cache_info> inspect() const {
    return detail::made<block_cache_info>(
        [&](block_cache_info& out, tersa_error* err) { return tersa_block_cache_inspect(get(), &out, err); });
  }
};

inline result<void> workspace::reserve(const index& i, std::size_t n_tokens, std::uint32_t dim_v) {
  return detail::done([&](tersa_error* err) {
    return tersa_workspace_reserve_index(get(), i.get(), n_tokens, dim_v, err);
  });
}

inline result<void> writer::add_index(std::uint32_t layer, std::uint32_t head, const index& i, std::uint32_t part) {
  return detail::done(
      [&](tersa_error* err) { return tersa_writer_add_index(get(), part, layer, head, i.get(), err); });
}

// ---- background jobs

struct pool_params : tersa_pool_params {
  pool_params() noexcept : tersa_pool_params{} { tersa_pool_params_init(this, sizeof(tersa_pool_params), nullptr); }
};

/** What became of a job. */
using completion = tersa_completion;

/** Bytes that an encode job wrote, or its failure. */
inline result<std::size_t> written(const completion& done) {
  return detail::made<std::size_t>([&](std::size_t& out, tersa_error* err) {
    out = done.written;
    *err = done.error;
    return static_cast<tersa_status>(done.error.code);
  });
}

/** Threads that encode and decode in the background. Destroying it waits for the threads; nothing is touched afterwards. */
class pool : public detail::handle<tersa_pool, tersa_pool_destroy> {
 public:
  using handle::handle;

  static result<pool> create(const pool_params& params = {}) {
    return detail::opened<pool, tersa_pool>(
        [&](tersa_pool** out, tersa_error* err) { return tersa_pool_create(&params, out, err); });
  }

  /**
   * Queues what codec::encode does: the job's number, or nothing when the queue is full. The elements and `dst` belong to the job until its
   * completion was taken or the pool is gone.
   */
  result<std::optional<std::uint64_t>> encode(const codec& c, const const_kv& k, const const_kv& v, range layers,
                                              range tokens, mutable_bytes dst, std::uint64_t user_data = 0) const {
    return detail::found<std::uint64_t>(TERSA_ERR_BUSY, [&](std::uint64_t* job, tersa_error* err) {
      return tersa_pool_encode(get(), c.get(), k.get(), v.get(), layers, tokens, dst.data(), dst.size(), user_data,
                               job, err);
    });
  }

  /** Queues what codec::decode does. */
  result<std::optional<std::uint64_t>> decode(const codec& c, bytes src, range layers, range tokens, const kv& k,
                                              const kv& v, std::size_t first_token = 0,
                                              std::uint64_t user_data = 0) const {
    return detail::found<std::uint64_t>(TERSA_ERR_BUSY, [&](std::uint64_t* job, tersa_error* err) {
      return tersa_pool_decode(get(), c.get(), src.data(), src.size(), layers, tokens, k.get(), v.get(), first_token,
                               user_data, job, err);
    });
  }

  /** Takes completions without waiting: the part of `room` that was filled. */
  result<span<completion>> poll(span<completion> room) const {
    return taken(room, [&](std::size_t* n, tersa_error* err) {
      return tersa_pool_poll(get(), room.data(), room.size(), n, err);
    });
  }

  /** As `poll`, but waits for the first completion; empty when there are no jobs to wait for. */
  result<span<completion>> wait(span<completion> room) const { return wait_ms(room, UINT32_MAX); }

  /** As `wait`, but for `timeout` at most (49 days at most); empty when time is up. */
  result<span<completion>> wait(span<completion> room, std::chrono::milliseconds timeout) const {
    const auto ms = timeout.count();
    return wait_ms(room, ms <= 0 ? 0 : ms >= UINT32_MAX ? UINT32_MAX - 1 : static_cast<std::uint32_t>(ms));
  }

  /** Cancels a job; false if it is done already or there never was one. */
  result<bool> cancel(std::uint64_t job) const {
    return detail::made<bool>([&](bool& out, tersa_error* err) {
      const tersa_status status = tersa_pool_cancel(get(), job, err);
      out = status == TERSA_OK;
      return status == TERSA_ERR_NOT_FOUND ? TERSA_OK : status;
    });
  }

  /** Readable while completions wait to be taken, for poll or epoll; Linux only. It belongs to the pool. */
  result<std::int32_t> event_fd() const {
    return detail::made<std::int32_t>(
        [&](std::int32_t& out, tersa_error* err) { return tersa_pool_event_fd(get(), &out, err); });
  }

 private:
  result<span<completion>> wait_ms(span<completion> room, std::uint32_t ms) const {
    return taken(room, [&](std::size_t* n, tersa_error* err) {
      return tersa_pool_wait(get(), room.data(), room.size(), ms, n, err);
    });
  }

  template <class Take>
  static result<span<completion>> taken(span<completion> room, Take take) {
    return detail::made<span<completion>>([&](span<completion>& out, tersa_error* err) {
      std::size_t n = 0;
      const tersa_status status = take(&n, err);
      out = room.first(n);
      return status;
    });
  }
};

}  // namespace throwing or returning
}  // namespace tersa

#endif
