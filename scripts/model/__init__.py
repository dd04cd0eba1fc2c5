"""Build model bundles: from published weights, ONNX or torch.export, in fp32, bf16 or int8, and measured."""
