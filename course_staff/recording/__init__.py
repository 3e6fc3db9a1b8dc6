"""Reference runs: a quantization ladder measured on a named machine."""
