"""What may be told of a hospital's rows, beside everything told before."""
