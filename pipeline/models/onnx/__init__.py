"""The onnxruntime engine: the heads of models whose folder holds an ONNX file."""
