"""Mixed models by dense matrices, straight from their definitions: moments, likelihoods, and what follows from them."""

import numpy as np


def gradient(function, at, step=1e-6):
    """Central differences of a function of a vector."""
    at = np.asarray(at, dtype=float)
    out = np.empty(len(at))
    for i in range(len(at)):
        h = step * max(abs(at[i]), 1e-3)
        up, down = at.copy(), at.copy()
        up[i], down[i] = at[i] + h, at[i] - h
        out[i] = (function(up) - function(down)) / (2 * h)
    return out


class DenseModel:
    """``y = X b + sum of effects + e`` with given row matrices K_i, the residual's (the identity) first.

    Parameters
    ----------
    X : ndarray, shape (n, b)
    kernels : list of ndarray, each (n, n)
        Of the components beside the residual.
    """

    def __init__(self, X, kernels):
        self.X, self.n = X, len(X)
        self.K = [np.eye(self.n), *kernels]
        self.P = np.eye(self.n) - X @ np.linalg.pinv(X)

    def V(self, theta):
        """Covariance of the rows at components theta."""
        return sum(t * K for t, K in zip(theta, self.K, strict=True))

    def moments(self, y1, y2):
        """Estimate of the (co)variances of two responses by least squares on projected cross products."""
        M = [self.P @ K @ self.P for K in self.K]
        S = np.array([[np.trace(a @ b) for b in M] for a in M])
        return np.linalg.solve(S, [y1 @ m @ y2 for m in M])

    def sandwich(self, theta, first=(0, 0), second=(0, 0)):
        """Covariance of the estimates of two pairs of traits under normal data with components theta (q+1, t, t)."""
        (t, u), (v, w) = first, second
        M = [self.P @ K @ self.P for K in self.K]
        S = np.array([[np.trace(a @ b) for b in M] for a in M])

        def V(a, b):
            return self.V(theta[:, a, b])

        C = np.array(
            [[np.trace(a @ V(t, v) @ b @ V(u, w)) + np.trace(a @ V(t, w) @ b @ V(u, v)) for b in M] for a in M]
        )
        return np.linalg.solve(S, np.linalg.solve(S, C).T)

    def log_likelihood(self, y, theta, restricted):
        """Restricted or full, fixed effects at their estimates."""
        V = self.V(theta)
        inverse = np.linalg.inv(V)
        gram = self.X.T @ inverse @ self.X
        rest = y - self.X @ np.linalg.solve(gram, self.X.T @ inverse @ y)
        value = np.linalg.slogdet(V)[1] + rest @ inverse @ rest
        freedom = self.n
        if restricted:
            value += np.linalg.slogdet(gram)[1]
            freedom -= self.X.shape[1]
        return -0.5 * (value + freedom * np.log(2 * np.pi))

    def information(self, y, theta, restricted):
        """Observed information of the components, in closed form."""
        inverse = np.linalg.inv(self.V(theta))
        gram = self.X.T @ inverse @ self.X
        Q = inverse - inverse @ self.X @ np.linalg.solve(gram, self.X.T @ inverse)
        W = Q if restricted else inverse
        return np.array([[y @ Q @ a @ Q @ b @ Q @ y - 0.5 * np.trace(W @ a @ W @ b) for b in self.K] for a in self.K])

    def fixed_effects(self, y, theta):
        """Generalised least squares: estimates and their covariance."""
        inverse = np.linalg.inv(self.V(theta))
        covariance = np.linalg.inv(self.X.T @ inverse @ self.X)
        return covariance @ self.X.T @ inverse @ y, covariance

    def weighted_residual(self, y, theta):
        """``V^-1 (y - X b)``."""
        return np.linalg.solve(self.V(theta), y - self.X @ self.fixed_effects(y, theta)[0])
