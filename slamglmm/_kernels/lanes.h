/* Chooses how many systems one pass of lanes_body.h takes, by the processor it runs on: one build serves every machine.
 *
 * Eight lanes want the 32 wide registers of AVX-512; with AVX2 (or less) four lanes are best, eight would spill.
 * Without GCC's vectors there is no width at all and the caller goes through LAPACK. Processor features are asked for
 * by name: the level names (x86-64-v4) came with gcc 12, and clones chosen by the loader need glibc.
 */
#ifndef SLAMGLMM_LANES_H
#define SLAMGLMM_LANES_H

#include <stddef.h>

enum { LANES_LAPACK, LANES_GENERIC, LANES_AVX2, LANES_AVX512 };
/* The widest of all: scratch is as large as it needs. */
enum { MOST_LANES = 8 };

#if defined(__GNUC__)

#if defined(__x86_64__)

#define LANES 8
#define SUFFIX _avx512
#define ROWS_TILE 4
#define COLS_TILE 4
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")))
#include "lanes_body.h"

#define LANES 4
#define SUFFIX _avx2
#define ROWS_TILE 4
#define COLS_TILE 2
#define TARGET __attribute__((target("avx2,fma")))
#include "lanes_body.h"

#endif

#define LANES 4
#define SUFFIX _generic
#define ROWS_TILE 4
#define COLS_TILE 2
#define TARGET
#include "lanes_body.h"

#endif

static int lanes_best(void)
{
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            return LANES_AVX512;
        return LANES_AVX2;
    }
#endif
#if defined(__GNUC__)
    return LANES_GENERIC;
#else
    return LANES_LAPACK;
#endif
}

static int lanes_in_use = LANES_LAPACK;

#if defined(__GNUC__) && defined(__x86_64__)
#define CHOOSE(function, ...)                                            \
    (lanes_in_use == LANES_AVX512 ? function##_avx512(__VA_ARGS__)       \
     : lanes_in_use == LANES_AVX2 ? function##_avx2(__VA_ARGS__)         \
                                  : function##_generic(__VA_ARGS__))
#elif defined(__GNUC__)
#define CHOOSE(function, ...) function##_generic(__VA_ARGS__)
#else
#define CHOOSE(function, ...) (-2) /* never called: lanes_in_use stays LANES_LAPACK */
#endif

static ptrdiff_t regressions(
    const double* grams, const ptrdiff_t* which, const ptrdiff_t* order, const double* prior_prec, const double* rhs,
    const double* yy, const double* z, const double* gamma, double rate, double* work, double* coef, double* tau,
    ptrdiff_t n, ptrdiff_t m)
{
    return CHOOSE(regressions, grams, which, order, prior_prec, rhs, yy, z, gamma, rate, work, coef, tau, n, m);
}

static ptrdiff_t rows(
    const double* packed, const double* diagonal, const double* rhs, const double* z, double* work, double* out,
    ptrdiff_t n, ptrdiff_t k)
{
    return CHOOSE(rows, packed, diagonal, rhs, z, work, out, n, k);
}

#endif
