"""Arrays only: ranges, weights, rounding, Hessians, and sums that saturate."""
