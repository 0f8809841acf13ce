"""What makes training clips other than the published ones: changes at random, mixed data sets."""
