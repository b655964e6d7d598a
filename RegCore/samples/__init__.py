"""Made-up patients, data sets of them, and demos."""
