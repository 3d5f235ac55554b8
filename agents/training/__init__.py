"""A hospital's side of a training order, and of inference with what was trained."""
