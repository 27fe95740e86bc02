"""Components in single safetensors files, in the tensor names of any tool that writes them."""
