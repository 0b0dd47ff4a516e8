"""In: the configuration of the bundled checkpoint. Out: its autoencoder and its flow. Stands on data, loop and the
noise levels of the stages.
"""
