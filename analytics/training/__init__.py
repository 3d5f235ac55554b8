"""Models, their losses and gradients, optimizers, metrics and folds."""
