"""How every command explains which model it means, and on what it runs."""

MODEL_HELP = "nano, a checkpoint folder or a hub id"
BACKEND_HELP = "torch, triton, triton-tma or tensorrt"
DEVICE_HELP = "auto, cpu, cuda, cuda:1 ..."
DTYPE_HELP = "auto, float32, bfloat16, float16 or fp8"
