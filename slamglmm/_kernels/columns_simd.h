/* Column arithmetic of the marker matrix: five ways to store a column, three instruction sets.
 *
 * dot:  sum_i g_i r_i          axpy:  r_i += c w_i g_i   (w == NULL: all ones)
 *
 * The vectors r and w are always float64: a float32 residual drifts. Vector code is written with intrinsics, chosen
 * once by the processor's features, so that one generic build is fast everywhere; contraction into fused
 * multiply-adds is asked for by name here, whatever the compiler flags say.
 */
#ifndef SLAMGLMM_COLUMNS_SIMD_H
#define SLAMGLMM_COLUMNS_SIMD_H

#include "columns.h"
#include <string.h>

#if (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
#define SLAMGLMM_X86 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#else
#define SLAMGLMM_X86 0
#endif

enum { SIMD_GENERIC, SIMD_AVX2, SIMD_AVX512 };

static int columns_simd = SIMD_GENERIC;

static int columns_best_simd(void) {
#if SLAMGLMM_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return SIMD_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return SIMD_AVX2;
#endif
    return SIMD_GENERIC;
}

/* -- portable C: four partial sums, so that additions overlap -------------------------------------------------- */

#define GENERIC(NAME, TYPE)                                                                             \
    static double dot_##NAME##_generic(const TYPE *g, const double *r, ptrdiff_t n) {                   \
        double s0 = 0, s1 = 0, s2 = 0, s3 = 0;                                                          \
        ptrdiff_t i = 0;                                                                                \
        for (; i + 4 <= n; i += 4) {                                                                    \
            s0 += g[i] * r[i];                                                                          \
            s1 += g[i + 1] * r[i + 1];                                                                  \
            s2 += g[i + 2] * r[i + 2];                                                                  \
            s3 += g[i + 3] * r[i + 3];                                                                  \
        }                                                                                               \
        for (; i < n; i++) s0 += g[i] * r[i];                                                           \
        return (s0 + s1) + (s2 + s3);                                                                   \
    }                                                                                                   \
    static void axpy_##NAME##_generic(double c, const TYPE *g, const double *w, double *r, ptrdiff_t n) { \
        ptrdiff_t i;                                                                                    \
        if (w == NULL)                                                                                  \
            for (i = 0; i < n; i++) r[i] += c * g[i];                                                   \
        else                                                                                            \
            for (i = 0; i < n; i++) r[i] += c * w[i] * g[i];                                            \
    }

GENERIC(int8, int8_t)
GENERIC(float32, float)
GENERIC(float64, double)

/* Two bits a sample, low bits first. */
static inline double bed_value(const uint8_t *b, const double *table, ptrdiff_t i) {
    return table[(b[i >> 2] >> (2 * (i & 3))) & 3];
}

static double dot_bed_generic(const uint8_t *b, const double *table, const double *r, ptrdiff_t n) {
    double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    ptrdiff_t i = 0;
    for (; i + 4 <= n; i += 4) {
        uint8_t byte = b[i >> 2];
        s0 += table[byte & 3] * r[i];
        s1 += table[(byte >> 2) & 3] * r[i + 1];
        s2 += table[(byte >> 4) & 3] * r[i + 2];
        s3 += table[byte >> 6] * r[i + 3];
    }
    for (; i < n; i++) s0 += bed_value(b, table, i) * r[i];
    return (s0 + s1) + (s2 + s3);
}

static void axpy_bed_generic(double c, const uint8_t *b, const double *table, const double *w, double *r, ptrdiff_t n) {
    ptrdiff_t i;
    if (w == NULL)
        for (i = 0; i < n; i++) r[i] += c * bed_value(b, table, i);
    else
        for (i = 0; i < n; i++) r[i] += c * w[i] * bed_value(b, table, i);
}

#if SLAMGLMM_X86

/* -- AVX-512: eight float64 at a time -------------------------------------------------------------------------- */

#define LOAD512_int8(p) _mm512_cvtepi64_pd(_mm512_cvtepi8_epi64(_mm_loadl_epi64((const __m128i *)(p))))
#define LOAD512_float32(p) _mm512_cvtps_pd(_mm256_loadu_ps(p))
#define LOAD512_float64(p) _mm512_loadu_pd(p)

