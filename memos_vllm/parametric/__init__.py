"""Parametric memory: knowledge as LoRA adapters, trained from text and attached to requests."""
