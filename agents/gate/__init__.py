"""What may be known of a hospital's rows, beside everything that was answered before."""
