"""Parametric memory: LoRA adapters, trained on text and attached to requests."""
