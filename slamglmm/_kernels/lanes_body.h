/* Cholesky draws of LANES small systems at once, one in each SIMD lane. Included by lanes.h once for each width.
 *
 * The systems are interleaved: entry (i, j) of all of them is one vector. Row m holds the right-hand side, so that the
 * factorisation also gives x = L^-1 r as its last row. Every entry is a sum over ascending k whatever the width, so all
 * widths with fused multiply-add agree to the bit.
 */

#define GLUE2(a, b) a##b
#define GLUE(a, b) GLUE2(a, b)
#define NAME(x) GLUE(x, SUFFIX)

_Static_assert(LANES <= MOST_LANES, "work_size of gaussian.pyx counts MOST_LANES lanes");

typedef double NAME(vec) __attribute__((vector_size(8 * LANES)));
#define VEC NAME(vec)

/* acc[i][j] -= sum_{k < depth} A_ik B_jk, all bounds known to the compiler. */
static inline __attribute__((always_inline)) void NAME(tile_update)(
    VEC acc[ROWS_TILE][COLS_TILE], const VEC* a, const VEC* b, ptrdiff_t stride, ptrdiff_t depth)
{
    for (ptrdiff_t k = 0; k < depth; ++k)
        for (int j = 0; j < COLS_TILE; ++j) {
            const VEC right = b[j * stride + k];
            for (int i = 0; i < ROWS_TILE; ++i)
                acc[i][j] -= a[i * stride + k] * right;
        }
}

/* Factor the m columns of `rows` rows (m, or m + 1 with a right-hand side) in place; inverse diagonals to `inv`.
 * Lanes whose matrix is not positive definite get a one in `bad`. */
static inline __attribute__((always_inline)) void NAME(factor_lanes)(VEC* L, VEC* inv, ptrdiff_t m, ptrdiff_t rows, int* bad)
{
    const ptrdiff_t stride = m;
    for (ptrdiff_t J = 0; J < m; J += COLS_TILE) {
        const ptrdiff_t width = m - J < COLS_TILE ? m - J : COLS_TILE;
        VEC* top = L + J * stride;
        for (ptrdiff_t j = 0; j < width; ++j) {
            for (ptrdiff_t c = 0; c <= j; ++c) {
                VEC s = top[j * stride + J + c];
                for (ptrdiff_t k = 0; k < J + c; ++k)
                    s -= top[j * stride + k] * top[c * stride + k];
                if (c < j) {
                    top[j * stride + J + c] = s * inv[J + c];
                } else {
                    VEC root;
                    for (int l = 0; l < LANES; ++l) {
                        if (!(s[l] > 0.0)) { bad[l] = 1; s[l] = 1.0; }
                        root[l] = __builtin_sqrt(s[l]);
                    }
                    top[j * stride + J + j] = root;
                    inv[J + j] = 1.0 / root;
                }
            }
        }
        ptrdiff_t I = J + width;
        if (width == COLS_TILE) {
            for (; I + ROWS_TILE <= rows; I += ROWS_TILE) {
                VEC acc[ROWS_TILE][COLS_TILE];
                VEC* a = L + I * stride;
                for (int i = 0; i < ROWS_TILE; ++i)
                    for (int j = 0; j < COLS_TILE; ++j)
                        acc[i][j] = a[i * stride + J + j];
                NAME(tile_update)(acc, a, top, stride, J);
                for (int j = 0; j < COLS_TILE; ++j) {
                    for (int c = 0; c < j; ++c)
                        for (int i = 0; i < ROWS_TILE; ++i)
                            acc[i][j] -= acc[i][c] * top[j * stride + J + c];
                    for (int i = 0; i < ROWS_TILE; ++i) {
                        acc[i][j] *= inv[J + j];
                        a[i * stride + J + j] = acc[i][j];
                    }
                }
            }
        }
        for (; I < rows; ++I) {
            VEC* a = L + I * stride;
            for (ptrdiff_t j = 0; j < width; ++j) {
                VEC s = a[J + j];
                for (ptrdiff_t k = 0; k < J + j; ++k)
                    s -= a[k] * top[j * stride + k];
                a[J + j] = s * inv[J + j];
            }
        }
    }
}

/* Solve L' y = t in place. */
static inline __attribute__((always_inline)) void NAME(solve_transposed)(const VEC* L, const VEC* inv, VEC* t, ptrdiff_t m)
{
    for (ptrdiff_t i = m - 1; i >= 0; --i) {
        const VEC y = t[i] * inv[i];
        t[i] = y;
        for (ptrdiff_t k = 0; k < i; ++k)
            t[k] -= L[i * m + k] * y;
    }
}

/* Draw (tau, coef) of `n` regressions; see draw_regressions in gaussian.pyx. `order` lists the systems so that equal
 * Gram matrices are neighbours. Returns -1 or the first system that is not positive definite. */
