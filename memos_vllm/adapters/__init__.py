"""Parametric memory's payload: LoRA adapters as files, checked before anything loads them."""
