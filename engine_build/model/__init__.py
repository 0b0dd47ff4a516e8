"""In: a checkpoint's files and packed tokens. Out: the parts of the model (`mmdit` top-down, autoencoder, text encoder)
and what they compute: velocities, latents, text tokens, keys and values of references.
"""
