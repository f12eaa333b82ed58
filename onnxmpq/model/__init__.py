"""Loading, saving and raising the opset of models: a thin layer over onnx_ir."""
