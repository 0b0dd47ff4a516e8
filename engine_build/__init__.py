"""In: checkpoints, and try-on requests as plain values (`engine`). Out: pictures (`backends.load_engine` gives what
makes them), TensorRT engines, trained checkpoints, measurements. `instruction`, the grammar of what is asked, is
free of torch.
"""
