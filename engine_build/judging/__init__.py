"""In: a set of try-ons that were asked for, and folders of results. Out: scores with how far they can be trusted.

samples, sets, layouts,      what is judged: one kind of sample, wherever it was kept;
folders, parquet, world_set folders of others, the user's own parquet, scenes of the procedural world
generating                  results through a running service, and baselines
prompts, answers            the questions word for word, the forms that answer them, read strictly
calls, judges               a vision model at an OpenAI-compatible address; the interface of every judge
cases, run, journal, cost   which questions, asked once, kept for good; what it costs
scores, tables, statistics, four dimensions and their geometric mean; means with coverage; noise, agreement, truth;
trust, preferences, report  pairs in both orders; all of it as one report
people                      a page for people, blind and in random order; what came back, counted
similarity                  results beside photographs: FID, KID, SSIM, LPIPS, features of a named model

Training's rewards ask the same questions through the same files.
"""
