"""In: stages and seeds. Out: every stage trained and measured for every seed, compared, in tables and plots."""
