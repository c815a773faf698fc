# The only place that reaches into SciPy's BLAS and LAPACK.
from scipy.linalg.cython_blas cimport dtrsv
from scipy.linalg.cython_lapack cimport dpotrf
