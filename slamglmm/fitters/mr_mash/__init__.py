"""M&M ASH (mr.mash): regression of many responses on markers with a mixture of covariances, by variational Bayes."""
