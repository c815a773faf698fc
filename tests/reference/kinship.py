"""Plain twins of slamglmm._kernels.kinship, and moments by n x n matrices."""

import numpy as np


def multiply_tile_single(tile, columns, z, out, squares, back):
    _multiply(tile, columns, z, out, squares, back)


def multiply_tile_double(tile, columns, z, out, squares, back):
    _multiply(tile, columns, z, out, squares, back)


def _multiply(tile, columns, z, out, squares, back):
    exact = np.asarray(tile, dtype=float)
    out += exact @ np.asarray(columns, dtype=float).T
    squares += (exact**2).sum(axis=1)
    back += exact.T @ np.asarray(z, dtype=float)


def inner_product_single(first, second):
    return float(np.sum(np.asarray(first, dtype=float) * second))


def inner_product_double(first, second):
    return float(np.sum(first * second))


LANES, CHUNK = 16, 512


def _dot_by_lanes(first, second, total):
    """``total`` plus the products of a chunk: 16 sums in the precision of the tile, then one after the other in double.

    What does not fill the lanes is multiplied in double.
    """
    full = len(first) // LANES * LANES
    sums = np.zeros(LANES, dtype=first.dtype)
    for start in range(0, full, LANES):
        lanes = slice(start, start + LANES)
        sums = sums + first[lanes] * second[lanes]
    chunk = 0.0
    for lane in sums:
        chunk += float(lane)
    total += chunk
    for a, b in zip(first[full:], second[full:], strict=True):
        total += float(a) * float(b)
    return total


def multiply_by_lanes(tile, columns, z, out, squares, back):
    """`multiply_tile_single` and `multiply_tile_double` in the order they add in, bit for bit."""
    rows, n = tile.shape
    in_fours = rows // 4 * 4
    for start in range(0, n, CHUNK):
        chunk = slice(start, start + CHUNK)
        for i in range(rows):
            for a in range(len(columns)):
                out[i, a] += _dot_by_lanes(tile[i, chunk], columns[a, chunk], 0.0)
            squares[i] = _dot_by_lanes(tile[i, chunk], tile[i, chunk], squares[i])
        for i in range(0, in_fours, 4):
            k, w = tile[i : i + 4, chunk], z[i : i + 4]
            back[chunk] += w[0] * k[0] + w[1] * k[1] + (w[2] * k[2] + w[3] * k[3])
        for i in range(in_fours, rows):
            back[chunk] += z[i] * tile[i, chunk]


def inner_by_lanes(first, second):
    """`inner_product_single` and `inner_product_double` in the order they add in, bit for bit."""
    a, b, total = first.ravel(), second.ravel(), 0.0
    for start in range(0, len(a), CHUNK):
        total = _dot_by_lanes(a[start : start + CHUNK], b[start : start + CHUNK], total)
    return total


def dense_components(problem):
    """Every K_i as an n x n array, residual not counted."""
    out = []
    for component in problem.components:
        term = problem.terms[component.term]
        kernel = term.kernel
        G = np.eye(term.r) if kernel is None else kernel.toarray()
        J = np.eye(term.r)[term.codes]
        total = 0
        for a, b in component.sides:
            total = total + (term.M[:, a, None] * J) @ G @ (term.M[:, b, None] * J).T
        out.append(total)
    return out


def equations(K, X, Y, inner, project):
    """Normal equations from the definition: <K_i, K_j> over the chosen pairs, after projection if wanted."""
    n = len(X)
    P = np.eye(n) - X @ np.linalg.pinv(X) if X.shape[1] else np.eye(n)
    R = P @ Y
    matrices = [np.eye(n), *K]
    if project:
        matrices = [P @ A @ P for A in matrices]
    weight = {
        "full": np.ones((n, n)),
        "triangle": np.triu(np.ones((n, n))),
        "offdiag": np.triu(np.ones((n, n)), 1),
    }[inner]
    S = np.array([[np.sum(weight * A * B) for B in matrices] for A in matrices])
    outer = np.einsum("at,bu->abtu", R, R)
    outer = (outer + outer.transpose(0, 1, 3, 2)) / 2
    c = np.array([np.einsum("ab,abtu->tu", weight * A, outer) for A in matrices])
    if inner == "offdiag":
        return S[1:, 1:], c[1:]
    return S, c
