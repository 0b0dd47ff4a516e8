"""In: the configuration of the bundled checkpoint. Out: its autoencoder and its flow, trained by a loop of their own.
"""
