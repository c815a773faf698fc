/* Chooses how many systems one pass of lanes_body.h takes, at load time: one build serves every machine.
 *
 * Eight lanes want the 32 wide registers of AVX-512; with AVX2 (or less) four lanes are best, eight would spill.
 * Without GCC's vectors (has_lanes == 0) the caller falls back to LAPACK.
 */
#ifndef SLAMGLMM_LANES_H
#define SLAMGLMM_LANES_H

#include <stddef.h>

#if defined(__GNUC__) && defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)

#define LANES 8
#define ROWS_TILE 4
#define COLS_TILE 4
#define TARGET __attribute__((target("arch=x86-64-v4")))
#include "lanes_body.h"

#define LANES 4
#define ROWS_TILE 4
#define COLS_TILE 2
#define TARGET __attribute__((target_clones("arch=x86-64-v3", "default")))
#include "lanes_body.h"

static int has_lanes = 1;
static int wide(void) { return __builtin_cpu_supports("x86-64-v4"); }
#define CHOOSE(function, ...) (wide() ? function##8(__VA_ARGS__) : function##4(__VA_ARGS__))

#elif defined(__GNUC__)

#define LANES 4
#define ROWS_TILE 4
#define COLS_TILE 2
#define TARGET
#include "lanes_body.h"

static int has_lanes = 1;
#define CHOOSE(function, ...) function##4(__VA_ARGS__)

#else

static int has_lanes = 0;
#define CHOOSE(function, ...) (-2)

#endif

static ptrdiff_t regressions(
    const double* grams, const ptrdiff_t* which, const ptrdiff_t* order, const double* prior_prec, const double* rhs,
    const double* yy, const double* z, const double* gamma, double rate, double* work, double* coef, double* tau,
    ptrdiff_t n, ptrdiff_t m)
{
    return CHOOSE(regressions_, grams, which, order, prior_prec, rhs, yy, z, gamma, rate, work, coef, tau, n, m);
}

static ptrdiff_t rows(
    const double* packed, const double* diagonal, const double* rhs, const double* z, double* work, double* out,
    ptrdiff_t n, ptrdiff_t k)
{
    return CHOOSE(rows_, packed, diagonal, rhs, z, work, out, n, k);
}

#endif