#define WITH_AVX512(NAME, TYPE)                                                                                   \
    AVX512 static double dot_##NAME##_avx512(const TYPE *g, const double *r, ptrdiff_t n) {                       \
        __m512d s0 = _mm512_setzero_pd(), s1 = s0, s2 = s0, s3 = s0;                                              \
        ptrdiff_t i = 0;                                                                                          \
        for (; i + 32 <= n; i += 32) {                                                                            \
            __builtin_prefetch(g + i + n);                                                                        \
            s0 = _mm512_fmadd_pd(LOAD512_##NAME(g + i), _mm512_loadu_pd(r + i), s0);                              \
            s1 = _mm512_fmadd_pd(LOAD512_##NAME(g + i + 8), _mm512_loadu_pd(r + i + 8), s1);                      \
            s2 = _mm512_fmadd_pd(LOAD512_##NAME(g + i + 16), _mm512_loadu_pd(r + i + 16), s2);                    \
            s3 = _mm512_fmadd_pd(LOAD512_##NAME(g + i + 24), _mm512_loadu_pd(r + i + 24), s3);                    \
        }                                                                                                         \
        for (; i + 8 <= n; i += 8) s0 = _mm512_fmadd_pd(LOAD512_##NAME(g + i), _mm512_loadu_pd(r + i), s0);       \
        double s = _mm512_reduce_add_pd(_mm512_add_pd(_mm512_add_pd(s0, s1), _mm512_add_pd(s2, s3)));             \
        for (; i < n; i++) s += g[i] * r[i];                                                                      \
        return s;                                                                                                 \
    }                                                                                                             \
    AVX512 static void axpy_##NAME##_avx512(double c, const TYPE *g, const double *w, double *r, ptrdiff_t n) {   \
        __m512d cc = _mm512_set1_pd(c);                                                                           \
        ptrdiff_t i = 0;                                                                                          \
        if (w == NULL) {                                                                                          \
            for (; i + 8 <= n; i += 8)                                                                            \
                _mm512_storeu_pd(r + i, _mm512_fmadd_pd(cc, LOAD512_##NAME(g + i), _mm512_loadu_pd(r + i)));      \
            for (; i < n; i++) r[i] += c * g[i];                                                                  \
        } else {                                                                                                  \
            for (; i + 8 <= n; i += 8)                                                                            \
                _mm512_storeu_pd(r + i, _mm512_fmadd_pd(_mm512_mul_pd(cc, _mm512_loadu_pd(w + i)),                \
                                                        LOAD512_##NAME(g + i), _mm512_loadu_pd(r + i)));          \
            for (; i < n; i++) r[i] += c * w[i] * g[i];                                                           \
        }                                                                                                         \
    }

WITH_AVX512(int8, int8_t)
WITH_AVX512(float32, float)
WITH_AVX512(float64, double)

/* 64 bits hold 32 samples: shifted by 0, 2, .. 14 in the eight lanes, each lane's low three bits are its sample's code
 * and one bit of the next sample, which a table of eight (the four values twice) ignores. */
#define BED512_SETUP                                                                              \
    const __m512i sh0 = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0);                              \
    const __m512i sh1 = _mm512_set_epi64(30, 28, 26, 24, 22, 20, 18, 16);                         \
    const __m512i sh2 = _mm512_set_epi64(46, 44, 42, 40, 38, 36, 34, 32);                         \
    const __m512i sh3 = _mm512_set_epi64(62, 60, 58, 56, 54, 52, 50, 48);                         \
    const __m512d values = _mm512_set_pd(table[3], table[2], table[1], table[0], table[3], table[2], table[1], table[0]);

#define BED512_PICK(shift) _mm512_permutexvar_pd(_mm512_srlv_epi64(bits, shift), values)

AVX512 static double dot_bed_avx512(const uint8_t *b, const double *table, const double *r, ptrdiff_t n) {
    BED512_SETUP
    __m512d s0 = _mm512_setzero_pd(), s1 = s0, s2 = s0, s3 = s0;
    ptrdiff_t i = 0;
    for (; i + 32 <= n; i += 32) {
        int64_t word;
        memcpy(&word, b + (i >> 2), 8);
        __m512i bits = _mm512_set1_epi64(word);
        s0 = _mm512_fmadd_pd(BED512_PICK(sh0), _mm512_loadu_pd(r + i), s0);
        s1 = _mm512_fmadd_pd(BED512_PICK(sh1), _mm512_loadu_pd(r + i + 8), s1);
        s2 = _mm512_fmadd_pd(BED512_PICK(sh2), _mm512_loadu_pd(r + i + 16), s2);
        s3 = _mm512_fmadd_pd(BED512_PICK(sh3), _mm512_loadu_pd(r + i + 24), s3);
    }
    double s = _mm512_reduce_add_pd(_mm512_add_pd(_mm512_add_pd(s0, s1), _mm512_add_pd(s2, s3)));
    for (; i < n; i++) s += bed_value(b, table, i) * r[i];
    return s;
}

AVX512 static void axpy_bed_avx512(double c, const uint8_t *b, const double *table, const double *w, double *r,
                                   ptrdiff_t n) {
    BED512_SETUP
    const __m512d cc = _mm512_set1_pd(c);
    const __m512d scaled = _mm512_mul_pd(cc, values);
    ptrdiff_t i = 0;
    if (w == NULL) {
#define BED512_ADD(shift, at)                                                                          \
    _mm512_storeu_pd(r + i + at, _mm512_add_pd(_mm512_loadu_pd(r + i + at),                            \
                                               _mm512_permutexvar_pd(_mm512_srlv_epi64(bits, shift), scaled)));
        for (; i + 32 <= n; i += 32) {
            int64_t word;
            memcpy(&word, b + (i >> 2), 8);
            __m512i bits = _mm512_set1_epi64(word);
            BED512_ADD(sh0, 0)
            BED512_ADD(sh1, 8)
            BED512_ADD(sh2, 16)
            BED512_ADD(sh3, 24)
        }
        for (; i < n; i++) r[i] += c * bed_value(b, table, i);
    } else {
#define BED512_ADDW(shift, at)                                                                                  \
    _mm512_storeu_pd(r + i + at, _mm512_fmadd_pd(_mm512_permutexvar_pd(_mm512_srlv_epi64(bits, shift), scaled), \
                                                 _mm512_loadu_pd(w + i + at), _mm512_loadu_pd(r + i + at)));
        for (; i + 32 <= n; i += 32) {
            int64_t word;
            memcpy(&word, b + (i >> 2), 8);
            __m512i bits = _mm512_set1_epi64(word);
            BED512_ADDW(sh0, 0)
            BED512_ADDW(sh1, 8)
            BED512_ADDW(sh2, 16)
            BED512_ADDW(sh3, 24)
        }
        for (; i < n; i++) r[i] += c * w[i] * bed_value(b, table, i);
    }
}

/* -- AVX2: four float64 at a time ------------------------------------------------------------------------------ */

AVX2 static inline __m256d load256_int8(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_cvtepi32_pd(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four)));
}
AVX2 static inline __m256d load256_float32(const float *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
AVX2 static inline __m256d load256_float64(const double *p) { return _mm256_loadu_pd(p); }

AVX2 static inline double sum256(__m256d a, __m256d b, __m256d c, __m256d d) {
    __m256d s = _mm256_add_pd(_mm256_add_pd(a, b), _mm256_add_pd(c, d));
    double out[4];
    _mm256_storeu_pd(out, s);
    return (out[0] + out[1]) + (out[2] + out[3]);
}

#define WITH_AVX2(NAME, TYPE)                                                                                   \
    AVX2 static double dot_##NAME##_avx2(const TYPE *g, const double *r, ptrdiff_t n) {                         \
        __m256d s0 = _mm256_setzero_pd(), s1 = s0, s2 = s0, s3 = s0;                                            \
        ptrdiff_t i = 0;                                                                                        \
        for (; i + 16 <= n; i += 16) {                                                                          \
            __builtin_prefetch(g + i + n);                                                                      \
            s0 = _mm256_fmadd_pd(load256_##NAME(g + i), _mm256_loadu_pd(r + i), s0);                            \
            s1 = _mm256_fmadd_pd(load256_##NAME(g + i + 4), _mm256_loadu_pd(r + i + 4), s1);                    \
            s2 = _mm256_fmadd_pd(load256_##NAME(g + i + 8), _mm256_loadu_pd(r + i + 8), s2);                    \
            s3 = _mm256_fmadd_pd(load256_##NAME(g + i + 12), _mm256_loadu_pd(r + i + 12), s3);                  \
        }                                                                                                       \
        double s = sum256(s0, s1, s2, s3);                                                                      \
        for (; i < n; i++) s += g[i] * r[i];                                                                    \
        return s;                                                                                               \
    }                                                                                                           \
    AVX2 static void axpy_##NAME##_avx2(double c, const TYPE *g, const double *w, double *r, ptrdiff_t n) {     \
        __m256d cc = _mm256_set1_pd(c);                                                                         \
        ptrdiff_t i = 0;                                                                                        \
        if (w == NULL) {                                                                                        \
            for (; i + 4 <= n; i += 4)                                                                          \
                _mm256_storeu_pd(r + i, _mm256_fmadd_pd(cc, load256_##NAME(g + i), _mm256_loadu_pd(r + i)));    \
            for (; i < n; i++) r[i] += c * g[i];                                                                \
        } else {                                                                                                \
            for (; i + 4 <= n; i += 4)                                                                          \
                _mm256_storeu_pd(r + i, _mm256_fmadd_pd(_mm256_mul_pd(cc, _mm256_loadu_pd(w + i)),              \
                                                        load256_##NAME(g + i), _mm256_loadu_pd(r + i)));        \
            for (; i < n; i++) r[i] += c * w[i] * g[i];                                                         \
        }                                                                                                       \
    }

WITH_AVX2(int8, int8_t)
WITH_AVX2(float32, float)
WITH_AVX2(float64, double)

/* 32 bits hold 16 samples. AVX2 permutes eight 32-bit halves by an index, so sample s with code c is the halves 2c and
 * 2c + 1 of a table of four float64. Each lane keeps every other code of the word, with room for that last bit below
 * it: lanes 0, 1, 4, 5 the even samples, one bit up; lanes 2, 3, 6, 7 the odd ones. A shift then makes four indices; of
 * what it leaves above the lowest three bits the permutation takes no notice. */
#define BED256_HALVES(a, b, c, d) (int)(a), (int)(b), (int)(c), (int)(d), (int)(a), (int)(b), (int)(c), (int)(d)
#define BED256_SETUP(factor)                                                                              \
    const __m256i room = _mm256_set_epi32(0, 0, 1, 1, 0, 0, 1, 1);                                        \
    const __m256i codes = _mm256_setr_epi32(BED256_HALVES(0x66666666, 0x66666666, 0xCCCCCCCC, 0xCCCCCCCC)); \
    const __m256i second = _mm256_setr_epi32(BED256_HALVES(0, 0x11111111, 0, 0x22222222));                \
    const __m256i sh0 = _mm256_set_epi32(5, 5, 4, 4, 1, 1, 0, 0);                                         \
    const __m256i sh1 = _mm256_set_epi32(13, 13, 12, 12, 9, 9, 8, 8);                                     \
    const __m256i sh2 = _mm256_set_epi32(21, 21, 20, 20, 17, 17, 16, 16);                                 \
    const __m256i sh3 = _mm256_set_epi32(29, 29, 28, 28, 25, 25, 24, 24);                                 \
    const __m256i values = _mm256_castpd_si256(_mm256_set_pd(                                             \
        (factor) * table[3], (factor) * table[2], (factor) * table[1], (factor) * table[0]));

#define BED256_INDICES(word) \
    _mm256_or_si256(_mm256_and_si256(_mm256_sllv_epi32(_mm256_set1_epi32(word), room), codes), second)
#define BED256_PICK(shift) _mm256_castsi256_pd(_mm256_permutevar8x32_epi32(values, _mm256_srlv_epi32(indices, shift)))

AVX2 static double dot_bed_avx2(const uint8_t *b, const double *table, const double *r, ptrdiff_t n) {
    BED256_SETUP(1.0)
    __m256d s0 = _mm256_setzero_pd(), s1 = s0, s2 = s0, s3 = s0;
    ptrdiff_t i = 0;
    for (; i + 16 <= n; i += 16) {
        int32_t word;
        memcpy(&word, b + (i >> 2), 4);
        const __m256i indices = BED256_INDICES(word);
        s0 = _mm256_fmadd_pd(BED256_PICK(sh0), _mm256_loadu_pd(r + i), s0);
        s1 = _mm256_fmadd_pd(BED256_PICK(sh1), _mm256_loadu_pd(r + i + 4), s1);
        s2 = _mm256_fmadd_pd(BED256_PICK(sh2), _mm256_loadu_pd(r + i + 8), s2);
        s3 = _mm256_fmadd_pd(BED256_PICK(sh3), _mm256_loadu_pd(r + i + 12), s3);
    }
    double s = sum256(s0, s1, s2, s3);
    for (; i < n; i++) s += bed_value(b, table, i) * r[i];
    return s;
}

AVX2 static void axpy_bed_avx2(double c, const uint8_t *b, const double *table, const double *w, double *r,
                               ptrdiff_t n) {
    BED256_SETUP(c)
    ptrdiff_t i = 0;
#define BED256_ADD(shift, at) \
    _mm256_storeu_pd(r + i + at, _mm256_add_pd(_mm256_loadu_pd(r + i + at), BED256_PICK(shift)));
#define BED256_ADDW(shift, at)                                                                             \
    _mm256_storeu_pd(r + i + at, _mm256_fmadd_pd(_mm256_loadu_pd(w + i + at), BED256_PICK(shift),          \
                                                 _mm256_loadu_pd(r + i + at)));
#define BED256_LOOP(ADD)                                \
    for (; i + 16 <= n; i += 16) {                      \
        int32_t word;                                   \
        memcpy(&word, b + (i >> 2), 4);                 \
        const __m256i indices = BED256_INDICES(word);   \
        ADD(sh0, 0)                                     \
        ADD(sh1, 4)                                     \
        ADD(sh2, 8)                                     \
        ADD(sh3, 12)                                    \
    }
    if (w == NULL) {
        BED256_LOOP(BED256_ADD)
    } else {
        BED256_LOOP(BED256_ADDW)
    }
    for (; i < n; i++) r[i] += c * (w == NULL ? 1.0 : w[i]) * bed_value(b, table, i);
}

#define PICK(CALL_GENERIC, CALL_AVX2, CALL_AVX512)        \
    (columns_simd == SIMD_AVX512 ? CALL_AVX512 : columns_simd == SIMD_AVX2 ? CALL_AVX2 : CALL_GENERIC)
#else
#define PICK(CALL_GENERIC, CALL_AVX2, CALL_AVX512) CALL_GENERIC
#endif

#define DOT(NAME, ...) PICK(dot_##NAME##_generic(__VA_ARGS__), dot_##NAME##_avx2(__VA_ARGS__), dot_##NAME##_avx512(__VA_ARGS__))
#define AXPY(NAME, ...) PICK(axpy_##NAME##_generic(__VA_ARGS__), axpy_##NAME##_avx2(__VA_ARGS__), axpy_##NAME##_avx512(__VA_ARGS__))

/* -- one column, whatever its storage -------------------------------------------------------------------------- */

static double columns_dot(const columns_t *x, ptrdiff_t k, const double *r) {
    const char *column = x->data + k * x->stride;
    double s;
    int64_t e;
    switch (x->kind) {
    case COLUMNS_INT8:
        s = DOT(int8, (const int8_t *)column, r, x->n);
        if (x->starts[k] < x->starts[k + 1]) {
            double missing = 0;
            for (e = x->starts[k]; e < x->starts[k + 1]; e++) missing += r[x->rows[e]];
            s += x->shift[k] * missing;
        }
        return s;
    case COLUMNS_BED:
        return DOT(bed, (const uint8_t *)column, x->table + 4 * k, r, x->n);
    case COLUMNS_FLOAT32:
        return DOT(float32, (const float *)column, r, x->n);
    case COLUMNS_FLOAT64:
        return DOT(float64, (const double *)column, r, x->n);
    default:
        s = 0;
        for (e = x->starts[k]; e < x->starts[k + 1]; e++) s += ((const double *)x->data)[e] * r[x->rows[e]];
        return s;
    }
}

static void columns_axpy(const columns_t *x, ptrdiff_t k, double c, const double *w, double *r) {
    const char *column = x->data + k * x->stride;
    int64_t e;
    switch (x->kind) {
    case COLUMNS_INT8:
        AXPY(int8, c, (const int8_t *)column, w, r, x->n);
        for (e = x->starts[k]; e < x->starts[k + 1]; e++) {
            int32_t i = x->rows[e];
            r[i] += c * (w == NULL ? 1.0 : w[i]) * x->shift[k];
        }
        return;
    case COLUMNS_BED:
        AXPY(bed, c, (const uint8_t *)column, x->table + 4 * k, w, r, x->n);
        return;
    case COLUMNS_FLOAT32:
        AXPY(float32, c, (const float *)column, w, r, x->n);
        return;
    case COLUMNS_FLOAT64:
        AXPY(float64, c, (const double *)column, w, r, x->n);
        return;
    default:
        for (e = x->starts[k]; e < x->starts[k + 1]; e++) {
            int32_t i = x->rows[e];
            r[i] += c * (w == NULL ? 1.0 : w[i]) * ((const double *)x->data)[e];
        }
    }
}

#endif
