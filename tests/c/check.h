/* What the C programs of this folder share. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tersa.h"

#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                     \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)

/* The call must end with this status and leave the same one in `err`. */
#define EXPECT(status, call)                                                              \
  do {                                                                                    \
    int32_t got_ = (call);                                                                \
    if (got_ != (int32_t)(status) || err.code != got_ ||                                  \
        (got_ == TERSA_OK) != (err.message[0] == 0)) {                                    \
      fprintf(stderr, "%s:%d: status %d (%s), expected %s\n  %s\n", __FILE__, __LINE__,   \
              (int)got_, err.message, #status, #call);                                    \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)

#define OK(call) EXPECT(TERSA_OK, call)

/* f16 bits of a number of a few bits: enough for made-up caches. */
static inline uint16_t half_bits(int n) {
  uint16_t sign = n < 0 ? 0x8000 : 0;
  unsigned m = (unsigned)(n < 0 ? -n : n), e = 0;
  if (m == 0) return sign;
  while (m >> (e + 1)) ++e;
  return (uint16_t)(sign | ((e + 15) << 10) | ((m << (10 - e)) & 0x3ff));
}

/* The value of finite f16 bits. */
static inline double half_value(uint16_t h) {
  int e = (h >> 10) & 31;
  double m = h & 0x3ff, scale = 1.0;
  if (e == 0) e = 1; else m += 1024.0;
  for (int i = e - 25; i > 0; --i) scale *= 2.0;
  for (int i = e - 25; i < 0; ++i) scale *= 0.5;
  return (h & 0x8000 ? -1.0 : 1.0) * m * scale;
}

/* Made-up numbers, the same every time. */
static inline int made_up(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return (int)(*state >> 24) - 128;
}

#endif
