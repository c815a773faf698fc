"""The sparse linear mixed model: spike-and-slab effects of markers beside covariates, by variational Bayes."""
