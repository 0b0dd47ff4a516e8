"""In: results and photographs. Out: how near they are, by networks of the user's own: FID, KID, LPIPS, features; SSIM.

`subjects` says which result belongs beside which photograph, `masks` what must not change; `inception`, `perceptual`
and `likeness` hold a network each, `structure` and `distances` the arithmetic; `measure` brings them together.
"""
