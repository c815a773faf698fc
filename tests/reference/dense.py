"""The model of a SLAM problem in dense matrices: every V, its inverse and its root, straight from the definition."""

import numpy as np


def kernel(component):
    """``Z K Z'`` of a component."""
    Z = component.Z.toarray()
    return Z @ level_covariance(component) @ Z.T


def level_covariance(component):
    """K, dense; the identity when there is none."""
    if component.K is None:
        return np.eye(component.Z.shape[1])
    return component.K if isinstance(component.K, np.ndarray) else component.K.toarray()


def covariance(problem, point, rows=slice(None)):
    """``V_g`` of some rows in the basis of the data."""
    shares = problem.grid.shares[point]
    V = (1.0 - shares.sum()) * np.eye(problem.n)
    for share, component in zip(shares, problem.components, strict=True):
        V += share * kernel(component)
    return V[rows][:, rows]


def basis(problem):
    """Columns of the problem's rotation."""
    return problem.rotation.forward(np.eye(problem.n))


def cis_part(problem, effects):
    """``C_j a_j`` of every trait, from the definition; `effects` (..., E), result (..., p, n)."""
    out = np.zeros((*effects.shape[:-1], problem.p, problem.n))
    for j in range(problem.p):
        for e in range(problem.cis.starts[j], problem.cis.starts[j + 1]) if problem.cis.n else ():
            out[..., j, :] += effects[..., e, None] * problem.cis.columns[problem.cis.column[e]]
    return out


class Dense:
    """V, root and inverse for every group of traits and grid point, in the basis the sampler works in."""

    def __init__(self, problem):
        Q = basis(problem)
        points = range(len(problem.grid.cell))
        self.V = []
        for group in problem.groups:
            part = np.ix_(group.rows, group.rows)
            self.V.append(np.array([(Q.T @ covariance(problem, g) @ Q)[part] for g in points]))
        self.V_factor = np.array([Q.T @ covariance(problem, g) @ Q for g in points])
        self.root = [np.linalg.cholesky(V) for V in self.V]
        self.inverse = [np.linalg.inv(V) for V in self.V]
        self.root_factor = np.linalg.cholesky(self.V_factor)
        self.inverse_factor = np.linalg.inv(self.V_factor)


def whitened_z(draws, mean, cov):
    """z statistics of draws against N(mean, cov): first and second moments in the basis where cov is the identity.

    Directions without variance must hold their mean exactly.

    Returns
    -------
    ndarray: z of every mean, then of every second moment; standard normal if the law is right.
    """
    draws, mean = np.asarray(draws), np.asarray(mean)
    values, vectors = np.linalg.eigh(cov)
    scale = max(values[-1], 1e-300)
    alive = values > 1e-9 * scale
    rotated = (draws - mean) @ vectors
    np.testing.assert_allclose(rotated[:, ~alive], 0.0, atol=2e-6 * np.sqrt(scale))
    white = rotated[:, alive] / np.sqrt(values[alive])
    N, d = white.shape
    second = white.T @ white / N
    off = second[np.triu_indices(d, 1)] * np.sqrt(N)
    return np.concatenate((white.mean(axis=0) * np.sqrt(N), off, (np.diag(second) - 1.0) * np.sqrt(N / 2.0)))