TARGET static ptrdiff_t NAME(regressions)(
    const double* grams, const ptrdiff_t* which, const ptrdiff_t* order, const double* prior_prec, const double* rhs,
    const double* yy, const double* z, const double* gamma, double rate, double* work, double* coef, double* tau,
    ptrdiff_t n, ptrdiff_t m)
{
    VEC* L = (VEC*)(((size_t)work + sizeof(VEC) - 1) & ~(sizeof(VEC) - 1));
    VEC* inv = L + (m + 1) * m;
    for (ptrdiff_t start = 0; start < n; start += LANES) {
        const double* gram[LANES];
        ptrdiff_t system[LANES];
        int bad[LANES] = {0}, same = 1;
        for (int l = 0; l < LANES; ++l) {
            system[l] = order[start + l < n ? start + l : n - 1];  /* a short group repeats its last system */
            gram[l] = grams + which[system[l]] * m * m;
            same &= gram[l] == gram[0];
        }
        for (ptrdiff_t i = 0; i < m; ++i) {
            if (same)
                for (ptrdiff_t j = 0; j <= i; ++j)
                    L[i * m + j] = gram[0][i * m + j] + (VEC){0};
            else
                for (ptrdiff_t j = 0; j <= i; ++j)
                    for (int l = 0; l < LANES; ++l)
                        L[i * m + j][l] = gram[l][i * m + j];
            for (int l = 0; l < LANES; ++l) {
                L[i * m + i][l] += prior_prec[system[l] * m + i];
                L[m * m + i][l] = rhs[system[l] * m + i];
            }
        }
        NAME(factor_lanes)(L, inv, m, m + 1, bad);
        for (int l = 0; l < LANES; ++l)
            if (bad[l])
                return system[l];
        VEC* x = L + m * m;
        VEC explained = {0};
        for (ptrdiff_t i = 0; i < m; ++i)
            explained += x[i] * x[i];
        VEC sd;
        for (int l = 0; l < LANES; ++l) {
            const double rest = yy[system[l]] - explained[l];
            const double drawn = gamma[system[l]] / (rate + 0.5 * (rest > 0.0 ? rest : 0.0));
            tau[system[l]] = drawn;
            sd[l] = 1.0 / __builtin_sqrt(drawn);
        }
        for (ptrdiff_t i = 0; i < m; ++i) {
            VEC noise;
            for (int l = 0; l < LANES; ++l)
                noise[l] = z[system[l] * m + i];
            x[i] += sd * noise;
        }
        NAME(solve_transposed)(L, inv, x, m);
        for (ptrdiff_t i = 0; i < m; ++i)
            for (int l = 0; l < LANES; ++l)
                coef[system[l] * m + i] = x[i][l];
    }
    return -1;
}

/* Draw `n` Gaussian vectors with a precision each; `packed` has the lower triangles, entry by entry, `n` wide.
 * See draw_rows in gaussian.pyx. */
TARGET static ptrdiff_t NAME(rows)(
    const double* packed, const double* diagonal, const double* rhs, const double* z, double* work, double* out,
    ptrdiff_t n, ptrdiff_t k)
{
    VEC* L = (VEC*)(((size_t)work + sizeof(VEC) - 1) & ~(sizeof(VEC) - 1));
    VEC* inv = L + (k + 1) * k;
    for (ptrdiff_t start = 0; start < n; start += LANES) {
        ptrdiff_t row[LANES];
        int bad[LANES] = {0};
        for (int l = 0; l < LANES; ++l)
            row[l] = start + l < n ? start + l : n - 1;
        const double* entry = packed;
        for (ptrdiff_t i = 0; i < k; ++i) {
            for (ptrdiff_t j = 0; j <= i; ++j, entry += n)
                for (int l = 0; l < LANES; ++l)
                    L[i * k + j][l] = entry[row[l]];
            for (int l = 0; l < LANES; ++l) {
                L[i * k + i][l] += diagonal[i * n + row[l]];
                L[k * k + i][l] = rhs[i * n + row[l]];
            }
        }
        NAME(factor_lanes)(L, inv, k, k + 1, bad);
        for (int l = 0; l < LANES; ++l)
            if (bad[l])
                return row[l];
        VEC* x = L + k * k;
        for (ptrdiff_t i = 0; i < k; ++i)
            for (int l = 0; l < LANES; ++l)
                x[i][l] += z[i * n + row[l]];
        NAME(solve_transposed)(L, inv, x, k);
        for (ptrdiff_t i = 0; i < k; ++i)
            for (int l = 0; l < LANES; ++l)
                out[i * n + row[l]] = x[i][l];
    }
    return -1;
}

#undef VEC
#undef NAME
#undef GLUE
#undef GLUE2
#undef LANES
#undef SUFFIX
#undef TARGET
#undef ROWS_TILE
#undef COLS_TILE
