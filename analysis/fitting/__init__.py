"""One law fitted to one set of points: formulas, least squares, the noise of training passes, intervals."""
