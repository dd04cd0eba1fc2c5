"""Build model bundles: from torchvision, ONNX or torch.export, in fp32, bf16 or int8, and measured."""
